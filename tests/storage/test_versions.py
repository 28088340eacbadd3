"""Whether a storage keeps what was deleted: asked of a real S3 protocol, and said plainly where it cannot be asked."""

import sys

import pytest

from amun_ray.storage.versions import kept_versions


@pytest.fixture
def client():
    boto3 = pytest.importorskip("boto3")

    def connect(uri):
        return boto3.client("s3", endpoint_url=f"http://{uri.rpartition('endpoint_override=')[2]}")
    return connect


@pytest.mark.parametrize("uri", ["/some/folder", "file:///some/folder"])
def test_a_folder_keeps_nothing(uri):
    assert kept_versions(uri) is None


def test_a_bucket_without_versions_keeps_nothing_and_one_with_them_says_so(bucket, client):
    uri = bucket()
    assert kept_versions(uri) is None
    name = uri.removeprefix("s3://").partition("?")[0]
    client(uri).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    assert "versioning: Enabled" in kept_versions(uri)
    client(uri).put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Suspended"})
    assert "versioning: Suspended" in kept_versions(uri)  # older versions are there still


def test_what_cannot_be_asked_is_said(bucket, monkeypatch):
    assert "cannot be checked" in kept_versions("gs://bucket/folder")
    gone = bucket().replace("bucket-", "nobucket-", 1)
    assert "cannot be checked" in kept_versions(gone)
    monkeypatch.setitem(sys.modules, "boto3", None)
    assert "pip install boto3" in kept_versions("s3://bucket/folder")
