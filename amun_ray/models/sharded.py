"""Weights in several files, as `save_pretrained` writes large networks: an index says which file has which tensor."""

import json
from pathlib import Path

from amun_ray.base.errors import UserError, first_line

INDEX = (".safetensors.index.json", ".bin.index.json")


def is_index(path: Path) -> bool:
    return path.name.endswith(INDEX)


def shards(path: Path, source: str) -> dict[Path, set[str]]:
    """The files that the index `path` names, which are beside it, and the tensors that each must hold.

    Raises:
        UserError: no such index, or a file that it names is not beside it.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read as an index of weights: {first_line(error)}") from error
    placed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise UserError(f"{source}: no index of weights: expected 'weight_map', the name of each tensor's file")
    wanted: dict[Path, set[str]] = {}
    for tensor, name in placed.items():
        file = path.parent / name
        if Path(name).name != name or not file.is_file():
            raise UserError(f"{source}: says that {tensor!r} is in {name!r}, which is not a file beside it; copy the "
                            "whole folder")
        wanted.setdefault(file, set()).add(tensor)
    return wanted
