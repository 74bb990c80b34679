"""How long a worker has been silent, as far as we could hear. Pure; `now` is passed in.

A control plane that was stopped for some seconds (a suspended machine, a debugger, a host without
time for us) finds reports that wait in its sockets. Until it has read them, silence says nothing
about the workers: without this rule all idle ones would leave the rotation at once, and new ones
would be created in their place.
"""

from __future__ import annotations

BEAT = 0.5
"""Seconds between two calls of `beat`."""

STALL = 2.0
"""Seconds without a beat after which we count as having been away."""


class Hearing:
    """Counts the silence of others only while we listen."""

    def __init__(self) -> None:
        self._beat: float | None = None
        self._since = float("-inf")

    def beat(self, now: float) -> None:
        """We listen at `now`; to be called each `BEAT` seconds. Before the first, we do always."""
        if self._beat is not None and now - self._beat > STALL:
            self._since = now
        self._beat = now

    def silence(self, last: float, now: float) -> float:
        """Seconds since `last` for which we could have heard something."""
        if self._beat is not None and now - self._beat > STALL:
            return 0.0
        return now - max(last, self._since)
