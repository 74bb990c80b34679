"""When the load has gone for which workers still boot.

A burst that is shorter than a boot leaves boots behind that serve nothing. To call them off saves
what is left of them; to let them end fills the pool for the next burst. Nobody knows whether there
will be one. So the first time that the need falls far they are called off, and once it has happened
the boots are worth their time: bursts come again.

The need falls far when it is a third, or less, of what it was within half a boot, and two workers
less at least. A load that moves by chance, or rises slowly, does not fall so far.
"""

from __future__ import annotations

import math

FALLEN = 1 / 3
"""Of the need of a moment ago, what is left at most."""

LEAST = 2
"""Workers by which the need falls at least."""


class Ebb:
    """The need of one endpoint."""

    __slots__ = ("_crest", "_crest_at", "_fallen", "_falls")

    def __init__(self) -> None:
        self._crest = 0.0
        self._crest_at = -math.inf
        self._fallen = False
        self._falls = 0

    def step(
        self, need: float, perf: float, create_seconds: float, now: float, *, booting: bool
    ) -> bool:
        """Whether boots are to be called off.

        Args:
            need: active capacity that the load asks for now, load units per second.
            perf: of a worker, load units per second; above 0.
            create_seconds: how long one takes from its order until it is ready.
            now: seconds, on a clock that goes on.
            booting: workers are being created, and a fall counts.
        """
        soon = create_seconds / 2
        if need >= self._crest or not 0 <= now - self._crest_at < soon:
            self._crest, self._crest_at = need, now
        fallen = need <= FALLEN * self._crest and self._crest - need >= LEAST * perf
        if fallen and booting and not self._fallen:
            self._falls += 1
        self._fallen = fallen and (self._fallen or booting)
        return self._fallen and self._falls == 1

    def clock_set(self, by: float) -> None:
        """The clock was put forward by so many seconds; below 0: back."""
        self._crest_at += by
