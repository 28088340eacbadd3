from raying import local_ray  # noqa: F401
