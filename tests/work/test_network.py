"""What the network of a sweep is on every machine, by which numbers it normalises, and folders of save_pretrained."""

import json
import shutil

import numpy as np
import pytest
import torch

from amun_ray import models
from amun_ray.base.errors import UserError
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.models import checkpoint
from amun_ray.models.checkpoint import read
from amun_ray.storage.store import Store, digest
from amun_ray.work.plan import Plan

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
PHOTOS = Dataset("photos", PIXELS, np.arange(20) % 5, 16, 5)
HALF, OTHER = (0.5, 0.5, 0.5), (0.1, 0.2, 0.3)


def plan(name, normalize=None, weights=None, checkpoints=None):
    told = {} if normalize is None else {"normalize": normalize}
    return Plan(Sweep.model_validate({
        "name": "network", "data": {"name": "digits"} | told, "methods": {"finetune": None},
        "model": {"name": name} | ({"weights": weights} if weights else {}),
        "originals": {"count": len(checkpoints or "1"), "checkpoints": checkpoints},
        "training": {"lr": 0.1, "epochs": 1}, "forget": {"fraction": 0.1}}), PHOTOS)


def save(folder, classes, processor=None):
    """A folder as save_pretrained writes it, and its network."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(classes)
    net = transformers.ViTForImageClassification(transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        num_labels=classes))
    net.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return net.eval()


PROCESSOR = {"do_normalize": True, "image_mean": OTHER, "image_std": HALF}


def test_a_folder_of_save_pretrained_is_an_original_with_its_own_normalisation(tmp_path):
    theirs = save(tmp_path / "vit", 5, PROCESSOR)
    for source in (f"{tmp_path}/vit", f"huggingface:{tmp_path}/vit", f"{tmp_path}/vit/model.safetensors"):
        given = plan(f"huggingface:{tmp_path}/vit", checkpoints=[source])
        given.check()
        model = given.new_model()
        given.checkpoints[0].begin(model)
        images = torch.from_numpy(PIXELS).float() / 255
        if not source.endswith("safetensors"):  # the file alone says nothing of pixels, and the folder of the name does
            assert f"as {tmp_path}/vit says" in str(given)
        mean, std = (torch.tensor(one).view(3, 1, 1) for one in (OTHER, HALF))
        torch.testing.assert_close(model.eval()(images), theirs((images - mean) / std).logits)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_with_its_weights_in_several_files_is_read_as_one(tmp_path, kind):
    theirs = save(tmp_path / "vit", 5)
    shutil.copytree(tmp_path / "vit", tmp_path / "parts")
    if kind == "safetensors":
        (tmp_path / "parts" / "model.safetensors").unlink()
        theirs.save_pretrained(tmp_path / "parts", max_shard_size="8KB")
        index = tmp_path / "parts" / "model.safetensors.index.json"
    else:  # as earlier versions of the library wrote it
        index = split(tmp_path / "parts")
    placed = json.loads(index.read_text())["weight_map"]
    assert len(set(placed.values())) > 1
    given = plan(f"huggingface:{tmp_path}/parts", checkpoints=[f"{tmp_path}/parts"])
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(given.checkpoints[0].state[f"net.{name}"], tensor), name
    assert given.checkpoints[0].source.endswith(index.name)

    other = tmp_path / "parts" / placed["classifier.bias"]  # the digest is of every file
    states = read(other)[""]
    write(other, states | {"classifier.bias": states["classifier.bias"] + 1})
    changed = plan(f"huggingface:{tmp_path}/parts", checkpoints=[f"{tmp_path}/parts"])
    assert changed.checkpoints[0].digest != given.checkpoints[0].digest
    write(other, states | {"extra": torch.ones(2)})
    refused(tmp_path, f"{other.name} also holds 'extra', and the index says otherwise")
    write(other, {"another": torch.ones(2)})
    refused(tmp_path, f"{other.name} lacks '.*', and the index says otherwise")
    other.unlink()
    refused(tmp_path, f"says that .* is in '{other.name}', which is not a file beside it; copy the whole folder")
    for away in ("../vit/model.safetensors", f"{tmp_path}/vit/model.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": away}}))
        refused(tmp_path, f"says that 'a' is in '{away}', which is not a file beside it")
    for content in ("{", "[]", '{"weight_map": {"a": 1}}'):
        index.write_text(content)
        refused(tmp_path, f"{index.name}: (cannot be read as an|no) index of weights")


def refused(tmp_path, message):
    with pytest.raises(UserError, match=message):
        _ = plan(f"huggingface:{tmp_path}/parts", checkpoints=[f"{tmp_path}/parts"]).checkpoints


def write(path, state):
    path.write_bytes(checkpoint.save(state, {})) if path.suffix == ".safetensors" else torch.save(state, path)


def split(folder):
    """The weights of `folder` in two torch files and their index."""
    state = read(folder / "model.safetensors")[""]
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    placed = {name: f"pytorch_model-{1 + number % 2:05}-of-00002.bin" for number, name in enumerate(names)}
    for file in set(placed.values()):
        write(folder / file, {name: state[name] for name in names if placed[name] == file})
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def test_a_folder_of_other_classes_is_where_trainings_begin_but_for_its_head(tmp_path):
    theirs = save(tmp_path / "vit", 3)
    given = plan(f"huggingface:{tmp_path}/vit", weights=f"{tmp_path}/vit")
    given.check()
    assert sorted(given.start.fresh) == ["net.classifier.bias", "net.classifier.weight"]
    for name, tensor in theirs.state_dict().items():
        if not name.startswith("classifier"):
            assert torch.equal(given.start.state[f"net.{name}"], tensor), name


def test_a_folder_of_another_network_names_the_layer(tmp_path):
    save(tmp_path / "vit", 3)
    settings = json.loads((tmp_path / "vit" / "config.json").read_text())
    shutil.copytree(tmp_path / "vit", tmp_path / "wide")
    (tmp_path / "wide" / "config.json").write_text(json.dumps(settings | {"intermediate_size": 24}))
    with pytest.raises(UserError, match=r"wide: model.safetensors: these weights .*: net\.\S*|has shape"):
        plan(f"huggingface:{tmp_path}/wide", weights=f"{tmp_path}/wide").check()


def test_a_folder_means_the_same_network_where_it_is_not(tmp_path):
    save(tmp_path / "vit", 3)
    given = plan(f"huggingface:{tmp_path}/vit")
    here = given.workspace(Store("nowhere"))
    inputs, model = here.network_inputs, here.new_model(0)
    shutil.move(tmp_path / "vit", tmp_path / "moved")
    again = models.build(seed=0, **here.network.description)
    assert [*again.state_dict()] == [*model.state_dict()]
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))
    assert plan(f"huggingface:{tmp_path}/moved").workspace(Store("nowhere")).network_inputs == inputs
    changed = json.loads((tmp_path / "moved" / "config.json").read_text()) | {"layer_norm_eps": 1e-3}
    (tmp_path / "moved" / "config.json").write_text(json.dumps(changed))
    assert digest(plan(f"huggingface:{tmp_path}/moved").workspace(Store("nowhere")).network_inputs) != digest(inputs)


def test_who_trains_from_scratch_normalises_by_the_data_and_who_loads_by_what_the_network_was_made_for(tmp_path):
    pytest.importorskip("timm")
    (tmp_path / "some.pt").touch()
    weights, name = str(tmp_path / "some.pt"), "timm:test_vit"  # made for 0.5 and 0.5
    mean = PHOTOS.statistics[0]

    def found(*arguments, **more):
        network = plan(*arguments, **more).network
        return network.mean, network.normalize, network.why
    assert found(name) == (mean, None, "as the training images are")
    for more in ({"weights": weights}, {"checkpoints": [weights]}):
        assert found(name, **more) == (HALF, {"mean": HALF, "std": HALF}, "as timm:test_vit says")
        assert found(name, "dataset", **more) == (mean, None, "as the training images are")
        assert found(name, "none", **more) == ((0.0,) * 3, "none", "as data.normalize says")
        assert found("resnet20", **more) == (mean, None, "as the training images are")
        torchvision = found("torchvision:resnet18", **more)
        assert torchvision[:2] == (mean, None)
        assert torchvision[2].endswith("public weights of torchvision's are for data.normalize: imagenet")


@pytest.mark.parametrize(("processor", "mean", "std"), [
    ({"image_mean": [0.1], "image_std": [0.5]}, (0.1,), (0.5,)),
    ({"image_mean": [0.1], "image_std": [0.5], "rescale_factor": 1 / 510}, (0.2,), (1.0,)),  # pixels in [0, 0.5]
    ({"image_mean": [51], "image_std": [102], "do_rescale": False}, (0.2,), (0.4,)),  # pixels in [0, 255]
    ({"do_normalize": False}, (0.0,) * 3, (1.0,) * 3),
])
def test_the_numbers_of_a_folder_are_of_pixels_in_0_1(processor, mean, std, tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    found = models.library.folder_constants(str(tmp_path))
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(std)


def test_timms_own_folders_say_it_in_their_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": {
        "mean": OTHER, "std": HALF}}))
    assert models.library.folder_constants(str(tmp_path)) == (OTHER, HALF)


def test_folders_that_differ_leave_the_choice_to_the_user(tmp_path):
    save(tmp_path / "one", 5, PROCESSOR), save(tmp_path / "other", 5, PROCESSOR | {"image_mean": HALF})
    places = [f"{tmp_path}/one", f"{tmp_path}/other"]
    with pytest.raises(UserError, match=r"data.normalize: .*one and .*other are for pixels normalised differently"):
        plan(f"huggingface:{tmp_path}/one", checkpoints=places).check()
    plan(f"huggingface:{tmp_path}/one", "imagenet", checkpoints=places).check()


@pytest.mark.parametrize(("content", "message"), [
    ('{"image_mean": "grey", "image_std": [1]}', "mean and std must be lists of numbers, found 'grey'"),
    ("[]", "a JSON object is expected, found list"),
    ("{", "cannot be read as JSON")])
def test_a_folder_with_no_numbers_is_refused(content, message, tmp_path):
    save(tmp_path / "vit", 5)
    (tmp_path / "vit" / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=f"preprocessor_config.json: {message}"):
        plan(f"huggingface:{tmp_path}/vit", checkpoints=[f"{tmp_path}/vit"]).check()


def test_an_option_that_a_network_of_transformers_lacks_is_refused_with_the_nearest():
    pytest.importorskip("transformers")
    with pytest.raises(UserError, match="a vit of transformers has no option 'hiden_size'; did you mean 'hidden_size'"):
        models.build("transformers:vit", options={"hiden_size": 8}, channels=3, classes=5, size=32, mean=HALF,
                     std=HALF, seed=0)
    with pytest.raises(UserError, match="transformers has no image classifier 'vitt'; did you mean 'vit'"):
        models.check("transformers:vitt")
