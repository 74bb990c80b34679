"""The clock of a simulation: it jumps to whatever happens next."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

from stoker.autoscaler.pace import MIN_TICK, TICK


class Clock:
    """What is due, and when the control plane's next round is."""

    def __init__(self, *, first_round: float = 0.0, hurried: bool = True) -> None:
        """Begin at 0.

        Args:
            first_round: when the first round is, seconds from the start.
            hurried: `wake` has an effect.
        """
        self.now = 0.0
        """Seconds from the start."""
        self.next_round = first_round
        self._hurried = hurried
        self._last_round = first_round - TICK
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Have something happen: ``call(*arguments, now)``; at the same moment in this order."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, call, arguments))

    def next_event(self) -> float:
        """When the next thing happens; infinite if none does."""
        return self._events[0][0] if self._events else math.inf

    def happen(self) -> None:
        """Let the next thing happen; there must be one."""
        self.now, _, call, arguments = heapq.heappop(self._events)
        call(*arguments, self.now)

    def wake(self, now: float) -> None:
        """Something happened that should not wait for the next regular round."""
        if self._hurried:
            self.next_round = min(self.next_round, max(now, self._last_round + MIN_TICK))

    def begin_round(self) -> None:
        """A round of the control plane begins."""
        self.now = self._last_round = self.next_round
        self.next_round = self.now + TICK
