"""One timer for all connections of a server or pool, instead of one per request.

The sweep is also the clock: a connection stamps its changes with `Sweep.now`, which is at most one
`period` behind. A time-out therefore counts as passed only after ``timeout + period``: never early,
and at most two periods late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Sweep:
    """Calls `work(now)` every `period` seconds while it runs."""

    __slots__ = ("_handle", "_loop", "_work", "now", "period")

    def __init__(self, work: Callable[[float], None], period: float = 1.0) -> None:
        self.now = 0.0
        self.period = period
        self._work = work
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin, unless it runs already; needs a running loop."""
        if self._handle is None:
            self._loop = asyncio.get_running_loop()
            self.now = self._loop.time()
            self._handle = self._loop.call_later(self.period, self._tick)

    def stop(self) -> None:
        """End; may be started again."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        assert self._loop is not None
        self._handle = self._loop.call_later(self.period, self._tick)
        self.now = self._loop.time()
        self._work(self.now)
