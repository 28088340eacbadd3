"""What a config can say about one method of the sweep, checked against the method's row."""

from pydantic import Field

from amun_ray.base.errors import UserError
from amun_ray.config.fields import Access, Accesses, Searched, Strict
from amun_ray.config.search import MethodLr, Points
from amun_ray.unlearn import find


class MethodConfig(Strict):
    """One method of the sweep: with which access (by default all it supports), which of its own settings, and which of
    them are searched, each over the range in its row; `points` are tried first. A setting that has an effect only with
    some access is used and searched there, and left out elsewhere. `lr` replaces `search.lr`."""

    access: Accesses | None = None
    """With D_R at hand (`retain`), without it (`forget_only`), or both; all that the method supports if not given."""
    settings: dict[str, float] = Field(default_factory=dict)
    """Values of the method's own settings."""
    search: Searched = ()
    """Which of its own settings are searched."""
    points: Points = ()
    """Known-good settings for this method: tried first, and counted as trials."""
    lr: MethodLr | None = None
    """A range of learning rates of its own, in place of `search.lr`."""


def accesses(name: str) -> list[Access]:
    """The accesses that a method supports, D_R first."""
    return [access for access in ("retain", "forget_only") if access in find(name).access]


def method_problems(name: str, chosen: MethodConfig | None) -> list[tuple[tuple[str, ...], str]]:
    """(key below the method, problem) for every conflict with the method's row."""
    try:
        row = find(name)
    except UserError as error:
        return [((), str(error))]
    chosen = chosen or MethodConfig()
    problems: list[tuple[tuple[str, ...], str]]
    problems = [(("access",), f"{name} does not exist with {access!r}, only with {', '.join(sorted(row.access))}")
                for access in chosen.access or () if access not in row.access]
    if chosen.lr and chosen.lr.forget_only and "forget_only" not in (chosen.access or row.access):
        problems.append((("lr", "forget_only"), f"{name} is not searched with 'forget_only' access"))
    asked = [access for access in chosen.access or accesses(name) if access in row.access] or accesses(name)
    for place, key in [*((("settings", key), key) for key in chosen.settings),
                       *((("search",), key) for key in chosen.search)]:
        reason = row.problem(name, key, *asked)
        if reason is None and key in chosen.settings:
            reason = row.settings[key].problem(chosen.settings[key])
        if reason is not None:
            problems.append((place, reason))
    return list(dict.fromkeys(problems))
