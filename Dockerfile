# syntax=docker/dockerfile:1
# The image of a node: Ray's GPU image, the locked dependencies, the package. Not root.
#
#   docker build --tag amun_ray:0.1.0 .
#   docker run --rm --gpus all --shm-size 8g --volume "$PWD/amun_output:/home/ray/amun_output" amun_ray:0.1.0 amun-ray
#
# PyTorch brings its own CUDA 13; of the base image only Ray and Python count, and the host's driver must be new enough.
FROM rayproject/ray:2.60.0-py311-gpu

WORKDIR /home/ray
ENV RAY_AUTH_MODE=token \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# The lock changes rarely, the sources often: a change of the sources keeps the layer of gigabytes.
COPY --chown=ray:users constraints-image.txt amun_ray_source/
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement amun_ray_source/constraints-image.txt

COPY --chown=ray:users pyproject.toml README.md amun_ray_source/
COPY --chown=ray:users tune_configs amun_ray_source/tune_configs
COPY --chown=ray:users amun_ray amun_ray_source/amun_ray
RUN pip install --no-cache-dir --no-deps --no-build-isolation ./amun_ray_source \
    && python -m pip check \
    && amun-ray --help > /dev/null \
    && mkdir amun_output

USER 1000

# The raylet's own answer, on a head and on a worker alike; it asks for no token.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; assert b'success' in r.urlopen('http://127.0.0.1:52365/api/local_raylet_healthz', timeout=8).read()"]

CMD ["amun-ray", "--help"]
