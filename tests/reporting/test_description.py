"""The page of a sweep in MLflow, by hand: what it says while the sweep runs, and what the result means."""

from amun_ray.reporting import description
from amun_ray.reporting.columns import COLUMNS
from amun_ray.reporting.rows import Row, compared
from amun_ray.unlearn import Contender
from amun_ray.work.trials import Trial
from amun_ray.work.units import Hyperparameters

SETTINGS = Hyperparameters(0.01, "every_5", 3, {})


def row(method, access, gap, **scores):
    one = dict.fromkeys(COLUMNS, 90.0) | scores | {"average_gap": gap}
    return Row(method, access, SETTINGS if access else None, [one, one], [(0, "final 0"), (1, "final 0")], ["a", "b"])


def trial(number, value, access="retain"):
    return Trial(Contender("amun", access), number, SETTINGS, None, {
        "average_gap": [value + 1, value], "best_average_gap": value, "best_epoch": 2})


def test_the_headline_is_the_result_in_words():
    rows = [row("retrain", None, 0.85, unlearn_accuracy=97.0, test_accuracy=99.0, forget_test_auc=52.0),
            row("original", None, 4.98, unlearn_accuracy=100.0, test_accuracy=98.5, forget_test_auc=69.0),
            row("finetune", "retain", 4.8), row("amun", "retain", 2.5, unlearn_accuracy=96.0, forget_test_auc=58.0)]
    assert description.headline(rows) == (
        "**amun with D_R comes nearest to retraining, with an Avg. Gap of 2.50.** Doing nothing has 4.98, and models "
        "that were retrained have 0.85 among themselves. After amun with D_R 96.00 % of the forgotten images are right "
        "(original 100.00, retrained 97.00); 90.00 % of unseen images are right (original 98.50, retrained 99.00); the "
        "attack tells 58.00 % of pairs of a forgotten and an unseen image apart (50 is a guess) (original 69.00, "
        "retrained 52.00).")


def test_where_every_method_failed_it_says_so():
    lost = Row("amun", "retain", None, [], [], [], failed="epoch 1: nan")
    assert description.headline([row("retrain", None, 0.5), row("original", None, 5.0), lost]) == (
        "**No method came to a result.**")


def test_the_result_has_warnings_links_and_the_table_in_this_order():
    rows = compared([row("retrain", None, 0.85), row("original", None, 4.98), row("amun", "retain", 2.5),
                     row("finetune", "retain", 4.8)], "amun")
    text = description.result(rows, {"report": "#/here"}, ["warning: the same picture twice"])
    places = [text.index(part) for part in ("comes nearest", "**warning: the same picture twice**", "[report](#/here)",
                                            "| amun ", "- least Avg. Gap: amun with D_R")]
    assert places == sorted(places)
    assert "**2.50" in text


def test_progress_names_the_stage_and_the_best_trial_of_each_row():
    failed = Trial(Contender("amun", "retain"), 3, SETTINGS, None, {"failed": "epoch 1: nan", "average_gap": []})
    text = description.progress("3/5 search", [trial(0, 4.0), trial(1, 2.0), trial(2, 3.0), failed,
                                               trial(0, 5.0, "forget_only")], "5 of 12 trials")
    assert text.splitlines() == [
        "**Running: 3/5 search**, 5 of 12 trials.", "", "Best so far on the held-out forget sets:", "",
        "- amun only D_F: 5.00, by trial 0 (lr 1.00e-02, every_5, 2 epochs)",
        "- amun with D_R: 2.00, by trial 1 (lr 1.00e-02, every_5, 2 epochs)"]
    assert description.progress("1/5 models", []) == "**Running: 1/5 models**."
    assert description.progress("1/5 models", [], "3 of 9 models") == "**Running: 1/5 models**, 3 of 9 models."
