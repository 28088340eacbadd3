import math
import os
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from amun_ray import models
from amun_ray.base.errors import UserError
from amun_ray.base.names import allow
from amun_ray.models import MODELS, build, check
from amun_ray.models.checkpoint import digest
from amun_ray.models.normalize import Normalize

allow(__name__)
TINY = {name: {"width": 4} for name in MODELS} | {"vit": {"width": 6, "depth": 1}}
SMALLEST = dict.fromkeys(MODELS, 8) | {"vgg19": 32, "airbench": 9}
GREY = {"mean": (0.3,), "std": (0.4,)}


def own_net(*, channels, classes, size, depth=1):
    """What a user's module may hold."""
    return nn.Sequential(nn.Flatten(), *[nn.Linear(channels * size * size, classes) for _ in range(depth)])


def one_logit_short(*, channels, classes, size):
    return own_net(channels=channels, classes=classes - 1, size=size)


def no_net(*, channels, classes, size):
    return "weights.pt"


def leaves(*, channels, classes, size):
    raise SystemExit(1)


def two_outputs(*, channels, classes, size):
    class Net(nn.Flatten):
        def forward(self, images):
            return images, images

    return Net()


class Breaks(nn.Flatten):
    def __init__(self, *, channels, classes, size):
        super().__init__()

    def forward(self, images):
        raise KeyError("logits")


def needs_more(*, channels, classes, size):
    return nn.Linear(channels + size, classes)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 8, 10), (3, 32, 7)])
def test_every_model_gives_logits_and_learns(name, channels, size, classes):
    size = max(size, SMALLEST[name])
    model = build(name, channels=channels, classes=classes, size=size, mean=[0.5] * channels, std=[0.2] * channels,
                  seed=0, options=TINY[name])
    images = torch.rand(5, channels, size, size, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (5, classes)
    assert logits.dtype == torch.float32
    logits.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_depend_on_its_batch_in_eval_mode(name):
    size = SMALLEST[name]
    model = build(name, channels=1, classes=10, size=size, **GREY, seed=0, options=TINY[name]).eval()
    wider = 0 if name == "vit" else 3  # odd and not square, where a network takes that
    images = torch.rand(6, 1, size, size + wider, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(model(images), alone)


@pytest.mark.parametrize(("name", "channels", "count"), [
    ("small_cnn", 1, 94_186), ("airbench", 3, 498_104), ("resnet20", 3, 272_474), ("resnet18", 3, 11_173_962),
    ("vgg19", 3, 20_035_018), ("vit", 3, 1_806_538),
])
def test_the_networks_have_the_size_that_is_documented(name, channels, count):
    assert parameters(MODELS[name](channels=channels, classes=10, size=32)) == count


def test_depth_is_six_blocks_plus_two():
    net = MODELS["resnet20"](channels=3, classes=10, size=32, blocks=9)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(convolutions) + 1 == 56  # the linear layer counts, the shortcuts do not


@pytest.mark.parametrize("name", MODELS)
def test_weights_follow_the_seed_and_leave_the_global_stream_alone(name):
    def make(seed):
        return build(name, channels=1, classes=10, size=SMALLEST[name], **GREY, seed=seed, options=TINY[name])

    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = make(0)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert digest(first) == digest(make(0)) != digest(make(1))


def test_normalisation_is_a_layer_of_the_model():
    model = build("small_cnn", channels=3, classes=10, size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0), seed=0)
    images = torch.tensor([0.6, 0.45, 0.3]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    expected = torch.tensor([1.0, 1.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 8, 8)
    torch.testing.assert_close(model.normalize(images), expected)
    assert torch.equal(model(images), model.net(model.normalize(images)))
    assert {"normalize.mean", "normalize.std"} <= model.state_dict().keys()
    assert not any(name.startswith("normalize") for name, _ in model.named_parameters())


@pytest.mark.parametrize(("mean", "std", "message"), [
    ((0.5,), (0.0,), "every std must be above 0"),
    ((0.5,), (math.nan,), "every std must be above 0"),
    ((0.5, 0.5), (1.0,), "one mean and one std per channel, found 2 and 1"),
])
def test_normalisation_that_cannot_be_is_refused(mean, std, message):
    with pytest.raises(UserError, match=message):
        Normalize(mean, std)


def test_a_users_own_net_is_built_and_checked():
    model = build(f"{__name__}:own_net", channels=1, classes=3, size=4, **GREY, seed=0, options={"depth": 1})
    assert model(torch.rand(2, 1, 4, 4)).shape == (2, 3)
    assert model.net.training


@pytest.mark.parametrize(("name", "options", "message"), [
    ("resnet19", None, "unknown model 'resnet19'; did you mean 'resnet1?[80]'"),
    ("resnet18", {"widht": 4}, "model 'resnet18' has no setting 'widht'; did you mean 'width'"),
    ("resnet18", {"classes": 4}, "model 'resnet18' has no setting 'classes'"),
    ("resnet18", {"width": 0}, "`width >= 1`"),
    ("resnet20", {"blocks": 0}, "`1 <= blocks <= 200`"),
    ("small_cnn", {"width": -1}, "`width >= 1` must hold, but got -1"),
    ("vit", {"patch": 3}, r"the side of the images \(8\) must be a multiple of patch \(3\)"),
    ("vit", {"depth": 10**9}, "depth from 1 to 200, but got .*depth=1000000000"),
    ("vit", {"width": 10**7, "heads": 1}, "model 'vit' with these options has more weights than the .* GiB of memory"),
    ("small_cnn", {"width": 10**6}, "model 'small_cnn' with these options has more weights than the"),
    ("resnet20", {"width": 2**62}, "model 'resnet20' with these options has more weights than the"),
    ("vit", {"heads": 5}, "width must be a multiple of heads"),
    ("vit", {"dropout": 1.0}, "`0 <= dropout < 1` must hold, but got 1.0"),
    (f"{__name__}:GREY", None, "must be a callable that returns a module, found dict"),
    (f"{__name__}:no_net", None, "must return a torch module, found str"),
    (f"{__name__}:needs_more", None, "asked for logits .* of images .*, fails: RuntimeError: .*mat1 and mat2 shapes"),
    (f"{__name__}:leaves", None, r"fails: SystemExit: 1 \(.*test_models.py, line \d+\)$"),
    (f"{__name__}:Breaks", None, r"fails: KeyError: 'logits' \(.*test_models.py, line \d+\)$"),
    (f"{__name__}:two_outputs", None, r"must give logits \(2, 10\), found tuple$"),
    (f"{__name__}:one_logit_short", None, r"images \(2, 1, 8, 8\) must give logits \(2, 10\), found \(2, 9\)"),
])
def test_mistakes_are_named(name, options, message):
    with pytest.raises(UserError, match=message):
        build(name, channels=1, classes=10, size=8, **GREY, seed=0, options=options)


@pytest.mark.parametrize(("name", "size"), [("small_cnn", 3), ("resnet20", 3), ("resnet18", 7), ("vgg19", 31),
                                               ("airbench", 8)])
def test_images_that_are_too_small_are_refused(name, size):
    with pytest.raises(UserError, match=f"at least {size + 1} pixels a side, found {size}"):
        build(name, channels=1, classes=10, size=size, **GREY, seed=0)


def test_means_must_fit_the_channels():
    with pytest.raises(UserError, match="3 channels need 3 means, found 1"):
        build("small_cnn", channels=3, classes=10, size=8, **GREY, seed=0)


@pytest.mark.parametrize("name", MODELS)
def test_check_builds_nothing(name):
    assert check(name, {"width": 8}) is MODELS[name]


@pytest.mark.parametrize("name", MODELS)
def test_the_memory_of_a_network_is_counted_without_any(name, monkeypatch):
    """A network whose weights are what memory there is can be built; with a byte less it is refused."""
    arguments = {"channels": 3, "classes": 10, "size": 32} | TINY[name]
    net = MODELS[name](**arguments)
    needed = sum(tensor.nbytes for key, tensor in net.state_dict().items() if "num_batches" not in key)
    for memory, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(os, "sysconf", lambda key, memory=memory: memory if key == "SC_PHYS_PAGES" else 1)
        models._check_size.cache_clear()
        with nullcontext() if fits else pytest.raises(UserError, match="more weights"):
            models._check_size(name, **arguments)


def test_a_name_is_of_the_users_own_code_unless_a_library_has_it():
    assert [models.is_own(name) for name in ("mine.nets:Net", "small_cnn", "timm:resnet18", "huggingface:a/b")] == [
        True, False, False, False]
