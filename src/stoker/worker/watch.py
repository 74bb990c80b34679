"""Watches the model server: its log, its health, its answers, its capacity. Feeds the readiness.

All decisions are in `stoker.worker.readiness`; here is only what reads files and sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from stoker import logs
from stoker.http import UpstreamError, check_health, fetch
from stoker.inference import AnswerReader
from stoker.worker import readiness as rules
from stoker.worker.benchmark import BenchmarkError, Post, ResultFile, ask_once, measure
from stoker.worker.config import HandlerConfig, WorkerConfig
from stoker.worker.logtail import LineMatcher, LogTail, Meaning
from stoker.worker.preparing import Prepared, remote_of
from stoker.worker.readiness import Answers, Event, Health, Readiness, State
from stoker.worker.settings import DEFAULT_SILENCE_TIMEOUT
from stoker.worker.workload import Workload

_MAX_ANSWER = 64 * 2**20
_MAX_SHOWN = 500
_LONG = 86_400.0  # whoever waits for the task sets the limit

HINT_SECONDS = 60.0
"""For so long an error line of the log is named with a health check that fails."""

KEEP_CHECK = 60.0
"""Seconds for which a health check that a busy model server does not answer is left open."""

MAX_TOLD = 5
"""Lines of the model server's log that are passed on in a second."""

TRIES = 2
"""Requests of our own that must be answered badly before a server that was ready is given up."""

_log = logs.get_logger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often the model server is looked at, and how long it is waited for, seconds.

    Attributes:
        log: between two looks at the log.
        calm: between health checks while it is ready.
        eager: between health checks otherwise, and the least time between two.
        check_timeout: for one health check.
        hold: good health checks so long stand in for a ready line.
        warm_up: a loaded server may answer badly so long before that is an error.
        retry: until it is tried again for the first time.
    """

    log: float = 0.2
    calm: float = 5.0
    eager: float = 0.25
    check_timeout: float = 5.0
    hold: float = rules.HOLD
    warm_up: float = rules.WARM_UP
    retry: float = rules.FIRST_RETRY


class Traffic(Protocol):
    """What the worker's requests tell of the model server."""

    @property
    def heard(self) -> float:
        """When a byte of any answer last came, in the loop's seconds."""

    @property
    def allowed(self) -> float:
        """Seconds for which it may be silent because of the requests at work; 0: there are none."""

    def alive(self) -> None:
        """There was a sign of life: requests that were given up are not at work any more."""


class _NoTraffic:
    heard = -math.inf
    allowed = 0.0

    def alive(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a benchmark is: `run` of `runs` runs are done, the best at `perf` load units/s."""

    run: int
    runs: int
    perf: float


class ModelWatch:
    """Keeps `readiness` up to date while `run` runs.

    Attributes:
        readiness: what is believed of the model server.
        perf: capacity, load units per second; 0 until it was measured.
        unit: of `perf`, for people.
        progress: of the benchmark, while one runs.
        traffic: what requests tell; set by who has them.
    """

    def __init__(
        self,
        config: WorkerConfig,
        log_file: str | None,
        results: ResultFile,
        on_change: Callable[[], None],
        *,
        rhythm: Rhythm | None = None,
        silence: float = DEFAULT_SILENCE_TIMEOUT,
        trusting: bool = False,
    ) -> None:
        """Prepare.

        Args:
            config: one that passed its `check`.
            log_file: the model server's log; None: go by the health check alone.
            results: where the benchmark's result is kept.
            on_change: called after the state or `perf` changed.
            rhythm: how often to look.
            silence: seconds for which the model server may be silent in a request of our own, where
                its route has no `timeout`.
            trusting: nobody but the operator can send requests.
        """
        actions = config.log_action_config
        self._rhythm = rhythm = rhythm or Rhythm()
        self.readiness = Readiness(warm_up=rhythm.warm_up, first_retry=rhythm.retry)
        self.perf = 0.0
        self.progress: Progress | None = None
        self.traffic: Traffic = _NoTraffic()
        self._config = config
        self._results = results
        self._on_change = on_change
        self._origin = config.model_origin()
        self._url = config.healthcheck_url()
        self._matcher = LineMatcher(actions.on_load, actions.on_error, actions.on_info)
        self._tail = LogTail(log_file, wanted=self._matcher.wanted) if log_file else None
        self._handler = handler = config.benchmark_handler
        self._limit = silence if handler.timeout is None else handler.timeout
        self.unit = unit_of(handler)
        # What must happen before the worker is ready, for the one who waits in vain.
        self._awaited: dict[str, Any] = {"a_good_answer_of": "its health check"}
        hold = 0.0
        if config.lifecycle is not None:
            hold = math.inf
            self._awaited = {"entering": "the lifecycle"}
        elif log_file and actions.on_load:
            hold = rhythm.hold
            texts = [str(text) for text in actions.on_load]
            self._awaited = {"file": str(log_file), "a_line_with": texts}
        self._health = Health(hold=hold)
        self._answers = Answers(trusting=trusting)
        self._hint = (-math.inf, "")
        self._told = (0, 0)  # a second, and lines that were logged in it
        self._look = asyncio.Event()
        self._healthy = asyncio.Event()
        self._check: asyncio.Task[tuple[str, bool]] | None = None
        self._check_began = 0.0
        self._keep_check = KEEP_CHECK
        self._work: asyncio.Task[None] | None = None
        self._doubt: asyncio.Task[None] | None = None

    # --- what the worker tells

    def look_now(self) -> None:
        """Check the health at once: there is a hint that something is wrong."""
        self._look.set()

    def answered(self, ok: bool, why: str = "") -> None:
        """The model server answered a request.

        Args:
            ok: well; False: by an error that is the server's and not the request's, also one inside
                a 200, or not at all.
            why: what was wrong, for people.
        """
        if ok and not self._answers:
            return  # the usual case
        now = self._now()
        self._answers.answered(ok, now)
        if ok:
            return
        self._look.set()
        if not self.readiness.ready:
            return
        if self._answers.damning(now):
            self._disprove(f"{self._answers.describe(now)}: {why}")
        elif self._doubt is None and self._answers.doubtful(now):
            self._doubt = asyncio.create_task(self._ask_ourselves(why))

    @property
    def busy(self) -> bool:
        """The model server has work and may be silent: nobody should end it for that."""
        traffic = self.traffic
        return self._health.excused(self._now(), traffic.heard, self._allowed(traffic))

    def _allowed(self, traffic: Traffic) -> float:
        ours = self._limit if self._doubt is not None or self._work is not None else 0.0
        return max(traffic.allowed, ours)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def run(self) -> None:
        """Watch until cancelled."""
        self.readiness.since = self._now()
        _log.info("waiting for the model server", **self._awaited)
        known = self._results.load()
        if known is not None:
            self.perf = known
            self.readiness.measured = True
            _log.info("capacity is known from an earlier boot", perf=self._with_unit(known))
            self._on_change()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._check_health())
                if self._tail is not None:
                    group.create_task(self._follow_log(self._tail))
                if self._config.lifecycle is not None:
                    group.create_task(self._live(self._config.lifecycle))
        finally:
            for task in (self._work, self._doubt, self._check):
                if task is not None:
                    task.cancel()
            if self._tail is not None:
                self._tail.close()

    def _with_unit(self, perf: float) -> str:
        return f"{perf:.4g} {self.unit}"

    def _apply(self, event: Event, detail: str = "") -> None:
        before = self.readiness.state
        if self.readiness.apply(event, self._now(), detail):
            self._changed(before, detail)

    def _changed(self, before: State, detail: str = "") -> None:
        state = self.readiness.state
        bad = state in (State.ERRORED, State.UNHEALTHY)
        told: dict[str, Any] = {"why": detail} if detail else {}
        if state in (State.RETRYING, State.ERRORED) and self.readiness.retry_at < math.inf:
            told["again_in"] = round(max(0.0, self.readiness.retry_at - self._now()), 1)
        (_log.warning if bad else _log.info)(
            "the model server's state changed", state=state.value, before=before.value, **told
        )
        work, self._work = self._work, None
        self.progress = None
        if work is not None and work is not asyncio.current_task():
            work.cancel()
        if state is State.BENCHMARKING:
            self._healthy.clear()
            self._work = asyncio.create_task(self._run_benchmark())
        elif state is State.TRYING:
            self._healthy.clear()
            self._work = asyncio.create_task(self._try_once())
        elif state is State.READY:
            self._answers.forget()
        self._look.set()
        self._on_change()

    # --- the lifecycle

    async def _live(self, lifecycle: AbstractAsyncContextManager[Any]) -> None:
        """Bring the model up, and take it down when cancelled; again with back-off if it fails."""
        pause = self._rhythm.retry
        while True:
            # Of a generator only a fresh one can be entered; contextlib makes it so for decorators.
            fresh = getattr(lifecycle, "_recreate_cm", None)
            used = fresh() if callable(fresh) else lifecycle
            entered = -math.inf
            try:
                async with used:
                    entered = self._now()
                    self._apply(Event.LOADED)
                    # The end of the worker is no failure of the model: leave in good order.
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
                return
            except Exception as error:
                _log.exception("the lifecycle failed", again_in=pause)
                told = logs.redact(f"{type(error).__name__}: {error}"[:_MAX_SHOWN])
                self._apply(Event.BROKEN, f"the lifecycle failed: {told}")
            if self._now() - entered >= rules.STEADY:
                pause = self._rhythm.retry
            await asyncio.sleep(pause)
            pause = min(rules.LAST_RETRY, 2.0 * pause)

    # --- the log

    async def _follow_log(self, tail: LogTail) -> None:
        told = ""
        while True:
            for line in tail.poll(self._now()):
                self._read_line(line, old=tail.behind)
            if tail.problem != told:
                told = tail.problem
                if told:
                    _log.warning("the model server's log cannot be read", why=told)
            # The rest of a large log at once, but with room for others.
            await asyncio.sleep(0.0 if tail.behind else self._rhythm.log)

    def _read_line(self, line: str, *, old: bool) -> None:
        meaning = self._matcher.meaning(line)
        if meaning is None:
            return
        if meaning is Meaning.INFO:
            if not old:
                self._tell("the model server says", line)
            return
        if meaning is Meaning.ERROR:
            self._hint = (self._now(), line[:_MAX_SHOWN])
            self._tell("a line of the model server's log looks like an error", line)
        else:
            self._apply(Event.LOADED)
        self.look_now()

    def _tell(self, what: str, line: str) -> None:
        """Log a line of the model server, but not all that a client can make it write."""
        second = int(self._now())
        if second != self._told[0]:
            self._told = (second, 0)
        self._told = (second, self._told[1] + 1)
        if self._told[1] <= MAX_TOLD:
            _log.info(what, line=line[:_MAX_SHOWN])  # the logger hides secrets

    # --- the health check

    async def _check_health(self) -> None:
        while True:
            self._look.clear()
            checked = self._now()
            problem, definite = await self._look_once()
            now = self._now()
            if not problem:
                self._healthy.set()
                self.traffic.alive()
                for event in self._health.passed(now):
                    self._apply(event)
            else:
                self._healthy.clear()
                traffic = self.traffic
                event_or_none = self._health.failed(
                    now,
                    definite=definite,
                    heard=traffic.heard,
                    allowed=self._allowed(traffic),
                )
                if event_or_none is not None:
                    self._apply(event_or_none, self._explained(problem, now))
            before = self.readiness.state
            if self.readiness.tick(now):
                self._changed(before)
            settled = self.readiness.ready and not self._health.failing
            pause = self._rhythm.calm if settled else self._rhythm.eager
            # Not wait_for: before Python 3.12 it may lose a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            # Requests that fail one after another ask for a check each time: not that often.
            await asyncio.sleep(max(0.0, checked + self._rhythm.eager - self._now()))

    def _explained(self, problem: str, now: float) -> str:
        when, line = self._hint
        said = f"; its log said: {logs.redact(line)}" if now - when < HINT_SECONDS else ""
        return f"health check: {problem}{said}"

    async def _look_once(self) -> tuple[str, bool]:
        """What is wrong (empty: nothing), and whether that is definite.

        A check that is not answered in time has failed, and stays open all the same: some servers
        need seconds for each, and new ones would fill the queue of connections of a busy one. One
        that may have been lost is replaced: after as many failures as end READY, or of a busy
        server after `KEEP_CHECK` seconds, then twice as many.
        """
        task, self._check = self._check, None
        if task is None:
            task = asyncio.create_task(self._check_once())
            self._check_began = self._now()
        try:
            await asyncio.wait({task}, timeout=self._rhythm.check_timeout)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            self._keep_check = KEEP_CHECK
            return task.result()
        busy = self.busy
        keep = self._keep_check if busy else rules.PATIENCE * self._rhythm.check_timeout
        if self._now() - self._check_began < keep:
            self._check = task
        else:
            task.cancel()
            self._keep_check *= 2.0 if busy else 1.0
        return f"no answer within {self._rhythm.check_timeout:g} s", False

    async def _check_once(self) -> tuple[str, bool]:
        try:
            if self._url is None:
                # Behind a lifecycle or functions alone, there may be no port at all.
                if self._config.lifecycle is None and self._config.needs_model_server:
                    await self._connect()
                return "", False
            health = await check_health(self._url, _LONG)
        except UpstreamError as error:
            return str(error), error.kind == "refused"
        return health.problem, health.refused

    async def _connect(self) -> None:
        parts = urlsplit(self._origin)
        try:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except OSError as error:
            raise UpstreamError("refused", error.strerror or "connection refused") from None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    # --- requests of our own

    async def _run_benchmark(self) -> None:
        # "Loaded" may be said before the port takes requests.
        await self._healthy.wait()
        _log.info("measuring the capacity", route=self._handler.route)
        try:
            perf = await measure(self._handler, self._post(), on_run=self._ran)
        except BenchmarkError as error:
            self._apply(Event.FAILED, str(error))
            return
        except Exception as error:  # a handler's own code may be part of it
            _log.exception("the benchmark broke")
            told = logs.redact(f"{type(error).__name__}: {error}"[:_MAX_SHOWN])
            self._apply(Event.FAILED, f"the benchmark broke: {told}")
            return
        self.perf = perf
        _log.info("capacity was measured", perf=self._with_unit(perf))
        self._results.save(perf, time.time())
        self._apply(Event.MEASURED)

    def _ran(self, run: int, runs: int, perf: float) -> None:
        self.progress = Progress(run, runs, perf)
        if run:
            _log.info("benchmark run", run=f"{run} of {runs}", best=self._with_unit(perf))

    async def _try_once(self) -> None:
        await self._healthy.wait()
        problem = await self._own_request()
        if problem:
            self._apply(Event.FAILED, f"it does not answer {self._handler.route} well: {problem}")
        else:
            self._apply(Event.MEASURED)

    async def _ask_ourselves(self, why: str) -> None:
        """Most answers are errors: whose fault is it?"""
        problem = ""
        try:
            for attempt in range(TRIES):
                if attempt:
                    await asyncio.sleep(self._rhythm.retry)
                problem = await self._own_request()
                if not problem:
                    break
        finally:
            self._doubt = None
        told = f"{self._answers.describe(self._now())} ({why})"
        if problem:
            self._disprove(f"{told}, and so is the answer to the worker's own request: {problem}")
        else:
            _log.warning(
                "most answers are errors, but the worker's own request is answered well: "
                "the requests are at fault",
                answers=told,
            )

    async def _own_request(self) -> str:
        """What was wrong with the answer to a request of the benchmark; empty: nothing."""
        try:
            return await ask_once(self._handler, self._post())
        except Exception as error:  # a handler's own code may be part of it
            _log.exception("the worker's own request broke")
            return logs.redact(f"{type(error).__name__}: {error}"[:_MAX_SHOWN])

    def _disprove(self, detail: str) -> None:
        self._apply(Event.DISPROVED, detail)

    def _post(self) -> Post:
        return answerer(self._handler, self._origin, self._limit)


def unit_of(handler: HandlerConfig) -> str:
    """The unit of a perf that is measured on a route."""
    in_tokens = Workload(handler.route, handler.workload_calculator).in_tokens
    return "tokens/s" if in_tokens else "load/s"


def answerer(handler: HandlerConfig, origin: str, limit: float) -> Post:
    """What has a handler's payloads answered, by its model server or its own function.

    Args:
        handler: whose payloads.
        origin: of the model server.
        limit: seconds for one answer.
    """
    url = origin + handler.model_path
    workload = Workload(handler.route, handler.workload_calculator)

    async def call(prepared: Prepared) -> float | None:
        function = remote_of(handler)
        assert function is not None
        try:
            async with asyncio.timeout(limit):
                await function(prepared.payload)
        except (Exception, SystemExit) as error:
            told = logs.redact(f"{type(error).__name__}: {error}"[:_MAX_SHOWN])
            raise BenchmarkError(f"{handler.route} failed: {told}") from error
        return None

    async def post(prepared: Prepared) -> float | None:
        response = await fetch(
            url,
            method="POST",
            headers=[
                (b"content-type", prepared.content_type),
                (b"accept", b"*/*"),
                (b"accept-encoding", b"identity"),
            ],
            body=prepared.body,
            timeout=limit,
            max_body=_MAX_ANSWER,
        )
        if response.status // 100 != 2:
            said = logs.redact(response.body[:200].decode("utf-8", "replace"))
            raise BenchmarkError(f"{handler.route} answered {response.status}: {said}")
        reader = AnswerReader(response.header(b"content-type") or b"")
        reader.feed(response.body)
        reader.finish()
        if reader.failure is not None:
            said = logs.redact(reader.failure.message[:200])
            raise BenchmarkError(f"{handler.route} answered with an error inside: {said}")
        if reader.completion_tokens is None:
            return None
        return workload.of_usage(reader.prompt_tokens or 0, reader.completion_tokens)

    return call if remote_of(handler) is not None else post
