"""How far an endpoint's forecasts were off."""

from __future__ import annotations

import math
from collections import deque

from stoker.autoscaler.planning.history import LoadHistory

HORIZONS = (60.0, 600.0, 3600.0, 86400.0)
"""Seconds ahead for which the forecast is told, beside the time that a worker takes to come."""


class ForecastErrors:
    """How far the forecasts of `HORIZONS` were off: one is made each minute, and judged later."""

    def __init__(self) -> None:
        self._pending: list[deque[tuple[float, float]]] = [deque() for _ in HORIZONS]
        self._variance = [0.0] * len(HORIZONS)
        self._next = 0.0

    def of(self, seconds: float) -> float:
        """Standard deviation of the error that far ahead, load units per second."""
        for horizon, variance in zip(HORIZONS, self._variance, strict=True):
            if seconds <= horizon:
                return math.sqrt(variance)
        return math.sqrt(self._variance[-1])

    def step(self, history: LoadHistory, now: float) -> None:
        """Judge what was forecast for now, and forecast anew; does nothing within a minute."""
        if now < self._next:
            if self._next - now > HORIZONS[0]:
                self._next = now  # the clock was set back
            return
        self._next = now + HORIZONS[0]
        level = history.mean(int(HORIZONS[0]))
        for place, horizon in enumerate(HORIZONS):
            pending = self._pending[place]
            while pending and pending[0][0] <= now:
                _, expected = pending.popleft()
                square = (level - expected) ** 2
                former = self._variance[place]
                self._variance[place] = square if former <= 0 else 0.95 * former + 0.05 * square
            pending.append((now + horizon, history.ahead(now, horizon, level)))
            # A minute apart, so a day's worth at most; a clock that jumps must not add to it.
            while len(pending) > horizon / HORIZONS[0] + 1:
                pending.popleft()
