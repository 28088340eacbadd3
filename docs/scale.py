"""The arithmetic of scale.md: `python docs/scale.py` prints its tables, and a test compares the page with them.

FLOPs of a network are counted by PyTorch; a piece of work takes its FLOPs / FLOPS_PER_SECOND on one GPU, and several
work through the pieces as the driver hands them out, which tests/stages/test_hand_out.py compares with the driver.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from math import ceil
from random import Random
from typing import NamedTuple

import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from amun_ray.models import MODELS

FLOPS_PER_SECOND = 8e13  # assumed: what a training gets of one GPU of the H100 class in bfloat16
GPUS = (1, 8, 64, 512)
SHARD = 256  # images, `attack.shard_size`
PER_IMAGE = 500  # forward passes' worth of FLOPs for one adversarial example: 50 steps of 2F at some 5 radii
TOGETHER = 4  # trials of a study that are suggested at once, `search.together`
DECODE = 0.010  # assumed: seconds to decode, scale and cut one photograph on one core
NVLINK, NETWORK = 3e11, 1.25e10  # assumed: bytes/s between the GPUs of a node, and of a node's 100 Gbit/s network
BATCH = 256  # images of a training step
TRIAL = "search"  # begins the names of the groups of trials
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

    @property
    def images(self) -> int:
        return self.train + self.test

    @property
    def forget(self) -> int:
        return int(self.share * self.train)

    @property
    def cases(self) -> int:
        return self.originals * self.sets

    def graph(self, together: int = TOGETHER) -> dict[str, "Group"]:
        """FLOPs of every piece, and what waits for what (see `Experiment.run`), in the order of hand-out."""
        forward, step = self.forward(), 3 * self.forward()
        evaluation = forward * self.images
        train = [self.epochs * step * rows + evaluation for rows in (
            self.train, self.train - self.forget, self.images // 2)]
        unlearned = self.unlearning_epochs * (step * (self.train + self.forget) + evaluation)
        shards = (self.cases + 1) * ceil(self.forget / SHARD)
        rounds = [min(together, self.trials - first) for first in range(0, self.trials, together)]
        groups = {"originals": Group(train[:1] * self.originals),
                  "held out": Group(train[1:2]), "retrained": Group(train[1:2] * self.cases),
                  "references": Group(train[2:] * self.references),
                  "sets": Group([SHARD * PER_IMAGE * forward] * shards, ("originals",))}
        for contender in range(self.contenders):
            names = [f"search {contender} {number}" for number in range(len(rounds))]
            groups[names[0]] = Group([unlearned] * rounds[0], ("held out", "references", "sets"))
            groups |= {after: Group([unlearned] * trials, (before,))
                       for (before, after), trials in zip(pairwise(names), rounds[1:], strict=True)}
            groups[f"final {contender}"] = Group([unlearned] * self.cases * self.runs, ("retrained", names[-1]))
        return groups

    def stages(self) -> dict[str, list[list[float]]]:
        """FLOPs of every piece of each stage, as rounds that wait for one another."""
        graph, found = self.graph(), {"models": [[]], "adversarial sets": [[]], "search": [], "final": [[]]}
        stage = {"sets": "adversarial sets", "final": "final"}
        for name, group in graph.items():
            kind, *numbers = name.split()
            if kind != "search":
                found[stage.get(kind, "models")][0].extend(group.pieces)
            elif numbers[0] == "0":  # each contender has such a round at the same time
                found[kind].append(group.pieces * self.contenders)
        return found

    def forward(self) -> float:
        return network(MODELS["resnet18"], self.size, self.classes)[0]

    def rows(self) -> Iterator[str]:
        """The table: one row for each stage, the time on every number of GPUs."""
        for name, rounds in self.stages().items():
            times = (duration(sum(makespan(pieces, gpus) for pieces in rounds)) for gpus in GPUS)
            yield f"| {name} | {sum(map(len, rounds))} | {sum(map(sum, rounds)):.1e} | {' | '.join(times)} |"

    def space(self) -> str:
        """One line of what is kept, and what it fills."""
        weights = network(MODELS["resnet18"], self.size, self.classes)[1]
        logits, pixels = 4 * self.images * self.classes, self.images * 3 * self.size**2
        scratch = self.originals + self.cases + 1
        unlearned = self.contenders * (self.trials + self.cases * self.runs)
        sets = (self.cases + 1) * self.forget * (4 * 3 * self.size**2 + 30)
        kept_logits = logits * (scratch + self.references + self.contenders * self.cases * self.runs)
        return (f"pixels {amount(pixels)} on the head, each node and each GPU; weights {amount(weights)} a model, "
                f"{amount(weights * (scratch + unlearned))} of {scratch} + {unlearned}; logits {amount(logits)} a "
                f"model, {amount(kept_logits)} in all; adversarial sets {amount(sets)}")


    def flow(self) -> Iterator[str]:
        """How long a sweep takes, and the part of the GPUs' time without work: stage after stage, and side by side."""
        def barriers(gpus: int) -> float:
            return sum(makespan(pieces, gpus) for rounds in self.stages().values() for pieces in rounds)

        def wide(gpus: int) -> int:
            return min(self.trials, max(TOGETHER, ceil(gpus / self.contenders)))

        whole = sum(sum(group.pieces) for group in self.graph().values()) / FLOPS_PER_SECOND
        ways = {"one stage after another": barriers,
                "side by side": lambda gpus: simulated(self.graph(), [0.0] * gpus),
                "and `search.together` as wide": lambda gpus: simulated(self.graph(wide(gpus)), [0.0] * gpus)}
        for name, way in ways.items():
            times = [(gpus, way(gpus)) for gpus in GPUS]
            cells = (f"{duration(took)}, {abs(round(100 * (1 - whole / gpus / took)))} %" for gpus, took in times)
            yield f"| {self.title}, {name} | {' | '.join(cells)} |"

    def mishaps(self, gpus: int = 64, late: int = 16) -> str:
        """One line of how much longer it takes where nodes come late, and where workers die."""
        graph, many, second = self.graph(), [0.0] * gpus, 300.0
        calm, joined, lost = (simulated(graph, many), simulated(graph, [*many[late:], *[second] * late]),
                              simulated(graph, many, lost=0.1))
        return (f"{self.title} on {gpus} GPUs: {duration(calm)}; {duration(joined)} where {late} of them come "
                f"{duration(second)} late, {duration(lost)} where one of ten pieces loses its worker.")


class Group(NamedTuple):
    """Pieces of equal kind, in FLOPs, and the groups that must be over before they begin."""

    pieces: list[float]
    after: tuple[str, ...] = ()


EXPERIMENTS = (
    Experiment("CIFAR-10", 50_000, 10_000, 10, 32, 200, 3, 3, 128, 24, 3),
    Experiment("Tiny ImageNet", 100_000, 10_000, 200, 64, 200, 3, 3, 128, 24, 3),
    Experiment("ImageNet-1k at 64 x 64", 1_281_167, 50_000, 1000, 64, 90, 1, 1, 8, 24, 1),
)


def network(constructor, size: int, classes: int) -> tuple[float, int]:
    """FLOPs of the forward pass of one image, and bytes of the weights; nothing is computed."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        net = (constructor(num_classes=classes) if constructor is torchvision.models.resnet50
               else constructor(channels=3, classes=classes, size=size))
        net.eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops(), 4 * sum(parameter.numel() for parameter in net.parameters())


def makespan(pieces: list[float], gpus: int) -> float:
    """Seconds until all pieces are done, each given to the first GPU that is free."""
    free = [0.0] * min(gpus, len(pieces))
    for piece in pieces:
        heapq.heapreplace(free, free[0] + piece / FLOPS_PER_SECOND)
    return max(free)


def begun(graph: Mapping[str, Group], since: Sequence[float], lost: float = 0.0) -> Iterator[tuple[float, str]]:
    """When each piece of a graph begins, and of which group it is; last, when all are done, and "".

    A GPU that is free takes the piece that has waited longest, of those that began to wait together the first of the
    graph. But Tune holds on to its workers: after a trial a GPU takes the next trial that waits, whatever else does; if
    none waits, one GPU stays idle for those to come. Arguments as in `simulated`.
    """
    draw, coming, left = Random(0), [*graph], {name: len(group.pieces) for name, group in graph.items()}
    number = count()  # of pieces that end together, the one that began first does
    events = [(second, next(number), "", 0.0) for second in since]  # a GPU is free, after which piece; what it redoes
    heapq.heapify(events)
    waiting: list[tuple[str, float]] = []
    idle, kept, now = 0, False, 0.0
    while any(left.values()):
        now, _, ended, again = heapq.heappop(events)
        idle += 1
        place = first_trial(waiting) if ended.startswith(TRIAL) and not again else None
        if again:
            waiting.append((ended, again))
        elif ended:
            left[ended] -= 1
            more = any(name.startswith(TRIAL) for name in coming)
            if ended.startswith(TRIAL) and place is None and more and not kept:
                idle, kept = idle - 1, True
        for name in [name for name in coming if not any(left[other] for other in graph[name].after)]:
            coming.remove(name)
            waiting += [(name, piece) for piece in graph[name].pieces]
        if kept and (place := first_trial(waiting)) is not None:
            idle, kept = idle + 1, False
        while idle and waiting:
            name, piece = waiting.pop(place or 0)
            place, dies = None, draw.random() < lost
            spent = piece * draw.random() if dies else piece
            heapq.heappush(events, (now + spent / FLOPS_PER_SECOND, next(number), name, piece if dies else 0.0))
            idle -= 1
            yield now, name
    yield now, ""


def first_trial(waiting: Sequence[tuple[str, float]]) -> int | None:
    return next((place for place, (name, _) in enumerate(waiting) if name.startswith(TRIAL)), None)


def simulated(graph: Mapping[str, Group], since: Sequence[float], lost: float = 0.0) -> float:
    """Seconds until all pieces of a graph are done, as `begun` hands them out.

    Args:
        since: of each GPU, from when it is there: a node may join late.
        lost: the share of pieces whose worker dies, each at a random moment; they are done again.
    """
    *_, (end, _) = begun(graph, since, lost)
    return end


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
        flops, weights = network(constructor, size, classes)
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
    flops, weights = network(torchvision.models.resnet50, 224, classes)
    rate = FLOPS_PER_SECOND / (3 * flops)
    cores = ", ".join(f"{duration(images * DECODE / count)} on {count}" for count in (1, 16, 64))
    yield f"| decode once, cores | {cores} |"
    yield f"| the file of pixels, in the storage and mapped by a node | {amount(images * pixels)} |"
    yield f"| a GPU trains, and reads | {rate:,.0f} images/s, {amount(rate * pixels)} a second |"
    yield f"| a node with 8 GPUs reads | {amount(8 * rate * pixels)} a second |"
    ahead, logits = 3 * 2 * BATCH * pixels, 4 * images * classes  # two batches ahead and one in use; each pinned, too
    yield f"| memory of a worker: batches of {BATCH} read ahead; logits | {amount(ahead)}; {amount(logits)} |"
    yield f"| memory of a node with 8 workers, beyond the page cache | {amount(8 * (ahead + logits))} |"
    for gpus, speed, where in ((1, NVLINK, ""), (8, NVLINK, ", one node"), (64, NETWORK, ", eight nodes")):
        compute, exchange = BATCH / gpus / rate, 2 * weights * (gpus - 1) / gpus / speed
        step = max(compute, exchange)  # torch exchanges gradients while it computes earlier ones
        yield (f"| one training, {gpus} GPU{'s' * (gpus > 1)}{where} | {duration(90 * train / BATCH * step)}; "
               f"a step computes {1e3 * compute:.3g} ms and exchanges {1e3 * exchange:.2g} ms |")


def lines() -> Iterator[str]:
    """Every derived line of the page."""
    yield from networks()
    yield from driver()
    for experiment in EXPERIMENTS:
        yield from experiment.rows()
        yield f"{experiment.title}: {experiment.space()}."
    for experiment in EXPERIMENTS:
        yield from experiment.flow()
    yield EXPERIMENTS[0].mishaps()
    yield from photographs()


if __name__ == "__main__":
    print("\n".join(lines()))
