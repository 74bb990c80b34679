"""Requests that wait for a worker, and whose turn it is. Pure; O(log n) each.

Rules:

* Each **key** (an API key, by a short id) has a line of its own, first come first served.
* Among the lines, start-time fair queueing (Goyal, Vin and Cheng, 1996): a line's tag is the load
  that was given out to it; the line with the smallest tag is next, then its tag grows by the cost
  of the request that it gave. Equal tags: the request that came first.
* A line that was empty begins at the tag of the request that was given out last, so that nobody
  saves up a claim while it asks for nothing. What it got above the others just before is kept.
* A request counts as `MIN_CHARGE` at least, so that many requests of no cost are no way around.
  When a worker has seen that it is larger than it was said to be, its key is charged the rest.
* What was promised a worker that then left comes back to its place; its line gets its charge back.

Proven by the tests, whatever the others hold:

* A key that comes with nothing waiting and no recent surplus waits for **at most one request of
  each other key** before its own first one is next.
* While two keys both have requests waiting, the loads given out to them differ by at most the
  largest request of the one and the largest of the other.

**Bounds** (Choudhury and Hahne's dynamic thresholds, 1998): a key may hold `limit` requests, and no
more than there are free places of 2 x `limit` in all. So one key alone can hold `limit`, and when
it has filled it, another still finds half as much. For a key with nothing waiting there is a place
in any case, up to 3 x `limit` in all.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush

from stoker.autoscaler.booking import GRAIN, Request, grains

MIN_CHARGE = 1.0
"""Load units that a request counts for at least, whatever its cost."""

MAX_SURPLUS = 1_000
"""Keys with nothing waiting whose surplus is remembered, at most."""

SLACK = 64
"""Entries of a heap that may be out of date before it is built anew, besides its own number."""

_Entry = tuple[float, int, str]
"""Tag and first turn of a line, and its key."""


class _Line:
    """What one key holds."""

    __slots__ = ("entry", "heap", "requests", "tag")

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self.heap: list[tuple[int, Request]] = []
        """By turn; those that are gone from `requests` are dropped when they come up."""
        self.tag = 0.0
        self.entry: _Entry | None = None
        """Where it stands in the order of lines; None: nothing waits."""

    def holds(self, turn: int, request: Request) -> bool:
        """Whether that entry of its heap is good."""
        return self.requests.get(request.idx) is request and request.turn == turn

    def put(self, request: Request) -> None:
        """Let it wait, at its turn."""
        self.requests[request.idx] = request
        heappush(self.heap, (request.turn, request))

    def first(self) -> Request | None:
        """The one that came first."""
        if len(self.heap) > 2 * len(self.requests) + SLACK:
            self.heap = [(one.turn, one) for one in self.requests.values()]
            heapify(self.heap)
        while self.heap:
            if self.holds(*self.heap[0]):
                return self.heap[0][1]
            heappop(self.heap)
        return None


class FairQueue:
    """The requests that an endpoint holds."""

    __slots__ = ("_count", "_grains", "_lines", "_order", "_surplus", "_virtual")

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._order: list[_Entry] = []
        self._count = 0
        self._grains = 0
        self._virtual = 0.0
        """Tag of the request that was given out last."""
        self._surplus = 0
        """Lines with nothing waiting that are remembered."""

    def __len__(self) -> int:
        return self._count

    @property
    def load(self) -> float:
        """Load units in all."""
        return self._grains * GRAIN

    @property
    def first(self) -> Request:
        """Whose turn it is; there must be one."""
        while True:
            entry = self._order[0]
            line = self._lines.get(entry[2])
            if line is not None and line.entry is entry:
                first = line.first()
                assert first is not None
                return first
            heappop(self._order)

    def room(self, key: str, limit: int) -> int:
        """How many requests a key may still hold; see "Bounds" above."""
        line = self._lines.get(key)
        mine = len(line.requests) if line is not None else 0
        if not mine and self._count < 3 * limit:
            return max(1, min(limit, 2 * limit - self._count))
        return min(limit, 2 * limit - self._count) - mine

    def held_by(self, key: str) -> int:
        """Requests of a key that wait."""
        line = self._lines.get(key)
        return len(line.requests) if line is not None else 0

    def numbers(self) -> list[int]:
        """The `request_idx` of each, in the order in which they are next; for tests and people."""
        waiting = []
        for key, line in self._lines.items():
            in_line = sorted(line.requests.values(), key=lambda request: request.turn)
            tag = line.tag
            for request in in_line:
                waiting.append((tag, request.turn, key, request.idx))
                tag += _charge(request)
        return [entry[3] for entry in sorted(waiting)]

    def append(self, request: Request) -> None:
        """Let it wait, behind those of its key with a lower `turn`."""
        line = self._line(request.key)
        if not line.requests:
            line.tag = max(line.tag, self._virtual)
        self._put(line, request)

    def give_back(self, request: Request) -> None:
        """What was taken with `take` waits again, at its place."""
        line = self._line(request.key)
        if not line.requests:
            line.tag = max(line.tag, self._virtual)
        line.tag -= request.charged
        request.charged = 0.0
        self._put(line, request)

    def take(self, request: Request) -> None:
        """It is the first of its key, and is given out: its key is charged."""
        line = self._lines[request.key]
        self._virtual = max(self._virtual, line.tag)
        request.charged = _charge(request)
        line.tag += request.charged
        self._remove(line, request)

    def correct(self, key: str, change: float) -> None:
        """What a key was given turned out to be more by `change`.

        Not less: who asked for too much gets nothing back, or it would come before those that
        came to the queue meanwhile.
        """
        line = self._lines.get(key)
        if line is None or change <= 0:
            return
        line.tag += change
        if line.requests:
            self._stand(line, key)

    def judge(self, believe: Callable[[Request], float]) -> list[tuple[Request, float]]:
        """Take what waits for something else than before; nobody's turn changes.

        Args:
            believe: tells what a request is believed to cost, load units.

        Returns:
            The requests whose cost has changed, and by how much.
        """
        changed = []
        for line in self._lines.values():
            for request in line.requests.values():
                cost = believe(request)
                if cost != request.cost:
                    self._grains += grains(cost) - grains(request.cost)
                    changed.append((request, cost - request.cost))
                    request.cost = cost
        return changed

    def others(self, key: str) -> list[Request]:
        """The first of each key but `key`, in the order in which they are next."""
        entries = sorted(x.entry for x in self._lines.values() if x.entry is not None)
        firsts = [self._lines[entry[2]].first() for entry in entries if entry[2] != key]
        return [first for first in firsts if first is not None]

    def remove(self, request: Request) -> None:
        """Nobody waits for it any more; no harm if it is not in."""
        line = self._lines.get(request.key)
        if line is not None and line.requests.get(request.idx) is request:
            self._remove(line, request)

    def _line(self, key: str) -> _Line:
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        elif not line.requests:
            self._surplus -= 1
        return line

    def _put(self, line: _Line, request: Request) -> None:
        line.put(request)
        self._count += 1
        self._grains += grains(request.cost)
        self._stand(line, request.key)

    def _remove(self, line: _Line, request: Request) -> None:
        del line.requests[request.idx]
        self._count -= 1
        self._grains -= grains(request.cost)
        if not self._count:
            # Nobody waits, so nobody has a claim on anybody.
            self._lines.clear()
            self._order.clear()
            self._surplus, self._virtual = 0, 0.0
            return
        if line.requests:
            self._stand(line, request.key)
            return
        line.heap.clear()
        line.entry = None
        self._surplus += 1
        if line.tag <= self._virtual:
            self._forget(request.key)
        elif self._surplus > MAX_SURPLUS:
            self._forget_surplus()

    def _stand(self, line: _Line, key: str) -> None:
        """Put a line to where its tag and its first request belong."""
        first = line.first()
        assert first is not None
        entry = (line.tag, first.turn, key)
        if line.entry == entry:
            return
        line.entry = entry
        heappush(self._order, entry)
        if len(self._order) > 2 * (len(self._lines) - self._surplus) + SLACK:
            self._order = [x.entry for x in self._lines.values() if x.entry is not None]
            heapify(self._order)

    def _forget(self, key: str) -> None:
        del self._lines[key]
        self._surplus -= 1

    def _forget_surplus(self) -> None:
        empty = [key for key, line in self._lines.items() if not line.requests]
        for key in empty:
            if self._lines[key].tag <= self._virtual:
                self._forget(key)
        if self._surplus > MAX_SURPLUS // 2:
            for key in empty:
                if key in self._lines:
                    self._forget(key)


def _charge(request: Request) -> float:
    return max(request.cost, MIN_CHARGE)
