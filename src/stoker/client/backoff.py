"""How long to wait before the next attempt."""

from __future__ import annotations

import random

FIRST = 0.1
"""Seconds, of the first pause, before jitter."""

FACTOR = 1.6

MOST = 3.0
"""Seconds, of the longest pause, before jitter."""


class Backoff:
    """Pauses that grow, with jitter: a thousand clients of one worker must not return at once."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()
        self._next = FIRST

    def pause(self, retry_after: str | None = None) -> float:
        """Seconds to wait now, from half to the whole of the current step.

        Args:
            retry_after: the header of a refusal, in seconds; it counts when it asks for longer.
        """
        step, self._next = self._next, min(self._next * FACTOR, MOST)
        asked = 0.0
        # Only the form in seconds is used here; a date is ignored, like nonsense.
        if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
            asked = float(min(int(retry_after[:6]), 3600))
        return max(step, asked) * (0.5 + 0.5 * self._rng.random()) + asked * 0.5

    def reset(self) -> None:
        """The other side works again: begin with short pauses."""
        self._next = FIRST
