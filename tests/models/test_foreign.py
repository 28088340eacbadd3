"""Weights of other tools load where they fit to the last tensor, whatever their names begin with; a choice is asked."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from amun_ray.base.errors import UserError
from amun_ray.models import build, head
from amun_ray.models.checkpoint import digest
from amun_ray.models.foreign import fit


def make(seed=0, width=4):
    return build("small_cnn", channels=1, classes=3, size=8, mean=(0.3,), std=(0.4,), seed=seed,
                 options={"width": width})


THEIRS = make(seed=1)
NET, WHOLE = dict(THEIRS.net.state_dict()), dict(THEIRS.state_dict())


def under(prefix, state=NET):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def loaded(states, key=None):
    """The notes of a fit of `states` to a fresh model, whose net must then be `THEIRS`."""
    model = make()
    fitted = fit(model, states, "file", key)
    assert digest(model) == digest(make())
    model.load_state_dict(fitted.state, strict=True)
    assert digest(model.net) == digest(THEIRS.net)
    assert torch.equal(model.normalize.mean, make().normalize.mean)
    return list(fitted.notes)


class Lightning(nn.Module):
    """How a LightningModule holds its network."""

    def __init__(self, model):
        super().__init__()
        self.model = model


@pytest.mark.parametrize(("states", "notes"), [
    ({"": NET}, []), ({"": WHOLE}, []),
    ({"": under("module.")}, ["names without 'module.'"]),
    ({"": under("module.", WHOLE)}, ["names without 'module.'"]),
    ({"": under("net.")}, ["names without 'net.'"]),
    ({"": under("backbone.")}, ["names without 'backbone.'"]),
    ({"": under("_orig_mod.")}, ["names without '_orig_mod'"]),
    ({"": under("module._orig_mod.")}, ["names without '_orig_mod'", "names without 'module.'"]),
    ({"": under("net._orig_mod.") | {name: WHOLE[name] for name in ("normalize.mean", "normalize.std")}},
     ["names without '_orig_mod'"]),
    ({"state_dict": Lightning(THEIRS.net).state_dict()}, ["its 'state_dict'", "names without 'model.'"]),
    ({"": AveragedModel(THEIRS.net).state_dict()}, ["without n_averaged", "names without 'module.'"]),
    ({"model_state_dict": NET, "optimizer.state": {"a": torch.zeros(1)}}, ["its 'model_state_dict'"]),
    ({"": {name: tensor for name, tensor in NET.items() if "num_batches_tracked" not in name}},
     ["without num_batches_tracked, which counts from 0"]),
])
def test_names_and_places_of_other_tools(states, notes):
    if "num_batches_tracked" in "".join(notes):  # which a fresh net has at 0, as THEIRS has
        assert all(tensor == 0 for name, tensor in NET.items() if name.endswith("num_batches_tracked"))
    assert loaded(states) == notes


def test_a_compiled_and_wrapped_network_loads():
    compiled = torch.compile(THEIRS.net)
    assert next(iter(compiled.state_dict())).startswith("_orig_mod.")
    assert loaded({"": compiled.state_dict()}) == ["names without '_orig_mod'"]
    assert loaded({"": nn.DataParallel(THEIRS.net).state_dict()}) == ["names without 'module.'"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_converted_and_said(dtype):
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in NET.items()}
    fitted = fit(make(), {"": state}, "file")
    assert fitted.notes == (f"converted from {str(dtype).removeprefix('torch.')}",)
    for name, tensor in state.items():
        assert torch.equal(fitted.state[f"net.{name}"], tensor.to(NET[name].dtype))
        assert fitted.state[f"net.{name}"].dtype == NET[name].dtype


def test_of_several_that_fit_one_must_be_named():
    states = {"model": NET, "ema_state_dict": dict(make(seed=2).net.state_dict()), "other": {"a": torch.zeros(1)}}
    with pytest.raises(UserError, match="^file: holds 2 state dicts of this model: model, ema_state_dict; name the one "
                                        "that is meant, as file#model$"):
        fit(make(), states, "file")
    assert loaded(states, "model") == []
    assert digest(fit(make(), states, "file", "ema_state_dict").state) == digest(make(seed=2))


def test_a_part_of_a_state_dict_can_be_named():
    other = dict(make(seed=2).net.state_dict())
    states = {"state_dict": under("model.") | under("ema.model.", other) | {"criterion.weight": torch.ones(3)}}
    with pytest.raises(UserError, match=r"^file: a part of it is of this model, and the rest is not: state_dict.model, "
                                        r"state_dict.ema; name the part that is meant, as file#state_dict.model$"):
        fit(make(), states, "file")
    assert loaded(states, "state_dict.model") == []
    assert digest(fit(make(), states, "file", "state_dict.ema").state) == digest(make(seed=2))
    assert loaded({"": states["state_dict"]}, "model") == []
    with pytest.raises(UserError, match=r"^file#nothing: the file has no such key, but state_dict, state_dict.model, "
                                        r"state_dict.ema, state_dict.criterion$"):
        fit(make(), states, "file", "nothing")


WEIGHT, BIAS = NET["linear.weight"], NET["linear.bias"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about sparse and quantized tensors
@pytest.mark.parametrize(("change", "message"), [
    (lambda: {"linear.weight": WEIGHT.to_sparse()}, "linear.weight is sparse or quantized; save the dense tensor"),
    (lambda: {"linear.weight": WEIGHT.to_sparse_csr()}, "linear.weight is sparse or quantized; save the dense tensor"),
    (lambda: {"linear.bias": torch.quantize_per_tensor(BIAS, 0.1, 0, torch.qint8)}, "linear.bias is sparse or"),
    (lambda: {"linear.weight": WEIGHT.to("meta")}, r"linear.weight has a shape and no values \(device meta\); save"),
    (lambda: {"linear.bias": BIAS[:1].expand(10**12)}, r"linear.bias has shape \(1000000000000,\), wanted \(3,\)$"),
    (lambda: {"linear.bias": BIAS.to(torch.complex64)}, "linear.bias is torch.complex64, wanted torch.float32$"),
    (lambda: {"linear.bias": BIAS.long()}, "linear.bias is torch.int64, wanted torch.float32$"),
    (lambda: {"linear.bias": BIAS.double() + 1e300}, "1 tensors hold NaN or infinite numbers: net.linear.bias$"),
    (lambda: {"linear.bias": (BIAS * torch.nan).to(torch.float8_e4m3fn)}, "1 tensors hold NaN or infinite numbers"),
    (lambda: {"other": BIAS}, r"these weights are not of this model: other \(3,\) is unexpected$"),
])
def test_one_tensor_that_does_not_fit_is_named(change, message):
    model = make()
    with pytest.raises(UserError, match=f"^file: .*{message}") as caught:
        fit(model, {"": NET | change()}, "file")
    assert "\n" not in str(caught.value)
    assert digest(model) == digest(make())


@pytest.mark.parametrize(("state", "message"), [
    (under("module.", dict(make(width=8).net.state_dict())), r"features.0.weight has shape \(8, 1, 3, 3\), wanted"),
    ({name: NET[name] for name in NET if name != "linear.bias"}, r"linear.bias \(3,\) is missing$"),
    (under("module.") | {"n_averaged": torch.tensor(1), "other": torch.ones(1)}, "a part of it is of this model"),
    ({"a": torch.ones(1)}, r"features.0.weight \(4, 1, 3, 3\) is missing \(and 19 more\); a \(1,\) is unexpected$"),
])
def test_what_does_not_fit_is_one_line(state, message):
    model = make()
    with pytest.raises(UserError, match=f"^file: .*{message}") as caught:
        fit(model, {"": state}, "file")
    assert "\n" not in str(caught.value)
    assert digest(model) == digest(make())


HEAD = {"net.linear.weight", "net.linear.bias"}


def test_a_head_for_other_classes_or_none_is_left_to_the_model_where_it_may():
    four = build("small_cnn", channels=1, classes=4, size=8, mean=(0.3,), std=(0.4,), seed=1, options={"width": 4})
    bare = {name: tensor for name, tensor in NET.items() if not name.startswith("linear")}
    for state in (four.net.state_dict(), under("module.", dict(four.net.state_dict())), bare):
        with pytest.raises(UserError, match=r"linear"):
            fit(make(), {"": state}, "file")
        fitted = fit(make(), {"": state}, "file", head=HEAD)
        assert set(fitted.fresh) == HEAD
        assert all(torch.equal(fitted.state[name], make().state_dict()[name]) for name in HEAD)
        for name, tensor in fitted.state.items():
            theirs = (four.net.state_dict() if state is not bare else NET)
            if name.startswith("net.") and name not in HEAD:
                assert torch.equal(tensor, theirs[name.removeprefix("net.")]), name
    assert fit(make(), {"": NET}, "file", head=HEAD).fresh == ()  # the same classes: all of it is taken


def test_beside_the_head_everything_must_fit_and_the_layer_that_does_not_is_named():
    wide = build("small_cnn", channels=1, classes=4, size=8, mean=(0.3,), std=(0.4,), seed=1, options={"width": 8})
    with pytest.raises(UserError, match="file: these weights are not of this model: features.0.weight has") as caught:
        fit(make(), {"": wide.net.state_dict()}, "file", head=HEAD)
    assert "linear" not in str(caught.value)


def test_the_head_is_what_the_number_of_classes_decides():
    def of(classes):
        return build("small_cnn", channels=1, classes=classes, size=8, mean=(0.3,), std=(0.4,), seed=0)
    assert head(of, 3) == HEAD
