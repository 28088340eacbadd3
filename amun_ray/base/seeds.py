"""Every random draw comes from a stream named by its purpose, so that no draw can shift another."""

import hashlib

import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that depends only on `seed` and the purpose: the same on any worker, in any order."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for `(seed, purpose)`."""
    return torch.Generator().manual_seed(derive(seed, *purpose))
