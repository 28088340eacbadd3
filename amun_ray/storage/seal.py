"""How `unit.json` vouches for its unit: the sha256 of each file, and a seal over its own content.

The checksums detect accidents: a changed bit, a file that was truncated or overwritten by another. Anyone with write
access to the storage can recompute them. With AMUN_STORE_KEY in the environment the seal also has an HMAC-SHA256 (RFC
2104), which only holders of the key can compute, and units without one are not used. It does not stop a writer from
removing units, or from restoring an earlier one with the same address.
"""

import hashlib
import hmac
import json
import os
from typing import Any

KEY = "AMUN_STORE_KEY"
SEAL, SHA256, HMAC = "seal", "sha256", "hmac"
UNSEALED = {"kind", "inputs", "result"}  # the keys of a `unit.json` from before there were seals


def key() -> bytes | None:
    """The key that signs units, from the environment; None if there is none."""
    return os.environ.get(KEY, "").encode() or None


def checksum(data: Any) -> str:
    """sha256 (hex) of `data`, anything with the buffer protocol. Measured: 2 s per gigabyte on a busy core."""
    return hashlib.sha256(data).hexdigest()


def close(content: dict[str, Any], secret: bytes | None) -> bytes:
    """`content` (JSON values) as the bytes of a sealed `unit.json`."""
    return _text(content | {SEAL: _seal(_text(content), secret)})


def open_(data: bytes, secret: bytes | None) -> dict[str, Any]:
    """The content of a `unit.json`, verified by its seal; one from before there were seals has no `files`.

    Raises:
        ValueError: it is not what was written or, with a `secret`, not signed with it; the message is a phrase.
    """
    try:
        content = json.loads(data)
        seal = content.pop(SEAL, None)
        text = _text(content)
    except (ValueError, AttributeError, TypeError, RecursionError) as error:  # not JSON, or not an object
        raise ValueError(f"damaged ({' '.join(str(error).split())})") from error
    if seal is None and secret is None and content.keys() == UNSEALED:
        return content
    if not isinstance(seal, dict) or data != _text(content | {SEAL: seal}):
        raise ValueError("damaged" if seal else "it has no seal")
    if secret is not None and HMAC not in seal:
        raise ValueError(f"it is not signed, and {KEY} is set")
    for name, value in _seal(text, secret).items():
        if not hmac.compare_digest(str(seal.get(name)).encode(), value.encode()):
            raise ValueError("damaged" if name == SHA256 else f"not signed with this {KEY}")
    return content


def _seal(text: bytes, secret: bytes | None) -> dict[str, str]:
    signed = {HMAC: hmac.new(secret, text, hashlib.sha256).hexdigest()} if secret else {}
    return {SHA256: checksum(text)} | signed


def _text(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()
