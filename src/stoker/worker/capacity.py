"""The capacity of a model server: measured by the benchmark, then put right by what is seen.

Rules (everything that decides about perf after the benchmark lives in this file):

* Only what is served while the model server is *saturated* says what it can do. It is while every
  place is taken the whole time (see `Admission.take_slack`); a moment without makes the window
  begin anew.
* A window lasts `WINDOW` seconds at least, and `SPANS` times as long as a request takes: what is
  served is counted when an answer ends (unless its tokens are counted as they pass), so a window
  in which few requests end says little.
* A window moves perf half of the way to what it saw. E.g. benchmark 100/s, truth 60/s: 80, 70, 65.
* perf stays within a factor of `BOUND` of the benchmark, so that a fault in the figures cannot lead
  it anywhere.

Pure: no clock and no I/O.
"""

from __future__ import annotations

WINDOW = 10.0
"""Shortest window, seconds."""

SPANS = 2.0
"""Shortest window, in times of a request."""

BOUND = 20.0


class Capacity:
    """What a model server can do.

    Attributes:
        perf: load units per second; 0 until it was measured.
        corrections: windows that have moved it.
    """

    def __init__(self) -> None:
        self.perf = 0.0
        self.corrections = 0
        self._measured = 0.0
        self._began: tuple[float, float] | None = None

    def measured(self, perf: float) -> None:
        """The benchmark has a result; the same one again changes nothing."""
        if perf != self._measured:
            self.perf = self._measured = perf
            self._began = None

    def observe(
        self, now: float, served: float, *, saturated: bool, request_seconds: float
    ) -> bool:
        """Look at the figures; call it about once a second.

        Args:
            now: seconds on a clock that does not go backwards.
            served: load units served since the worker started.
            saturated: whether it was saturated ever since the last call.
            request_seconds: how long a request takes at present, start to end.

        Returns:
            whether `perf` changed.
        """
        if not saturated or not self._measured:
            self._began = None
            return False
        if self._began is None:
            self._began = (now, served)
            return False
        since, before = self._began
        seconds = now - since
        if seconds < max(WINDOW, SPANS * request_seconds):
            return False
        self._began = (now, served)
        seen = (served - before) / seconds
        low, high = self._measured / BOUND, self._measured * BOUND
        perf = min(high, max(low, (self.perf + seen) / 2))
        changed = perf != self.perf
        self.perf = perf
        self.corrections += changed
        return changed
