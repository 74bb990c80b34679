"""Two judgements over time, pure: is the model server ill, and is the owner gone?"""

from __future__ import annotations

from typing import Literal

Observation = Literal["ok", "refused", "timeout", "busy"]


class HealthJudge:
    """Decides when a model server that was healthy once is ill.

    Rules:

    * before the first "ok" nothing is ill: loading takes its time;
    * `refusals` bad answers in a row (connection refused, cut, status 500 and up) are illness;
    * a health check that times out may only mean that the server is busy with a request, so
      it is illness only after `hang_after` seconds without one "ok";
    * while the worker says that the model server is "busy" (it streams an answer, or is silent over
      a long prompt within the time that it may be) nothing is ill: to end it would cut the answer.
    """

    def __init__(self, *, refusals: int = 3, hang_after: float = 60.0) -> None:
        self._limit = refusals
        self._hang_after = hang_after
        self._refused = 0
        self._last_ok: float | None = None

    @property
    def was_healthy(self) -> bool:
        """Whether there ever was an "ok"."""
        return self._last_ok is not None

    def observe(self, seen: Observation, now: float) -> str:
        """Note one check; returns why the server is ill, or an empty text."""
        if seen == "ok":
            self._last_ok, self._refused = now, 0
            return ""
        if self._last_ok is None:
            return ""
        if seen == "busy":
            self._last_ok, self._refused = now, 0
            return ""
        if seen == "refused":
            self._refused += 1
            if self._refused >= self._limit:
                return f"failed {self._refused} health checks in a row"
        else:
            self._refused = 0
        silent = now - self._last_ok
        if silent >= self._hang_after:
            return f"answered no health check for {silent:.0f} s"
        return ""


class OwnerWatch:
    """Decides when an instance has no owner any more.

    The owner (a control plane) holds a lock on a file while it lives. After a restart it takes the
    lock again and finds its instances running; if none does for `timeout` seconds, nobody
    wants the instance, and it stops by itself.
    """

    def __init__(self, timeout: float, now: float) -> None:
        self._timeout = timeout
        self._last_held = now

    def observe(self, held: bool, now: float) -> bool:
        """Note one look at the lock; returns whether the owner has been gone for too long."""
        if held:
            self._last_held = now
        return now - self._last_held >= self._timeout
