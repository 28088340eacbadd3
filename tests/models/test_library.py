"""Networks of torchvision, timm and Hugging Face: made offline, of any number of classes, attacked and loaded back."""

import json

import pytest
import torch

from amun_ray.attacks import AttackSettings, craft
from amun_ray.base.errors import UserError
from amun_ray.models import build, check, library
from amun_ray.models.checkpoint import digest

SHAPE = {"channels": 3, "classes": 5, "size": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}
GREY = {"channels": 1, "classes": 5, "size": 32, "mean": (0.5,), "std": (0.25,)}


@pytest.fixture
def huggingface_folder(tmp_path):
    """What save_pretrained writes, of a ViT that was made for other images and classes than those of the tests."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                                    image_size=64, patch_size=8, num_labels=3)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def names(folder):
    pytest.importorskip("timm")
    return ["torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1", "timm:test_vit", f"huggingface:{folder}"]


def test_each_gives_logits_of_the_datas_classes_follows_the_seed_and_is_attacked(huggingface_folder):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in names(huggingface_folder):
        model = build(name, **SHAPE, seed=0).eval()
        logits = model(images)
        assert logits.shape == (4, 5), name
        assert digest(model) == digest(build(name, **SHAPE, seed=0)) != digest(build(name, **SHAPE, seed=1)), name
        rows = craft(model, images, logits.argmax(1), settings=AttackSettings(steps=20))
        assert rows.image.min() >= 0, name
        assert rows.image.max() <= 1, name
        with torch.no_grad():
            changed = model(torch.from_numpy(rows.image)).argmax(1).numpy()
        assert (changed == rows.label).all(), name


def test_grey_images_are_shown_to_torchvision_three_times(huggingface_folder):
    images = torch.rand(2, 1, 32, 32)
    grey, colour = (build("torchvision:squeezenet1_1", **shape, seed=0).eval() for shape in (GREY, SHAPE))
    torch.testing.assert_close(grey(images), colour(images.expand(-1, 3, -1, -1)))
    for name in names(huggingface_folder):
        assert build(name, **GREY, seed=0).eval()(images).shape == (2, 5), name


def test_options_are_passed_on():
    model = build("torchvision:squeezenet1_1", **SHAPE, seed=0, options={"dropout": 0.1})
    assert [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)] == [0.1]
    with pytest.raises(UserError, match="model 'torchvision:squeezenet1_1' cannot be made with .*drop_out"):
        build("torchvision:squeezenet1_1", **SHAPE, seed=0, options={"drop_out": 0.1})


@pytest.mark.parametrize(("name", "message"), [
    ("torchvision:resnet5O", "torchvision has no image classifier 'resnet5O'; did you mean 'resnet50'"),
    ("timm:vit_tiny_patch16_225", "timm has no image classifier .*; did you mean 'vit_tiny_patch16_224'"),
    ("huggingface:nowhere", "nowhere/config.json is not there; name a folder that save_pretrained wrote"),
])
def test_a_name_that_is_not_there_is_refused_with_the_nearest(name, message):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=message):
        check(name)


def test_a_network_that_cannot_see_images_this_small_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"model 'torchvision:inception_v3', asked for logits \(2, 5\) of images"):
        build("torchvision:inception_v3", **SHAPE, seed=0)


def test_the_constants_that_a_network_was_made_for(huggingface_folder):
    def constants(name):
        other, rest = library.split(name)
        return other.constants(rest)
    assert constants("torchvision:resnet18") is None
    pytest.importorskip("timm")
    assert constants("timm:vit_tiny_patch16_224") == ((0.5,) * 3, (0.5,) * 3)
    assert constants(f"huggingface:{huggingface_folder}") is None
    settings = huggingface_folder / "preprocessor_config.json"
    settings.write_text(json.dumps({"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}))
    assert constants(f"huggingface:{huggingface_folder}") == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    settings.write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config.json: cannot be read as JSON"):
        constants(f"huggingface:{huggingface_folder}")


def test_a_library_that_is_not_there_is_named_with_what_installs_it(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")
    monkeypatch.setattr("amun_ray.models.library.import_module", missing)
    with pytest.raises(UserError, match=r"timm cannot be imported .*; pip install 'amun_ray\[timm\]'"):
        check("timm:resnet10t")
