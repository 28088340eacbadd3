"""The report of a sweep as one HTML page that opens without a network: what was asked, done and found."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined

from amun_ray.reporting.columns import ACCESS, ATTACKS, shown_columns
from amun_ray.reporting.costs import SweepCosts
from amun_ray.reporting.finding import Finding
from amun_ray.reporting.rows import Row, marks, notes
from amun_ray.reporting.tables import settings
from amun_ray.work.plan import Plan

TEMPLATE = Path(__file__).with_name("page.html")


def page(plan: Plan, rows: Sequence[Row], figures: Mapping[str, bytes], *, costs: SweepCosts,
         environment: Mapping[str, str], layers: Mapping[str, Mapping[str, float]],
         found: Finding | None = None) -> bytes:
    """The page, with the PNG `figures` (path -> content) inside; `layers` as `work.bounded.by_layer` has them; `found`
    by the config's study."""
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(TEMPLATE.read_text())
    sweep = plan.sweep
    return template.render(
        name=sweep.name, forgotten=len(plan.sets.final[0]), train_size=plan.dataset.train_size,
        request=plan.request, searched=plan.searched, sets=len(plan.sets.final), choose=sweep.forget.choose,
        columns=shown_columns(rows[0].summary), access=ACCESS,
        attacks={term: meaning for term, meaning in ATTACKS.items()
                 if any(term in row.summary for row in rows)},
        marks=marks(rows), left_out=plan.not_audited,
        rows=rows, notes=[*plan.warnings, *filter(None, notes(rows))], costs=costs, environment=environment,
        plan=str(plan), settings=settings, class_names=plan.dataset.class_names,
        figures={Path(name).stem.replace("_", " "): base64.b64encode(png).decode() for name, png in figures.items()},
        found=found, references=sweep.references.count, layers=layers, bound=sweep.model.spectral_clip,
        config=yaml.safe_dump(sweep.model_dump(mode="json"), sort_keys=False)).encode()
