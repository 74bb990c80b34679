"""Which worker of an endpoint is next, in a time that hardly depends on how many there are. Pure.

Rules:

* Workers with a free **slot** come before those without; one whose slots are not known counts as
  having one. (A request that finds no slot waits, however much the worker will soon have done.)
* Among workers with a slot: the one that would **finish** the request first, (load + cost) / perf.
* Among workers without: the one where a slot is free first (`WorkerBook.start_after`).
* Equal ones: the one with fewer requests, then the one that was chosen or changed the longest ago,
  so that no worker gets them all.
* Workers over `max_queue_time` are left out (`WorkerBook.takes`).

Finish times of workers of different perf have no one order for all costs: a small request may end
first on a slow idle worker, a large one on a fast busy one. So workers are put into **classes** of
perf, `PERF_STEP` wide (9%); those whose slots are not known into others than those whose are.
Within a class they are ordered by load / perf, which no cost changes, in **steps** of at most 1/64
of it; between classes their first ones are compared by what the request really costs there. So
nobody is passed over who would have finished it much sooner:

    finish(chosen) <= PERF_STEP * finish(any other that may be chosen)

since load / perf differs by less than 1/64 within a step, and cost / perf by less than 9% within a
class; a measured perf is off by more. It also means that idle workers whose measurements differ by
a few percent take turns, where otherwise the luckiest would get every request.

Costs: a step is a linked list and has its place in a heap of steps. There are some dozens of steps
and of classes whatever the number of workers; in the worst case, O(log n) and a class for each 9%
of perf.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heappop, heappush
from math import floor, frexp, inf, log2

from stoker.autoscaler.booking import NOTHING, WorkerBook

CLASSES_PER_DOUBLING = 8

PERF_STEP = 2.0 ** (1 / CLASSES_PER_DOUBLING)
"""Ratio of the highest to the lowest perf in a class, at most."""

STEPS_PER_DOUBLING = 64

_NO_LOAD = -(10**9)
"""Steps of workers without load begin here, and count their requests; below all others."""


def step_of(seconds: float) -> int:
    """The step that a time belongs to: from one to the next it grows by 1/128 to 1/64."""
    mantissa, exponent = frexp(seconds)  # seconds = mantissa * 2**exponent, from 1/2 to 1
    return exponent * STEPS_PER_DOUBLING + int(mantissa * 2 * STEPS_PER_DOUBLING)


class _Class:
    """Workers in an order; the first is at hand, so that a change of another touches it not."""

    __slots__ = ("_heap", "_steps", "first", "index", "number")

    def __init__(self, number: tuple[int, bool], index: int) -> None:
        self._steps: dict[int, OrderedDict[int, WorkerBook]] = {}
        self._heap: list[int] = []
        """Every key of `_steps`, once. One that is empty is dropped when it comes up."""
        self.first: WorkerBook | None = None
        """Of the lowest step, the one that has been there longest."""
        self.number = number
        self.index = index
        """Where `Ranking` has its figures."""

    def put(self, worker: WorkerBook, step: int) -> None:
        """It is in that step from now on, behind those that are there."""
        workers = self._steps.get(step)
        if workers is None:
            workers = self._steps[step] = OrderedDict()
            heappush(self._heap, step)
        workers[worker.worker_id] = worker
        worker.rank, worker.rank_step, worker.rank_turn = self, step, worker.last_turn
        if self.first is None or step < self.first.rank_step:
            self.first = worker

    def drop(self, worker: WorkerBook) -> None:
        """Without `worker`, which is in it."""
        del self._steps[worker.rank_step][worker.worker_id]
        worker.rank = None
        if self.first is worker:
            self.first = self._find_first()

    def _find_first(self) -> WorkerBook | None:
        heap, steps = self._heap, self._steps
        while heap:
            workers = steps[heap[0]]
            if workers:
                return next(iter(workers.values()))
            del steps[heappop(heap)]
        return None


class Ranking:
    """The workers of an endpoint that are in rotation, by who is next."""

    __slots__ = ("_by_number", "_classes", "_delays", "_full", "_rates", "_starts")

    def __init__(self) -> None:
        self._full = _Class((0, True), -1)
        self._by_number: dict[tuple[int, bool], _Class] = {}
        # For each class, of its first worker: seconds until a request begins as far as is known,
        # seconds until its load is done (both inf: no worker), and seconds for a load unit. Beside
        # each other, so that one pass over them is fast.
        self._classes: list[_Class] = []
        self._starts: list[float] = []
        self._delays: list[float] = []
        self._rates: list[float] = []

    def update(self, worker: WorkerBook) -> None:
        """A worker's figures have changed, or it has come, or left the rotation."""
        rank = worker.rank
        if not (worker.available and worker.url):
            if rank is not None:
                self._drop(worker)
            return
        load, requests = worker.load, worker.requests
        if 0 < worker.slots <= requests:
            target, order = self._full, worker.start_after()
        else:
            number = floor(log2(worker.perf) * CLASSES_PER_DOUBLING), worker.slots > 0
            target = self._by_number.get(number) or self._new_class(number)
            order = load / worker.perf
        step = step_of(order) if load > NOTHING else _NO_LOAD + requests
        before = target.first
        if rank is not None:
            if rank is not target:
                self._drop(worker)
            elif worker.rank_step == step and worker.rank_turn == worker.last_turn:
                if worker is before:
                    self._figures(target)  # a little may have changed
                return
            else:
                target.drop(worker)
        target.put(worker, step)
        if before is not target.first or before is worker:
            self._figures(target)

    def best(
        self, cost: float, max_queue_time: float, avoid: WorkerBook | None = None
    ) -> WorkerBook | None:
        """The worker that is to get a request, or None.

        Args:
            cost: its load.
            max_queue_time: seconds; see `WorkerBook.takes`.
            avoid: only if there is no other.
        """
        if avoid is None or avoid.rank is None:
            return self._best(cost, max_queue_time)
        self._drop(avoid)
        found = self._best(cost, max_queue_time)
        self.update(avoid)
        if found is None and avoid.takes(max_queue_time):
            return avoid
        return found

    def _best(self, cost: float, max_queue_time: float) -> WorkerBook | None:
        finishes = [
            delay + cost * rate if start <= max_queue_time else inf
            for start, delay, rate in zip(self._starts, self._delays, self._rates, strict=True)
        ]
        least = min(finishes, default=inf)
        if least < inf:
            if finishes.count(least) == 1:
                return self._classes[finishes.index(least)].first
            equal = [
                worker
                for one, finish in zip(self._classes, finishes, strict=True)
                if finish == least and (worker := one.first) is not None
            ]
            return min(equal, key=lambda worker: (worker.requests, worker.last_turn))
        full = self._full.first
        if full is not None and full.takes(max_queue_time):
            return full
        return None

    def _drop(self, worker: WorkerBook) -> None:
        former: _Class = worker.rank
        former.drop(worker)
        self._figures(former)

    def _new_class(self, number: tuple[int, bool]) -> _Class:
        new = self._by_number[number] = _Class(number, len(self._classes))
        self._classes.append(new)
        self._starts.append(inf)
        self._delays.append(inf)
        self._rates.append(0.0)
        return new

    def _figures(self, changed: _Class) -> None:
        """Take over what the first worker of a class makes of it."""
        index = changed.index
        if index < 0:
            return
        first = changed.first
        if first is not None:
            load = first.load
            delay = self._delays[index] = load / first.perf if load > NOTHING else 0.0
            self._starts[index] = 0.0 if first.slots > 0 else delay
            self._rates[index] = 1.0 / first.perf
            return
        # Its last worker has gone: the last class takes its place.
        del self._by_number[changed.number]
        last, start = self._classes.pop(), self._starts.pop()
        delay, rate = self._delays.pop(), self._rates.pop()
        if last is not changed:
            last.index = index
            self._classes[index], self._starts[index] = last, start
            self._delays[index], self._rates[index] = delay, rate
