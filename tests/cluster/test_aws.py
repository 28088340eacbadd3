"""What `ray up cluster/aws.yaml` asks of a simulated EC2 and IAM, up to the point where ssh would begin."""

import os
import subprocess
import sys
import time
from pathlib import Path

import boto3
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 240
WORKER = """
import yaml
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.commands import _bootstrap_config
config = _bootstrap_config(yaml.safe_load(open("cluster/aws.yaml")), no_config_cache=True)
provider = AWSNodeProvider(config["provider"], config["cluster_name"])
provider.create_node(config["available_node_types"]["gpu"]["node_config"],
                     {"ray-node-type": "worker", "ray-user-node-type": "gpu"}, 1)
"""  # what the autoscaler on the head does for one more node


@pytest.fixture(scope="module")
def asked(aws_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The head that `ray up` has launched and a node that the head launches, as EC2 describes them, with their volumes
    and the security group."""
    folder, endpoint = tmp_path_factory.mktemp("aws"), f"http://{aws_server}"
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("0" * 64)
    iam, ec2 = (boto3.client(name, endpoint_url=endpoint, region_name="us-west-2") for name in ("iam", "ec2"))
    iam.create_instance_profile(InstanceProfileName="amun-node")
    log, environment = folder / "log", os.environ | {
        "AWS_ENDPOINT_URL": endpoint, "HOME": str(folder), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "up", "--yes", "--no-config-cache", "cluster/aws.yaml"],
            env=environment, cwd=REPOSITORY, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while "Launched 1 nodes" not in log.read_text():  # EC2 has answered: its disk and its profile are attached
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    subprocess.run([sys.executable, "-c", WORKER], env=environment, cwd=REPOSITORY, check=True)
    nodes = {_tags(one)["ray-node-type"]: one
             for each in ec2.describe_instances()["Reservations"] for one in each["Instances"]}
    return {**nodes, "groups": ec2.describe_security_groups(
                GroupIds=[group["GroupId"] for group in nodes["head"]["SecurityGroups"]])["SecurityGroups"],
            "volumes": ec2.describe_volumes()["Volumes"], "folder": folder}


def _tags(instance: dict) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


def test_the_head_is_the_instance_that_the_file_names(asked):
    head = asked["head"]
    assert head["InstanceType"] == "m6i.2xlarge"
    assert head["IamInstanceProfile"]["Arn"].endswith("/amun-node")
    assert head["Placement"]["AvailabilityZone"].startswith("us-west-2")
    assert head["ImageId"].startswith("ami-")
    assert _tags(head)["ray-cluster-name"] == "amun"
    assert "InstanceLifecycle" not in head, "it is no spot instance"


def test_the_gpus_are_spot_instances_with_the_same_profile(asked):
    node = asked["worker"]
    assert (node["InstanceType"], node["InstanceLifecycle"]) == ("g5.2xlarge", "spot")
    assert node["IamInstanceProfile"]["Arn"] == asked["head"]["IamInstanceProfile"]["Arn"]
    assert node["SecurityGroups"] == asked["head"]["SecurityGroups"]
    assert _tags(node)["ray-cluster-name"] == "amun"


def test_disks_are_encrypted_and_metadata_ask_for_a_token(asked):
    assert [volume["Encrypted"] for volume in asked["volumes"] if volume["Size"] == 200] == [True, True]
    assert [asked[kind]["MetadataOptions"]["HttpTokens"] for kind in ("head", "worker")] == ["required", "required"]


def test_only_ssh_is_open_to_the_outside(asked):
    (group,) = asked["groups"]
    outside = [(rule["FromPort"], rule["ToPort"]) for rule in group["IpPermissions"] if rule["IpRanges"]]
    inside = [pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
    assert outside == [(22, 22)]
    assert inside == [group["GroupId"]]


def test_the_key_that_ray_makes_is_the_owner_s_alone(asked):
    (key,) = (asked["folder"] / ".ssh").glob("*.pem")
    assert key.stat().st_mode & 0o077 == 0
    assert asked["head"]["KeyName"] in key.name
