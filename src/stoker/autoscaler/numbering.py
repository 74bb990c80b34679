"""Numbers that never come twice, also after a restart, whatever the wall clock does.

A worker refuses a ticket whose number is below those that it has seen, and a client may still ask
by a number from before a restart. So numbers count up from microseconds since 1970, on our own
clock; and a mark in the store is always above those that were given out, so that a start after the
wall clock was set back begins above it.

They are below 2**53, so that they survive JSON, for as long as fewer than a million requests a
second are routed, and for some hundred years.
"""

from __future__ import annotations

from stoker.store import Store

MARK = "numbers_below"

AHEAD = 120.0
"""Seconds that the mark is ahead of the numbers when it is written."""

RENEW = 60.0
"""Seconds that it is ahead at least: the store may fail for so long."""


class Numbers:
    """Counts up with time: a million a second."""

    def __init__(self, wall: float, now: float) -> None:
        """Begin where the wall clock is.

        Args:
            wall: Unix seconds.
            now: the same moment on the control plane's own clock.
        """
        self._base = int(wall * 1e6)
        self._began = now
        self._mark = 0

    async def load(self, store: Store) -> None:
        """Begin above all that an earlier control plane gave out."""
        self._base = max(self._base, await store.read_mark(MARK))

    def at(self, now: float) -> int:
        """The number to begin from at `now`."""
        return self._base + int(max(0.0, now - self._began) * 1e6)

    async def keep(self, store: Store, now: float) -> None:
        """Move the mark where it is time for that.

        Raises:
            StoreError: it cannot be written; it is tried again.
        """
        if self._mark - self.at(now) < RENEW * 1e6:
            mark = self.at(now) + int(AHEAD * 1e6)
            await store.keep_mark(MARK, mark)
            self._mark = mark
