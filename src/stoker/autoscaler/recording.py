"""What was asked of each endpoint: the arrival and the load of its newest requests, in memory.

Bounded: `MAX_REQUESTS` for each endpoint and `MAX_TOTAL` for all, 16 bytes a request. Beyond that
the oldest are forgotten. A request counts once, when it first comes; polls and retries do not.
Neither keys nor payloads are kept.
"""

from __future__ import annotations

from array import array

MAX_REQUESTS = 100_000
"""Requests that are remembered of one endpoint: 1.6 MB."""

MAX_TOTAL = 5_000_000
"""... and of all endpoints together: 80 MB. Above it, each keeps the room that it has."""

LEAST = 100
"""Requests that every endpoint has room for."""


class Recording:
    """A ring of (arrival, load) that grows up to a bound."""

    __slots__ = ("_arrivals", "_loads", "_next", "forgotten_at")

    def __init__(self) -> None:
        self._arrivals = array("d")
        self._loads = array("d")
        self._next = 0
        self.forgotten_at: float | None = None
        """When the newest request came that is not remembered any more; None: all are."""

    def __len__(self) -> int:
        return len(self._arrivals)

    def add(self, load: float, now: float, *, may_grow: bool) -> bool:
        """Remember a request; whether that took more room."""
        if not self._arrivals or may_grow:
            # It only grows while nothing was overwritten, or the order would be lost.
            if self._next == 0:
                self._arrivals.append(now)
                self._loads.append(load)
                return True
            self._unroll()
            return self.add(load, now, may_grow=may_grow)
        self.forgotten_at = self._arrivals[self._next]
        self._arrivals[self._next], self._loads[self._next] = now, load
        self._next = (self._next + 1) % len(self._arrivals)
        return False

    def _unroll(self) -> None:
        place = self._next
        self._arrivals = self._arrivals[place:] + self._arrivals[:place]
        self._loads = self._loads[place:] + self._loads[:place]
        self._next = 0

    def since(self, start: float) -> list[tuple[float, float]]:
        """(arrival, load) of what came at `start` or later, the oldest first."""
        self._unroll()
        return [
            (at, load) for at, load in zip(self._arrivals, self._loads, strict=True) if at >= start
        ]


class Recordings:
    """One recording for each endpoint that was asked for something."""

    def __init__(self, limit: int = MAX_REQUESTS, total: int = MAX_TOTAL) -> None:
        self._limit, self._total = limit, total
        self._recordings: dict[int, Recording] = {}
        self._kept = 0

    def came(self, endpoint_id: int, load: float, now: float) -> None:
        """A new request came."""
        recording = self._recordings.get(endpoint_id)
        if recording is None:
            recording = self._recordings[endpoint_id] = Recording()
        size = len(recording)
        room = size < self._limit and (self._kept < self._total or size < LEAST)
        self._kept += recording.add(load, now, may_grow=room)

    def forget(self, endpoint_id: int) -> None:
        """The endpoint is gone; no harm if nothing is known of it."""
        self._kept -= len(self._recordings.pop(endpoint_id, ()))

    def of(self, endpoint_id: int, start: float) -> tuple[list[tuple[float, float]], bool]:
        """What came to an endpoint since `start`.

        Returns:
            (arrival, load) of each request, the oldest first; and whether that is all of them.
        """
        recording = self._recordings.get(endpoint_id)
        if recording is None:
            return [], True
        lost = recording.forgotten_at
        return recording.since(start), lost is None or lost < start
