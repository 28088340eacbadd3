"""The proof of one deletion request, for somebody who was not there: what was asked, what was done, what is shown by it
and what is not. Everything is said by the ledger; pictures and environment are what the step has left beside it.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from amun_ray import plots
from amun_ray.base.files import write_whole
from amun_ray.base.log import counted
from amun_ray.ledger import Asked, Entry, History
from amun_ray.metrics import Split, logit_scaled
from amun_ray.reporting.columns import ACCESS
from amun_ray.reporting.document import Document, Illustration, Section, Table
from amun_ray.storage.store import digest

PROOFS = "proofs"  # the folder, in that of the sweep, with a folder for each request
FIGURE, ENVIRONMENT, NAMES = "confidence.png", "environment.json", ("proof.html", "proof.pdf")
LAST = "last"  # in PROOFS: the digest of the last entry that the proofs know
SHOWN_ROWS = 30
UNSAID = ("mlflow.source.name", "mlflow.source.type")  # of the environment: what MLflow's pages are made of
MEASURES = {  # term: (name, what a good value is where no model was retrained, what it says)
    "unlearn_accuracy": ("accuracy on the forgotten pictures", "as on unseen pictures, not 0",
                         "how many the model still classifies right; a model that never saw them does so, too"),
    "retain_accuracy": ("accuracy on the remaining pictures", "as before",
                        "whether the model still knows what it was to keep"),
    "test_accuracy": ("accuracy on unseen pictures", "as before", "whether the model is still good at its work"),
    "forget_test_auc": ("FT AUC, forgotten against unseen", "50",
                        "how well an attacker (RMIA) tells the forgotten pictures from pictures never seen: 50 is a "
                        "coin toss, 100 is always"),
    "forget_retain_auc": ("FR AUC, remaining against forgotten", "as after retraining, above 50",
                          "how well the attacker tells remaining pictures from the forgotten ones"),
    "test_accuracy_lost": ("test accuracy lost since the first original", "0 or less",
                           "what the deletions so far cost"),
    "average_gap": ("Avg. Gap", "0", "mean distance of these scores to a model that was really retrained without the "
                                     "pictures"),
}
NO_GUARANTEE = (
    "Unlearning changes a trained model; it is not a proof in the mathematical sense that no trace is left. The "
    "numbers above are evidence against the attacks that were run, and against no others.",
    "An FT AUC of 50 over few pictures is uncertain: read its interval. One picture may be remembered while the mean "
    "over all of them says nothing.",
    "The scores are compared with models trained by the recipe of the config; for models made otherwise they say less.",
    "Copies of the model or of the pictures that left this system, and what others made from them, are not touched.",
    "Who may ask for a deletion, and whether these rows are that person's, is for people to check, not for a record.")


def confidence_picture(before: np.ndarray, after: np.ndarray, labels: np.ndarray, split: Split) -> bytes:
    """The PNG of the confidence in the true class before and after.

    Args:
        before, after: logits (N, classes) of the two models.
        labels: (N,) int64.
        split: D_R, D_F and what D_F is compared with.
    """
    shown = {}
    for title, logits in (("Before", before), ("After", after)):
        values = logit_scaled(logits, labels)
        shown[title] = {"retain": values[split.retain], "forget": values[split.forget], "test": values[split.unseen]}
    return plots.png(plots.confidence_histograms(shown))


def write_proof(history: History, request: str, folder: Path, environment: Mapping[str, str]) -> dict[str, bytes]:
    """Write the proof of a request, as it stands, into `folder / request`; returns its files by name.

    The picture of `confidence_picture` is taken from there, where it is; so is the environment of the step, where a
    later call, such as that of a purge, has none.
    """
    place = folder / request
    place.mkdir(parents=True, exist_ok=True)
    noted = place / ENVIRONMENT
    if environment:
        write_whole(noted, json.dumps(dict(environment)).encode())
    elif noted.is_file():
        environment = json.loads(noted.read_text())
    figure = place / FIGURE
    document = proof(history, request, figure.read_bytes() if figure.is_file() else None, environment)
    files = dict(zip(NAMES, (document.html(), document.pdf()), strict=True))
    for name, content in files.items():
        write_whole(place / name, content)
    return files


def unproved(history: History, folder: Path) -> Entry | None:
    """The last entry that changes a proof, unless the proofs in `folder` know it: a kill may come between the two."""
    kinds = ("finished", "promoted", "purged")
    last = next((entry for entry in reversed(history.entries) if entry.kind in kinds), None)
    noted = folder / LAST
    return None if last is None or (noted.is_file() and noted.read_text() == last.digest) else last


def note_proved(last: Entry, folder: Path) -> None:
    """Note that the proofs of the requests of `last` are written, and wherever else they belong."""
    write_whole(folder / LAST, last.digest.encode())


def proof(history: History, request: str, figure: bytes | None, environment: Mapping[str, str]) -> Document:
    """The proof of the request of this id, from the entries of the ledger about it."""
    asked = history.requests[request]
    verdict, good = _verdict(asked)
    sections = [_asked(asked), _done(history, asked), *_evidence(asked, figure), *_limits(asked), *_purged(asked),
                Section("What this does not guarantee", points=NO_GUARANTEE), _cost(asked, environment),
                _record(history, asked)]
    name = history.opened.content.get("registry", "") if history.opened else ""
    return Document(f"Deletion request {request}: what was done, and the evidence", f"Model {name}. As the ledger says "
                    f"it after entry {len(history.entries) - 1}. All times are UTC, all scores in percent.", verdict,
                    good, sections)


def _verdict(asked: Asked) -> tuple[str, bool]:
    content = asked.finished.content if asked.finished else {}
    if asked.state in ("received", "begun"):
        return f"Not done yet: the request is {asked.state}.", False
    if not content["accepted"]:
        return (f"Refused: the new model does not keep the limits ({'; '.join(content['reasons'])}). It is kept, and "
                "not in production.", False)
    served = "The new model keeps every limit, and was put into production. What the program made from the pictures"
    done = {"accepted": "The new model keeps every limit. It is not in production yet.",
            "promoted": f"{served} is still stored.", "purged": f"{served} is deleted."}
    return done[asked.state], True


def _asked(asked: Asked) -> Section:
    content, rows = asked.received.content, asked.rows
    facts = [("request", asked.id), ("received", _when(asked.received)), ("asked by", content.get("by") or "not said"),
             ("named by", str(content.get("source", ""))), ("pictures", str(len(rows))),
             ("by class", ", ".join(f"{label}: {count}" for label, count in content.get("labels", {}).items())),
             ("digest of the list", digest([list(row) for row in sorted(rows)]))]
    if content.get("earlier"):
        facts.append(("asked before", f"{len(content['earlier'])} more, in earlier requests"))
    if content.get("added"):
        facts.append(("not trained on", f"{len(content['added'])} more, which came to the data later"))
    shown = sorted(rows)[:SHOWN_ROWS]
    more = "" if len(shown) == len(rows) else f" The first {len(shown)} of {len(rows)}; the ledger has all."
    return Section("What was asked", tables=(Table(facts, widths=(1, 3)), Table(
        [(str(row.row), row.picture) for row in shown], ("row of the data", "sha256 of the picture's pixels"), (1, 4))),
        texts=(f"Each picture is named by its row and by the digest of its pixels, never shown.{more}",))


def _done(history: History, asked: Asked) -> Section:
    facts = [("step", "not begun")]
    if asked.begun is not None:
        content = asked.begun.content
        settings = dict(content["settings"])
        own = ", ".join(f"{name} {value}" for name, value in (settings.get("own") or {}).items())
        facts = [("step", f"{content['step']}, begun {_when(asked.begun)}"),
                 ("together with", ", ".join(each for each in asked.begun.requests if each != asked.id) or "no other"),
                 ("method", f"{settings['method']} {ACCESS.get(settings['access'], settings['access'])}".strip()),
                 ("settings", f"learning rate {settings['lr']:.3g} (schedule: {settings['schedule']}), "
                  f"{counted(settings['epochs'], 'epoch')}" + (f", {own}" if own else "")),
                 ("adversarial images", "found on the current model" if content.get("adaptive") else
                  "found on the first original"),
                 ("weights before", content["model"])]
    if asked.finished is not None and "model" in asked.finished.content:
        model = asked.finished.content["model"]
        facts += [("weights after", model["weights"]), ("version", str(model["version"])), ("MLflow run", model["run"])]
    if asked.promoted is not None:
        content = asked.promoted.content
        facts.append(("promoted", f"{_when(asked.promoted)}: version {content['version']} in the place of "
                                  f"{content['before'] or 'the original'}"))
    earlier = sum(request.id != asked.id and request.received.number < asked.received.number
                  for request in history.requests.values())
    past = f" The pictures of {earlier} earlier request{'s' * (earlier != 1)} are no part of its training any more."
    return Section("What was done", tables=(Table(facts, widths=(1, 3)),), texts=(
        "The model in production was changed so that it forgets these pictures." + past * bool(earlier),))


def _evidence(asked: Asked, figure: bytes | None) -> Iterator[Section]:
    content = asked.finished.content if asked.finished else {}
    if not content.get("evidence"):
        return
    before, target, ends = content.get("before") or {}, content.get("target") or {}, content.get("intervals") or {}
    rows = []
    for term, value in content["evidence"].items():
        name, good, meaning = MEASURES.get(term, (term, "", ""))
        interval = f"{ends[term][0]:.1f} to {ends[term][1]:.1f}" if term in ends else ""
        wanted = f"{target[term]:.2f} (retrained)" if term in target else good
        rows.append((name, f"{before[term]:.2f}" if term in before else "", f"{value:.2f}", interval, wanted, meaning))
    told = ("A model was retrained without the pictures for this; its scores are the target." if target else
            "No model was retrained for this request; the target is what is known of models that forgot.")
    yield Section("Before and after", texts=(told, "An interval holds the true value in 95 of 100 such measurements."),
                  tables=(Table(rows, ("measure", "before", "after", "95 % interval", "target", "in plain words"),
                                (2.2, 1, 1, 1.3, 1.6, 3.4)),),
                  figures=() if figure is None else (Illustration(figure, (
                      "How sure each model is of the true class, for remaining, forgotten and unseen pictures. Good is "
                      "that after, the forgotten pictures lie where the unseen ones lie.")),))


def _limits(asked: Asked) -> Iterator[Section]:
    content = asked.finished.content if asked.finished else {}
    if not content.get("evidence"):
        return
    rows = []
    for term, limit in (content.get("limits") or {}).items():
        value, name = content["evidence"].get(term), MEASURES.get(term, (term,))[0]
        if limit is None:
            rows.append((name, "no limit", "" if value is None else f"{value:.2f}", ""))
        elif value is None:
            rows.append((name, f"at most {limit:g}", "not measured in this step", "not judged"))
        else:
            rows.append((name, f"at most {limit:g}", f"{value:.2f}", "holds" if value <= limit else "BROKEN"))
    yield Section("Limits", texts=("The limits are for the values found, not for the ends of their intervals.",),
                  tables=(Table(rows, ("measure", "limit", "found", ""), (3, 1.2, 1.6, 1.2)),))


def _purged(asked: Asked) -> Iterator[Section]:
    if asked.purged is None:
        yield Section("Purge", texts=("What the program itself made from the pictures (adversarial images, which are "
                                      "near copies, and models that remember them) is still stored: amun-forget "
                                      f"--purge {asked.id} deletes it.",))
        return
    content = asked.purged.content
    search = content["search"]
    rows = [(room, str(counts["count"]), f"{counts['bytes']:,}") for room, counts in content["deleted"].items()]
    kept = "No model that was trained on them is left in the store."
    if content["kept"]:
        kept = f"Models that were trained on them stay, to judge later requests: {len(content['kept'])}."
    yield Section("Purge", texts=(
        f"Deleted {_when(asked.purged)}, then searched again: by the digests of what was made from what, and by "
        f"content in {search.get('files', 0)} files with {search.get('pictures', 0)} arrays of a picture's size. None "
        f"is within L2 {search['radius']:.3g} (pixels in [0, 1]; the largest step of the attack on these pictures) of "
        f"one of them and nearer to it than to every other picture: {search['found']} found. {kept}",),
        tables=(Table(rows or [("nothing was there", "0", "0")], ("where", "deleted", "bytes"), (2, 1, 1)),),
        points=[f"Not deleted: {limit}." for limit in content["limits"]])


def _cost(asked: Asked, environment: Mapping[str, str]) -> Section:
    content: Mapping[str, Any] = asked.finished.content if asked.finished else {}
    facts = [("unlearning", f"{content['seconds']:.1f} seconds")] if "seconds" in content else []
    if asked.begun is not None and asked.finished is not None:
        began, ended = (datetime.fromisoformat(entry.time) for entry in (asked.begun, asked.finished))
        taken = counted(round((ended - began).total_seconds()), "second")
        facts.append(("the whole step", f"{taken}, from begin to verdict"))
    return Section("Cost and environment", tables=(
        Table([*facts, *((name.removeprefix("environment.").removeprefix("mlflow.").replace("_", " "), str(value))
                         for name, value in environment.items() if name not in UNSAID)] or [("cost", "none yet")],
              widths=(1, 3)),))


def _record(history: History, asked: Asked) -> Section:
    rows = [(str(entry.number), entry.kind, _when(entry), entry.digest) for entry in history.entries
            if asked.id in entry.requests]
    return Section("Ledger", texts=(
        "Each entry of the ledger carries the digest of the one before it, so none can be changed or taken out unseen: "
        "amun-forget --verify checks that. These are the entries about this request; below, the last of the ledger, "
        "whose digest vouches for all before it.",),
        tables=(Table(rows, ("entry", "what", "when", "digest (sha256)"), (0.7, 1.2, 2, 5)),
                Table([("last entry", str(history.entries[-1].number)), ("chain digest", history.entries[-1].digest)],
                      widths=(1, 4))))


def _when(entry: Entry) -> str:
    return entry.time[:19].replace("T", " ")
