"""The time of day, by a wall clock that may be wrong when the process starts, or be set later.

Rules:

* Time goes on by the monotonic clock, so a wall clock that jumps back and forth changes nothing.
* Where the wall clock stands elsewhere by more than `STEP` for `HOLDS` seconds, it is believed: a
  machine that learns the time after its start, or whose clock is set.

Pure: both clocks are passed in.
"""

from __future__ import annotations

STEP = 60.0
"""Seconds that the wall clock must be off. Loads are remembered in slots of five minutes."""

HOLDS = 60.0
"""Seconds for which it must stand there."""


class DayClock:
    """Unix seconds for whatever depends on the time of day."""

    __slots__ = ("_offset", "_other", "_since")

    def __init__(self, wall: float, now: float) -> None:
        """Begin where the wall clock is.

        Args:
            wall: Unix seconds.
            now: the same moment, by the monotonic clock.
        """
        self._offset = wall - now
        self._other: float | None = None
        self._since = now

    def unix(self, now: float) -> float:
        """Unix seconds at a moment of the monotonic clock."""
        return self._offset + now

    def look(self, wall: float, now: float) -> float:
        """Compare with the wall clock; to be called about once a second.

        Returns:
            Seconds by which this clock was put right: 0, but for the one call that does it.
        """
        other = wall - now
        if abs(other - self._offset) <= STEP:
            self._other = None
        elif self._other is None or abs(other - self._other) > STEP:
            self._other, self._since = other, now
        elif now - self._since >= HOLDS:
            step, self._offset, self._other = other - self._offset, other, None
            return step
        return 0.0
