"""Make the bucket of the artifacts where it is not there yet: make_bucket.py ENDPOINT BUCKET, credentials as AWS_*."""

import sys

import boto3
from botocore.exceptions import ClientError


def main(endpoint: str, bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=endpoint)
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError:
        client.create_bucket(Bucket=bucket)


if __name__ == "__main__":
    main(*sys.argv[1:])
