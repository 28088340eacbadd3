"""The trials that Tune runs: one study for each method and access, side by side; and how a search is resumed.

A search is resumed from the store alone. Every finished trial is a unit there, and a study's suggestions depend only on
its finished trials (see `study`). So a search that was killed at any moment suggests the same trials again, finds them
in the store, tells its studies their results without running them, and continues with the first missing one; trials
that were running are repeated. An Optuna storage would be a second record of the same trials, and a kill could leave it
ahead of or behind the store.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from amun_ray.base.errors import UserError
from amun_ray.runtime.bench import SharedWorkspace
from amun_ray.runtime.losses import reason
from amun_ray.stages.cases import OpenCase, original_value
from amun_ray.stages.study import Study
from amun_ray.storage.leases import claim, release
from amun_ray.storage.sharing import LOOK_SECONDS
from amun_ray.unlearn import Contender
from amun_ray.work.trials import Job, Trial, chosen

ATTEMPT = "Failure # "  # begins, in Tune's file of a trial's errors, a line before what each attempt ended with
LOST = "its worker was lost, and again each time it was tried"
FAILED, BROKEN = "failed", "broken"  # reported for a trial without a result; `broken` is not its own fault


class Studies(Searcher):
    """Tune's source of trials. `on_trial` is called with each that is over, and whether the store already had it."""

    def __init__(self, workspace: SharedWorkspace, cases: Sequence[OpenCase],
                 on_trial: Callable[[Trial, bool], None]) -> None:
        super().__init__()
        self._workspace, self._cases, self._on_trial = workspace, cases, on_trial
        original = original_value(cases, workspace.sweep.search.terms)
        self._studies = {contender: Study(workspace.sweep, contender, original)
                         for contender in workspace.sweep.contenders}
        self.total = sum(study.total for study in self._studies.values())
        self.broken: str | None = None  # why no more trials can be finished
        self._ready: deque[Job] = deque()
        self._running: dict[str, Job] = {}
        self.share: Callable[[], float] = lambda: inf  # how many trials may be running or waiting for a worker now
        self.losses: dict[str, str] = {}  # why a running trial last lost its worker
        self._look_again = 0.0  # earliest time to look again, while other sweeps are making everything that is ready
        self._same: dict[str, list[Job]] = {}  # the same settings suggested again while the first is running, by digest
        for contender in self._studies:
            self._refill(contender)

    @property
    def unfinished(self) -> bool:
        """Whether a trial is missing from the store."""
        return bool(self._ready)

    @property
    def next_job(self) -> Job:
        """The first trial missing from the store."""
        return self._ready[0]

    def suggest(  # type: ignore[override]  # Ray's annotation leaves its own FINISHED out
            self, trial_id: str) -> dict[str, Any] | str | None:
        job = None if self.broken or len(self._running) >= self.share() else self._next()
        if job is None:
            return None if self._running or (self._ready and not self.broken) else Searcher.FINISHED
        self._running[trial_id] = job
        return {"contender": list(job.contender), "settings": list(job.settings),
                "limits": job.limits and list(job.limits)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Intermediate epochs are ignored: a study knows only finished trials."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        first, lost = self._running.pop(trial_id), self.losses.pop(trial_id, None)
        release(self._workspace.store, first.whole.folder)
        trial = first.stored(self._workspace.store)
        if trial is None and (broken := (result or {}).get(BROKEN)):
            self.broken = broken
            return
        reason = (result or {}).get(FAILED, f"{LOST}: {lost}" if lost else LOST)
        self._over(first, trial or first.trial(first.whole, {"failed": reason, "kept": False}))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the store has every finished trial, and the suggestions follow from those."""

    def __getstate__(self) -> dict[str, Any]:
        """Nothing, for the same reason: Tune writes down what it was given, and the callbacks refer to everything."""
        return {}

    def winners(self) -> dict[Contender, Trial]:
        """The trial that `search.select` chooses of every study that has a successful one.

        Raises:
            UserError: no study has a successful trial; the message gives the reason of each study's first trial.
        """
        best = {contender: trial for contender, trial in self._best().items() if trial.finished}
        if not best:
            reasons = "; ".join(f"{contender}: {reason}" for contender, reason in self.lost().items())
            raise UserError(f"no successful trial: {reasons}. Where a run diverged, search lower learning rates "
                            "(search.lr, or methods.NAME.lr)")
        return best

    def lost(self) -> dict[Contender, str]:
        """The studies without a successful trial, with the reason of their first one."""
        return {contender: trial.result["failed"] for contender, trial in self._best().items() if not trial.finished}

    def _best(self) -> dict[Contender, Trial]:
        select = self._workspace.sweep.search.select
        return {contender: chosen(study.finished, select) for contender, study in self._studies.items()}

    def fronts(self) -> dict[Contender, list[Trial]]:
        """The Pareto front of every study."""
        return {contender: study.front for contender, study in self._studies.items()}

    def _next(self) -> Job | None:
        """The first trial that no other sweep is running; None, for now, if they are running all of them.

        Trials that they have finished in the meantime are over here too.
        """
        if time.monotonic() < self._look_again:
            return None
        store = self._workspace.store
        for _ in range(len(self._ready)):
            job = self._ready.popleft()
            if not claim(store, job.whole.folder):
                self._ready.append(job)
                continue
            trial = job.stored(store)
            if trial is None:
                return job
            release(store, job.whole.folder)
            self._over(job, replace(trial, reused=True))
        if self._ready:
            self._look_again = time.monotonic() + LOOK_SECONDS
        return None

    def _over(self, first: Job, trial: Trial) -> None:
        """Tell the study about a trial, and those suggested with the same settings; ask it for more."""
        for job in (first, *self._same.pop(first.whole.digest)):
            self._finish(replace(trial, number=job.number, reused=trial.reused or job is not first))
        self._refill(first.contender)

    def _refill(self, contender: Contender) -> None:
        """Queue the trials that the study can suggest now; those in the store are finished at once."""
        study = self._studies[contender]
        while (suggested := study.next_settings()) is not None:
            job = Job.of(self._workspace, self._cases, contender, *suggested, study.limits)
            if job.whole.digest in self._same:
                self._same[job.whole.digest].append(job)
            elif (trial := job.stored(self._workspace.store)) is not None:
                self._finish(replace(trial, reused=True))
            else:
                self._same[job.whole.digest] = []
                self._ready.append(job)

    def _finish(self, trial: Trial) -> None:
        for over in self._studies[trial.contender].tell(trial):
            self._on_trial(over, over.reused)


class InOrder(FIFOScheduler):
    """Runs trials as they come; tells `studies`, which Tune does not, why a trial lost its worker."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._studies = studies

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        with suppress(OSError):  # a search does not end for want of a reason
            text = Path(trial.error_file).read_text().rpartition(ATTEMPT)[2].partition("\n")[2]  # of the last attempt
            self._studies.losses[trial.trial_id] = reason(text)
