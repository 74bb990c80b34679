"""What is believed of the model server: a state machine, and the evidence that moves it.

Rules (everything that decides whether a worker takes requests lives in this file):

* WAITING: the model loads. A ready line of the log ends it, or a health check that holds for `HOLD`
  seconds: a ready line may never come, or have been rotated away. Where no ready line is
  configured, the first good health check ends it.
* BENCHMARKING: the capacity is measured. TRYING, where it is known already and there is reason to
  doubt: one request of the benchmark must be answered well. Neither is needed where the capacity is
  known and the load was announced by the signal that is configured for it.
* RETRYING: that failed. It is tried again with back-off. Servers answer 503 while they warm up, so
  this is no error for the first `WARM_UP` seconds. Where a ready line is configured and was not
  seen, the model may still be loading behind a health check that is good from the start: then it
  is no error for `UNANNOUNCED` seconds, and a ready line has it tried at once.
* CHECKING: for one more good health check; the port may open a moment after "loaded".
* READY: requests are let in. It ends in three ways:
  - nobody is there: the connection is refused (the launcher ends the worker when the process ends);
  - the health check fails `PATIENCE` times in a row, and nothing excuses it. A server that answers
    somebody is busy: while a request is at work and the server was heard within the time that it
    may be silent, an unanswered or bad health check says nothing. A request that was given up (its
    client left) is at work until there is another sign of life: a server that takes one at a time
    may not notice, and no client can so make it look dead;
  - most answers are errors, and so is the answer to our own request (see `Answers`).
* UNHEALTHY: it was ready, and its health check fails. A good one leads back.
* ERRORED: it was tried and found bad. It is tried again with back-off; a ready line has it tried at
  once.
* A line of the log is a hint, because a server may repeat a client's words there. An error line
  causes a health check, and so does a ready line of a server that is ready: nothing else. Where a
  ready line moves the state, what it moves to has to be proved.
* Every state is left again by evidence. Anything the table does not name changes nothing.

Pure: no clock and no I/O. `now` is in seconds, on a clock that does not go backwards.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

HOLD = 8.0
"""Seconds of good health checks that stand in for a ready line."""

PATIENCE = 3
"""Health checks in a row that must fail; a refused connection counts for all of them."""

WARM_UP = 30.0
"""Seconds for which a loaded model server may answer badly before that is an error."""

UNANNOUNCED = 1800.0
"""Seconds for which a model server may answer badly whose ready line was not seen. An error has its
machine replaced, and the next one would load from the beginning."""

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds until the first new try, and between two tries at most; each waits twice as long."""

DISPROVED_RETRY = 10.0
"""Seconds, at least, until a server is tried again that was ready and answered with errors."""

STEADY = 60.0
"""Seconds of being ready after which earlier failures are forgotten."""


class State(Enum):
    """Where the model server is; see the rules."""

    WAITING = "waiting"
    BENCHMARKING = "benchmarking"
    TRYING = "trying"
    RETRYING = "retrying"
    CHECKING = "checking"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    ERRORED = "errored"


class Event(Enum):
    """What happened to the model server."""

    LOADED = "loaded"
    """A ready line was seen, or the lifecycle was entered."""
    UP = "up"
    """The health check is good, and no ready line is configured to wait for."""
    HELD = "held"
    """The health check holds; it stands in for the ready line that did not come."""
    MEASURED = "measured"
    """The benchmark has a result, or our one request was answered well."""
    FAILED = "failed"
    """The benchmark has none, or our one request was not."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DISPROVED = "disproved"
    """Most answers are errors, and so is that to our own request."""
    BROKEN = "broken"
    """The lifecycle could not be entered, or was left."""
    RETRY = "retry"
    """It is time to try again."""


_PROVE = State.BENCHMARKING
"""`Readiness.apply` makes it TRYING where the capacity is known."""

TABLE: dict[State, dict[Event, State]] = {
    State.WAITING: {
        Event.LOADED: _PROVE,
        Event.UP: _PROVE,
        Event.HELD: _PROVE,
        Event.BROKEN: State.ERRORED,
    },
    State.BENCHMARKING: {
        Event.MEASURED: State.CHECKING,
        Event.FAILED: State.RETRYING,
        Event.BROKEN: State.ERRORED,
    },
    State.TRYING: {
        Event.MEASURED: State.CHECKING,
        Event.FAILED: State.RETRYING,
        Event.BROKEN: State.ERRORED,
    },
    State.RETRYING: {
        Event.RETRY: _PROVE,
        Event.LOADED: _PROVE,
        Event.BROKEN: State.ERRORED,
    },
    State.CHECKING: {
        Event.HEALTHY: State.READY,
        Event.UNHEALTHY: State.RETRYING,
        Event.BROKEN: State.ERRORED,
    },
    State.READY: {
        Event.UNHEALTHY: State.UNHEALTHY,
        Event.DISPROVED: State.ERRORED,
        Event.BROKEN: State.ERRORED,
    },
    State.UNHEALTHY: {
        Event.HEALTHY: State.READY,
        Event.BROKEN: State.ERRORED,
    },
    State.ERRORED: {
        Event.RETRY: _PROVE,
        Event.LOADED: _PROVE,
        Event.BROKEN: State.ERRORED,
    },
}


@dataclass(slots=True)
class Readiness:
    """What is believed of one model server.

    Attributes:
        state: now.
        measured: the capacity is known.
        error: why the worker does not serve, for people; from the moment that it is known until the
            worker is ready again.
        retry_at: when to try again, in RETRYING and ERRORED.
        since: when the state began.
        warm_up: see `WARM_UP`.
        first_retry: see `FIRST_RETRY`.
        unannounced: see `UNANNOUNCED`.
    """

    state: State = State.WAITING
    measured: bool = False
    error: str = ""
    retry_at: float = math.inf
    since: float = 0.0
    warm_up: float = WARM_UP
    first_retry: float = FIRST_RETRY
    unannounced: float = UNANNOUNCED
    _loaded: bool = False
    """The end of the loading was announced as configured, or proved by the worker being ready."""
    _failures: int = 0
    _failing_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether requests are let in."""
        return self.state is State.READY

    def apply(self, event: Event, now: float, detail: str = "") -> bool:
        """Take note of an event.

        Args:
            event: what happened.
            now: when.
            detail: why, where it is bad news.

        Returns:
            whether the state changed.
        """
        if event is Event.MEASURED:
            self.measured = True
        if event in (Event.LOADED, Event.UP) and not self._loaded:
            # What failed before was asked too early.
            self._loaded, self._failures, self._failing_since = True, 0, None
        before = self.state
        following = TABLE[before].get(event)
        if following is None:
            return False
        if following is _PROVE and self.measured:
            # The signal that was agreed on is enough, of a server that nobody has reason to doubt.
            trusted = event in (Event.LOADED, Event.UP) and before is State.WAITING
            following = State.CHECKING if trusted else State.TRYING
        if before is State.READY and now - self.since >= STEADY:
            self._failures, self._failing_since = 0, None
        if following is State.RETRYING:
            following = self._failed(now)
        elif following is State.ERRORED:
            self._failed(now)
        if event is Event.DISPROVED:
            self.retry_at = max(self.retry_at, now + DISPROVED_RETRY)
        elif event is Event.BROKEN:
            self.retry_at = math.inf  # whoever enters the lifecycle again says when it is entered
        if following in (State.ERRORED, State.UNHEALTHY):
            self.error = detail
        elif following is State.READY:
            self.error, self._loaded = "", True
        if following is before:
            return False
        self.state, self.since = following, now
        return True

    def _failed(self, now: float) -> State:
        """Back off; which state says so."""
        if self._failing_since is None:
            self._failing_since = now
        self.retry_at = now + min(LAST_RETRY, self.first_retry * 2.0 ** min(self._failures, 16))
        self._failures += 1
        # Once it is an error it stays one until it is ready: no change back and forth is reported.
        patience = self.warm_up if self._loaded else self.unannounced
        over = now - self._failing_since >= patience or bool(self.error)
        return State.ERRORED if over else State.RETRYING

    def tick(self, now: float) -> bool:
        """Try again if it is time to; whether the state changed."""
        if self.state in (State.RETRYING, State.ERRORED) and now >= self.retry_at:
            return self.apply(Event.RETRY, now)
        return False


class Health:
    """Turns single health checks into events; a few bad ones are not yet an illness."""

    def __init__(self, *, hold: float = 0.0, patience: int = PATIENCE) -> None:
        """Nothing is known yet.

        Args:
            hold: seconds of good checks that stand in for a ready line; 0: the first one does;
                infinite: none ever do.
            patience: bad checks in a row that count.
        """
        self._hold = hold
        self._patience = patience
        self._failures = 0
        self._good_since: float | None = None
        self._last_good = -math.inf

    @property
    def failing(self) -> bool:
        """Whether the last check failed, or there was none."""
        return self._good_since is None

    def passed(self, now: float) -> tuple[Event, ...]:
        """A check passed."""
        self._failures, self._last_good = 0, now
        if self._good_since is None:
            self._good_since = now
        if not self._hold:
            return Event.UP, Event.HEALTHY
        held = now - self._good_since >= self._hold
        return (Event.HELD, Event.HEALTHY) if held else (Event.HEALTHY,)

    def failed(
        self, now: float, *, definite: bool = False, heard: float = -math.inf, allowed: float = 0.0
    ) -> Event | None:
        """A check failed.

        Args:
            now: when.
            definite: the connection was refused: nobody is there.
            heard: when a byte of an answer last came.
            allowed: seconds for which the server may be silent because of what it is at; 0: it has
                nothing to do.
        """
        self._good_since = None
        if not definite and self.excused(now, heard, allowed):
            self._failures = 0
            return None
        self._failures += self._patience if definite else 1
        return Event.UNHEALTHY if self._failures >= self._patience else None

    def excused(self, now: float, heard: float, allowed: float) -> bool:
        """Whether a server that has work may be silent now."""
        return now - max(heard, self._last_good) < allowed


ENOUGH = 8
"""Answers from which on they say something."""

WINDOW = 60.0
"""Seconds for which an answer counts."""

ALL_BAD = 10
"""Answers that must all be errors where nobody else can have caused them."""

FIRST_DOUBT, LAST_DOUBT = 10.0, 300.0
"""Seconds between two requests of our own while most answers are errors; from the first to the last
each wait is twice as long."""


class Answers:
    """Whether the answers of late give reason to doubt the model server.

    A health check may be good while every answer is an error. But errors can be provoked, with a
    request that makes the server fail, by one client for all others. So answers alone only raise a
    doubt, and a request of our own, which is known to be good, decides: no client can say how that
    is answered. Errors that are the request's fault (4xx) are no evidence and are not given here.

    Where nobody but the operator can send requests (`trusting`), `ALL_BAD` errors without one good
    answer are enough.
    """

    def __init__(self, *, trusting: bool = False) -> None:
        self._trusting = trusting
        self._answers: deque[tuple[float, bool]] = deque(maxlen=32)
        self._doubt_at = -math.inf
        self._pause = FIRST_DOUBT

    def __bool__(self) -> bool:
        """Whether there are any that count."""
        return bool(self._answers)

    def answered(self, ok: bool, now: float) -> None:
        """A request was answered; not `ok`: by an error that is the server's."""
        if ok and not self._answers:
            return  # nothing to weigh it against
        self._answers.append((now, ok))

    def _look(self, now: float) -> tuple[int, int]:
        while self._answers and now - self._answers[0][0] > WINDOW:
            self._answers.popleft()
        return sum(not ok for _, ok in self._answers), len(self._answers)

    def doubtful(self, now: float) -> bool:
        """Whether to send a request of our own now; asked again, not before a pause."""
        bad, count = self._look(now)
        if count < ENOUGH or 2 * bad <= count or now < self._doubt_at:
            return False
        if now - self._doubt_at > LAST_DOUBT:
            self._pause = FIRST_DOUBT
        self._doubt_at = now + self._pause
        self._pause = min(LAST_DOUBT, 2 * self._pause)
        return True

    def damning(self, now: float) -> bool:
        """Whether the answers alone are enough."""
        bad, count = self._look(now)
        return self._trusting and count >= ALL_BAD and bad == count

    def describe(self, now: float) -> str:
        """The answers of late, for people."""
        bad, count = self._look(now)
        return f"{bad} of the last {count} answers are errors"

    def forget(self) -> None:
        """What was answered so far says nothing of what is there now."""
        self._answers.clear()
