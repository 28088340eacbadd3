"""The studies that a config may name, and the methods that each needs."""

from collections.abc import Collection, Mapping

from amun_ray.base.names import suggestion

NEEDS: Mapping[str, tuple[str, ...]] = {  # study -> methods that it needs
    "confidence": (),
    "distances": (),
    "theorem": (),
    "attack_strength": ("amun",),
    "sensitivity": ("amun",),
    "substitutes": ("amun", "amun_without_forget"),
    "size": (),
    "timing": (),
}


def known_study(name: str) -> str:
    """The name of a study, checked."""
    if name not in NEEDS:
        raise ValueError(f"unknown study {name!r}{suggestion(name, NEEDS)} Known: {', '.join(NEEDS)}")
    return name


def study_problem(name: str, methods: Collection[str]) -> str | None:
    """Why the study `name` cannot be made of a sweep of these methods; None if it can."""
    missing = [method for method in NEEDS[name] if method not in methods]
    return None if not missing else f"{name} needs the method{'s' * (len(missing) > 1)} {' and '.join(missing)}"
