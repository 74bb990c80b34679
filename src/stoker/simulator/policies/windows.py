"""Means over the last seconds, from counters that only grow."""

from __future__ import annotations

from collections import deque


class WindowMean:
    """The mean rate of growth of a counter over the last `window` seconds.

    The counter is read in each round; between two readings it is taken to have grown evenly. Before
    the first window is full, the mean is of the time that has passed.
    """

    __slots__ = ("_readings", "_window")

    def __init__(self, window: float) -> None:
        self._window = window
        self._readings: deque[tuple[float, float]] = deque()

    def of(self, counter: float, now: float) -> float:
        """Take a reading, and answer the mean per second; 0.0 at the first."""
        readings = self._readings
        if not readings or now > readings[-1][0]:
            readings.append((now, counter))
        start = now - self._window
        while len(readings) > 1 and readings[1][0] <= start:
            readings.popleft()
        at, value = readings[0]
        if at < start and len(readings) > 1:
            next_at, next_value = readings[1]
            value += (next_value - value) * (start - at) / (next_at - at)
            at = start
        return (counter - value) / (now - at) if now > at else 0.0
