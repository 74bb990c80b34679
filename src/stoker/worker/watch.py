"""Watches the model server: its log, its health, its capacity. Feeds the readiness machine.

All decisions are in `stoker.worker.readiness`; here is only what reads files and sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from stoker import logs
from stoker.http import UpstreamError, fetch
from stoker.inference import AnswerReader
from stoker.worker.benchmark import BenchmarkError, Post, ResultFile, measure
from stoker.worker.config import HandlerConfig, WorkerConfig
from stoker.worker.logtail import LineMatcher, LogTail, Meaning
from stoker.worker.preparing import Prepared, remote_of
from stoker.worker.readiness import Event, Health, Readiness, State
from stoker.worker.workload import Workload

_MAX_ANSWER = 64 * 2**20
_MAX_SHOWN = 500
_log = logs.get_logger("worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often the model server is looked at, seconds.

    Attributes:
        log: between two looks at the log.
        calm: between health checks while it is ready.
        eager: between health checks otherwise, and the least time between two.
        check_timeout: for one health check.
        request_timeout: for one request of the benchmark.
    """

    log: float = 0.2
    calm: float = 5.0
    eager: float = 0.25
    check_timeout: float = 5.0
    request_timeout: float = 600.0


class ModelWatch:
    """Keeps `readiness` up to date while `run` runs.

    Attributes:
        readiness: state of the model server.
        perf: capacity, load units per second; 0 until it was measured.
    """

    def __init__(
        self,
        config: WorkerConfig,
        log_file: str | None,
        results: ResultFile,
        on_change: Callable[[], None],
        *,
        rhythm: Rhythm | None = None,
    ) -> None:
        """Prepare.

        Args:
            config: one that passed its `check`.
            log_file: the model server's log; None: go by the health check alone.
            results: where the benchmark's result is kept.
            on_change: called after the state or `perf` changed.
            rhythm: how often to look.
        """
        actions = config.log_action_config
        self.readiness = Readiness()
        self.perf = 0.0
        self._config = config
        self._results = results
        self._on_change = on_change
        self._rhythm = rhythm or Rhythm()
        self._origin = config.model_origin()
        self._url = config.healthcheck_url()
        self._tail = LogTail(log_file) if log_file else None
        self._matcher = LineMatcher(actions.on_load, actions.on_error, actions.on_info)
        waits_for_line = bool(log_file and actions.on_load)
        self._health = Health(came_back_counts=not waits_for_line and config.lifecycle is None)
        # What must happen before the worker is ready, for the one who waits in vain.
        self._awaited: dict[str, Any] = {"a_good_answer_of": "its health check"}
        if config.lifecycle is not None:
            self._awaited = {"entering": "the lifecycle"}
        elif waits_for_line:
            self._awaited = {"file": str(log_file), "a_line_with": actions.on_load}
        self._look = asyncio.Event()
        self._healthy = asyncio.Event()
        self._benchmark: asyncio.Task[None] | None = None

    def look_now(self) -> None:
        """Check the health at once: a request just failed."""
        self._look.set()

    async def run(self) -> None:
        """Watch until cancelled."""
        _log.info("waiting for the model server", **self._awaited)
        known = self._results.load()
        if known is not None:
            self.perf = known
            self.readiness.measured = True
            _log.info("capacity is known from an earlier boot", perf=round(known, 3))
            self._on_change()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._check_health())
                if self._tail is not None:
                    group.create_task(self._follow_log(self._tail))
                if self._config.lifecycle is not None:
                    group.create_task(self._live(self._config.lifecycle))
        finally:
            if self._benchmark is not None:
                self._benchmark.cancel()
            if self._tail is not None:
                self._tail.close()

    def _apply(self, event: Event, detail: str = "") -> None:
        before = self.readiness.state
        if not self.readiness.apply(event, detail):
            return
        state = self.readiness.state
        bad = state in (State.ERRORED, State.UNHEALTHY)
        (_log.warning if bad else _log.info)(
            "the model server's state changed",
            state=state.value,
            before=before.value,
            **({"why": detail} if bad else {}),
        )
        if before is State.BENCHMARKING and self._benchmark is not None:
            if self._benchmark is not asyncio.current_task():
                self._benchmark.cancel()
            self._benchmark = None
        if state is State.BENCHMARKING:
            self._healthy.clear()
            self._benchmark = asyncio.create_task(self._run_benchmark())
        self._look.set()
        self._on_change()

    # --- the lifecycle

    async def _live(self, lifecycle: AbstractAsyncContextManager[Any]) -> None:
        """Bring the model up, and take it down when cancelled."""
        try:
            async with lifecycle:
                self._apply(Event.LOADED)
                # The end of the worker is no failure of the model: leave in good order.
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
        except Exception as error:
            _log.exception("the lifecycle failed")
            told = logs.redact(f"{type(error).__name__}: {error}"[:_MAX_SHOWN])
            self._apply(Event.ERROR_LINE, f"the lifecycle failed: {told}")

    # --- the log

    async def _follow_log(self, tail: LogTail) -> None:
        while True:
            for line in tail.poll():
                meaning = self._matcher.meaning(line)
                if meaning is Meaning.ERROR:
                    self._apply(Event.ERROR_LINE, logs.redact(line[:_MAX_SHOWN]))
                elif meaning is Meaning.LOADED:
                    self._apply(Event.LOADED)
                elif meaning is Meaning.INFO:
                    _log.info("the model server says", line=line[:_MAX_SHOWN])
            await asyncio.sleep(self._rhythm.log)

    # --- the health check

    async def _check_health(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._look.clear()
            checked = loop.time()
            problem, definite = await self._check_once()
            if not problem:
                self._healthy.set()
                self._apply(self._health.passed())
            else:
                self._healthy.clear()
                event = self._health.failed(definite=definite)
                if event is not None:
                    self._apply(event, f"health check: {problem}")
            settled = self.readiness.ready and not self._health.failing
            pause = self._rhythm.calm if settled else self._rhythm.eager
            # Not wait_for: before Python 3.12 it may lose a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._look.wait()
            # Requests that fail one after another ask for a check each time: not that often.
            await asyncio.sleep(max(0.0, checked + self._rhythm.eager - loop.time()))

    async def _check_once(self) -> tuple[str, bool]:
        """What is wrong (empty: nothing), and whether that is definite."""
        try:
            if self._url is None:
                # Behind a lifecycle or functions alone, there may be no port at all.
                if self._config.lifecycle is None and self._config.needs_model_server:
                    await self._connect()
                return "", False
            response = await fetch(
                self._url, timeout=self._rhythm.check_timeout, max_body=_MAX_ANSWER
            )
        except UpstreamError as error:
            return str(error), error.kind == "refused"
        if response.status // 100 == 2:
            return "", False
        return f"answered {response.status}", False

    async def _connect(self) -> None:
        parts = urlsplit(self._origin)
        try:
            async with asyncio.timeout(self._rhythm.check_timeout):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        except TimeoutError:
            raise UpstreamError("timeout", "the model server takes no connection") from None
        except OSError as error:
            raise UpstreamError("refused", error.strerror or "connection refused") from None
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    # --- the benchmark

    async def _run_benchmark(self) -> None:
        # "Loaded" may be said before the port takes requests.
        await self._healthy.wait()
        handler = self._config.benchmark_handler
        try:
            perf = await measure(handler, answerer(handler, self._origin, self._rhythm))
        except BenchmarkError as error:
            self._apply(Event.BENCHMARK_FAILED, str(error))
            return
        self.perf = perf
        _log.info("capacity was measured", perf=round(perf, 3))
        self._results.save(perf, time.time())
        self._apply(Event.MEASURED)


def answerer(handler: HandlerConfig, origin: str, rhythm: Rhythm) -> Post:
    """What has a handler's payloads answered, by its model server or its own function."""
    url = origin + handler.model_path
    workload = Workload(handler.route, handler.workload_calculator)

    async def call(prepared: Prepared) -> float | None:
        function = remote_of(handler)
        assert function is not None
        try:
            async with asyncio.timeout(rhythm.request_timeout):
                await function(prepared.payload)
        except Exception as error:
            told = logs.redact(f"{type(error).__name__}: {error}"[:_MAX_SHOWN])
            raise BenchmarkError(f"{handler.route} failed: {told}") from error
        return None

    async def post(prepared: Prepared) -> float | None:
        response = await fetch(
            url,
            method="POST",
            headers=[(b"content-type", prepared.content_type), (b"accept", b"*/*")],
            body=prepared.body,
            timeout=rhythm.request_timeout,
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
