"""Weights as data: written as safetensors with the same bytes every time, read without unpickling, loaded strictly."""

import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors import torch as safetensors_torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError

DIGEST = "digest"  # metadata key of a file that this package writes: the `digest` of its tensors
State = Mapping[str, Tensor]
SAFETENSORS, TORCH = ".safetensors", (".pt", ".pth", ".bin", ".ckpt")


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
        content.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
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

    A safetensors file comes before a torch file, and `weights.safetensors` before any other.

    Raises:
        UserError: there is none, or there are several and none is the first choice.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for candidates in ([path for path in files if path.name == f"weights{SAFETENSORS}"],
                       [path for path in files if path.suffix == SAFETENSORS],
                       [path for path in files if path.suffix in TORCH]):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UserError(f"{source}: holds several files of weights, name one of them: "
                            f"{', '.join(str(path.relative_to(folder)) for path in candidates[:5])}")
    held = ", ".join(str(path.relative_to(folder)) for path in files[:5]) or "nothing"
    raise UserError(f"{source}: holds no weights, but {held}; programs (.pt2) and pickled models are not opened, put "
                    "`model.state_dict()` beside them as a safetensors file")


def read(path: str | os.PathLike, source: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds a state dict, plain or under "state_dict".

    Torch files are read with `weights_only=True`: nothing in them is executed. The `module.` that DataParallel puts
    before every name is dropped. `source` is what messages call the file: its path, unless told. The tensors of a
    safetensors file whose metadata has their digest are checked against it, a pass over all bytes.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    path, source = Path(path), source or str(path)
    found = _read_safetensors(path, source) if path.suffix == SAFETENSORS else _read_torch(path, source)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise UserError(f"{source}: expected a state dict (name -> tensor), plain or under 'state_dict', "
                        f"found {_describe(found)}; save `model.state_dict()`")
    if all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return dict(found)


def load_into(model: nn.Module, path: str | os.PathLike) -> None:
    """Put the weights of a file (see `read`) into `model`, in place and strictly.

    Where `model` is `Sequential(normalize, net)` of `amun_ray.models.build`, the weights of a bare net load into `net`
    and the normalisation stays as it is.

    Raises:
        UserError: as `read`; a tensor that is missing, unexpected, of another shape or kind, or not finite. The model
            is then unchanged.
    """
    load_state(model, read(path), str(path))


def load_state(model: nn.Module, state: State, source: str) -> None:
    """`load_into` for tensors already in memory; `source` is what messages call them."""
    target = model
    inner = getattr(model, "net", None)
    if isinstance(inner, nn.Module) and not any(name.startswith(("net.", "normalize.")) for name in state):
        target = inner
    problems = _problems(target.state_dict(), state)
    if problems:
        raise UserError(f"{source}: these weights are not of this model: {'; '.join(problems)}")
    infinite = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise UserError(f"{source}: {len(infinite)} tensors hold NaN or infinite numbers: {', '.join(infinite[:3])}")
    target.load_state_dict(state, strict=True)


def _problems(wanted: State, found: State) -> list[str]:
    """What does not fit: the first tensor of each kind of problem, and how many there are of that kind."""
    wrong: list[str] = []
    for name in (name for name in wanted if name in found):
        want, have = wanted[name], found[name]
        if want.shape != have.shape:
            wrong.append(f"{name} has shape {tuple(have.shape)}, wanted {tuple(want.shape)}")
        elif want.is_floating_point() != have.is_floating_point():
            wrong.append(f"{name} is {have.dtype}, wanted {want.dtype}")
    missing = [f"{name} {tuple(wanted[name].shape)} is missing" for name in wanted if name not in found]
    unexpected = [f"{name} {tuple(found[name].shape)} is unexpected" for name in found if name not in wanted]
    return [kind[0] + (f" (and {len(kind) - 1} more)" if len(kind) > 1 else "")
            for kind in (wrong, missing, unexpected) if kind]


def _state(model: nn.Module | State) -> State:
    return model.state_dict() if isinstance(model, nn.Module) else model


def _describe(found: object) -> str:
    if isinstance(found, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, list(found)[:5]))}" if found else "an empty mapping"
    return type(found).__name__


def _read_safetensors(path: Path, source: str) -> object:
    try:
        state, wanted = safetensors_torch.load_file(path), read_metadata(path).get(DIGEST, "")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{source}: cannot be read as safetensors: {error}") from error
    if len(wanted) == 64 and (found := digest(state)) != wanted:  # another program may mean something else by the key
        raise UserError(f"{source}: damaged: its tensors have the digest {found[:12]}, and its metadata say "
                        f"{wanted[:12]}; where they were changed on purpose, leave {DIGEST!r} out of the metadata")
    return state


def _read_torch(path: Path, source: str) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{source}: not a plain state dict, and whole objects are not unpickled; "
                        "save `model.state_dict()` instead") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{source}: cannot be read as a torch file: {first}") from error
