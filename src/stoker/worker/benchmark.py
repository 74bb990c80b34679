"""The capacity of a model server, in load units per second, measured once.

A run sends `concurrency` requests together, straight to the model server (so its payloads are those
of the model server: a handler's `request_parser` does not see them); its perf is their load
over the time until the last is answered. Where the model server counts the tokens of its answers
itself, their load is by that count: an answer that ended early is not worth what was asked for. The
best run counts, because every disturbance makes a run
slower and none makes it faster. The result is kept on disk: an instance that was stopped and starts
again is ready without measuring.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from stoker import logs
from stoker.errors import UNREADABLE, StokerError
from stoker.worker.config import BenchmarkConfig, HandlerConfig
from stoker.worker.payloads import ApiPayload
from stoker.worker.preparing import JSON, Prepared, from_instance, preparer_of
from stoker.worker.workload import Workload

DEFAULT_CONCURRENCY = 10

MAX_PERF = 1e15
"""Largest perf that is believed, load units per second."""

Post = Callable[[Prepared], Awaitable[float | None]]
"""Has a payload answered; raises StokerError unless it is answered well.

Returns its load as it turned out, or None where only the estimate is known.
"""

_log = logs.get_logger("worker")


class BenchmarkError(StokerError):
    """The capacity could not be measured; the message says why."""


class Result(msgspec.Struct, frozen=True):
    """A measurement, as it is kept on disk."""

    key: str
    max_perf: float
    measured_at: float
    """Unix seconds."""


class ResultFile:
    """A benchmark's result on disk; another handler, dataset or model has another file."""

    def __init__(self, directory: Path, handler: HandlerConfig, model_identity: str = "") -> None:
        """Name the file.

        Args:
            directory: where results are kept.
            handler: the one that carries the benchmark.
            model_identity: what else tells models apart (backend and its options).
        """
        self._key = _key(handler, model_identity)
        self._path = directory / f".stoker-benchmark-{self._key[:12]}.json"

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def load(self) -> float | None:
        """The perf measured earlier; None where there is none that can be read and believed."""
        try:
            result = msgspec.json.decode(self._path.read_bytes(), type=Result)
        except FileNotFoundError:
            return None
        except (OSError, *UNREADABLE) as error:
            _log.warning("a benchmark result cannot be read; measuring again", problem=str(error))
            return None
        believable = math.isfinite(result.max_perf) and 0.0 < result.max_perf <= MAX_PERF
        return result.max_perf if believable and result.key == self._key else None

    def save(self, max_perf: float, now: float) -> None:
        """Keep a perf; a disk that is full costs a measurement at the next boot, no more."""
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(Result(self._key, max_perf, now)))
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            _log.warning("the benchmark result cannot be kept", problem=str(error))
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def benchmark_of(handler: HandlerConfig) -> BenchmarkConfig:
    """How the capacity behind a handler that `carries_benchmark` is measured."""
    if handler.benchmark_config is not None:
        return handler.benchmark_config
    own = handler.handler
    return BenchmarkConfig(
        runs=getattr(own, "benchmark_runs", 8),
        concurrency=getattr(own, "concurrency", DEFAULT_CONCURRENCY),
        do_warmup=getattr(own, "do_warmup_benchmark", True),
    )


def _key(handler: HandlerConfig, model_identity: str) -> str:
    benchmark = benchmark_of(handler)
    source: Any = benchmark.dataset
    if not source and benchmark.generator is not None:
        source = getattr(benchmark.generator, "__qualname__", "generator")
    elif not source:
        source = (handler.handler_class or handler.payload_class or HandlerConfig).__qualname__
    described = msgspec.json.encode(
        [handler.route, benchmark.runs, requests_per_run(handler), source, model_identity],
        enc_hook=repr,
        order="sorted",
    )
    return hashlib.sha256(described).hexdigest()


def requests_per_run(handler: HandlerConfig) -> int:
    """Requests sent together: never more than the worker itself would let through."""
    if not handler.parallel:
        return 1
    wanted = benchmark_of(handler).concurrency or DEFAULT_CONCURRENCY
    return min(wanted, handler.max_concurrency or wanted)


async def ask_once(handler: HandlerConfig, post: Post) -> str:
    """Send one request of the benchmark; why it was not answered well, empty when it was."""
    try:
        (prepared,) = await _Payloads(handler, benchmark_of(handler)).take(1)
    except BenchmarkError as error:
        return str(error)
    _, problem = await _try(post, prepared)
    return problem


async def measure(
    handler: HandlerConfig,
    post: Post,
    *,
    clock: Callable[[], float] = time.perf_counter,
    on_run: Callable[[int, int, float], None] = lambda _run, _runs, _perf: None,
) -> float:
    """Measure the capacity behind `handler`.

    Args:
        handler: the one that carries the benchmark.
        post: sends a payload.
        clock: seconds.
        on_run: called before the first run and after each: runs done, of how many, best perf.

    Returns:
        load units per second of the best run.

    Raises:
        BenchmarkError: no run went through without a failure, or the payloads cannot be used.
    """
    benchmark = benchmark_of(handler)
    count = requests_per_run(handler)
    payloads = _Payloads(handler, benchmark)
    problem = ""
    on_run(0, benchmark.runs, 0.0)
    if benchmark.do_warmup:
        (first,) = await payloads.take(1)
        _, problem = await _try(post, first)
    best = 0.0
    for run in range(benchmark.runs):
        batch = await payloads.take(count)
        began = clock()
        results = await asyncio.gather(*(_try(post, prepared) for prepared in batch))
        seconds = clock() - began
        failed = [text for _, text in results if text]
        if failed:
            problem = failed[0]
            _log.warning("a benchmark run failed", run=run, failed=len(failed), problem=problem)
            if not best and len(failed) == count:
                break  # it cannot serve yet; the caller tries again
        else:
            best = max(best, sum(load for load, _ in results) / max(seconds, 1e-9))
        on_run(run + 1, benchmark.runs, best)
    if not best and problem:
        raise BenchmarkError(f"benchmark of {handler.route} failed: {problem}")
    if not 0.0 < best <= MAX_PERF:
        raise BenchmarkError(f"benchmark of {handler.route} measured {best:g} load units/s")
    return best


async def _try(post: Post, prepared: Prepared) -> tuple[float, str]:
    """Load of what was answered, and what went wrong; the latter empty when nothing did."""
    try:
        actual = await post(prepared)
    except StokerError as error:
        return 0.0, str(error) or type(error).__name__
    return prepared.load if actual is None else actual, ""


class _Payloads:
    def __init__(self, handler: HandlerConfig, benchmark: BenchmarkConfig) -> None:
        self._benchmark = benchmark
        self._remote = handler.remote
        self._make: Callable[[], ApiPayload] | None = None  # where there is no other source
        if handler.handler is not None:
            self._make = handler.handler.make_benchmark_payload
        elif handler.payload_class is not None:
            self._make = handler.payload_class.for_test
        self._workload = Workload(handler.route, handler.workload_calculator)
        unparsed = dataclasses.replace(handler, request_parser=None)
        self._prepare = preparer_of(unparsed, self._workload)
        self._next = 0

    async def take(self, count: int) -> list[Prepared]:
        """Requests for the model server."""
        return [await self._one() for _ in range(count)]

    async def _one(self) -> Prepared:
        dataset, generator = self._benchmark.dataset, self._benchmark.generator
        try:
            if dataset:
                payload = dataset[self._next % len(dataset)]
                self._next += 1
            elif generator is not None:
                # It may load a tokenizer or a word list: reports must go on meanwhile.
                payload = await asyncio.to_thread(generator)
            else:
                assert self._make is not None
                made = await asyncio.to_thread(self._make)
                # A function of the handler's own gets the fields that the model server would get.
                fields = made.generate_payload_json() if self._remote else {}
                return from_instance(made, fields)
            raw = msgspec.Raw(msgspec.json.encode(payload))
            if self._prepare is not None:
                return self._prepare(raw)
            return Prepared(self._workload.of(raw), bytes(raw), JSON, {})
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {error}"
            raise BenchmarkError(f"benchmark payload cannot be made: {reason}") from error
