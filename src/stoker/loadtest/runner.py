"""Sends the requests of a load test: so many at a time, or so many a second.

Rules:

* Closed loop (`concurrency`): so many clients, each of which sends its next request when it has the
  answer. One that was refused (429, 503, no connection) waits as long as it was asked to, at most
  `MAX_PAUSE`, else `PAUSE`: a load test is no busy loop.
* Open loop (`rate`): requests are due at random moments, independent of the answers (a Poisson
  process), and their times count from the moment at which they were due. So a server that stalls
  cannot hide the wait of those that it kept from being sent ("coordinated omission").
* After `duration` nothing new is sent; what is under way may end, within its timeout.
* `stop` ends it at once; what is under way then counts neither as success nor as failure.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

import msgspec

from stoker.errors import ConfigError
from stoker.loadtest.answer import AnswerTimer, Outcome
from stoker.loadtest.payloads import PayloadTemplate
from stoker.loadtest.statistics import Results, Statistics
from stoker.loadtest.targets import NO_CONNECTION, Target

PAUSE = 0.05
"""Seconds before a client that was refused asks again."""

MAX_PAUSE = 10.0
"""Longest time that a client waits because it was asked to, seconds."""

LATE = 0.1
"""Seconds after the end of an open loop until which what was due before it is still sent."""

MAX_IN_FLIGHT = 4096
"""Requests under way at once in an open loop; those that are due wait for a place."""

MAX_CONCURRENCY = 10_000
MAX_RATE = 100_000.0

_REFUSALS = ("status 429", "status 503", NO_CONNECTION)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How much, how fast, and until when."""

    requests: int | None = None
    """Sent in all; None: as many as `duration` allows."""
    duration: float | None = None
    """Seconds during which requests are sent."""
    concurrency: int = 1
    """Clients of a closed loop."""
    rate: float | None = None
    """Requests a second of an open loop; None: a closed one."""
    timeout: float = 600.0
    """Seconds for each request."""
    seed: int = 0
    """Of the random arrivals and payloads."""

    def check(self) -> None:
        """Look for what cannot work.

        Raises:
            ConfigError: names the option.
        """
        if self.requests is None and self.duration is None:
            raise ConfigError("--requests", "give this or --duration: a test has an end")
        if self.requests is not None and self.requests < 1:
            raise ConfigError("--requests", "must be 1 or more")
        if self.duration is not None and not 0 < self.duration <= 7 * 86_400:
            raise ConfigError("--duration", "must be above 0, to 604800 seconds")
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise ConfigError("--concurrency", f"must be from 1 to {MAX_CONCURRENCY}")
        if self.rate is not None and not 0 < self.rate <= MAX_RATE:
            raise ConfigError("--rate", f"must be above 0, to {MAX_RATE:g} requests a second")
        if not 0 < self.timeout <= 86_400:
            raise ConfigError("--timeout", "must be above 0, to 86400 seconds")


def arrivals(rate: float, rng: random.Random) -> Iterator[float]:
    """Moments of a Poisson process, in seconds from its start, without end.

    Args:
        rate: arrivals a second, on the average.
        rng: makes the gaps, which are exponentially distributed.
    """
    moment = 0.0
    while True:
        moment += rng.expovariate(rate)
        yield moment


class LoadTest:
    """One load test; `run` it once.

    Attributes:
        statistics: what is known so far.
        sent: requests sent.
    """

    def __init__(
        self,
        target: Target,
        payloads: Sequence[PayloadTemplate],
        plan: Plan,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        """Prepare.

        Args:
            target: gets the requests; the caller closes it.
            payloads: taken in turn.
            plan: how much and how fast.
            clock: seconds, from any start.
            sleep: waits for so many of them.
            max_in_flight: requests under way at once in an open loop.

        Raises:
            ConfigError: the plan cannot work.
        """
        plan.check()
        self.plan = plan
        self.statistics = Statistics()
        self.sent = 0
        self._target = target
        self._payloads = payloads
        self._clock = clock
        self._sleep = sleep
        self._began = clock()
        self._arrivals = arrivals(plan.rate, random.Random(plan.seed)) if plan.rate else None
        self._rng = random.Random(plan.seed + 1)
        self._places = asyncio.Semaphore(max_in_flight)
        self._tasks: set[asyncio.Task[None]] = set()
        self._finished = asyncio.Event()
        self._unsent = 0
        self._interrupted = False
        self._error: BaseException | None = None

    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began

    @property
    def in_flight(self) -> int:
        """Requests sent and not ended (once stopped: cut off)."""
        return self.sent - self.statistics.ok - self.statistics.failed

    async def run(self) -> None:
        """Until all is sent and answered, or `stop`."""
        self._began = self._clock()
        if self._arrivals is not None:
            self._begin(self._open_loop(self._arrivals))
        else:
            for _ in range(min(self.plan.concurrency, self.plan.requests or MAX_CONCURRENCY)):
                self._begin(self._client())
        try:
            await self._finished.wait()
        finally:
            self._cancel()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End at once, and keep what is known."""
        self._interrupted = True
        self._cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
            self._cancel()
        if not self._tasks:
            self._finished.set()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    def results(self, route: str) -> Results:
        """What is known so far.

        Args:
            route: that the target calls.
        """
        return msgspec.structs.replace(
            self.statistics.results(self._target.name, route),
            interrupted=self._interrupted,
            cut_off=self.in_flight,
            unsent=self._unsent,
        )

    # --- the two loops

    async def _client(self) -> None:
        """One client of the closed loop."""
        while not self._over(self.elapsed()):
            outcome = await self._send(self.elapsed(), self._number())
            if outcome.reason in _REFUSALS and not self._over(self.elapsed()):
                asked = outcome.retry_after
                await self._sleep(PAUSE if asked is None else min(max(asked, PAUSE), MAX_PAUSE))

    async def _open_loop(self, due: Iterator[float]) -> None:
        """The clock of the open loop: begins each request when it is due."""
        places = self._places
        for moment in due:
            if self._over(moment):
                return
            while (wait := moment - self.elapsed()) > 0:
                await self._sleep(wait)
            if not self._too_late():
                await places.acquire()
                if not self._too_late():
                    self._begin(self._due(moment, self._number()))
                    continue
                places.release()
            self._unsent += 1

    async def _due(self, moment: float, number: int) -> None:
        try:
            await self._send(moment, number)
        finally:
            self._places.release()

    def _over(self, moment: float) -> bool:
        """Whether nothing is to be sent at `moment` any more."""
        plan = self.plan
        all_sent = plan.requests is not None and self.sent >= plan.requests
        return all_sent or (plan.duration is not None and moment >= plan.duration)

    def _too_late(self) -> bool:
        end = self.plan.duration
        return end is not None and self.elapsed() >= end + LATE

    # --- one request

    def _number(self) -> int:
        self.sent += 1
        return self.sent - 1

    async def _send(self, start: float, number: int) -> Outcome:
        payload = self._payloads[number % len(self._payloads)].render(number, self._rng)
        outcome = await self._target.send(
            payload, AnswerTimer(start), self.elapsed, self.plan.timeout
        )
        self.statistics.add(outcome)
        return outcome
