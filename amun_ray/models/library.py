"""Networks of other libraries, by the name that they have there: `torchvision:resnet50`, `timm:vit_small_patch16_224`,
`huggingface:FOLDER`, `transformers:KIND`. All are made without a network connection, and their weights drawn anew."""

import copy
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from amun_ray.base.errors import UserError, first_line
from amun_ray.base.files import expanded
from amun_ray.base.names import suggestion

ELSEWHERE = {"_name_or_path", "architectures", "dtype", "finetuning_task", "id2label", "image_size", "label2id",
             "model_type", "num_channels", "num_labels", "problem_type", "torch_dtype", "transformers_version"}
# of a config.json: where the network is from, and what the data decides
ONE_OUTPUT = {"aux_logits": False}  # of the Inception family, whose training mode returns logits twice


class Constants(NamedTuple):
    """The pixel statistics, per channel in [0, 1], that a network of a library was made for."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Library(NamedTuple):
    """What each library provides: whether it has a network, how to make it, and which pixels it expects."""

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
    path = Path(expanded(name)) / "config.json"
    if not path.is_file():
        raise UserError(f"model 'huggingface:{name}': {path} is not there; name a folder that save_pretrained wrote")
    _module("transformers", "huggingface")


def _huggingface(name: str, *, channels: int, classes: int, size: int, **options: Any) -> nn.Module:
    """The image classifier that the `config.json` of a folder describes; it returns its logits alone."""
    kind, settings = _described(name, options)
    return _transformers(kind, channels=channels, classes=classes, size=size, **settings)


def _described(folder: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The kind of network in a folder, and its settings there, with `options` over them."""
    path = Path(expanded(folder)) / "config.json"
    settings = _json(path)
    if not isinstance(kind := settings.get("model_type"), str):
        raise UserError(f"{path}: has no model_type; name a folder that save_pretrained wrote")
    _check_transformers(kind)
    known = {key: value for key, value in settings.items() if key not in ELSEWHERE and hasattr(_default(kind), key)}
    return kind, known | dict(options)


def _default(kind: str) -> Any:
    return _module("transformers", "huggingface").AutoConfig.for_model(kind)


def _check_transformers(kind: str) -> None:
    _known(kind, _module("transformers", "huggingface").CONFIG_MAPPING, "transformers")


def _transformers(kind: str, *, channels: int, classes: int, size: int, **options: Any) -> nn.Module:
    """An image classifier of a kind such as `vit`; the options are what its `config.json` would have."""
    transformers, default = _module("transformers", "huggingface"), _default(kind)
    for key in options:
        if not hasattr(default, key):
            raise UserError(f"model: a {kind} of transformers has no option {key!r}"
                            f"{suggestion(key, default.to_dict())}".removesuffix("."))

    def make(**settings: Any) -> nn.Module:
        config = transformers.AutoConfig.for_model(kind, **settings)
        return transformers.AutoModelForImageClassification.from_config(config, trust_remote_code=False)

    shape = {key: value for key, value in {"num_channels": channels, "image_size": size}.items()
             if hasattr(default, key)}
    net = _made(f"transformers:{kind}", make, **(shape | options), num_labels=classes)
    net.register_forward_hook(_logits_alone)
    return net


def _logits_alone(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Tensor:
    return output.logits


def renamed(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """`state` under the names of `net`, if that is a network of transformers: its files use names of their own.

    A tensor whose shape differs from that in `net` becomes zeros of its own shape; a missing one stays missing. None
    for any other network, and for a state that the library cannot use.
    """
    if not isinstance(transformers := sys.modules.get("transformers"), ModuleType) or not isinstance(
            net, transformers.PreTrainedModel):
        return None
    logging, level = transformers.utils.logging, transformers.utils.logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            loaded, info = type(net).from_pretrained(
                None, config=copy.deepcopy(net.config), state_dict=dict(state), output_loading_info=True,
                ignore_mismatched_sizes=True)
    except Exception:  # whatever it raises for a state that is not of such a network
        return None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    other = {name: torch.zeros(shape) for name, shape, _ in info["mismatched_keys"]}
    kept = {name: tensor for name, tensor in loaded.state_dict().items() if name not in info["missing_keys"]}
    return kept | other | {name: state[name] for name in info["unexpected_keys"] if name in state}


def _json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON: {first_line(error)}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{path}: a JSON object is expected, found {type(settings).__name__}")
    return settings


def folder_constants(folder: str) -> Constants | None:
    """The pixel statistics of a folder of weights: from `preprocessor_config.json` or, as timm writes them, from the
    `pretrained_cfg` in `config.json`. None if neither says anything about pixels.

    Raises:
        UserError: one of these files cannot be read, or has no numbers there.
    """
    path = Path(expanded(folder)) / "preprocessor_config.json"
    settings = _json(path) if path.is_file() else {}
    scale = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if settings and not settings.get("do_normalize", True):
        mean, std = [0.0] * 3, [1.0] * 3
    elif not settings and (path := path.with_name("config.json")).is_file():
        constants = _json(path).get("pretrained_cfg") or {}
        mean, std = constants.get("mean"), constants.get("std")
    if mean is None or std is None:
        return None
    try:
        return Constants(tuple(float(x) / scale for x in mean), tuple(float(x) / scale for x in std))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: mean and std must be lists of numbers, found {mean!r} and {std!r}") from error


LIBRARIES: dict[str, Library] = {
    "torchvision": Library(_check_torchvision, _torchvision, lambda name: None),
    "timm": Library(_check_timm, _timm, _timm_constants),
    "huggingface": Library(_check_huggingface, _huggingface, folder_constants),
    "transformers": Library(_check_transformers, _transformers, lambda name: None),
}


def portable(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A name and options that mean the same network on every machine: a folder is replaced by what is in it."""
    library, _, rest = name.partition(":")
    if library != "huggingface":
        return name, dict(options)
    kind, settings = _described(rest, options)
    return f"transformers:{kind}", settings
