"""Whether the model server behind this worker can serve: a state machine.

Rules (everything that affects it lives in this file):

* WAITING: for the line of the log that says the model is loaded (or, where no such line is
  configured, for the health check to pass).
* BENCHMARKING: its capacity is measured. Left out where a result is known.
* CHECKING: for a health check to pass.
* READY: serving. UNHEALTHY: it was ready, and its health check fails; requests get 503.
* ERRORED: an error line was seen, or the benchmark failed. The worker says why.
* A model server that died and came back is noticed by its new "loaded" line, or by its health check
  that passes again; the worker is then ready again by itself. From ERRORED only a new "loaded" line
  leads out (where none is configured: a health check that failed and passes again), because a
  broken model may well answer its health check.
* Anything the table does not name is ignored: the state stays.

Pure: no clock and no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Where the model server is; see the rules."""

    WAITING = "waiting"
    BENCHMARKING = "benchmarking"
    CHECKING = "checking"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    ERRORED = "errored"


class Event(Enum):
    """What happened to the model server."""

    LOADED = "loaded"
    MEASURED = "measured"
    """The benchmark has a result."""
    BENCHMARK_FAILED = "benchmark_failed"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    CAME_BACK = "came_back"
    """The health check passes that failed before, and there is no "loaded" line to wait for."""
    ERROR_LINE = "error_line"


_LOADED = State.BENCHMARKING
"""Where a load leads; `Readiness.apply` goes on to CHECKING where a result is known."""

TABLE: dict[State, dict[Event, State]] = {
    State.WAITING: {
        Event.LOADED: _LOADED,
        Event.CAME_BACK: _LOADED,
        Event.ERROR_LINE: State.ERRORED,
    },
    State.BENCHMARKING: {
        Event.MEASURED: State.CHECKING,
        Event.BENCHMARK_FAILED: State.ERRORED,
        Event.ERROR_LINE: State.ERRORED,
    },
    State.CHECKING: {
        Event.HEALTHY: State.READY,
        Event.CAME_BACK: State.READY,
        Event.ERROR_LINE: State.ERRORED,
    },
    State.READY: {
        Event.UNHEALTHY: State.UNHEALTHY,
        # It was restarted faster than the health check could notice.
        Event.LOADED: _LOADED,
        Event.ERROR_LINE: State.ERRORED,
    },
    State.UNHEALTHY: {
        Event.HEALTHY: State.READY,
        Event.CAME_BACK: State.READY,
        Event.LOADED: _LOADED,
        Event.ERROR_LINE: State.ERRORED,
    },
    State.ERRORED: {
        Event.LOADED: _LOADED,
        Event.CAME_BACK: _LOADED,
    },
}


@dataclass(slots=True)
class Readiness:
    """The state of one model server.

    Attributes:
        state: now.
        measured: a benchmark result is known, so BENCHMARKING is skipped.
        error: why it is ERRORED or UNHEALTHY, for people; empty otherwise.
    """

    state: State = State.WAITING
    measured: bool = False
    error: str = ""

    @property
    def ready(self) -> bool:
        """Whether requests are let in."""
        return self.state is State.READY

    def apply(self, event: Event, detail: str = "") -> bool:
        """Take note of an event.

        Args:
            event: what happened.
            detail: why, where it is bad news.

        Returns:
            whether the state changed.
        """
        if event is Event.MEASURED:
            self.measured = True
        following = TABLE[self.state].get(event)
        if following is State.BENCHMARKING and self.measured:
            following = State.CHECKING
        if following is None or following is self.state:
            return False
        self.state = following
        self.error = detail if following in (State.ERRORED, State.UNHEALTHY) else ""
        return True


class Health:
    """Turns single health checks into events; a few slow answers are not yet an illness.

    A refused connection is definite and counts at once. A slow or bad answer may be a busy model
    server's, so `patience` of them in a row are needed.
    """

    def __init__(self, *, came_back_counts: bool, patience: int = 3) -> None:
        self._came_back_counts = came_back_counts
        self._patience = patience
        self._failures = 0
        self._down = True  # until seen up, so that the first success is an event

    @property
    def failing(self) -> bool:
        """Whether the last check failed."""
        return self._failures > 0 or self._down

    def passed(self) -> Event:
        """A check passed."""
        came_back = self._down and self._came_back_counts
        self._failures, self._down = 0, False
        return Event.CAME_BACK if came_back else Event.HEALTHY

    def failed(self, *, definite: bool) -> Event | None:
        """A check failed.

        Args:
            definite: the connection was refused: nobody is there.
        """
        self._failures += self._patience if definite else 1
        if self._failures < self._patience:
            return None
        self._down = True
        return Event.UNHEALTHY
