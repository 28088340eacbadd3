import struct
import warnings
import zipfile
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load as load_bytes
from torch import nn

from amun_ray.base.errors import UserError
from amun_ray.models import build
from amun_ray.models.checkpoint import digest, load_into, read, read_metadata, save


def make(seed=0, width=4, mean=0.3):
    return build("small_cnn", channels=1, classes=3, size=8, mean=(mean,), std=(0.4,), seed=seed,
                 options={"width": width})


def test_saved_bytes_are_the_same_every_time_and_load_back(tmp_path):
    model = make()
    labels = {f"key {number}": "wert mit \u00e4 und \"" for number in range(9)}
    contents = {save(model, labels), save(model.state_dict(), dict(reversed(labels.items()))), save(make(), labels)}
    assert len(contents) == 1
    path = tmp_path / "model.safetensors"
    path.write_bytes(contents.pop())
    assert read_metadata(path) == labels
    other = make(seed=1)
    assert digest(other) != digest(model)
    load_into(other, path)
    assert digest(other) == digest(model)
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(other.eval()(images), model.eval()(images))


def test_every_dtype_and_shape_is_kept_and_data_is_aligned():
    state = {"half": torch.rand(3).bfloat16(), "scalar": torch.tensor(7), "empty": torch.empty(0, 2),
             "turned": torch.rand(2, 3).t(), "flags": torch.tensor([True, False])}
    content = save(state, {})
    assert struct.unpack("<Q", content[:8])[0] % 8 == 0
    found = load_bytes(content)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)


def test_tied_weights_are_saved_as_copies():
    shared = torch.rand(2)
    assert torch.equal(load_bytes(save({"a": shared, "b": shared}, {}))["b"], shared)


def test_digest_sees_names_shapes_dtypes_and_values_but_not_the_order():
    state = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    assert digest(state) == digest(dict(reversed(state.items())))
    others = [{"c": state["a"], "b": state["b"]}, {"a": torch.zeros(3, 2), "b": state["b"]},
              {"a": state["a"], "b": torch.ones(2, dtype=torch.float64)}, {"a": state["a"], "b": -state["b"]}]
    assert len({digest(other) for other in (state, *others)}) == 5


@pytest.mark.parametrize("wrap", [
    lambda state: state,
    lambda state: {"state_dict": state, "epoch": 3},
    lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    lambda state: {"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}},
])
def test_torch_files_of_other_tools_load(tmp_path, wrap):
    model, other = make(), make(seed=1)
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pt")
    load_into(other, tmp_path / "weights.pt")
    assert digest(other) == digest(model)


def test_weights_of_a_bare_net_leave_the_normalisation(tmp_path):
    model, other = make(mean=0.1), make(seed=1, mean=0.7)
    torch.save(model.net.state_dict(), tmp_path / "weights.pt")
    load_into(other, tmp_path / "weights.pt")
    assert digest(other.net) == digest(model.net)
    assert other.normalize.mean.item() == pytest.approx(0.7)


def test_weights_load_into_a_plain_module(tmp_path):
    layer, other = nn.Linear(2, 3), nn.Linear(2, 3)
    (tmp_path / "a.safetensors").write_bytes(save(layer, {}))
    load_into(other, str(tmp_path / "a.safetensors"))
    assert digest(other) == digest(layer)


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize(("change", "message"), [
    (without("net.linear.bias"), r"net.linear.bias \(3,\) is missing"),
    (lambda state: state | {"net.extra": torch.zeros(2)}, r"net.extra \(2,\) is unexpected"),
    (lambda state: state | {"net.linear.bias": torch.zeros(4)}, r"net.linear.bias has shape \(4,\), wanted \(3,\)"),
    (lambda state: state | {"net.linear.bias": torch.zeros(3, dtype=torch.int64)},
     "net.linear.bias is torch.int64, wanted torch.float32"),
    (lambda state: state | {"net.linear.bias": torch.tensor([0, torch.nan, 0])},
     "1 tensors hold NaN or infinite numbers: net.linear.bias"),
    (lambda state: state | {"net.linear.bias": torch.tensor([0, torch.inf, 0])}, "net.linear.bias"),
    (lambda state: {f"module.{name}": state[name] for name in state} | {"module.other": torch.zeros(1)},
     r"are not of this model: other \(1,\) is unexpected$"),
])
def test_weights_of_another_model_are_refused_and_nothing_changes(tmp_path, change, message):
    model = make()
    before = digest(model)
    torch.save(change(make(seed=1).state_dict()), tmp_path / "weights.pt")
    with pytest.raises(UserError, match=f"weights.pt: .*{message}"):
        load_into(model, tmp_path / "weights.pt")
    assert digest(model) == before


def test_another_width_is_named_by_shape(tmp_path):
    (tmp_path / "wide.safetensors").write_bytes(save(make(width=8), {}))
    with pytest.raises(UserError, match=r"wide.safetensors: .*has shape \(8, 1, 3, 3\), wanted \(4,.*and \d+ more"):
        load_into(make(), tmp_path / "wide.safetensors")


class Innocent:
    """A class whose pickle must not be opened."""


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.pt", {"epoch": 3, "lr": 0.1}, "expected a state dict .* found a mapping with the keys 'epoch', 'lr'"),
    ("a.pt", {}, "found an empty mapping"),
    ("a.pt", [torch.zeros(1)], "found list"),
    ("a.pt", Innocent(), "a plain state dict, but holds test_checkpoint.Innocent, and whole objects are not unpickled"),
    ("a.pt", {"state_dict": {"a": torch.zeros(1)}, "hyper": Namespace(lr=1)}, "but holds argparse.Namespace, and"),
    ("a.pt", {1: torch.zeros(1)}, "found a mapping with the keys 1"),
    ("a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 9", "a pointer of Git LFS, .*git lfs"),
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS, .*git lfs pull"),
    ("a.pt", b"\n <!DOCTYPE html><title>Quota exceeded", "a web page, not the file itself: the download failed"),
    ("a.safetensors", b"<HTML>", "a web page, not the file itself: the download failed"),
    ("a.pt", b"no torch file", "no torch file: it begins with b'no t'"),
    ("a.pt", b"", "cannot be read as a torch file"),
    ("a.safetensors", b"no safetensors", "cannot be read as safetensors"),
    ("a.safetensors", None, "cannot be read as safetensors"),
    ("a.pt", None, "cannot be read as a torch file"),
])
def test_files_without_weights_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=f"{name}: .*({message})"):
        read(path)


def test_every_cut_of_a_file_is_refused(tmp_path):
    for name, content in (("a.safetensors", save(make(), {"a": "b"})), ("a.pt", None)):
        path = tmp_path / name
        if content is None:
            torch.save(make().state_dict(), path)
            content = path.read_bytes()
        for length in range(0, len(content), len(content) // 20):
            path.write_bytes(content[:length])
            with pytest.raises(UserError, match=name):
                read(path)


def test_no_byte_of_tensors_with_their_digest_can_change(tmp_path):
    model, path = make(), tmp_path / "a.safetensors"
    content = save(model, {"digest": digest(model)})
    first = 8 + int.from_bytes(content[:8], "little")  # of the tensors
    for place in range(first, len(content), max(1, (len(content) - first) // 50)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        with pytest.raises(UserError, match=f"{path}: damaged: its tensors have the digest [0-9a-f]{{12}}, and"):
            read(path)
    path.write_bytes(save(model, {"digest": "2024-05-01"}))  # of somebody else, who means something else
    assert read(path)[""].keys() == model.state_dict().keys()


def test_metadata_of_no_safetensors_is_refused(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_metadata(tmp_path / "a.safetensors")


def test_a_compressed_archive_is_not_blown_up(tmp_path):
    """torch.load reads one, and 200 kB of it can stand for 200 MB."""
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    with (zipfile.ZipFile(tmp_path / "a.pt") as plain,
          zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as packed):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert read(tmp_path / "a.pt").keys() == {""}
    with pytest.raises(UserError, match="b.pt: a compressed archive, which torch.save does not write"):
        read(tmp_path / "b.pt")


def test_torch_says_nothing_of_its_own_of_a_sparse_tensor(tmp_path):
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    with warnings.catch_warnings(action="error"):
        assert read(tmp_path / "a.pt")[""]["a"].is_sparse


def test_every_state_dict_of_a_file_is_found_by_its_keys(tmp_path):
    one = {"a.b": torch.zeros(1)}
    torch.save({"model": one, "ema": {"state_dict": one, "decay": 0.9}, "optimizer": {"state": {0: one}}, "epoch": 3,
                "deep": {"er": {"and": {"deeper": one}}}}, tmp_path / "a.pt")
    assert read(tmp_path / "a.pt").keys() == {"model", "ema.state_dict"}
