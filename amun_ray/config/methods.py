"""What a config can say about one method of the sweep, and what its row says to that."""

from pydantic import Field

from amun_ray.base.errors import UserError
from amun_ray.config.fields import Access, Accesses, Searched, Strict
from amun_ray.config.search import LogUniform, Points
from amun_ray.unlearn import find


class Method(Strict):
    """One method of the sweep: in which settings of access (all it has, unless told), with which of its own settings,
    and which of those are searched, each over the range of its row; `points` are tried first. A setting that counts
    with some access only is given and searched there, and left out elsewhere. `lr` takes the place of `search.lr`."""

    access: Accesses | None = None
    """With D_R at hand (`retain`), without (`forget_only`), or both; all that the method has if not given."""
    settings: dict[str, float] = Field(default_factory=dict)
    """Values of the method's own settings."""
    search: Searched = ()
    """Which of its own settings are searched."""
    points: Points = ()
    """Settings that are known to be good for this method: tried first, and counted as trials."""
    lr: LogUniform | None = None
    """A range of learning rates of its own, in place of `search.lr`."""


def accesses(name: str) -> list[Access]:
    """The settings of access in which a method exists, D_R first."""
    return [access for access in ("retain", "forget_only") if access in find(name).access]


def method_problems(name: str, chosen: Method | None) -> list[tuple[tuple[str, ...], str]]:
    """(key below the method, what is wrong there) of every mistake that the method's row tells."""
    try:
        row = find(name)
    except UserError as error:
        return [((), str(error))]
    chosen = chosen or Method()
    problems: list[tuple[tuple[str, ...], str]]
    problems = [(("access",), f"{name} does not exist with {access!r}, only with {', '.join(sorted(row.access))}")
                for access in chosen.access or () if access not in row.access]
    asked = [access for access in chosen.access or accesses(name) if access in row.access] or accesses(name)
    for place, key in [*((("settings", key), key) for key in chosen.settings),
                       *((("search",), key) for key in chosen.search)]:
        reason = row.problem(name, key, *asked)
        if reason is None and key in chosen.settings:
            reason = row.settings[key].problem(chosen.settings[key])
        if reason is not None:
            problems.append((place, reason))
    return list(dict.fromkeys(problems))
