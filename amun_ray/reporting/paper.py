"""The tables of the AMUN paper (Ebrahimpour-Boroojeny, Sundaram, Chandrasekaran, ICML 2025, arXiv 2503.00917), and a
sweep's results beside them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amun_ray.base.errors import UserError
from amun_ray.base.names import suggestion
from amun_ray.plots import mean_and_std
from amun_ray.reporting.columns import COLUMNS
from amun_ray.reporting.grid import grid
from amun_ray.storage.store import Store, Unit
from amun_ray.work.plan import Plan

TERMS = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "forget_test_auc", "average_gap")
Numbers = Mapping[str, tuple[float, float, float, float, float]]  # method -> mean of each of TERMS, in percent


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """One table of the paper: its number, the access it is about, and its rows by the fraction that is forgotten."""

    number: int
    access: str
    title: str
    rows: Mapping[float, Numbers]


RETRAIN = {0.1: {"retrain": (94.49, 100.00, 94.33, 50.00, 0.00)}, 0.5: {"retrain": (92.09, 100.00, 91.85, 50.01, 0.00)}}

TABLES = {
    "paper_table1": PaperTable(number=1, access="retain", title="with D_R", rows={
        0.1: RETRAIN[0.1] | {
            "finetune": (95.16, 96.64, 92.21, 52.08, 2.06),
            "random_label": (95.54, 97.47, 92.17, 51.33, 1.74),
            "gradient_ascent": (98.94, 99.22, 93.39, 60.96, 4.28),
            "boundary_shrink": (99.14, 99.89, 93.04, 57.85, 3.48),
            "l1_sparse": (94.29, 95.63, 91.55, 51.21, 2.16),
            "salun": (96.25, 98.14, 93.06, 50.88, 1.44),
            "amun": (95.45, 99.57, 93.45, 50.18, 0.62),
            "amun_salun": (95.02, 99.58, 93.29, 50.72, 0.68),
        },
        0.5: RETRAIN[0.5] | {
            "finetune": (94.24, 95.82, 91.21, 51.74, 2.17),
            "random_label": (94.83, 99.79, 90.08, 50.78, 1.38),
            "gradient_ascent": (100.00, 100.00, 94.65, 63.39, 4.62),
            "boundary_shrink": (55.24, 55.67, 50.16, 55.19, 32.01),
            "l1_sparse": (98.00, 98.71, 92.79, 54.44, 2.67),
            "salun": (96.68, 99.89, 91.97, 50.86, 1.36),
            "amun": (93.50, 99.71, 92.39, 49.99, 0.33),
            "amun_salun": (93.56, 99.72, 92.52, 49.81, 0.36),
        },
    }),
    # the retrained models of table 1 are the target here too: they do not depend on the access
    "paper_table2": PaperTable(number=2, access="forget_only", title="only D_F", rows={
        0.1: RETRAIN[0.1] | {
            "random_label": (100.00, 100.00, 94.45, 61.85, 4.31),
            "gradient_ascent": (4.77, 5.07, 5.09, 49.78, 68.53),
            "boundary_shrink": (100.00, 100.00, 94.48, 61.41, 4.20),
            "salun": (100.00, 100.00, 94.47, 61.09, 4.11),
            "amun": (94.28, 97.47, 91.67, 52.24, 1.94),
            "amun_salun": (94.19, 97.71, 91.79, 51.93, 1.77),
        },
        0.5: RETRAIN[0.5] | {
            "random_label": (100.00, 100.00, 94.57, 61.99, 4.29),
            "gradient_ascent": (100.00, 100.00, 92.65, 63.41, 5.13),
            "boundary_shrink": (100.00, 100.00, 94.58, 62.43, 4.40),
            "salun": (100.00, 100.00, 94.59, 62.45, 4.40),
            "amun": (92.77, 95.66, 89.43, 52.60, 2.51),
            "amun_salun": (91.90, 96.59, 89.98, 52.32, 2.00),
        },
    }),
}

PROTOCOL: dict[str, tuple[Callable[[Plan], Any], Any]] = {  # what both tables were made with
    "data": (lambda plan: plan.dataset.name, "cifar10"),
    "training images": (lambda plan: plan.dataset.train_size, 50_000),
    "network": (lambda plan: plan.sweep.model.name, "resnet18"),
    "epochs of training": (lambda plan: plan.sweep.training.epochs, 200),
    "original models": (lambda plan: plan.sweep.originals.count, 3),
    "forget sets": (lambda plan: len(plan.sets.final), 3),
    "runs": (lambda plan: plan.sweep.final.runs, 3),
    "reference models": (lambda plan: plan.sweep.references.count, 128),
    "epochs of unlearning, at most": (lambda plan: plan.sweep.search.epochs, 10),
    "attack": (lambda plan: plan.sweep.attack.search.name, "pgd_l2"),
}


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


def find(name: str) -> PaperTable:
    """The table `name`; UserError with the known ones where there is none."""
    if name not in TABLES:
        raise UserError(f"--compare: unknown table {name!r}{suggestion(name, TABLES)} Known: {', '.join(TABLES)}")
    return TABLES[name]


def beside(names: Sequence[str], rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    """The results of `plan` and those of each table in `names`, column by column, as Markdown; below each, what was
    done otherwise here.

    Args:
        rows: as in results.json, all in percent; those of another access than a table's are left out there.
    """
    return "\n\n".join(_beside(find(name), rows, plan) for name in names)


def _beside(table: PaperTable, rows: Sequence[Mapping[str, Any]], plan: Plan) -> str:
    fraction = min(table.rows, key=lambda one: abs(one - _forgotten(plan)))
    theirs = table.rows[fraction]
    ours = {row["method"]: row for row in rows if row["access"] in (table.access, None) and "failed" not in row}
    head = ["method", *(cell for term in TERMS for cell in (COLUMNS[term], "paper"))]
    body = [[name, *(cell for place, term in enumerate(TERMS) for cell in (
                mean_and_std(ours[name][term]) if name in ours else "",
                f"{theirs[name][place]:.2f}" if name in theirs else ""))]
            for name in dict.fromkeys([*theirs, *ours])]
    different = "; ".join(_differences(plan, fraction)) or "nothing that a config says"
    return (f"Beside Table {table.number} of the AMUN paper (arXiv 2503.00917): CIFAR-10, ResNet-18, {fraction:.0%} "
            f"forgotten, {table.title}. Percent; here mean ± standard deviation, of the paper the mean.\n\n"
            f"{grid(head, body)}\n\nOtherwise than in the paper: {different}.")


def _forgotten(plan: Plan) -> float:
    """The share of the training images that is forgotten."""
    return len(plan.sets.final[0]) / plan.dataset.train_size


def _differences(plan: Plan, fraction: float) -> Iterator[str]:
    """`what: here (paper: there)` for everything in which the sweep is not the paper's protocol."""
    if abs(_forgotten(plan) - fraction) > 1e-3:
        yield f"forgotten: {_forgotten(plan):.1%} (paper: {fraction:.0%})"
    for what, (read, theirs) in PROTOCOL.items():
        here = read(plan)
        if here != theirs:
            yield f"{what}: {here} (paper: {theirs})"
