"""`search.points: earlier`: what finished sweeps in the same storage chose for a method is tried first.

Suggestions depend on it, so the store keeps it: the sweep goes on with it, whatever else is finished there meanwhile.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from amun_ray.base.log import say
from amun_ray.config.search import EARLIER, Point
from amun_ray.storage.store import Unit
from amun_ray.unlearn import Contender
from amun_ray.work.units import Workspace
from amun_ray.work.width import search_inputs

W = TypeVar("W", bound=Workspace)
Made = tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]  # what a finished sweep was, and the rows of its table
MOST = 2  # settings that are taken over for a method and access


class Chosen(NamedTuple):
    """Settings that a finished sweep chose for a method and access, in the order in which they are to be tried."""

    other_data: bool
    other_network: bool
    average_gap: float  # of the final models, in points
    sweep: str  # its name
    values: dict[str, Any]  # by the names of the search space

    def __str__(self) -> str:
        own = "".join(f", {name} {value:g}" for name, value in self.values.items() if name not in ("lr", "schedule"))
        other = " and ".join(what for what, is_other in (("data", self.other_data), ("network", self.other_network))
                             if is_other)
        return (f"lr {self.values['lr']:.2e}, {self.values['schedule']}{own} of the sweep {self.sweep}"
                + (f" (other {other})" if other else ""))


def with_earlier(workspace: W) -> W:
    """The workspace of a sweep that knows the settings which `search.points: earlier` stands for: those in the store
    or, at a first start, for each method and access at most MOST; first those found on the same data, then those of the
    same network, and of these those with the least Avg. Gap."""
    sweep, store = workspace.sweep, workspace.store
    if sweep.search.points != EARLIER:
        return workspace
    unit = Unit("earlier_points", search_inputs(workspace))
    if (kept := store.result(unit)) is None:
        tables = [Unit("tables", inputs) for inputs in store.inputs("tables")]
        made = [(table.inputs, result["rows"]) for table in tables if (result := store.result(table)) is not None]
        taken = [(contender, each) for contender in sweep.contenders for each in _taken(workspace, contender, made)]
        kept = store.finish(unit, {"points": [[list(contender), each.values, str(each)] for contender, each in taken]})
    points: dict[tuple[str, str], tuple[Point, ...]] = {}
    for (method, access), values, text in kept["points"]:
        own = {name: value for name, value in values.items() if name not in ("lr", "schedule")}
        points[method, access] = (*points.get((method, access), ()),
                                  Point(lr=values["lr"], schedule=values["schedule"], settings=own))
        say(f"search.points: {Contender(method, access)}: {text}")
    if not points:
        say(f"search.points: none, since no finished sweep in {store.uri} chose settings of these methods that this "
            "search may try")
    return replace(workspace, sweep=sweep.model_copy(update={"search": sweep.search.with_earlier(points)}))


def _taken(workspace: Workspace, contender: Contender, made: Sequence[Made]) -> list[Chosen]:
    """The settings to try for a contender, each once, and none that the config names."""
    sweep, taken = workspace.sweep, list[Chosen]()
    named = [point.values for point in sweep.chosen(contender.method).points]
    for each in sorted(_chosen(workspace, contender, made), key=lambda each: (*each[:4], sorted(each.values.items()))):
        if each.values not in [*named, *(other.values for other in taken)]:
            taken.append(each)
    return taken[:min(MOST, sweep.search.trials - len(named))]


def _chosen(workspace: Workspace, contender: Contender, made: Sequence[Made]) -> Iterator[Chosen]:
    """What every finished sweep chose for a contender, if it is in this sweep's space."""
    space, model = workspace.sweep.space(contender), workspace.network.identity["model"]
    for inputs, rows in made:
        for row in rows:
            values = {"lr": row["lr"], "schedule": row["schedule"]} | row["settings"]
            values = {name: value for name, value in values.items() if name in space}
            if (row["method"], row["access"]) == contender and row["lr"] is not None and "failed" not in row and all(
                    space[name].problem(value) is None for name, value in values.items()):
                yield Chosen(inputs["dataset"] != workspace.data_digest, inputs["sweep"]["model"] != model,
                             row["average_gap"]["mean"], inputs["sweep"]["name"], values)
