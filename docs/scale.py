"""The arithmetic of scale.md: `python docs/scale.py` prints its tables, and a test compares the page with them.

A piece of work takes its FLOPs / FLOPS_PER_SECOND on one GPU; training_step.py says what several make of a training,
and hand_out.py how the driver hands out the pieces.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

import torchvision
from hand_out import Group, simulated
from training_step import FLOPS_PER_SECOND, NETWORK, NVLINK, Network, Step, network

from amun_ray.models import MODELS
from amun_ray.work.width import at_a_time, widths

GPUS = (1, 8, 64, 512)
SHARD = 256  # images, `attack.shard_size`
PER_IMAGE = 500  # forward passes' worth of FLOPs for one adversarial example: 50 steps of 2F at some 5 radii
TOGETHER = 4  # trials of a study that are suggested at once, `search.together`
DECODE = 0.010  # assumed: seconds to decode, scale and cut one photograph on one core
BATCH = 256  # images of a training step of ImageNet
NODE = 8  # GPUs
RATES = (2352, 1172)  # shards/s to 256 workers, benchmarks/scaling.py: an AMD EPYC, a slower Intel machine


@dataclass(frozen=True)
class Experiment:
    """A dataset and a protocol; `size` is the side of an image, `share` what is to be forgotten."""

    title: str
    train: int
    test: int
    classes: int
    size: int
    epochs: int
    originals: int
    sets: int  # final forget sets; one more is held out for the search
    references: int
    trials: int  # per contender; finetune, and amun with and without D_R, make three
    runs: int
    unlearning_epochs: int = 10
    contenders: int = 3
    share: float = 0.1
    batch: int = 128

    @property
    def images(self) -> int:
        return self.train + self.test

    @property
    def forget(self) -> int:
        return int(self.share * self.train)

    @property
    def cases(self) -> int:
        return self.originals * self.sets

    def graph(self, together: int = TOGETHER, widen: int = 0) -> dict[str, Group]:
        """Every piece of work, and what waits for what (see `Experiment.run`), in the order of hand-out; with trainings
        that are widened on `widen` GPUs."""
        forward = self.forward() / FLOPS_PER_SECOND
        steps, evaluation = self.steps(), forward * self.images
        rows = {"originals": [self.train] * self.originals, "held out": [self.train - self.forget],
                "retrained": [self.train - self.forget] * self.cases,
                "references": [self.images // 2] * self.references}
        every = [each for group in rows.values() for each in group]
        gpus = iter(widths(every, widen, {number: step for number, step in steps.items() if number <= widen}) if widen
                    else [1] * len(every))
        groups = {}
        for name, group in rows.items():
            numbers = [next(gpus) for _ in group]
            groups[name] = Group([self.epochs * each / self.batch * steps[number] + evaluation
                                  for each, number in zip(group, numbers, strict=True)], (), numbers)
        groups["sets"] = Group([SHARD * PER_IMAGE * forward] * ((self.cases + 1) * ceil(self.forget / SHARD)),
                               ("originals",))
        unlearned = self.unlearning_epochs * (3 * forward * (self.train + self.forget) + evaluation)
        rounds = [min(together, self.trials - first) for first in range(0, self.trials, together)]
        for contender in range(self.contenders):
            names = [f"search {contender} {number}" for number in range(len(rounds))]
            groups[names[0]] = Group([unlearned] * rounds[0], ("held out", "references", "sets"))
            groups |= {after: Group([unlearned] * trials, (before,))
                       for (before, after), trials in zip(pairwise(names), rounds[1:], strict=True)}
            groups[f"final {contender}"] = Group([unlearned] * self.cases * self.runs, ("retrained", names[-1]))
        return groups

    def steps(self) -> dict[int, float]:
        """The seconds of a training step by each number of GPUs that may train a model."""
        return {gpus: Step.of(self.network(), self.batch, gpus).seconds for gpus in (1, 2, 4, NODE)}

    def stages(self) -> dict[str, list[list[float]]]:
        """The seconds of every piece of each stage, as rounds that wait for one another."""
        graph, found = self.graph(), {"models": [[]], "adversarial sets": [[]], "search": [], "final": [[]]}
        stage = {"sets": "adversarial sets", "final": "final"}
        for name, group in graph.items():
            kind, *numbers = name.split()
            if kind != "search":
                found[stage.get(kind, "models")][0].extend(group.pieces)
            elif numbers[0] == "0":  # each contender has such a round at the same time
                found[kind].append(group.pieces * self.contenders)
        return found

    def network(self) -> Network:
        return network(MODELS["resnet18"], self.size, self.classes)

    def forward(self) -> float:
        """FLOPs for one image."""
        return self.network().flops

    def rows(self) -> Iterator[str]:
        """The table: one row for each stage, the time on every number of GPUs."""
        for name, rounds in self.stages().items():
            times = (duration(sum(makespan(pieces, gpus) for pieces in rounds)) for gpus in GPUS)
            flops = FLOPS_PER_SECOND * sum(map(sum, rounds))
            yield f"| {name} | {sum(map(len, rounds))} | {flops:.1e} | {' | '.join(times)} |"

    def space(self) -> str:
        """One line of what is kept, and what it fills."""
        weights = self.network().weights
        logits, pixels = 4 * self.images * self.classes, self.images * 3 * self.size**2
        scratch = self.originals + self.cases + 1
        unlearned = self.contenders * (self.trials + self.cases * self.runs)
        sets = (self.cases + 1) * self.forget * (4 * 3 * self.size**2 + 30)
        kept_logits = logits * (scratch + self.references + self.contenders * self.cases * self.runs)
        return (f"pixels {amount(pixels)} on the head, each node and each GPU; weights {amount(weights)} a model, "
                f"{amount(weights * (scratch + unlearned))} of {scratch} + {unlearned}; logits {amount(logits)} a "
                f"model, {amount(kept_logits)} in all; adversarial sets {amount(sets)}")


    def ways(self) -> dict[str, Callable[[int], tuple[float, float]]]:
        """What a sweep does with so many GPUs: the seconds that it takes, and the GPU time of its pieces."""
        def barriers(gpus: int) -> tuple[float, float]:
            return (sum(makespan(pieces, gpus) for rounds in self.stages().values() for pieces in rounds),
                    busy(self.graph()))

        return {"one stage after another": barriers,
                "side by side": lambda gpus: taken(self.graph(), gpus),
                "with `search.together: auto`": lambda gpus: taken(self.graph(self.wide(gpus)), gpus),
                "and `resources.widen`": lambda gpus: taken(self.graph(self.wide(gpus), gpus), gpus)}

    def wide(self, gpus: int) -> int:
        return at_a_time(self.trials, self.contenders, gpus)

    def flow(self) -> Iterator[str]:
        """How long a sweep takes, and the part of the GPUs' time without work; in the end that of exchanges, too."""
        for name, way in self.ways().items():
            times = [(gpus, *way(gpus)) for gpus in GPUS]
            cells = (f"{duration(seconds)}, {idle_percent(gpus, seconds, work):.0f} %" for gpus, seconds, work in times)
            yield f"| {self.title}, {name} | {' | '.join(cells)} |"
        least = busy(self.graph())
        lost = (f"{max(0.0, 100 * (work - least) / gpus / seconds):.0f} %" for gpus, seconds, work in times)
        yield f"| with work, but lost to exchanges | {' | '.join(lost)} |"

    def beyond(self, gpus: int = 512, each: int = 4) -> str:
        """One line of what would be left to gain."""
        graph, gain = self.graph(self.wide(gpus), gpus), self.steps()[each] / self.steps()[1]
        early = graph | {name: group._replace(after=("sets",)) for name, group in graph.items()
                         if name.startswith("search") and "held out" in group.after}
        early |= {name: group._replace(after=(*group.after, "references", "held out"))
                  for name, group in graph.items() if name.startswith("final")}

        def shared(graph: dict[str, Group]) -> dict[str, Group]:
            return graph | {name: group._replace(pieces=[gain * piece for piece in group.pieces],
                                                 gpus=[each] * len(group.pieces))
                            for name, group in graph.items() if name.startswith(("search", "final"))}

        found = [taken(way, gpus) for way in (graph, early, shared(graph), shared(early))]
        now, first, second, both = (f"{duration(seconds)}, {idle_percent(gpus, seconds, work):.0f} % without work"
                                    for seconds, work in found)
        return (f"{self.title} on {gpus} GPUs: {now}; {first}, if trials began before the references are there; "
                f"{second}, if {each} GPUs shared a trial or a final run; {both}, with both.")

    def mishaps(self, gpus: int = 64, late: int = 16) -> Iterator[str]:
        """How much longer it takes where nodes come late, and where workers die; without and with wider trainings."""
        many, second = [0.0] * gpus, 300.0
        for name, graph, first in (("", self.graph(), self.graph()), (
                ", with `widen`", *(self.graph(self.wide(each), each) for each in (gpus, gpus - late)))):
            calm, joined, lost = (simulated(graph, many), simulated(first, [*many[late:], *[second] * late]),
                                  simulated(graph, many, lost=0.1))
            yield (f"{self.title} on {gpus} GPUs{name}: {duration(calm)}; {duration(joined)} where {late} of them come "
                   f"{duration(second)} late, {duration(lost)} where one of ten pieces loses its worker.")


EXPERIMENTS = (
    Experiment("CIFAR-10", 50_000, 10_000, 10, 32, 200, 3, 3, 128, 24, 3),
    Experiment("Tiny ImageNet", 100_000, 10_000, 200, 64, 200, 3, 3, 128, 24, 3, batch=256),
    Experiment("ImageNet-1k at 64 x 64", 1_281_167, 50_000, 1000, 64, 90, 1, 1, 8, 24, 1, batch=BATCH),
)


def makespan(pieces: list[float], gpus: int) -> float:
    """Until when all pieces are done, each given to the first GPU that is free."""
    free = [0.0] * min(gpus, len(pieces))
    for piece in pieces:
        heapq.heapreplace(free, free[0] + piece)
    return max(free)


def busy(graph: dict[str, Group]) -> float:
    return sum(group.busy for group in graph.values())


def taken(graph: dict[str, Group], gpus: int) -> tuple[float, float]:
    """The seconds until all of a graph is done by GPUs that are there from the start, and the GPU time of that."""
    return simulated(graph, [0.0] * gpus), busy(graph)


def idle_percent(gpus: int, seconds: float, work: float) -> float:
    """The share of the GPUs' time without work, in percent."""
    return max(0.0, 100 * (1 - work / gpus / seconds))


def duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def amount(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.2g} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1e3:.2g} kB"


def networks() -> Iterator[str]:
    for title, constructor, size, classes in (
            ("ResNet-20, 32 x 32", MODELS["resnet20"], 32, 10),
            ("ResNet-18 with CIFAR's stem, 32 x 32", MODELS["resnet18"], 32, 10),
            ("the same, 64 x 64", MODELS["resnet18"], 64, 200),
            ("ResNet-50, 224 x 224", torchvision.models.resnet50, 224, 1000)):
        flops, weights, _ = network(constructor, size, classes)
        yield f"| {title} | {flops / 1e9:.2f} GFLOP | {amount(weights)} |"


def driver() -> Iterator[str]:
    """How many workers the driver keeps busy with shards, by the measured rates."""
    for experiment in EXPERIMENTS:
        seconds = SHARD * PER_IMAGE * experiment.forward() / FLOPS_PER_SECOND
        served = (f"{round(rate * seconds, -2):,.0f}" for rate in RATES)
        yield f"| {experiment.title} | {seconds:.1f} s | {' | '.join(served)} |"


def photographs() -> Iterator[str]:
    """ImageNet-1k at 224 x 224 with a ResNet-50: what is read and held, and one training on several GPUs."""
    images, train, classes, pixels = 1_331_167, 1_281_167, 1000, 3 * 224**2
    net = network(torchvision.models.resnet50, 224, classes)
    rate = FLOPS_PER_SECOND / (3 * net.flops)
    cores = ", ".join(f"{duration(images * DECODE / count)} on {count}" for count in (1, 16, 64))
    yield f"| decode once, cores | {cores} |"
    yield f"| the file of pixels, in the storage and mapped by a node | {amount(images * pixels)} |"
    yield f"| a GPU trains, and reads | {rate:,.0f} images/s, {amount(rate * pixels)} a second |"
    yield f"| a node with 8 GPUs reads | {amount(8 * rate * pixels)} a second |"
    ahead, logits = 3 * 2 * BATCH * pixels, 4 * images * classes  # two batches ahead and one in use; each pinned, too
    yield f"| memory of a worker: batches of {BATCH} read ahead; logits | {amount(ahead)}; {amount(logits)} |"
    yield f"| memory of a node with 8 workers, beyond the page cache | {amount(8 * (ahead + logits))} |"
    for gpus, speed, where in ((1, NVLINK, ""), (8, NVLINK, ", one node"), (64, NETWORK, ", eight nodes")):
        step = Step.of(net, BATCH, gpus, speed)
        yield f"| one training, {on(gpus)}{where} | {duration(90 * train / BATCH * step.seconds)}; {step} |"


def on(gpus: int) -> str:
    return f"{gpus} GPU{'s' * (gpus > 1)}"


def steps() -> Iterator[str]:
    """A training step of CIFAR-10's ResNet-18 on the GPUs of a node."""
    one = EXPERIMENTS[0]
    for gpus, seconds in one.steps().items():
        gain = "" if gpus == 1 else f"; {one.steps()[1] / seconds:.2g} times as fast"
        yield f"| {on(gpus)} | {Step.of(one.network(), one.batch, gpus)}{gain} |"


def lines() -> Iterator[str]:
    """Every derived line of the page."""
    yield from networks()
    yield from driver()
    for experiment in EXPERIMENTS:
        yield from experiment.rows()
        yield f"{experiment.title}: {experiment.space()}."
    for experiment in EXPERIMENTS:
        yield from experiment.flow()
    yield from steps()
    yield EXPERIMENTS[0].beyond()
    yield from EXPERIMENTS[0].mishaps()
    yield from photographs()


if __name__ == "__main__":
    print("\n".join(lines()))
