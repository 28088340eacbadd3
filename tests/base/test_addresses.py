"""No credentials in an address: what is refused, what is not, and what a message still shows."""

import pickle

import pytest

from amun_ray.base.addresses import has_credentials, redacted, without_credentials
from amun_ray.base.errors import StorageError, UserError, first_line

CANARY = "xCANARYx"
OPEN = [  # every address holds the canary where a credential stands
    f"s3://AKIA:{CANARY}@bucket/x", f"s3://{CANARY}@bucket/x", f"s3://AKIA:{CANARY}/with/slashes@bucket/x",
    f"s3://AKIA:{CANARY}#@bucket/x", f"s3://AKIA:{CANARY}?@bucket/x",
    f"http://user:{CANARY}@host:5000", f"https://{CANARY}@host", f"postgresql://user:{CANARY}@host/db",
    f"postgresql+psycopg2://user:{CANARY}@host/db", f"postgresql://host/db?user=me&password={CANARY}",
    f"sqlite:///runs.db?password={CANARY}", f"abfs://box:{CANARY}@account.dfs.core.windows.net/x",
    f"abfs://box@account.dfs.core.windows.net/x?client_secret={CANARY}", f"abfs://box@account/x?sas_token={CANARY}",
    f"https://b.s3.amazonaws.com/x.parquet?X-Amz-Credential=AKIA&X-Amz-Signature={CANARY}",
    f"https://storage.googleapis.com/b/x?GoogleAccessId=me&Signature={CANARY}",
    f"https://a.blob.core.windows.net/b/x.parquet?sv=2022&sig={CANARY}", f"https://host/x?api_key={CANARY}",
    f"https://host/x?KEY={CANARY}", f"https://host/x?pass%77ord={CANARY}", f"s3://b/x?secret_key={CANARY}",
    f"simplecache::s3://AKIA:{CANARY}@bucket/x", f"zip://a.parquet::https://me:{CANARY}@host/a.zip",
    f"gs://{CANARY}@bucket/x", f"ftp://me:{CANARY}@host/x"]
CLOSED = [
    "photos/train-?.parquet", "a@b:c/d.csv", "/data/key=secret?/x", "s3://bucket/x", "s3://bucket/train-?.parquet",
    "s3://bucket/x?scheme=http&endpoint_override=127.0.0.1:9&region=eu", "gs://anonymous@public/x",
    "abfs://box@account.dfs.core.windows.net/x", "http://host:5000", "http://[::1]:5000", "http://[fe80::1]",
    "postgresql+psycopg2://user@host:5432/db", "postgresql:///db?host=/run/postgresql", "sqlite:////home/a@b/runs.db",
    "sqlite:///C%3A/x.db", "models:/name@best", "runs:/0123/model", "file:///home/me@work/x", "hf://datasets/a/b@main/x"]


@pytest.mark.parametrize("address", OPEN)
def test_credentials_are_refused_and_not_repeated(address):
    assert has_credentials(address)
    with pytest.raises(ValueError, match="must hold no credentials") as raised:
        without_credentials(address)
    assert CANARY not in str(raised.value)


@pytest.mark.parametrize("address", CLOSED)
def test_an_address_without_credentials_stays_as_it_is(address):
    assert without_credentials(address) == address


@pytest.mark.parametrize("address", [one for one in OPEN if "#" not in one and CANARY + "?" not in one])
def test_a_message_shows_where_and_not_with_what(address):
    text = f"{address!r} does not answer, nor does {address}: ask me@host:5000"
    assert CANARY not in redacted(text)
    assert redacted(text).endswith(" ask me@host:5000")
    for error in (UserError(text), StorageError(text), pickle.loads(pickle.dumps(StorageError(text)))):
        assert CANARY not in str(error) + repr(error)
        assert "***" in str(error)
    assert CANARY not in first_line(OSError(text))


@pytest.mark.parametrize("address", [*CLOSED, "a line with an address, http://host:5000/#/experiments/1?x=2, and more"])
def test_a_message_without_credentials_stays_as_it_is(address):
    assert redacted(f"{address!r}: no such file") == f"{address!r}: no such file" or "@" in address
