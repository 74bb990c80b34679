"""The phases of an instance. Everything that decides the next phase lives in this file.

Rules:

* ``preparing``: steps before the start are run, or a certificate is waited for; where there is
  nothing of the kind, this phase is left out.
* ``starting``: what is not running has been started; the model server is not healthy yet.
* ``running``: the model server is healthy and the worker runs.
* ``backoff``: something ended or fell ill; it is started again at `retry_at`.
* ``failed``: more than `max_restarts` faults in a row, or one that no restart can mend. The
  launcher stays, to report the error, until it is told to stop. One that nobody owns ends by itself
  once a control plane knows the error, or where it has none.
* ``draining``: told to stop; the worker finishes its requests. From here there is no way back.
* ``stopped``: no process is left.

No I/O and no clock here: `now` is an argument, in seconds on any clock that does not go backwards.
"""

from __future__ import annotations

from enum import Enum, StrEnum

from stoker.launcher.backoff import Backoff


class Phase(StrEnum):
    """Where an instance is in its life; the value is the text in state.json."""

    PREPARING = "preparing"
    STARTING = "starting"
    RUNNING = "running"
    BACKOFF = "backoff"
    FAILED = "failed"
    DRAINING = "draining"
    STOPPED = "stopped"


class Event(Enum):
    """What can happen to an instance."""

    PREPARE = "prepare"
    PREPARED = "prepared"
    HEALTHY = "healthy"
    FAULT = "fault"
    RETRY = "retry"
    GIVE_UP = "give up"
    STOP = "stop"
    ENDED = "ended"


_TABLE: dict[tuple[Phase, Event], Phase] = {
    (Phase.STARTING, Event.PREPARE): Phase.PREPARING,
    (Phase.PREPARING, Event.PREPARED): Phase.STARTING,
    (Phase.PREPARING, Event.FAULT): Phase.BACKOFF,
    (Phase.PREPARING, Event.GIVE_UP): Phase.FAILED,
    (Phase.PREPARING, Event.STOP): Phase.DRAINING,
    (Phase.STARTING, Event.HEALTHY): Phase.RUNNING,
    (Phase.STARTING, Event.FAULT): Phase.BACKOFF,
    (Phase.STARTING, Event.GIVE_UP): Phase.FAILED,
    (Phase.STARTING, Event.STOP): Phase.DRAINING,
    (Phase.RUNNING, Event.FAULT): Phase.BACKOFF,
    (Phase.RUNNING, Event.GIVE_UP): Phase.FAILED,
    (Phase.RUNNING, Event.STOP): Phase.DRAINING,
    # A second fault while waiting (the model server ends after the worker did) waits longer.
    (Phase.BACKOFF, Event.FAULT): Phase.BACKOFF,
    (Phase.BACKOFF, Event.RETRY): Phase.STARTING,
    (Phase.BACKOFF, Event.GIVE_UP): Phase.FAILED,
    (Phase.BACKOFF, Event.STOP): Phase.DRAINING,
    (Phase.FAILED, Event.STOP): Phase.DRAINING,
    (Phase.DRAINING, Event.ENDED): Phase.STOPPED,
}


class Lifecycle:
    """The phase of one instance, and why it is in it."""

    def __init__(self, backoff: Backoff, *, max_restarts: int) -> None:
        self._backoff = backoff
        self._max_restarts = max_restarts
        self.phase = Phase.STARTING
        self.restarts = 0
        """Restarts so far, in all."""
        self.retry_at = 0.0
        """When ``backoff`` ends, on the clock of `now`."""
        self.error = ""
        """The last fault; empty again once running."""

    @property
    def failures(self) -> int:
        """Faults in a row."""
        return self._backoff.failures

    def _move(self, event: Event) -> bool:
        after = _TABLE.get((self.phase, event))
        if after is None:
            return False
        self.phase = after
        return True

    def prepare(self) -> None:
        """What has to be there before the start is not there yet."""
        self._move(Event.PREPARE)

    def prepared(self) -> None:
        """It is."""
        self._move(Event.PREPARED)

    def healthy(self, now: float) -> None:
        """The model server is healthy and the worker runs."""
        if self._move(Event.HEALTHY):
            self.error = ""
        if self.phase is Phase.RUNNING:
            self._backoff.recovered(now)
            self._backoff.healthy(now)

    def fault(self, reason: str, now: float, *, hopeless: bool = False) -> None:
        """Something ended, fell ill or could not start.

        Args:
            reason: for people; kept as `error`.
            now: time.
            hopeless: a restart would not help (a wrong setting).
        """
        if (self.phase, Event.FAULT) not in _TABLE:
            return
        self.error = reason
        retry_at = self._backoff.failed(now)
        if hopeless or self._backoff.failures > self._max_restarts:
            self._move(Event.GIVE_UP)
        else:
            self._move(Event.FAULT)
            self.retry_at = retry_at

    def retry(self, now: float) -> bool:
        """Whether it is time to start again; if so, the phase is ``starting`` from here on."""
        if self.phase is Phase.BACKOFF and now >= self.retry_at:
            self.restarts += 1
            return self._move(Event.RETRY)
        return False

    def stop(self) -> bool:
        """Told to stop; False when that is under way already."""
        return self._move(Event.STOP)

    def ended(self) -> None:
        """No process is left."""
        self._move(Event.ENDED)
