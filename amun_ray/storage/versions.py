"""What a storage keeps of deleted files, as far as can be found out."""

from urllib.parse import parse_qs, urlsplit

from amun_ray.base.errors import first_line

UNKNOWN = "may keep deleted objects as older versions, which cannot be checked from here; ask its owner"


def kept_versions(uri: str) -> str | None:
    """What a person must know about a storage: the end of a sentence that begins with its URI. None for a folder on a
    disk, and for a bucket that keeps no versions."""
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        return None
    if parts.scheme != "s3":
        return UNKNOWN
    try:
        import boto3  # comes with MLflow's and moto's extras; pyarrow has no call for this

        options = {name: values[0] for name, values in parse_qs(parts.query).items()}
        address = options.get("endpoint_override")
        client = boto3.client("s3", region_name=options.get("region"), endpoint_url=None if address is None else
                              address if "://" in address else f"{options.get('scheme', 'https')}://{address}")
        status = client.get_bucket_versioning(Bucket=parts.netloc.rpartition("@")[2]).get("Status")
    except ImportError:
        return f"{UNKNOWN} (or pip install boto3, which this command uses to check)"
    except Exception as error:  # whatever boto raises for a server error or missing rights
        return f"{UNKNOWN} ({first_line(error)})"
    if status is None:
        return None
    return (f"keeps older versions of deleted objects (versioning: {status}): its owner must remove them, by a "
            "lifecycle rule or version by version")
