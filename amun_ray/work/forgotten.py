"""What ledgers mean for a sweep: pictures that somebody asked to be forgotten are in no training, reference model or
held-out set of one that begins anew.

Cost: the digest of every training picture, where a ledger is named. Without any ledger SQLAlchemy, which takes half a
second, is not loaded.
"""

from collections.abc import Set
from pathlib import Path

import numpy as np

from amun_ray.base.errors import UserError
from amun_ray.base.files import expanded
from amun_ray.config.schema import Sweep
from amun_ray.data.dataset import Dataset
from amun_ray.work.plan import Plan


def without_forgotten(sweep: Sweep, dataset: Dataset, output: Path) -> Dataset:
    """`dataset` without every training picture that the ledgers of `requests.forgotten` name, in whatever row it is;
    so files from which they were taken since are well, too.

    Raises:
        UserError: there is no such ledger, it is damaged, or nothing is left.
    """
    if not sweep.requests.forgotten:
        return dataset
    from amun_ray.base.databases import database
    from amun_ray.ledger import Ledger

    for uri in sweep.requests.forgotten:
        file = database(expanded(uri))
        history = Ledger.of(uri, output if file is None else file.parent).history  # its anchor is beside it
        if history.opened is None:
            raise UserError(f"requests.forgotten: no ledger at {uri}")
        gone = history.pictures
        rows = _named(dataset, gone)
        if len(rows) == dataset.train_size:
            raise UserError(f"requests.forgotten: {uri} names every training picture; nothing is left to train on")
        note = (f"left out:   {len(rows)} training images, of the {len(gone)} that the {len(history.requests)} "
                f"requests of ledger {uri} name")
        dataset = dataset.without(rows, note)
    return dataset


def check_unasked(plan: Plan, output: Path) -> None:
    """That a sweep trains on nothing that the ledger of its own folder says is forgotten. A finished one trains
    nothing, as long as nothing was purged.

    Raises:
        UserError: it would; how to begin anew without the rows.
    """
    requests = plan.sweep.requests
    if requests.ledger is None and not any(output.glob("ledger.*")):  # the database or its anchor
        return
    from amun_ray.ledger import Ledger
    from amun_ray.work.production import table

    ledger = Ledger.of(requests.ledger, output.absolute())
    history = ledger.history
    if not history.requests:
        return
    assert history.opened is not None, "requests come after it"
    known = history.opened.content["project"]["dataset"] == plan.dataset.digest
    count = len(history.asked) if known else len(_named(plan.dataset, history.pictures))
    purged = history.of("purged")
    if not count or (not purged and table(plan, plan.store(output), history) is not None):
        return
    states = ", ".join(f"{asked.id} {asked.state}" for asked in list(history.requests.values())[:5])
    raise UserError(
        f"ledger {ledger.uri}: {count} of these training images are to be forgotten ({states}"
        f"{', ...' if len(history.requests) > 5 else ''}), and this sweep would "
        f"{'make anew what was deleted' if purged else 'train on them'}. To search without them: --set "
        f"'requests.forgotten=[\"{ledger.uri}\"]' and another --output")


def _named(dataset: Dataset, pictures: Set[str]) -> np.ndarray:
    """(count,) int64, ascending: the training rows whose picture is one of these."""
    from amun_ray.ledger.entries import picture_digest

    return np.array([row for row in dataset.train_rows if picture_digest(dataset.pixels[row]) in pictures], np.int64)
