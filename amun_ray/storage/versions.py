"""What a storage keeps of files that were deleted, as far as it can be asked."""

from urllib.parse import parse_qs, urlsplit

from amun_ray.base.errors import first_line

UNKNOWN = "cannot be asked here whether it keeps deleted objects as older versions; its owner knows"


def kept_versions(uri: str) -> str | None:
    """What a person must know of a storage, as the end of a sentence that its URI begins; None for a folder of a disk,
    and for a bucket that keeps no versions."""
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
        return f"{UNKNOWN} (pip install boto3 lets this command ask)"
    except Exception as error:  # whatever a server, or the lack of rights, makes boto raise
        return f"{UNKNOWN} ({first_line(error)})"
    if status is None:
        return None
    return (f"keeps older versions of what is deleted (versioning: {status}): its owner must remove these, by a "
            "lifecycle rule or version by version")
