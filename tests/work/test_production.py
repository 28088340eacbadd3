"""Requests in production, without Ray: which rows count, what is refused, what is due, and how a model is judged."""

import shutil
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
from amun_ray.storage.store import Store, Unit
from amun_ray.work import production
from amun_ray.work.pictures import as_begun, keep_pictures
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
    ([1, 2], "every row was asked for before: 2 rows as r1 (promoted); there"),
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


@pytest.fixture
def begun(plan, store, tmp_path):
    """A plan of 300 digits, and a ledger that began with them."""
    before = replace(plan, dataset=moved(plan.dataset, np.arange(300)))
    keep_pictures(before.dataset, store)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "anchor")
    ledger.append("opened", content={"project": production.project(before)})
    production.check_project(before, ledger.history, store, ledger)
    assert as_begun(before.dataset, ledger.history, store) is None
    return before, ledger


def appended(dataset: Dataset, order, rows) -> Dataset:
    """`dataset` with its training rows in another order, and some of its test rows, `rows`, behind them."""
    taken = np.concatenate([order, rows, dataset.test_rows])
    return Dataset("digits", dataset.pixels[taken], dataset.labels[taken], len(order) + len(rows), dataset.classes)


def test_rows_that_were_added_or_moved_change_nothing_of_what_a_ledger_began_with(begun, store):
    before, ledger = begun
    order = np.arange(300)
    order[[3, 7]] = 7, 3
    now = appended(before.dataset, order, [310, 311])
    found = as_begun(now, ledger.history, store)
    assert found.dataset.digest == before.dataset.digest != now.digest
    np.testing.assert_array_equal(found.dataset.file_numbers, before.dataset.file_numbers)
    assert found.said(now) == "2 training rows more; 2 rows moved: row 3 is now row 7, row 7 is now row 3"
    production.check_project(replace(before, dataset=found.dataset), ledger.history, store, ledger)
    trained, added = found.rows_of(np.array([3, 8, 300, 301]))  # as the files have them now
    assert (trained.tolist(), added.tolist()) == ([7, 8], [300, 301])
    only = as_begun(appended(before.dataset, np.arange(300), [310]), ledger.history, store)
    assert only.said(appended(before.dataset, np.arange(300), [310])) == "1 training row more; 0 rows moved"


def test_a_picture_that_went_to_the_test_set_is_still_one_that_was_trained_on(begun, store):
    """As where files of a folder are drawn anew for testing, because some were added."""
    before, ledger = begun
    taken = np.concatenate([np.arange(1, 300), [400, 0], np.setdiff1d(before.dataset.test_rows, [400])])
    now = Dataset("digits", before.dataset.pixels[taken], before.dataset.labels[taken], 300, before.dataset.classes)
    found = as_begun(now, ledger.history, store)
    assert found.dataset.digest == before.dataset.digest
    assert "row 0 is now test row 0" in found.said(now)
    trained, added = found.rows_of(np.array([0, 299]))  # rows 1 and 400 of then
    assert (trained.tolist(), added.tolist()) == ([1], [299])


def test_what_is_gone_of_the_data_is_said(begun, store):
    before, ledger = begun

    def refused(now: Dataset) -> str:
        assert as_begun(now, ledger.history, store) is None
        with pytest.raises(UserError) as error:
            production.check_project(replace(before, dataset=now), ledger.history, store, ledger)
        return str(error.value)
    assert "1 training picture gone or changed: row 299. Bring" in refused(moved(before.dataset, np.arange(299)))
    other = before.dataset.labels.copy()
    other[5] = (other[5] + 1) % 10
    assert "no training picture is gone, but labels, classes or test pictures are others. Bring" in refused(
        replace(before.dataset, labels=other))
    shutil.rmtree(store.locate("pictures"))
    assert "what changed is not known" in refused(moved(before.dataset, np.arange(1, 300)))


def test_a_table_is_found_whatever_the_files_are_called_now(plan, store):
    def with_data(**changes):
        data = plan.sweep.data.model_copy(update=changes)
        return replace(plan, sweep=plan.sweep.model_copy(update={"data": data}))
    store.finish(Unit("tables", with_data(train=("a.parquet",)).identity), {"rows": [1]})
    assert production.table(with_data(train=("a.parquet",)), store, History(())) == [1]
    assert production.table(with_data(train=("b.parquet",)), store, History(())) == [1]
    assert production.table(with_data(train=("b.parquet",), crop=2), store, History(())) is None


def test_rows_that_no_model_was_trained_on_are_noted_and_left_out_of_a_later_sweep(begun):
    before, ledger = begun
    added = production.ids(before.dataset, np.array([310]))
    content = production.received(before, ledger.history, np.array([3]), "list.csv", "", added=added)
    ledger.append("received", ["r1"], content)
    assert content["added"] == [list(added[0])]
    assert ledger.history.pictures == {picture for _, picture in production.ids(before.dataset, np.array([3, 310]))}
    assert len(ledger.history.asked) == 1


def test_requested_rows_that_are_gone_from_the_files_are_no_change_of_unknown_origin(begun, store):
    before, ledger = begun
    for number, rows in enumerate(([3, 7], [200], [30]), 1):
        ledger.append(*asked(before, f"r{number}", rows))

    def said(*gone):
        with pytest.raises(UserError) as error:
            production.check_project(replace(before, dataset=moved(before.dataset, np.delete(np.arange(300), gone))),
                                     ledger.history, store, ledger)
        assert f"requests.forgotten=[\"{ledger.uri}\"]" in str(error.value)
        return str(error.value)
    assert "3 training pictures gone, asked for as r1, r2; nothing else changed" in said(3, 7, 200)
    assert "3 training pictures gone or changed: row 3, row 7, row 201" in said(3, 7, 201)


@pytest.mark.parametrize(("change", "difference"), [
    ("name=other", "name is digits, this config has other"),
    ("model.options.width=8", "model.options.width is not set, this config has 8")])
def test_a_ledger_of_another_project_is_refused(plan, store, tmp_path, change, difference):
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path / "anchor")
    ledger.append("opened", content={"project": production.project(plan)})
    other = Plan(load("default", ["data.train_size=300", change]), plan.dataset)
    with pytest.raises(UserError, match=f"of another project: its {difference}"):
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
