"""The purge of a request: listed or done, noted in the ledger, and told by its proof; and proofs that are written
again. No Ray, no worker.

Cost: that of `work.purge`, and the proof.
"""

from pathlib import Path

from amun_ray.base.log import say
from amun_ray.ledger import Entry, History, Ledger
from amun_ray.reporting.proof import NAMES, PROOFS, note_proved, write_proof
from amun_ray.tracking import Archive
from amun_ray.tracking.registry import PROOF
from amun_ray.work.lineage import NEEDED
from amun_ray.work.listing import table
from amun_ray.work.plan import Plan
from amun_ray.work.production import purge_of


def purge(plan: Plan, output: Path, ledger: Ledger, tracking: str, request: str, *, retire: bool = False,
          dry_run: bool = False) -> None:
    """Delete what was made from the rows of a request, and note it; or, with `dry_run`, only list it.

    Where nothing is left of an earlier purge, the ledger gets no further entry; the proof is written again in any case.

    Args:
        tracking: the URI of MLflow.
        retire: as `Purge` has it.

    Raises:
        UserError: as `purge_of` and `Purge.run`.
    """
    purge_of(plan, output, tracking, ledger.history, request, retire=retire)  # a mistake: said before there is a lock
    with ledger.working():
        history = ledger.history
        work = purge_of(plan, output, tracking, history, request, retire=retire)
        remnants = work.listed()
        say(f"{request}: {table(remnants)}")
        if dry_run:
            say("\n".join(["not deleted by this command:", *(f"  {limit}" for limit in work.limits())]))
            return
        last = history.requests[request].purged
        if last is None or any(remnant.action != NEEDED for remnant in remnants):
            last = ledger.append("purged", [request], work.run())
        prove(ledger.history, last, output, tracking)
        say("\n".join([f"{request} is purged: a second search finds nothing more", "not deleted by this command:",
                       *(f"  {limit}" for limit in work.limits()), f"proof: {output / PROOFS / request / NAMES[0]}"]))


def prove(history: History, last: Entry, output: Path, tracking: str) -> None:
    """Write the proofs of the requests of `last` again, as the ledger has them now, and log them in MLflow.

    Raises:
        UserError: MLflow does not answer, or refuses.
    """
    for request in last.requests:
        files = write_proof(history, request, output / PROOFS, {})
        run = _run(history, request, Archive(tracking))
        if run is not None:
            Archive(tracking).add(run, {f"{PROOF}/{name}": files[name] for name in NAMES})
    note_proved(last, output / PROOFS)


def _run(history: History, request: str, archive: Archive) -> str | None:
    """The run that the proof of a request belongs to: of the model that forgot it or, where that is deleted since, of
    the model in production; None where both are gone."""
    asked = history.requests[request]
    of = [asked.outcome, *(entry.outcome for entry in reversed(history.of("promoted", "purged")))]
    runs = dict.fromkeys(entry.content["model"]["run"] for entry in of if "model" in entry.content)
    return next((run for run in runs if archive.has_run(run)), None)
