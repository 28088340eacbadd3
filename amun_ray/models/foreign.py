"""Weights from elsewhere: which state dict of a file belongs to a network, and how its names become the network's.

Frameworks keep weights beside other things (`{"state_dict": ..., "epoch": ...}`), several sets of them (an average
beside the last), and under longer names: `module.` of DataParallel, `_orig_mod.` of torch.compile, `model.` of
Lightning. A state dict is taken if all its tensors fit, and every change to it is reported. If several fit, the user
must name one.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError

State = Mapping[str, Tensor]
COMPILED, COUNTED, AVERAGED = "_orig_mod", "num_batches_tracked", "n_averaged"
SHOWN = 5  # of the keys of a file in a message


class Fitted(NamedTuple):
    """A whole state dict of a model, and what was done to make it one, in words."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]
    fresh: tuple[str, ...] = ()  # the names of the head where the file has none of this shape: the model's own weights


def fit(model: nn.Module, states: Mapping[str, State], source: str, key: str | None = None,
        head: Collection[str] = ()) -> Fitted:
    """The one of `states` that belongs to `model`, under the model's names and in its dtypes.

    Args:
        model: if it is the `Sequential(normalize, net)` of `amun_ray.models.build`, the weights may be those of the
            bare net; the model then keeps its own normalisation.
        states: the state dicts of a file by their keys, as `checkpoint.read` returns them.
        source: what messages call the file.
        key: which of them, or the prefix of a part of one: `ema`, `state_dict.model`. None takes whichever fits.
        head: names of the model's tensors that may be missing or have another shape, but only all together.

    Raises:
        UserError: none fits, or several do; a tensor that is missing, unexpected, of another shape or kind, without
            values, or not finite.
    """
    chosen = states if key is None else {key: _part(states, key, source)}
    fits = {place: _first_fit(model, state, head) for place, state in chosen.items()}
    fitting = {place: fitted for place, fitted in fits.items() if fitted is not None}
    if not fitting:
        raise UserError(_misfit(model, chosen, source, head, split=key is None))
    if len(fitting) > 1:
        raise UserError(f"{source}: holds {len(fitting)} state dicts of this model: {_listed(fitting)}; name the one "
                        f"that is meant, as {source}#{next(iter(fitting))}")
    (place, fitted), = fitting.items()
    infinite = [name for name, tensor in fitted.state.items() if not torch.isfinite(tensor).all()]
    if infinite:
        raise UserError(f"{source}: {len(infinite)} tensors hold NaN or infinite numbers: {', '.join(infinite[:3])}")
    return fitted._replace(notes=(*([f"its {place!r}"] if place and key is None else []), *fitted.notes))


def problems(wanted: State, state: State) -> list[str]:
    """What does not fit: the first tensor of each kind of problem, and how many there are of that kind."""
    wrong = [problem for name in wanted if name in state and (problem := _wrong(name, wanted[name], state[name]))]
    missing = [f"{name} {tuple(wanted[name].shape)} is missing" for name in wanted if name not in state]
    unexpected = [f"{name} {tuple(state[name].shape)} is unexpected" for name in state if name not in wanted]
    return [kind[0] + (f" (and {len(kind) - 1} more)" if len(kind) > 1 else "")
            for kind in (wrong, missing, unexpected) if kind]


def _wrong(name: str, want: Tensor, have: Tensor) -> str | None:
    if have.layout != torch.strided or have.is_quantized:
        return f"{name} is sparse or quantized; save the dense tensor, `tensor.to_dense()` or `tensor.dequantize()`"
    if have.is_meta:
        return f"{name} has a shape and no values (device meta); save the model after its weights were loaded"
    if want.shape != have.shape:
        return f"{name} has shape {tuple(have.shape)}, wanted {tuple(want.shape)}"
    if want.is_floating_point() != have.is_floating_point():
        return f"{name} is {have.dtype}, wanted {want.dtype}"
    return None


def _first_fit(model: nn.Module, state: State, head: Collection[str] = ()) -> Fitted | None:
    """`state` as one of the whole `model`, under the first of its spellings that fits; None if none does."""
    whole = model.state_dict()
    for names, spelled in _spellings(state):
        for prefix, target in _targets(model, spelled):
            fresh, wanted, left = _without_head(prefix, target, spelled, head)
            counters = {name: tensor for name, tensor in wanted.items() if name.endswith(COUNTED) and name not in left}
            if problems(wanted, left | counters):
                continue
            converted = {f"{tensor.dtype}".removeprefix("torch.") for name, tensor in left.items()
                         if tensor.is_floating_point() and tensor.dtype != wanted[name].dtype}
            notes = [*names, *([f"without {COUNTED}, which counts from 0"] if counters else []),
                     *([f"converted from {', '.join(sorted(converted))}"] if converted else [])]
            fitted = {f"{prefix}{name}": tensor.detach().to(wanted[name].dtype) for name, tensor in left.items()}
            return Fitted(dict(whole) | fitted, tuple(notes), tuple(f"{prefix}{name}" for name in fresh))
    return None


def _without_head(prefix: str, wanted: State, theirs: State,
                  head: Collection[str]) -> tuple[list[str], dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of `head`, named as in the whole model, if any of them is missing or has another shape; and both
    state dicts without them."""
    names = [name for name in wanted if f"{prefix}{name}" in head]
    if all(name in theirs and theirs[name].shape == wanted[name].shape for name in names):
        names = []
    left = [{name: tensor for name, tensor in state.items() if name not in names} for state in (wanted, theirs)]
    return names, left[0], left[1]


def _targets(model: nn.Module, state: State) -> list[tuple[str, State]]:
    """(prefix in the model, what is wanted below it): the whole model and its bare net, the more likely one first."""
    inner = getattr(model, "net", None)
    if not isinstance(inner, nn.Module):
        return [("", model.state_dict())]
    targets: list[tuple[str, State]] = [("net.", inner.state_dict()), ("", model.state_dict())]
    return targets[::-1] if any(name.startswith(("net.", "normalize.")) for name in state) else targets


def _spellings(state: State) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
    """(what is left out of it, in words; `state`) under the names in the file, and then without what others add to
    them: the counter of an average, `_orig_mod` anywhere, and whatever all names begin with."""
    left_out: list[str] = []
    state = dict(state)
    yield [], state
    if AVERAGED in state:
        del state[AVERAGED]
        left_out.append(f"without {AVERAGED}")
        yield list(left_out), state
    bare = {".".join(part for part in name.split(".") if part != COMPILED): tensor for name, tensor in state.items()}
    if bare.keys() != state.keys() and len(bare) == len(state):
        state = bare
        left_out.append(f"names without {COMPILED!r}")
        yield list(left_out), state
    while len(first := {name.partition(".")[0] for name in state}) == 1 and all("." in name for name in state):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
        left_out.append(f"names without {f'{first.pop()}.'!r}")
        yield list(left_out), state


def _part(states: Mapping[str, State], key: str, source: str) -> State:
    """The state dict under `key`, or the part of one whose names begin with the rest of `key`."""
    if key in states:
        return states[key]
    for place, state in states.items():
        if place and not key.startswith(f"{place}."):
            continue
        start = f"{key.removeprefix(f'{place}.')}."
        if part := {name.removeprefix(start): tensor for name, tensor in state.items() if name.startswith(start)}:
            return part
    known = [*filter(None, states), *_parts(states)]
    raise UserError(f"{source}#{key}: the file has no such key, but {_listed(known)}")


def _parts(states: Mapping[str, State]) -> Mapping[str, State]:
    """The state dicts in `states` by what their names begin with, where that differs."""
    parts: dict[str, dict[str, Tensor]] = {}
    for place, state in states.items():
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            parts.setdefault(f"{place}.{first}".lstrip("."), {})[rest] = tensor
    return parts


def _misfit(model: nn.Module, states: Mapping[str, State], source: str, head: Collection[str], *, split: bool) -> str:
    """Why none of `states` fits: which part of one would, or what is wrong with the one that comes nearest."""
    fitting = [place for place, part in _parts(states).items() if _first_fit(model, part) is not None] if split else []
    if fitting:
        return (f"{source}: a part of it is of this model, and the rest is not: {_listed(fitting)}; name the part that "
                f"is meant, as {source}#{fitting[0]}")
    nearest, wrong = -1, [""]
    for state in states.values():
        for _, spelled in _spellings(state):
            for prefix, target in _targets(model, spelled):
                _, wanted, left = _without_head(prefix, target, spelled, head)
                if (common := len(wanted.keys() & left.keys())) > nearest:
                    nearest, wrong = common, problems(wanted, left)
    return f"{source}: these weights are not of this model: {'; '.join(wrong)}"


def _listed(keys: Mapping[str, object] | list[str]) -> str:
    listed = [*keys]
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
