"""`as: paper` or `as: scripts` in a section: the settings of the AMUN paper's text, or of its authors' scripts where
they do otherwise, under whatever else the section says."""

from collections.abc import Callable, Mapping
from typing import Any

from amun_ray.unlearn.plans import PAPER, SCRIPTS

PGD = {"name": "pgd_l2", "steps": 50, "step_ratio": 0.1, "eps_init": 0.04, "objective": "cross_entropy"}
READINGS: dict[str, dict[str, dict[str, Any]]] = {  # section -> reading -> its settings
    "references": {"paper": {}, "scripts": {"epochs": 161}},
    "rmia": {"paper": {"order": 4}, "scripts": {"order": 3}},
    "attack.search": {"paper": PGD | {"start": "clean", "stop": "full"},
                      "scripts": PGD | {"start": "warm", "stop": "first_flip"}},
    "methods.l1_sparse": {"paper": {"settings": {"compounded": 0}}, "scripts": {"settings": {"compounded": 1}}},
    "methods.boundary_shrink": {
        "paper": {"settings": {"labelled_by": PAPER}},
        "scripts": {"settings": {"labelled_by": SCRIPTS, "forget_statistics": 1}}},
    "methods.gradient_ascent": {"paper": {}, "scripts": {"settings": {"forget_statistics": 1}}},
}


def reading(section: str) -> Callable[[Any], Any]:
    """What expands `as` in the content of `section`; a content without it is returned unchanged."""
    def expand(content: Any) -> Any:
        return expanded(section, content)
    return expand


def expanded(section: str, content: Any) -> Any:
    """The content of `section` with the settings of its reading, which its other keys override.

    Raises:
        ValueError: a section that has one reading, or no such reading.
    """
    if not isinstance(content, Mapping) or "as" not in content:
        return content
    if section not in READINGS:
        raise ValueError("as: the paper and its scripts do this alike; leave it out")
    own = {key: value for key, value in content.items() if key != "as"}
    if content["as"] not in READINGS[section]:
        raise ValueError(f"as: must be {' or '.join(READINGS[section])}, but got {content['as']!r}")
    base = READINGS[section][content["as"]]
    nested = {key: value | own[key] for key, value in base.items()
              if isinstance(value, dict) and isinstance(own.get(key), dict)}
    return base | own | nested


def expanded_methods(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The content of `methods` with each method's reading; and as pydantic has them the mistakes, whose `as` is left
    out."""
    methods, errors = dict(content), list[Any]()
    for name, own in content.items():
        try:
            methods[name] = expanded(f"methods.{name}", own)
        except ValueError as error:
            errors.append({"type": "value_error", "loc": (name,), "input": None, "ctx": {"error": str(error)}})
            methods[name] = {key: value for key, value in own.items() if key != "as"}
    return methods, errors
