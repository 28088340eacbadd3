"""Credentials in addresses: none may stand in one, since addresses end up in configs, reports, logs and MLflow."""

import re
from urllib.parse import unquote

RULE = ("must hold no credentials (user, password, key, token or signature), which would end up in logs and in MLflow; "
        "give them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, PGPASSWORD), in ~/.pgpass or fsspec's configuration")
# What stands before `@` here is no secret by itself: a container, or a name whose password is elsewhere.
USERS = ("postgresql", "mysql", "mssql", "abfs", "abfss", "hdfs", "sftp", "ssh")
ANONYMOUS = ("gs", "gcs")  # `anonymous@` opens what is public
SECRET = re.compile(r"pass(word|wd|phrase)|pwd|secret|token|sig$|signature|credential|auth$|"
                    r"(access|account|api|shared|private)[-_]?key|^key$", re.IGNORECASE)
ADDRESS = re.compile(r"([A-Za-z][\w+.-]*)://(?=([^\s'\"?#]*))")
QUERY = re.compile(r"([?&;#])([\w.%~-]+)=([^&;#\s'\"]*)")
BEFORE_AT = re.compile(r"://[^\s'\"/@]*:[^\s'\"@]*@|://[^\s'\"/@]+@")


def has_credentials(address: str) -> bool:
    """Whether a URI, also one within a chain of fsspec, holds a user, a password or a signature. Paths hold none."""
    if "://" not in address:
        return False
    return (any(_opens(scheme.lower(), rest) for scheme, rest in ADDRESS.findall(address))
            or any(SECRET.search(unquote(key)) for _, key, _ in QUERY.findall(address)))


def without_credentials(address: str) -> str:
    """`address`; ValueError, which does not repeat it, if it holds credentials."""
    if has_credentials(address):
        raise ValueError(RULE)
    return address


def redacted(text: str) -> str:
    """A message with `***` in place of the credentials in its addresses."""
    if "://" not in text:
        return text
    text = BEFORE_AT.sub("://***@", text)
    return QUERY.sub(lambda match: f"{match[1]}{match[2]}=***" if SECRET.search(unquote(match[2])) else match[0], text)


def _opens(scheme: str, rest: str) -> bool:
    """Whether what stands between `://` and the path holds credentials; a key may itself have slashes in it."""
    authority = rest.partition("/")[0]
    user, at, host = authority.rpartition("@")
    if at:
        allowed = scheme.partition("+")[0] in USERS or (scheme in ANONYMOUS and user == "anonymous")
        return not allowed or ":" in user
    name, colon, port = host.rpartition(":")
    return bool(colon) and not name.startswith("[") and port != "" and not port.isdigit()
