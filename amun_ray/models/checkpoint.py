"""Weights as data: written as safetensors with the same bytes every time, read without unpickling, loaded strictly."""

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import ZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import pretender
from amun_ray.models.foreign import State, fit
from amun_ray.models.sharded import is_index, shards

DIGEST = "digest"  # metadata key of a file that this package writes: the `digest` of its tensors
SAFETENSORS, TORCH = ".safetensors", (".pt", ".pth", ".bin", ".ckpt")
ZIP, PICKLE = b"PK\x03\x04", b"\x80"  # how torch files begin, the older ones as pickles
DEPTH = 3  # keys that may lead to a state dict


def save(model: nn.Module | State, metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of the weights, as bytes that depend on weights and metadata alone.

    The library writes its metadata in an order that changes from call to call; here it is sorted, so that equal
    models are equal files.

    Args:
        model: a module, or its state dict; tensors of any device and dtype.
        metadata: text that says where the weights come from.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in _state(model).items()}
    raw = safetensors_torch.save(tensors, metadata=dict(metadata))
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns its data to 8 bytes
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(raw)[8 + length:]))


def digest(model: nn.Module | State) -> str:
    """sha256 (hex) of the names, dtypes, shapes and values of all tensors; it does not depend on their order."""
    content = hashlib.sha256()
    for name, tensor in sorted(_state(model).items()):
        content.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        UserError: the file is missing or no safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as safetensors: {error}") from error


def find(folder: Path, source: str) -> Path:
    """The file of weights in `folder`, at any depth; `source` is what messages call the folder.

    Safetensors files come before torch files, then `weights.safetensors` before other names, then the file that lies
    least deep. Of weights in several files it is their index.

    Raises:
        UserError: there is none, or there are several and none is the first choice.
    """
    held = sorted(path for path in folder.rglob("*") if path.is_file())
    indexed = {part for path in held if is_index(path) for part in shards(path, f"{source}: {path.name}")}
    files = [path for path in held if path not in indexed]
    for candidates in ([path for path in files if path.name == f"weights{SAFETENSORS}"],
                       [path for path in files if _stem(path).suffix == SAFETENSORS],
                       [path for path in files if _stem(path).suffix in TORCH]):
        least = min((len(path.parts) for path in candidates), default=0)
        candidates = [path for path in candidates if len(path.parts) == least]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UserError(f"{source}: holds several files of weights, name one of them: "
                            f"{', '.join(str(path.relative_to(folder)) for path in candidates[:5])}")
    others = ", ".join(str(path.relative_to(folder)) for path in files[:5]) or "nothing"
    raise UserError(f"{source}: holds no weights, but {others}; programs (.pt2) and pickled models are not opened, put "
                    "`model.state_dict()` beside them as a safetensors file")


def _stem(path: Path) -> Path:
    """Without the ending of an index: what kind of file it names."""
    return path.with_name(path.name.removesuffix(".index.json")) if is_index(path) else path


def files(path: Path, source: str) -> list[Path]:
    """All files that `read` reads for `path`."""
    return sorted(shards(path, source)) if is_index(path) else [path]


def read(path: str | os.PathLike[str], source: str | None = None) -> dict[str, State]:
    """Every state dict of a safetensors or a torch file, by the keys that lead to it, with points between; the key of a
    file that is one itself is empty.

    Torch files are read with `weights_only=True`: nothing in them is executed. `source` is what messages call the file:
    its path by default. The tensors of a safetensors file whose metadata has their digest are checked against it, a
    pass over all bytes. The index of weights in several files stands for all of them, which must hold what it says.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    path, source = Path(path), source or str(path)
    if is_index(path):
        return {"": _joined(path, source)}
    if (other := pretender(path)) is not None:
        raise UserError(f"{source}: {other}")
    held = _read_safetensors(path, source) if path.suffix == SAFETENSORS else _read_torch(path, source)
    states = dict(_state_dicts(held, "", DEPTH))
    if not states:
        raise UserError(f"{source}: expected a state dict (name -> tensor), plain or under a key such as 'state_dict', "
                        f"found {_describe(held)}; save `model.state_dict()`")
    return states


def _joined(path: Path, source: str) -> State:
    """The tensors of all files of an index."""
    whole: dict[str, Tensor] = {}
    for file, names in sorted(shards(path, source).items()):
        state = read(file, f"{source}: {file.name}").get("", {})
        for wrong, what in ((names - state.keys(), "lacks"), (state.keys() - names, "also holds")):
            if wrong:
                raise UserError(f"{source}: {file.name} {what} {min(wrong)!r}, and the index says otherwise; the "
                                "folder mixes two models, or was copied in part")
        whole |= state
    return whole


def _state_dicts(content: object, key: str, depth: int) -> Iterator[tuple[str, State]]:
    if not isinstance(content, Mapping) or not content or not all(isinstance(name, str) for name in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield key, content
    elif depth:
        for name, value in content.items():
            yield from _state_dicts(value, f"{key}.{name}" if key else name, depth - 1)


def load_into(model: nn.Module, path: str | os.PathLike[str], source: str | None = None) -> None:
    """Put the weights of a file into `model`, in place: see `read` and `foreign.fit`.

    Raises:
        UserError: as `read` and `foreign.fit`. The model is then unchanged.
    """
    source = source or str(path)
    model.load_state_dict(fit(model, read(path, source), source).state, strict=True)


def _state(model: nn.Module | State) -> State:
    return model.state_dict() if isinstance(model, nn.Module) else model


def _describe(content: object) -> str:
    if isinstance(content, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, list(content)[:5]))}" if content else "an empty mapping"
    return type(content).__name__


def _read_safetensors(path: Path, source: str) -> object:
    try:
        state, wanted = safetensors_torch.load_file(path), read_metadata(path).get(DIGEST, "")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{source}: cannot be read as safetensors: {error}") from error
    if len(wanted) == 64 and (actual := digest(state)) != wanted:  # another program may mean something else by the key
        raise UserError(f"{source}: damaged: its tensors have the digest {actual[:12]}, and its metadata say "
                        f"{wanted[:12]}; where they were changed on purpose, leave {DIGEST!r} out of the metadata")
    return state


def _read_torch(path: Path, source: str) -> object:
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == ZIP and any(entry.compress_type for entry in ZipFile(path).infolist()):
            raise UserError(f"{source}: a compressed archive, which torch.save does not write; unpack it")
        if start and start != ZIP and start[:1] != PICKLE:
            raise UserError(f"{source}: no torch file: it begins with {start!r}")
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # of sparse tensors, which are refused
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        held = re.search(r"GLOBAL (\S+) was not", str(error))
        holds = f", but holds {held[1]}" if held else ""
        raise UserError(f"{source}: not a plain state dict{holds}, and whole objects are not unpickled, since that "
                        "runs code; save `model.state_dict()` instead") from error
    except Exception as error:  # whatever torch raises for a damaged file
        raise UserError(f"{source}: cannot be read as a torch file: {first_line(error)}") from error
