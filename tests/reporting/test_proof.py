"""The proof of a request: it says what the ledger says, as a page and as PDF, in every state of the request."""

import re

import numpy as np
import pypdfium2
import pytest

from amun_ray.ledger import Entry, History
from amun_ray.metrics import Split
from amun_ray.reporting.proof import FIGURE, confidence_picture, proof, write_proof

ROWS = [[3, "ab" * 32], [17, "cd" * 32]]
SETTINGS = {"method": "amun", "access": "retain", "lr": 0.0123, "schedule": "every_2", "epochs": 3, "own": {}}
EVIDENCE = {"unlearn_accuracy": 96.5, "retain_accuracy": 99.75, "test_accuracy": 97.25, "forget_test_auc": 51.25,
            "forget_retain_auc": 60.5, "test_accuracy_lost": 0.5}
CONTENTS = (
    ("opened", (), {"registry": "digits", "original": {"weights": "0" * 64}}),
    ("received", ("r1",), {"rows": ROWS, "by": "Zoë Müller <script>", "source": "today.csv", "labels": {"4": 1, "9": 1},
                           "earlier": [], "added": [[30, "ef" * 32]]}),
    ("begun", ("r1",), {"step": 1, "rows": {}, "model": "e" * 64, "settings": SETTINGS, "adaptive": True}),
    ("finished", ("r1",), {"accepted": True, "reasons": [], "evidence": EVIDENCE, "seconds": 12.5, "target": None,
                           "before": {"forget_test_auc": 68.75}, "intervals": {"forget_test_auc": [41.5, 61.0]},
                           "limits": {"test_accuracy_lost": 1.0, "forget_test_auc": 55.0, "average_gap": None},
                           "model": {"weights": "f" * 64, "version": "2", "run": "0123abcd" * 4}}),
    ("promoted", ("r1",), {"version": "2", "before": "1", "model": "f" * 64}),
    ("purged", ("r1",), {"deleted": {"store": {"count": 7, "bytes": 123456}}, "kept": [["models/a", 1, "why"]],
                         "limits": ["backups are out of reach"],
                         "search": {"radius": 1.0236, "files": 67, "pictures": 152, "found": 0}}))


def history(until: str = "purged", **finished) -> History:
    entries = []
    for number, (kind, requests, content) in enumerate(CONTENTS):
        content = content | finished if kind == "finished" else content
        entries.append(Entry.after(entries[-1] if entries else None, kind, requests,
                                   f"2026-01-02T03:04:{number:02}.000001", content))
        if kind == until:
            break
    return History(tuple(entries))


def words(pdf: bytes) -> str:
    document = pypdfium2.PdfDocument(pdf)
    return "\n".join(page.get_textpage().get_text_bounded() for page in document)


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 400)
    logits = rng.normal(size=(400, 10)) + 5 * np.eye(10)[labels]
    return confidence_picture(logits, logits + 1, labels, Split.of(np.arange(20), labels=labels, train_size=300))


SAID = ("r1", "2026-01-02 03:04:01", "today.csv", "4: 1, 9: 1", "1 more, which came to the data later", "ab" * 32,
        "cd" * 32, "amun with D_R", "0.0123 (schedule: every_2), 3 epochs", "e" * 64, "f" * 64, "68.75", "51.25",
        "41.5 to 61.0", "coin toss", "at most 55", "holds", "12.5 seconds", "1 second, from begin to verdict",
        "Python 3.11", "123,456", "67 files", "1.02", "backups are out of reach",
        "not a proof in the mathematical sense")


@pytest.mark.parametrize("form", ["html", "pdf"])
def test_the_page_and_the_paper_say_all_of_it(form, picture):
    past = history()
    document = proof(past, "r1", picture, {"environment.Python": "3.11", "mlflow.user": "Python 3.11",
                                           "mlflow.source.name": "another command"})
    text = document.html().decode() if form == "html" else words(document.pdf())
    found = squeezed(text)
    for said in (*SAID, past.entries[-1].digest,
                 *(entry.digest for entry in past.entries[1:])):
        assert squeezed(said) in found, said
    assert past.entries[0].digest not in found  # an entry about no request
    assert not re.search(r"anothercommand|environment\.|mlflow\.", found)


def test_the_page_needs_nothing_else_and_runs_no_code_of_whoever_asked(picture):
    page = proof(history(), "r1", picture, {}).html().decode()
    assert not re.search(r"(src|href)=\"(?!data:)|@import|url\(", page)
    assert "<script" not in page
    assert "Zoë Müller &lt;script&gt;" in page
    assert "data:image/png;base64,iVBOR" in page


def test_the_paper_has_names_in_their_own_letters_and_numbers_on_its_pages(picture):
    text = words(proof(history(), "r1", picture, {}).pdf())
    assert "Zoë Müller <script>" in text
    pages = int(re.search(r"page 1 of (\d+)", text)[1])
    assert pages == len(re.findall(r"page \d+ of \d+", text)) >= 2


@pytest.mark.parametrize(("until", "finished", "verdict", "good"), [
    ("received", {}, "Not done yet: the request is received", False), ("begun", {}, "Not done yet", False),
    ("finished", {}, "not in production yet", True), ("promoted", {}, "is still stored", True),
    ("purged", {}, "is deleted", True),
    ("finished", {"accepted": False, "reasons": ["forget_test_auc is 61.00, above the limit of 55"],
                  "evidence": EVIDENCE | {"forget_test_auc": 61.0}}, "Refused: the new model does not keep", False),
    ("finished", {"accepted": False, "reasons": ["diverged"], "evidence": {},
                  "model": {"weights": "", "version": "", "run": ""}}, "diverged", False)])
def test_the_verdict_is_that_of_the_state(until, finished, verdict, good, picture):
    document = proof(history(until, **finished), "r1", None, {})
    assert verdict in document.verdict
    assert document.good == good
    assert document.pdf().startswith(b"%PDF")
    titles = [section.title for section in document.sections]
    assert ("Limits" in titles) == bool(finished.get("evidence", until not in ("received", "begun")))


def test_a_limit_that_does_not_hold_is_said_so():
    document = proof(history("finished", evidence=EVIDENCE | {"forget_test_auc": 61.0}), "r1", None, {})
    (limits,) = [section for section in document.sections if section.title == "Limits"]
    assert [row[-1] for row in limits.tables[0].rows] == ["holds", "BROKEN", ""]


def test_the_files_are_written_with_the_picture_that_lies_there(tmp_path, picture):
    (tmp_path / "r1").mkdir()
    (tmp_path / "r1" / FIGURE).write_bytes(picture)
    files = write_proof(history(), "r1", tmp_path, {})
    assert {path.name for path in (tmp_path / "r1").iterdir()} == {FIGURE, *files}
    assert all((tmp_path / "r1" / name).read_bytes() == content for name, content in files.items())
    assert b"data:image/png" in files["proof.html"]


def test_a_proof_that_is_written_again_knows_the_environment_of_its_step(tmp_path):
    write_proof(history("finished"), "r1", tmp_path, {"device": "NVIDIA H100"})
    assert b"NVIDIA H100" in write_proof(history(), "r1", tmp_path, {})["proof.html"]
