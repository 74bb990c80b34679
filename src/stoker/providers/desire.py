"""What is wanted of a local instance: the file ``desired.json`` in its directory.

Rules:

* What is wanted is on disk before anything is done about it, so an action that was interrupted is
  finished by whoever looks next.
* ``running``: a launcher that is not there is started; after each start that came to nothing it is
  waited for twice as long, and after `MAX_LAUNCHES` in a row the instance has failed. A healthy
  time clears the count, and so does a new `start`.
* ``running`` and ``stale``: what is there runs former settings. It is ended as for ``stopped``,
  then started again.
* ``stopped``: a launcher that is there is told to stop; once it is over its time, it is killed.
* ``destroyed``: as ``stopped``; then what is left is removed. There is no way back.

Pure: `now` is passed in, in seconds of the machine's monotonic clock. It goes on over a restart of
the control plane and does not care when the time of day is set. It begins anew with the machine,
whose instances do not outlive it: a moment that lies ahead is of an earlier boot (`dated`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_LAUNCHES = 5
"""Starts of a launcher in a row that may come to nothing."""

HEALTHY_AFTER = 30.0
"""Seconds in phase ``running`` after which earlier launches are forgotten."""

_FIRST_DELAY = 0.5
_MAX_DELAY = 30.0

Wanted = Literal["running", "stopped", "destroyed"]
Step = Literal["wait", "launch", "tell", "kill", "remove", "give up"]


class Desire(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is wanted, since when, and what was tried. Times are of the monotonic clock."""

    wanted: Wanted
    since: float
    created_at: float
    """Unix seconds, for people."""
    launches: int = 0
    """Starts of the launcher in a row without a healthy time."""
    launched_at: float = 0.0
    stale: bool = False
    """A launcher that is there was started with former settings."""

    def dated(self, now: float) -> Desire:
        """The same with no moment that lies ahead: it is of an earlier boot of the machine."""
        if self.since <= now and self.launched_at <= now:
            return self
        return msgspec.structs.replace(
            self,
            since=min(self.since, now),
            launched_at=self.launched_at if self.launched_at <= now else 0.0,
        )

    def want(self, wanted: Wanted, now: float) -> Desire:
        """The same instance with another wish."""
        if self.wanted in (wanted, "destroyed"):
            return self
        return msgspec.structs.replace(self, wanted=wanted, since=now, launches=0)

    def renew(self, now: float) -> Desire:
        """The same instance, running, with settings that are written next."""
        if self.wanted == "destroyed":
            return self
        return msgspec.structs.replace(self, wanted="running", since=now, launches=0, stale=True)

    def launched(self, now: float) -> Desire:
        """A launcher is being started at `now`."""
        return msgspec.structs.replace(
            self, launches=self.launches + 1, launched_at=now, stale=False
        )

    def healthy(self, running_since: float, now: float) -> Desire:
        """The instance has been seen running since `running_since`."""
        if self.launches and now - running_since >= HEALTHY_AFTER:
            return msgspec.structs.replace(self, launches=0)
        return self

    def next_step(self, *, alive: bool, told: bool, grace: float, now: float) -> Step:
        """What is to be done now.

        Args:
            alive: the launcher is there.
            told: it was told to stop.
            grace: seconds that it may take to stop.
            now: time.
        """
        if self.wanted == "running" and not (self.stale and alive):
            if alive:
                return "wait"
            if self.launches >= MAX_LAUNCHES:
                return "give up"
            # 0.5, 1, 2, 4 s after the last start. Once healthy for long, launches is 0: at once.
            delay = min(_FIRST_DELAY * 2 ** (self.launches - 1), _MAX_DELAY) if self.launches else 0
            return "launch" if not 0 <= now - self.launched_at < delay else "wait"
        if not alive:
            return "remove" if self.wanted == "destroyed" else "wait"
        if now - self.since > grace:
            return "kill"
        return "wait" if told else "tell"
