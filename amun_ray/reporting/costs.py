"""What a sweep cost: the wall time of its stages, and the time of devices in each kind of work."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

_zeros = partial(defaultdict[str, float], float)


@dataclass
class SweepCosts:
    """Device-seconds are the seconds that a worker spent on a piece of work, times the devices that such a worker holds
    now: GPUs (or its share of one) where the cluster has any, CPU cores elsewhere. Work that an earlier start had
    finished counts too, by itself. A saliency mask is part of the trial or final model that it was made for."""

    wall: float = 0.0  # seconds, of this start alone, until the report
    stages: dict[str, float] = field(default_factory=_zeros)  # the same of each stage; they run side by side
    made: dict[str, float] = field(default_factory=_zeros)    # kind of work -> device-seconds of this start
    reused: dict[str, float] = field(default_factory=_zeros)  # the same of earlier starts
    attacks: Mapping[str, float] = field(default_factory=dict)  # seconds of the driver's cores in each of the report

    def add(self, work: str, seconds: float, worker: Mapping[str, float], *, reused: bool) -> None:
        """Count a finished piece of work; `worker`: `num_cpus` and `num_gpus` of the one that does such work."""
        (self.reused if reused else self.made)[work] += seconds * (worker["num_gpus"] or worker["num_cpus"])

    @property
    def works(self) -> Iterable[str]:
        """The kinds of work, in the order in which they came."""
        return dict.fromkeys([*self.made, *self.reused])

    @property
    def sums(self) -> dict[str, float]:
        """All of this in two numbers."""
        return {"seconds": self.wall,
                "device_seconds": sum(self.made.values()) + sum(self.reused.values())}

    def metrics(self) -> dict[str, float]:
        """Each by its name."""
        return ({f"seconds.{stage}": value for stage, value in self.stages.items()}
                | {f"device_seconds.{work}": self.made[work] + self.reused[work] for work in self.works}
                | {f"device_seconds_reused.{work}": self.reused[work] for work in self.works}
                | {f"core_seconds.{attack}": value for attack, value in self.attacks.items()})
