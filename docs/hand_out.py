"""A simulation of the driver: which piece of work begins when, on so many GPUs, some of which come late or fail.

docs/scale.py asks it about whole sweeps, and tests/stages/test_hand_out.py compares it with the driver's own code.
"""

import heapq
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from random import Random
from typing import NamedTuple

TRIAL = "search"  # begins the names of the groups of trials
SHARDS = "sets"  # the group of pieces that actors make


class Group(NamedTuple):
    """Pieces of equal kind, in seconds, the groups that must be over before they begin, and the GPUs of each piece (one
    if not given). Groups that wait for none are trainings."""

    pieces: Sequence[float]
    after: tuple[str, ...] = ()
    gpus: Sequence[int] = ()

    @property
    def asked(self) -> list[tuple[float, int]]:
        """(seconds, GPUs) of each piece."""
        return [*zip(self.pieces, self.gpus or [1] * len(self.pieces), strict=True)]

    @property
    def busy(self) -> float:
        """The GPU time of all pieces, in seconds."""
        return sum(seconds * gpus for seconds, gpus in self.asked)


class Piece(NamedTuple):
    """A piece that waits for GPUs: the name of its group, its seconds, and the number of GPUs that it takes."""

    name: str
    seconds: float
    gpus: int


ARRIVAL = Piece("", 0.0, 1)  # in the place of a piece that has ended: a GPU is there


def begun(graph: Mapping[str, Group], since: Sequence[float], lost: float = 0.0) -> Iterator[tuple[float, str]]:
    """When each piece of a graph begins, and of which group it is; last, when all are done, and "".

    GPUs that are free go to the piece that has waited longest, of those that began to wait together the first of the
    graph, and of these the first that takes no more than are free. Where any training takes several GPUs, the driver
    asks for trainings only as far as all together take no more than there are. Tune holds on to its workers: after a
    trial a GPU takes the next trial that waits, whatever else does; if none waits, one GPU stays idle for those to
    come. So do the actors of the adversarial sets: each takes the next shard, and waits idle for the end of the last
    one. Arguments as in `simulated`.
    """
    draw, number = Random(0), count()  # of pieces that end together, the one that began first does
    left = {name: len(group.pieces) for name, group in graph.items()}
    coming = [name for name in graph if graph[name].after]
    later = deque(Piece(name, *each) for name in graph if name not in coming for each in graph[name].asked)
    wide = any(piece.gpus > 1 for piece in later)
    events = [(second, next(number), ARRIVAL, False) for second in since]
    heapq.heapify(events)
    waiting: list[Piece] = []
    there, idle, held, now, kept, resting = 0, 0, 0, 0.0, False, 0
    while any(left.values()):
        now, _, ended, dead = heapq.heappop(events)
        idle, place = idle + ended.gpus, None
        if dead:
            waiting.append(ended)
        elif ended is ARRIVAL:
            there += 1
        else:
            left[ended.name] -= 1
            held -= 0 if graph[ended.name].after else ended.gpus
            place = first(waiting, ended.name) if ended.name.startswith((TRIAL, SHARDS)) else None
            if ended.name == SHARDS and place is None:
                idle, resting = (idle - 1, resting + 1) if left[SHARDS] else (idle + resting, 0)
            elif ended.name.startswith(TRIAL) and place is None and not kept and any(
                    name.startswith(TRIAL) for name in coming):
                idle, kept = idle - 1, True
        while later and (not wide or not held or held + later[0].gpus <= there):
            waiting.append(later.popleft())
            held += waiting[-1].gpus
        for name in [name for name in coming if not any(left[other] for other in graph[name].after)]:
            coming.remove(name)
            waiting += [Piece(name, *each) for each in graph[name].asked]
        if kept and (place := first(waiting, TRIAL)) is not None:
            idle, kept = idle + 1, False
        while (found := fitting(waiting, idle) if place is None else place) is not None:
            piece, place = waiting.pop(found), None
            dies = draw.random() < lost
            spent = piece.seconds * draw.random() if dies else piece.seconds
            heapq.heappush(events, (now + spent, next(number), piece, dies))
            idle -= piece.gpus
            yield now, piece.name
    yield now, ""


def first(waiting: Sequence[Piece], kind: str) -> int | None:
    """The place of the first piece of a kind: of trials, whose names tell more, or of one group."""
    begin = TRIAL if kind.startswith(TRIAL) else kind
    return next((place for place, piece in enumerate(waiting) if piece.name.startswith(begin)), None)


def fitting(waiting: Sequence[Piece], idle: int) -> int | None:
    """The place of the first piece that takes no more than `idle` GPUs."""
    return next((place for place, piece in enumerate(waiting) if piece.gpus <= idle), None) if idle else None


def simulated(graph: Mapping[str, Group], since: Sequence[float], lost: float = 0.0) -> float:
    """Seconds until all pieces of a graph are done, as `begun` hands them out.

    Args:
        since: of each GPU, from when it is there: a node may join late.
        lost: the share of pieces whose worker dies, each at a random moment; they are done again.
    """
    *_, (end, _) = begun(graph, since, lost)
    return end
