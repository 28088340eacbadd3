"""A ledger as lines of text: every request, the model in production, what waits and what is due."""

from collections.abc import Iterator
from typing import Any

from amun_ray.base.log import counted
from amun_ray.config.production import Batch
from amun_ray.ledger import Asked, Entry, History, is_due
from amun_ray.reporting.grid import grid

HEAD = ["request", "received", "by", "rows", "state", "version", "Test", "FT AUC", "Avg. Gap"]
TERMS = ("test_accuracy", "forget_test_auc", "average_gap")


def standing(history: History, batch: Batch, address: str) -> Iterator[str]:
    """Lines about all requests of a ledger, in the order in which they came."""
    yield grid(HEAD, [_row(asked) for asked in history.requests.values()]) if history.requests else "no requests yet"
    promoted = history.promoted
    version = f"version {promoted.content['version']}" if promoted else "the original of the sweep"
    yield f"in production: {address}, {version}" if history.opened else "in production: nothing that this ledger knows"
    waiting = history.of("received")
    rows = sum(len(asked.rows) for asked in waiting)
    enough = counted(batch.rows, "row") + (f" or {batch.days:g} days" if batch.days is not None else "")
    yield "waiting:       " + (f"{counted(len(waiting), 'request')}, {counted(rows, 'row')}; to go on at {enough}"
                               if waiting else "nothing")
    due = [*(history.begun.requests if history.begun else ()),
           *(asked.id for asked in waiting if is_due(waiting, batch.rows, batch.days))]
    yield f"due:           {', '.join(due) or 'nothing'}" + ("" if not due else "; amun-forget --due goes on with it")
    if accepted := history.of("accepted"):
        yield f"accepted:      {', '.join(asked.id for asked in accepted)}; amun-forget --promote gives it the alias"


def outcome(finished: Entry) -> Iterator[str]:
    """Lines about the result of a step."""
    content = finished.content
    for term, value in content["evidence"].items():
        before = f" (before {content['before'][term]:.2f})" if term in content["before"] else ""
        ends = content["intervals"].get(term)
        yield f"  {term:20} {value:7.2f}{before}" + (f", 95 % interval {ends[0]:.1f} to {ends[1]:.1f}" if ends else "")
    if content["accepted"]:
        yield f"  accepted: version {content['model']['version']} keeps within the limits ({_limits(content)})"
    else:
        yield f"  refused: {'; '.join(content['reasons'])}; the model is kept and not promoted"


def _limits(content: Any) -> str:
    return ", ".join(f"{name} {limit:g}" for name, limit in content["limits"].items() if limit is not None)


def _row(asked: Asked) -> list[str]:
    content = asked.finished.content if asked.finished else {}
    scores = content.get("evidence", {})
    return [asked.id, asked.received.time[:16].replace("T", " "), asked.received.content["by"] or "",
            str(len(asked.rows)), asked.state, content.get("model", {}).get("version", ""),
            *(f"{scores[term]:.2f}" if term in scores else "" for term in TERMS)]
