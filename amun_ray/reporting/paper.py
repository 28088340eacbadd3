"""A sweep's results beside the tables of the AMUN paper."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.plots import mean_and_std
from amun_ray.reporting.columns import ACCESS, ATTACKS, COLUMNS
from amun_ray.reporting.grid import grid
from amun_ray.reporting.paper_tables import TABLES, PaperTable
from amun_ray.reporting.protocol import WHATEVER, differences
from amun_ray.storage.store import Store, Unit
from amun_ray.work.plan import Plan

TITLES = COLUMNS | {term: title for term, (title, _, _) in ATTACKS.items()}


def keep_rows(plan: Plan, store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep the rows of a finished sweep, as in results.json but for their MLflow runs, where `kept_rows` finds them."""
    unit = Unit("tables", plan.identity)
    kept = {"rows": [{key: value for key, value in row.items() if key != "mlflow_run_ids"} for row in rows]}
    if store.result(unit) != kept:
        store.finish(unit, kept)


def kept_rows(plan: Plan, store: Store, tables: Sequence[str] = ()) -> list[dict[str, Any]] | None:
    """The rows of this very sweep, where it was finished before; UserError for a name in `tables` that is none."""
    for name in tables:
        find(name)
    kept = store.result(Unit("tables", plan.identity)) if store.exists() else None
    return None if kept is None else kept["rows"]


def find(name: str) -> Sequence[PaperTable]:
    """The table `name`, a part for each access; UserError with the known ones where there is none."""
    if name not in TABLES:
        raise UserError(f"--compare: unknown table {name!r}{suggestion(name, TABLES)} Known: {', '.join(TABLES)}")
    return TABLES[name]


def beside(names: Sequence[str], rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """The results of `plan` and those of each table in `names`, column by column, as Markdown; below each, what was
    done otherwise here.

    Args:
        rows: as in results.json, all in percent; those of another access than a table's are left out there.
    """
    return "\n\n".join(_beside(table, rows, plan) for name in names for table in find(name))


def _beside(table: PaperTable, rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    fraction = min(table.rows, key=lambda fraction_of_row: abs(fraction_of_row - _forgotten(plan)))
    theirs = table.rows[fraction]
    ours = {row["method"]: row for row in rows if row["access"] in (table.access, None) and "failed" not in row}
    head = ["method", *(cell for term in table.terms for cell in (TITLES[term], "paper"))]
    body = [[name, *(cell for place, term in enumerate(table.terms) for cell in (
                mean_and_std(_scores(ours[name])[term]) if name in ours else "",
                f"{theirs[name][place]:.2f}" if name in theirs else ""))]
            for name in dict.fromkeys([*theirs, *ours])]
    different = "; ".join(_differences(plan, table, fraction)) or "nothing that a config says"
    return (f"Beside {table.name} of the AMUN paper (arXiv 2503.00917): {table.models}, {fraction:.0%} forgotten, "
            f"{ACCESS[table.access]}. Percent; here mean ± standard deviation, of the paper the mean.\n\n"
            f"{grid(head, body)}\n\nOtherwise than in the paper: {different}. {WHATEVER}")


def _scores(row: Mapping[str, Any]) -> dict[str, Any]:
    """Every score of a row of results.json."""
    return {**row, **row.get("attacks", {})}


def _forgotten(plan: Plan) -> float:
    """The share of the training images that is forgotten."""
    return len(plan.sets.final[0]) / plan.dataset.train_size


def _differences(plan: Plan, table: PaperTable, fraction: float) -> Iterator[str]:
    """Everything in which the sweep is not what the table's column was made by."""
    if abs(_forgotten(plan) - fraction) > 1e-3:
        yield f"forgotten: {_forgotten(plan):.1%} (paper: {fraction:.0%})"
    yield from differences(plan, table.protocol)
