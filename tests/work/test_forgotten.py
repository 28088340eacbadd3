"""What a ledger means for a sweep: the pictures that it names are in no training of one that begins anew."""

import numpy as np
import pytest

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config.file import load
from amun_ray.data.dataset import Dataset
from amun_ray.ledger import Ledger
from amun_ray.storage.store import Unit
from amun_ray.sweep import main, planned
from amun_ray.work import production
from amun_ray.work.forgotten import check_unasked, without_forgotten
from amun_ray.work.plan import Plan

ROWS = np.array([2, 5, 9])


@pytest.fixture
def plan():
    return Plan(load("default", ["data.train_size=300"]), data.load("digits", train_size=300))


@pytest.fixture
def ledger(plan, tmp_path):
    """That of the folder, with one request for ROWS."""
    ledger = Ledger.of(None, tmp_path)
    ledger.append("opened", content={"project": production.project(plan), "loaded": {}, "original": {"weights": "w"}})
    ledger.append("received", ["r1"], {"rows": [list(row) for row in production.ids(plan.dataset, ROWS)]})
    return ledger


def naming(plan, *ledgers):
    requests = plan.sweep.requests.model_copy(update={"forgotten": tuple(one.uri for one in ledgers)})
    return plan.sweep.model_copy(update={"requests": requests})


def test_the_pictures_of_a_ledger_are_no_part_of_the_data_and_the_others_keep_their_numbers(plan, ledger, tmp_path):
    assert without_forgotten(plan.sweep, plan.dataset, tmp_path) is plan.dataset
    left = without_forgotten(naming(plan, ledger), plan.dataset, tmp_path / "new")
    kept = np.setdiff1d(np.arange(len(plan.dataset)), ROWS)
    np.testing.assert_array_equal(left.pixels, plan.dataset.pixels[kept])
    np.testing.assert_array_equal(left.labels, plan.dataset.labels[kept])
    np.testing.assert_array_equal(left.file_numbers, plan.dataset.file_numbers[kept])
    assert (left.train_size, left.file_train_size) == (297, plan.dataset.file_train_size or 300)
    assert "3 training images, of the 3 that the 1 requests of ledger" in left.notes[-1]
    planned_with = planned(naming(plan, ledger), lambda *_, **__: plan.dataset, tmp_path / "new")
    assert planned_with.dataset.digest == left.digest
    sets = planned_with.sets
    drawn = {picture for rows in [*sets.final, *sets.held_out] for _, picture in production.ids(left, rows)}
    assert not drawn & {picture for _, picture in production.ids(plan.dataset, ROWS)}


def test_pictures_are_found_in_whatever_row_they_are_now(plan, ledger, tmp_path):
    whole = plan.dataset
    moved = Dataset("moved", np.roll(whole.pixels, 1, 0), np.roll(whole.labels, 1), 301, whole.classes)
    left = without_forgotten(naming(plan, ledger), moved, tmp_path)
    np.testing.assert_array_equal(left.pixels, np.delete(moved.pixels, ROWS + 1, axis=0))


@pytest.mark.parametrize("what", ["absent", "all"])
def test_a_ledger_that_is_not_there_or_leaves_nothing_is_refused(plan, ledger, tmp_path, what):
    if what == "absent":
        with pytest.raises(UserError, match="requests.forgotten: no ledger at"):
            without_forgotten(naming(plan, Ledger.of(None, tmp_path / "none")), plan.dataset, tmp_path)
        return
    rows = production.ids(plan.dataset, plan.dataset.train_rows)
    ledger.append("received", ["r2"], {"rows": [list(row) for row in rows]})
    with pytest.raises(UserError, match="every training picture"):
        without_forgotten(naming(plan, ledger), plan.dataset, tmp_path)


def test_a_sweep_that_would_train_on_forgotten_rows_is_refused(plan, ledger, tmp_path, capsys):
    check_unasked(plan, tmp_path / "other")
    with pytest.raises(UserError, match=r"3 of these training images are to be forgotten \(r1 received\)") as error:
        check_unasked(plan, tmp_path)
    assert f"requests.forgotten=[\"{ledger.uri}\"]" in str(error.value)
    assert main(["--set", "data.train_size=300", "--dry-run", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr() == ("", f"error: {error.value}\n")
    assert "\n" not in str(error.value)
    check_unasked(Plan(naming(plan, ledger), without_forgotten(naming(plan, ledger), plan.dataset, tmp_path)), tmp_path)
    store = plan.store(tmp_path)
    store.finish(Unit("tables", plan.identity), {"rows": []})
    check_unasked(plan, tmp_path)  # finished: it trains nothing
    ledger.append("begun", ["r1"])
    ledger.append("finished", ["r1"], {"accepted": True})
    ledger.append("promoted", ["r1"])
    check_unasked(plan, tmp_path)
    ledger.append("purged", ["r1"])
    with pytest.raises(UserError, match="would make anew what was deleted"):
        check_unasked(plan, tmp_path)


def test_a_sweep_on_files_that_changed_since_trains_on_no_forgotten_picture_either(plan, ledger, tmp_path):
    whole = plan.dataset
    moved = Dataset("moved", np.roll(whole.pixels, 1, 0), np.roll(whole.labels, 1), 301, whole.classes)
    with pytest.raises(UserError, match="3 of these training images are to be forgotten"):
        check_unasked(Plan(plan.sweep, moved), tmp_path)
    check_unasked(Plan(plan.sweep, without_forgotten(naming(plan, ledger), moved, tmp_path)), tmp_path)
