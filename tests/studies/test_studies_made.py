"""Every study of a real sweep, in one store: its table and figures are where they belong, and resumed it makes nothing.

Eight short sweeps, so it runs where it is asked for: AMUN_ENDURANCE=1.
"""

import json
import os

import pytest
from sweeping import CONFIG, Sweep

from amun_ray.studies import STUDIES

pytestmark = pytest.mark.skipif("AMUN_ENDURANCE" not in os.environ, reason="starts eight sweeps: AMUN_ENDURANCE=1")
SMALLER = ("originals.count=2", "forget={fraction: 0.1, sets: 1}", "training.epochs=3", "final.runs=1",
           "methods={amun: , amun_without_forget: }", "search={trials: 1, epochs: 1}",
           "audit={mis: false, boundary: false, linear_probe: false, distance: false}")


def test_every_study_ends_with_a_table_and_figures_and_resumes(tmp_path):
    arguments = [part for setting in SMALLER for part in ("--set", setting)]
    for name in STUDIES:
        command = ("--config", CONFIG, *arguments, "--set", f"study={name}", "--output", tmp_path)
        said = Sweep(*command).finish().text
        assert f"study {name}: " in said
        assert json.loads((tmp_path / f"study_{name}.json").read_text())
        page = (tmp_path / "report.html").read_text()
        assert f"<h2>Study: {name}</h2>" in page
        assert f"study {name}".replace("_", " ") in page.replace("_", " ")
    again = Sweep(*command).finish().lines
    told = again[again.index(f"[study {name}]") + 1:again.index("[5/5 report]")]
    assert [line for line in told if "from the store" not in line] == []
