"""Networks of other libraries, by the name that they have there: `torchvision:resnet50`, `timm:vit_small_patch16_224`,
`huggingface:FOLDER`. All are constructed without a network connection, and their weights drawn anew."""

import json
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor, nn

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.names import suggestion

ONE_OUTPUT = {"aux_logits": False}  # of the Inception family, whose training mode returns logits twice


class Constants(NamedTuple):
    """The pixel statistics, per channel in [0, 1], that a network of a library was made for."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Library(NamedTuple):
    """What is asked of a library: whether it has a network, how that is made, and what pixels it expects."""

    check: Callable[[str], None]  # UserError for a name that it does not have
    build: Callable[..., nn.Module]  # (name, *, channels, classes, size, **options)
    constants: Callable[[str], Constants | None]  # None: none of its own, those of the dataset do


def split(name: str) -> tuple[Library, str] | None:
    """The library of `LIBRARY:NAME` and the name there; None for any other name."""
    library, colon, rest = name.partition(":")
    return (LIBRARIES[library], rest) if colon and library in LIBRARIES else None


def _module(name: str, extra: str | None = None) -> ModuleType:
    """The library itself, imported when it is asked for; `extra` of this package installs it."""
    try:
        return import_module(name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit this torch
        cure = f"pip install 'amun_ray[{extra}]'" if extra else f"install a {name} that fits"
        raise UserError(f"model: {name} cannot be imported ({first_line(error)}); {cure}") from error


def _known(name: str, known: Iterable[str], library: str) -> None:
    names = list(known)
    if name not in names:
        raise UserError(f"{library} has no image classifier {name!r}{suggestion(name, names)}".removesuffix(".")
                        + f" ({len(names)} are known)")


def _made(place: str, make: Callable[..., nn.Module], *arguments: Any, **options: Any) -> nn.Module:
    """What `make` returns; UserError with the library's own reason where it refuses."""
    try:
        return make(*arguments, **options)
    except Exception as error:  # whatever the library raises for options that do not fit each other
        raise UserError(f"model {place!r} cannot be made with {options}: {first_line(error)}") from error


def _check_torchvision(name: str) -> None:
    models = _module("torchvision").models
    _known(name, models.list_models(module=models), "torchvision")


def _torchvision(name: str, *, channels: int, classes: int, size: int, **options: Any) -> nn.Module:
    """A network of torchvision's for classes of RGB images; grey ones are repeated over its three channels."""
    models = _module("torchvision").models
    made_for = {"image_size": size} if name.startswith("vit_") else {}
    extra = ONE_OUTPUT | {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    net = _made(f"torchvision:{name}", models.get_model, name, weights=None, num_classes=classes,
                **(extra | made_for | options))
    if channels == 1:
        net.register_forward_pre_hook(_repeat_grey)
    elif channels != 3:
        raise UserError(f"model 'torchvision:{name}' takes images of 1 or 3 channels, found {channels}")
    return net


def _repeat_grey(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].expand(-1, 3, -1, -1),)


def _check_timm(name: str) -> None:
    _known(name, _module("timm", "timm").list_models(), "timm")


def _timm(name: str, *, channels: int, classes: int, size: int, **options: Any) -> nn.Module:
    """A network of timm's; one that is made for a fixed size of image is made for this one."""
    timm = _module("timm", "timm")
    fixed = timm.get_pretrained_cfg(name)
    made_for = {"img_size": size} if fixed is not None and fixed.fixed_input_size else {}
    return _made(f"timm:{name}", timm.create_model, name, pretrained=False, num_classes=classes, in_chans=channels,
                 **(made_for | options))


def _timm_constants(name: str) -> Constants | None:
    cfg = _module("timm", "timm").get_pretrained_cfg(name)
    return None if cfg is None else Constants(tuple(cfg.mean), tuple(cfg.std))


def _check_huggingface(name: str) -> None:
    path = Path(name).expanduser() / "config.json"
    if not path.is_file():
        raise UserError(f"model 'huggingface:{name}': {path} is not there; name a folder that save_pretrained wrote")
    _module("transformers", "huggingface")


def _huggingface(name: str, *, channels: int, classes: int, size: int, **options: Any) -> nn.Module:
    """The image classifier that the `config.json` of a folder describes; it returns its logits alone."""
    transformers = _module("transformers", "huggingface")
    folder, place = Path(name).expanduser(), f"huggingface:{name}"

    def make(**changes: Any) -> nn.Module:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        known = {key: value for key, value in changes.items() if hasattr(config, key) or key == "num_labels"}
        for key, value in known.items():
            setattr(config, key, value)
        return transformers.AutoModelForImageClassification.from_config(config, trust_remote_code=False)

    net = _made(place, make, num_labels=classes, num_channels=channels, image_size=size, **options)
    net.register_forward_hook(_logits_alone)
    return net


def _logits_alone(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
    return output.logits


def _huggingface_constants(name: str) -> Constants | None:
    """Those of the folder's `preprocessor_config.json`, where it has one that normalises."""
    path = Path(name).expanduser() / "preprocessor_config.json"
    if not path.is_file():
        return None
    try:
        settings = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as JSON: {first_line(error)}") from error
    if not settings.get("do_normalize", True) or "image_mean" not in settings:
        return None
    return Constants(tuple(settings["image_mean"]), tuple(settings["image_std"]))


LIBRARIES: dict[str, Library] = {
    "torchvision": Library(_check_torchvision, _torchvision, lambda name: None),
    "timm": Library(_check_timm, _timm, _timm_constants),
    "huggingface": Library(_check_huggingface, _huggingface, _huggingface_constants),
}
