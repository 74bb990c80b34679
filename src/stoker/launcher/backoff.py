"""When to try again: exponential, capped, forgotten after a healthy time. Pure; `now` is passed in.

Delays are not random: one launcher restarts its own children, so there is no crowd to spread.
"""

from __future__ import annotations


class Backoff:
    """Counts consecutive failures and says how long to wait after each.

    With ``initial=0.5, factor=2, maximum=30`` it is 0.5, 1, 2, 4, 8, 16, 30, 30 ... seconds.
    """

    def __init__(
        self,
        *,
        initial: float = 0.5,
        factor: float = 2.0,
        maximum: float = 30.0,
        healthy_after: float = 30.0,
    ) -> None:
        """Start with no failure.

        Args:
            initial: seconds to wait after the first failure.
            factor: each wait is this times the one before.
            maximum: seconds, at most.
            healthy_after: seconds of health after which earlier failures are forgotten.
        """
        self._initial = initial
        self._factor = factor
        self._maximum = maximum
        self._healthy_after = healthy_after
        self._healthy_since: float | None = None
        self.failures = 0
        """Consecutive failures."""

    def failed(self, now: float) -> float:
        """Count a failure at `now`; returns when to try again, on the same clock."""
        self.healthy(now)  # a long healthy time ends with this failure, and still counts
        self._healthy_since = None
        self.failures += 1
        # The exponent is bounded because 2.0 ** 1024 overflows.
        delay = self._initial * self._factor ** min(self.failures - 1, 64)
        return now + min(delay, self._maximum)

    def healthy(self, now: float) -> None:
        """All was well until `now`, if `recovered` was called since the last failure."""
        since = self._healthy_since
        if since is not None and now - since >= self._healthy_after:
            self.failures = 0

    def recovered(self, now: float) -> None:
        """Health begins at `now`."""
        if self._healthy_since is None:
            self._healthy_since = now
