"""Requests in production, without Ray: which rows count, what is refused, what is due, and how a model is judged."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from amun_ray import data
from amun_ray.base.errors import UserError
from amun_ray.config.file import load
from amun_ray.config.production import Batch, Limits
from amun_ray.data.dataset import Dataset
from amun_ray.ledger import Entry, History, Ledger, is_due
from amun_ray.metrics import auc_interval
from amun_ray.storage.store import Store
from amun_ray.work import production
from amun_ray.work.plan import Plan
from amun_ray.work.units import Workspace

WHEN = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def plan():
    """300 digits: `default` at another size."""
    return Plan(load("default", ["data.train_size=300"]), data.load("digits", train_size=300))


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def history(*said):
    entries = []
    for number, (kind, requests, content) in enumerate([("opened", [], {}), *said]):
        last = entries[-1] if entries else None
        entries.append(Entry.after(last, kind, requests, (WHEN + timedelta(days=number)).isoformat(), content))
    return History(tuple(entries))


def asked(plan, request, rows):
    return "received", [request], {"rows": [list(row) for row in production.ids(plan.dataset, np.array(rows))]}


def done(request):
    return [("begun", [request], {}), ("finished", [request], {"accepted": True}), ("promoted", [request], {})]


def refused(request):
    return [("begun", [request], {}), ("finished", [request], {"accepted": False})]


def test_rows_that_were_asked_for_before_are_left_out_and_named(plan):
    before = history(asked(plan, "r1", [1, 2]), *done("r1"), asked(plan, "r2", [5]))
    found = production.received(plan, before, np.array([2, 5, 7]), "list.csv", "somebody")
    file_rows = plan.dataset.file_numbers
    assert [row for row, _ in found["rows"]] == [file_rows[7]]
    assert found["earlier"] == [[file_rows[2], "r1"], [file_rows[5], "r2"]]
    assert found["labels"] == {str(plan.dataset.labels[7]): 1}
    assert (found["by"], found["source"]) == ("somebody", "list.csv")


def test_rows_of_a_refused_request_may_be_asked_for_again(plan):
    before = history(asked(plan, "r1", [1, 2]), *refused("r1"))
    assert len(production.received(plan, before, np.array([1, 2]), "list.csv", "")["rows"]) == 2


@pytest.mark.parametrize(("rows", "message"), [
    ([1, 2], "every row was asked for before: 2 rows as r1 (promoted)"),
    (list(range(3, 160)), "157 rows are more than half of the 298 that are left"),
])
def test_a_request_that_cannot_be_met_is_one_line(plan, rows, message):
    before = history(asked(plan, "r1", [1, 2]), *done("r1"))
    with pytest.raises(UserError) as error:
        production.received(plan, before, np.array(rows), "list.csv", "")
    assert str(error.value).startswith("list.csv: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_left_of_a_class_is_the_whole_class(plan):
    zeros = np.flatnonzero(plan.dataset.labels[:300] == 0)
    before = history(asked(plan, "r1", zeros[:5]), *done("r1"))
    with pytest.raises(UserError, match="all training images of class 0 that are left"):
        production.received(plan, before, zeros[5:], "list.csv", "")
    assert production.received(plan, before, zeros[5:-1], "list.csv", "")["labels"] == {"0": len(zeros) - 6}


def test_the_same_rows_are_the_same_request_as_long_as_it_is_under_way(plan):
    one, rows = asked(plan, "r1", [1, 2]), production.ids(plan.dataset, np.array([2, 1]))
    assert production.same_request(history(one), rows).id == "r1"
    assert production.same_request(history(one, *done("r1")[:2]), rows).id == "r1"
    assert production.same_request(history(one, *done("r1")), rows) is None
    assert production.same_request(history(one, *refused("r1")), rows) is None
    assert production.same_request(history(one), rows[:1]) is None


def test_rows_of_earlier_requests_belong_to_what_the_same_command_names(plan):
    kind, request, content = asked(plan, "r2", [5, 7])
    earlier = [[int(plan.dataset.file_numbers[1]), "r1"]]
    before = history(asked(plan, "r1", [1, 2]), *done("r1"), (kind, request, content | {"earlier": earlier}))
    assert production.same_request(before, production.ids(plan.dataset, np.array([1, 5, 7]))).id == "r2"
    for other in ([5, 7], [1, 2, 5, 7], [1, 5]):
        assert production.same_request(before, production.ids(plan.dataset, np.array(other))) is None


def test_what_was_refused_is_not_tried_again_just_as_it_was(plan):
    begun, rows = {"settings": {"lr": 0.1}, "model": "w1"}, production.ids(plan.dataset, np.array([1, 2]))
    reasons = {"accepted": False, "reasons": ["forget_test_auc is 61.00, above the limit of 55"]}
    before = history(asked(plan, "r1", [1, 2]), ("begun", ["r1"], begun), ("finished", ["r1"], reasons))
    with pytest.raises(UserError, match="^list.csv: r1 asked for these rows, and its model was refused: "
                                        "forget_test_auc is 61.00, above the limit of 55; ask with another --method"):
        production.check_new_try(before, rows, begun, "list.csv")
    production.check_new_try(before, rows[:1], begun, "list.csv")
    production.check_new_try(before, rows, begun | {"settings": {"lr": 0.2}}, "list.csv")
    production.check_new_try(before, rows, begun | {"model": "w2"}, "list.csv")
    batch = history(asked(plan, "r1", [1, 2]), asked(plan, "r2", [3]), ("begun", ["r1", "r2"], begun),
                    ("finished", ["r1", "r2"], reasons))
    production.check_new_try(batch, rows, begun, "list.csv")


@pytest.mark.parametrize(("batch", "due"), [
    (Batch(rows=3), True), (Batch(rows=4), False), (Batch(rows=4, days=8), True), (Batch(rows=4, days=9.5), False)])
def test_requests_wait_until_they_are_enough_or_old_enough(plan, batch, due):
    waiting = history(asked(plan, "r1", [1, 2]), asked(plan, "r2", [3])).of("received")
    assert is_due(waiting, batch.rows, batch.days, WHEN + timedelta(days=10)) is due  # r1 came after one day
    assert not is_due([], batch.rows, batch.days)


def test_a_model_is_refused_for_each_limit_that_it_breaks():
    evidence = {"test_accuracy_lost": 1.5, "forget_test_auc": 55.0, "average_gap": 3.0, "unlearn_accuracy": 99.0}
    assert production.judged(evidence, Limits()) == ["test_accuracy_lost is 1.50, above the limit of 1"]
    assert production.judged(evidence, Limits(test_accuracy_lost=None, forget_test_auc=54.9, average_gap=3.0)) == [
        "forget_test_auc is 55.00, above the limit of 54.9"]
    assert production.judged({}, Limits(average_gap=0.0)) == []


def row(method, access, gap, **more):
    return {"method": method, "access": access, "lr": 0.01, "schedule": "never", "epochs": 2, "settings": {"ratio": 1},
            "average_gap": {"mean": gap, "std": 0.5, "n": 4}} | more


def test_the_row_with_the_least_gap_is_taken_or_the_one_that_is_named():
    rows = [row("retrain", None, 0.0), row("amun", "retain", 2.0), row("amun", "forget_only", 1.0),
            row("salun", "retain", 3.0), row("broken", "retain", 0.1, failed="diverged")]
    assert production.choose(rows, None).contender == ("amun", "forget_only")
    assert production.choose(rows, "salun").contender == ("salun", "retain")
    assert production.choose(rows, "amun:retain").as_json() == {
        "method": "amun", "access": "retain", "lr": 0.01, "schedule": "never", "epochs": 2, "own": {"ratio": 1}}
    for wrong in ("retrain", "broken", "amun:both"):
        with pytest.raises(UserError, match=f"--method {wrong}: no row of the sweep's table; its rows: amun:retain, "):
            production.choose(rows, wrong)


def moved(dataset: Dataset, order) -> Dataset:
    """`dataset` with its training rows in another order, as a file that was written anew."""
    rows = np.concatenate([order, dataset.test_rows])
    return Dataset("digits", dataset.pixels[rows], dataset.labels[rows], len(order), dataset.classes)


def test_changed_data_are_refused_with_the_rows_that_moved(plan, store, tmp_path):
    before = replace(plan, dataset=moved(plan.dataset, np.arange(300)))
    production.keep_pictures(before, store)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "anchor")
    ledger.append("opened", content={"project": production.project(before)})
    production.check_project(before, ledger.history, store, ledger)
    order = np.arange(300)
    order[[3, 7]] = 7, 3
    with pytest.raises(UserError, match="2 training rows moved or changed: row 3 is now row 7, row 7 is now row 3"):
        production.check_project(replace(before, dataset=moved(plan.dataset, order)), ledger.history, store, ledger)
    with pytest.raises(UserError, match=r"1 training rows moved or changed: row 299 is gone. Bring"):
        production.check_project(replace(before, dataset=moved(plan.dataset, np.arange(299))), ledger.history, store,
                                 ledger)


def test_requested_rows_that_are_gone_from_the_files_are_no_change_of_unknown_origin(plan, store, tmp_path):
    before = replace(plan, dataset=moved(plan.dataset, np.arange(300)))
    production.keep_pictures(before, store)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "anchor")
    ledger.append("opened", content={"project": production.project(before)})
    for number, rows in enumerate(([3, 7], [200], [30]), 1):
        ledger.append(*asked(before, f"r{number}", rows))

    def said(*gone):
        with pytest.raises(UserError) as error:
            production.check_project(replace(before, dataset=moved(plan.dataset, np.delete(np.arange(300), gone))),
                                     ledger.history, store, ledger)
        assert f"requests.forgotten=[\"{ledger.uri}\"]" in str(error.value)
        return str(error.value)
    assert "3 training pictures are gone, which were asked for as r1, r2; nothing else changed" in said(3, 7, 200)
    assert "297 training rows moved or changed: row 3 is gone, row 4 is now row 3, " in said(3, 7, 201)


@pytest.mark.parametrize(("change", "key"), [("name=other", "name"), ("model.options.width=8", "model")])
def test_a_ledger_of_another_project_is_refused(plan, store, tmp_path, change, key):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "anchor")
    ledger.append("opened", content={"project": production.project(plan)})
    other = Plan(load("default", ["data.train_size=300", change]), plan.dataset)
    with pytest.raises(UserError, match=f"of another project: its {key} is"):
        production.check_project(other, ledger.history, store, ledger)


def test_rows_of_earlier_requests_belong_to_no_set(plan, store):
    workspace = Workspace.of(plan.sweep, store, plan.dataset)
    split = replace(workspace, gone=(4, 9)).split(np.array([1, 2]), plan.dataset.labels)
    assert split.retain.tolist() == [row for row in range(300) if row not in (1, 2, 4, 9)]
    assert split.forget.tolist() == [1, 2]
    assert split.test.tolist() == workspace.split(np.array([1, 2]), plan.dataset.labels).test.tolist()


def test_a_file_of_row_numbers_and_a_section_of_a_config_name_rows(plan, tmp_path):
    rows = [int(row) for row in plan.dataset.file_numbers[[2, 30, 31]]]
    (tmp_path / "rows.csv").write_text("\n".join(["index", *map(str, rows), ""]))
    assert production.named_rows(plan, str(tmp_path / "rows.csv")).tolist() == [2, 30, 31]
    (tmp_path / "rows.yaml").write_text(f"indices: {tmp_path / 'rows.csv'}\n")
    assert production.named_rows(plan, str(tmp_path / "rows.yaml")).tolist() == [2, 30, 31]
    for content, message in (("fraction: 0.1", "draws rows at random"), ("folds: 3", "folds: draws"),
                             ("indexes: 3", "indexes: "), ("[", "yaml")):
        (tmp_path / "rows.yaml").write_text(content)
        with pytest.raises(UserError, match=message):
            production.named_rows(plan, str(tmp_path / "rows.yaml"))
    with pytest.raises(UserError, match="none.yaml: cannot be read"):
        production.named_rows(plan, "none.yaml")


def test_the_interval_of_an_auc_by_hand():
    """Hanley and McNeil: A = 0.5, 10 and 10 samples: variance (0.25 + 9 / 12 + 9 / 12) / 100 = 0.0175."""
    low, high = auc_interval(50.0, 10, 10)
    assert low == pytest.approx(50 - 196 * 0.0175**0.5)
    assert high == pytest.approx(50 + 196 * 0.0175**0.5)
    assert auc_interval(100.0, 10, 10) == (100.0, 100.0)
