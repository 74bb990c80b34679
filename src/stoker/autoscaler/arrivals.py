"""How much load arrives: rates over the last minute, in constant memory.

One-second buckets in a ring. The planner needs three figures of it, all in load units per second:
the mean of the last minute (what to size for), of the last 5 s (when to hurry), and the highest
5-s mean of the last minute (so that it does not scale down between two waves).

What counts as arrived is what a worker has seen, with the load that the worker takes it for, and
what has to wait for a worker, with the load that it is believed to be. A booking that is never used
never arrived; what waited is put right when a worker has seen it, in the second in which it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

WINDOW = 60
"""Seconds that are remembered."""

REVISED = 600
"""Seconds for which it is remembered by how much each was put right."""

RECENT = 5
"""Seconds that count as "now"."""


@dataclass(slots=True)
class Demand:
    """What is asked of an endpoint."""

    arrival_rate: float = 0.0
    """Mean of the last 60 s, load units per second."""
    recent_rate: float = 0.0
    """Mean of the last 5 s."""
    peak_rate: float = 0.0
    """The highest mean over 5 s in the last 60 s; at least the two others."""
    held_load: float = 0.0
    """Load that waits here for a worker, load units."""
    held_count: int = 0
    booked_load: float = 0.0
    """Load assigned to workers and not finished."""
    overstated_load: float = 0.0
    """What of it no worker has seen, and is not to be expected of so many requests: it is booked,
    and not planned for."""
    booked_count: int = 0
    last_request_at: float | None = None
    """When a request was last asked for, polled for or finished; None: never."""
    arrived_load: float = 0.0
    """All load that ever arrived, load units, as it was counted then; what was given up while held
    counts too."""
    arrived_count: int = 0
    """All requests that ever arrived."""
    second: int = 0
    """The second that it is, on the clock of `arrived` and `revised`."""
    arrived: Mapping[int, tuple[float, int]] = field(default_factory=lambda: MappingProxyType({}))
    """Load units and requests by second of arrival, as they were counted then; the last `WINDOW`
    seconds at least. Empty: not known."""
    revisions: int = 0
    """How often what had arrived was put right."""
    revised: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    """By how much in all, load units, by second of arrival; the last `REVISED` seconds."""
    seen: bool = True
    """A worker has seen one of its requests: before that, all load is hearsay."""

    @property
    def outstanding_load(self) -> float:
        """Load that waits or works, to plan for."""
        return self.held_load + max(0.0, self.booked_load - self.overstated_load)


class ArrivalWindow:
    """Load that arrived in each of the last 60 seconds."""

    __slots__ = (
        "_buckets",
        "_fives",
        "_last",
        "_second",
        "_stale",
        "arrived",
        "revised",
        "revisions",
        "total_count",
        "total_load",
    )

    def __init__(self) -> None:
        self._buckets = [0.0] * WINDOW
        self._fives = [0.0] * WINDOW
        """Load of the `RECENT` seconds that end in each."""
        self._stale: set[int] = set()
        """Seconds whose bucket has changed since `_fives` was right."""
        self._second = -1
        self._last = -WINDOW
        """The last second of which anything is known."""
        self.total_load = 0.0
        """Load units that ever arrived."""
        self.total_count = 0
        """Requests that ever arrived."""
        self.arrived: dict[int, tuple[float, int]] = {}
        """Load units and requests by second, the oldest first; at most `2 * WINDOW` seconds."""
        self.revised: dict[int, float] = {}
        self.revisions = 0

    def add(self, load: float, now: float) -> int:
        """Count `load`; the answer is what `take_back` wants to know."""
        self._advance(now)
        self._buckets[self._second % WINDOW] += load
        self._stale.add(self._second)
        self._last = self._second
        self.total_load += load
        self.total_count += 1
        known, count = self.arrived.get(self._second, (0.0, 0))
        self.arrived[self._second] = (known + load, count + 1)
        if len(self.arrived) > 2 * WINDOW:
            oldest = self._second - WINDOW
            self.arrived = {at: came for at, came in self.arrived.items() if at > oldest}
        return self._second

    @property
    def second(self) -> int:
        """The newest second; -1 before the first arrival."""
        return self._second

    def take_back(self, load: float, second: int, now: float) -> None:
        """Uncount load that arrived in `second` and was given up."""
        self._advance(now)
        if self._second - WINDOW < second <= self._second:
            index = second % WINDOW
            self._buckets[index] = max(0.0, self._buckets[index] - load)
            self._stale.add(second)
            self._last = max(self._last, second)

    def revise(self, change: float, second: int, now: float) -> None:
        """What arrived in `second` turned out to be more by `change`, or less."""
        if not change:
            return
        self.take_back(-change, second, now)
        if second <= self._second - REVISED:
            return
        self.revised[second] = self.revised.get(second, 0.0) + change
        self.revisions += 1
        if len(self.revised) > 2 * REVISED:
            oldest = self._second - REVISED
            self.revised = {at: by for at, by in self.revised.items() if at > oldest}

    def rates(self, now: float) -> tuple[float, float, float]:
        """Mean over 60 s, mean over 5 s, highest mean over 5 s: load units per second."""
        self._advance(now)
        if self._second - self._last >= WINDOW:
            return 0.0, 0.0, 0.0
        newest = self._second % WINDOW
        oldest_first = self._buckets[newest + 1 :] + self._buckets[: newest + 1]
        total = sum(oldest_first)
        recent = sum(oldest_first[-RECENT:])
        if self._stale:
            self._sum_fives(oldest_first)
        # Those that end in the oldest seconds would reach further back than is known.
        oldest = newest + RECENT
        if oldest < WINDOW:
            peak = max(self._fives[oldest:] + self._fives[: newest + 1])
        else:
            peak = max(self._fives[oldest - WINDOW : newest + 1])
        return total / WINDOW, recent / RECENT, max(peak / RECENT, total / WINDOW)

    def _sum_fives(self, oldest_first: list[float]) -> None:
        first = self._second - WINDOW + 1
        after = self._second + 1
        changed = {end for at in self._stale for end in range(at, min(at + RECENT, after))}
        for end in changed:
            place = end - first + 1
            if place >= RECENT:
                self._fives[end % WINDOW] = sum(oldest_first[place - RECENT : place])
        self._stale.clear()

    def _advance(self, now: float) -> None:
        second = int(now)
        if self._second < 0:
            self._second = second
        # A clock that was set back counts into the newest second until it has caught up.
        passed = second - self._second
        if passed <= 0:
            return
        for step in range(1, min(passed, WINDOW) + 1):
            self._buckets[(self._second + step) % WINDOW] = 0.0
            self._stale.add(second - step + 1)
        if len(self._stale) > 2 * WINDOW:  # nobody has asked for rates
            self._stale = {at for at in self._stale if at > second - WINDOW}
        self._second = second
