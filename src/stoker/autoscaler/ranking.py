"""Which worker of an endpoint is next, in O(log n). Pure.

Rules:

* Workers with a free **slot** come before those without; one whose slots are not known counts as
  having one. (A request that finds no slot waits, however much the worker will soon have done.)
* Among workers with a slot: the one that would **finish** the request first, (load + cost) / perf.
* Among workers without: the one where a slot is free first (`WorkerBook.start_after`).
* Equal ones: the one with fewer requests, then the one that was chosen the longest ago, so that no
  worker gets them all.
* Workers over `max_queue_time` are left out (`WorkerBook.takes`).

Finish times of workers of different perf have no one order for all costs: a small request may end
first on a slow idle worker, a large one on a fast busy one. So workers are put into **classes** of
perf, `PERF_STEP` wide. Within a class they are ordered by load / perf, which no cost changes; between
classes their first ones are compared by what the request really costs there. The choice is exact
among workers of equal perf, and in any case

    finish(chosen) <= finish(any other that may be chosen) + (PERF_STEP - 1) * cost / perf(other)

because cost / perf differs by less than that within a class: 9% of a request's own service time,
less than a measured perf is off by. It also means that idle workers whose measurements differ by a
few percent take turns, where otherwise the luckiest would get every request.

Costs: a class for each 9% in perf that there is (some tens, whatever the number of workers), and
heaps in them that are repaired lazily: an entry that no longer holds is dropped when it comes up.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from math import floor, inf, log2

from stoker.autoscaler.booking import NOTHING, WorkerBook

CLASSES_PER_DOUBLING = 8

PERF_STEP = 2.0 ** (1 / CLASSES_PER_DOUBLING)
"""Ratio of the highest to the lowest perf in a class, at most."""

SLACK = 64
"""Entries of a heap that may be out of date before it is built anew, besides its own number."""

Entry = tuple[float, int, int, int, WorkerBook]
"""Order, requests, turn and id of a worker, and itself."""


class _Heap:
    """Workers in an order; the first is at hand."""

    __slots__ = ("entries", "index", "live", "number")

    def __init__(self, number: int, index: int) -> None:
        self.entries: list[Entry] = []
        self.live = 0
        self.number = number
        """Of its class."""
        self.index = index
        """Where `Ranking` has its figures."""

    def put(self, entry: Entry, old: Entry | None) -> None:
        """Let `entry` take the place of `old`."""
        entries = self.entries
        entry[4].rank = (self, entry)
        if old is None:
            self.live += 1
            heappush(entries, entry)
        elif entries[0] is old:
            heapreplace(entries, entry)
        else:
            heappush(entries, entry)
        self.repair()

    def drop(self, worker: WorkerBook) -> None:
        """Without `worker`, whose entry is in it."""
        worker.rank = None
        self.live -= 1
        self.repair()

    def repair(self) -> None:
        """Let the first entry be one that holds, and those that do not be few."""
        entries = self.entries
        if len(entries) > 2 * self.live + SLACK:
            self.entries = entries = [one for one in entries if _holds(one)]
            heapify(entries)
        while entries and not _holds(entries[0]):
            heappop(entries)


def _holds(entry: Entry) -> bool:
    rank = entry[4].rank
    return rank is not None and rank[1] is entry


class Ranking:
    """The workers of an endpoint that are in rotation, by who is next."""

    __slots__ = ("_classes", "_delays", "_full", "_heaps", "_rates")

    def __init__(self) -> None:
        self._full = _Heap(0, -1)
        self._classes: dict[int, _Heap] = {}
        # For each class, of its first worker: seconds until its load is done (inf: no worker), and
        # seconds for a load unit. Beside each other, so that one pass over them is fast.
        self._heaps: list[_Heap] = []
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
            number = floor(log2(worker.perf) * CLASSES_PER_DOUBLING)
            target = self._classes.get(number) or self._new_class(number)
            order = load / worker.perf if load > NOTHING else 0.0
        entry = (order, requests, worker.last_turn, worker.worker_id, worker)
        old = None
        if rank is not None:
            if rank[0] is target:
                old = rank[1]
                if old == entry:
                    self._figures(target)  # its perf may have changed a little
                    return
            else:
                self._drop(worker)
        target.put(entry, old)
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
        if found is None and avoid.takes(cost, max_queue_time):
            return avoid
        return found

    def _best(self, cost: float, max_queue_time: float) -> WorkerBook | None:
        delays = self._delays
        finishes = [delay + cost * rate for delay, rate in zip(delays, self._rates, strict=True)]
        least = min(finishes, default=inf)
        if least > max_queue_time:
            # Only what has no load at all takes it, if there is such a worker.
            finishes = [
                finish if delay == 0.0 else inf
                for finish, delay in zip(finishes, delays, strict=True)
            ]
            least = min(finishes, default=inf)
        if least < inf:
            if finishes.count(least) == 1:
                return self._heaps[finishes.index(least)].entries[0][4]
            firsts = [
                h.entries[0] for h, f in zip(self._heaps, finishes, strict=True) if f == least
            ]
            return min(firsts, key=lambda entry: entry[1:4])[4]
        if self._full.entries:
            first = self._full.entries[0][4]
            if first.takes(cost, max_queue_time):
                return first
        return None

    def _drop(self, worker: WorkerBook) -> None:
        heap: _Heap = worker.rank[0]
        heap.drop(worker)
        self._figures(heap)

    def _new_class(self, number: int) -> _Heap:
        heap = self._classes[number] = _Heap(number, len(self._heaps))
        self._heaps.append(heap)
        self._delays.append(inf)
        self._rates.append(0.0)
        return heap

    def _figures(self, heap: _Heap) -> None:
        index = heap.index
        if index < 0:
            return
        if heap.live:
            first = heap.entries[0]
            self._delays[index] = first[0]
            self._rates[index] = 1.0 / first[4].perf
            return
        # Its last worker has gone: the last class takes its place.
        del self._classes[heap.number]
        last, delay, rate = self._heaps.pop(), self._delays.pop(), self._rates.pop()
        if last is not heap:
            last.index = index
            self._heaps[index], self._delays[index], self._rates[index] = last, delay, rate
