"""The capacity of a model server, in load units per second, measured once.

A run sends `concurrency` requests together, straight to the model server (so its payloads are those
of the model server: a handler's `request_parser` does not see them); its perf is their load
over the time until the last is answered. The best run counts, because every disturbance makes a run
slower and none makes it faster. The result is kept on disk: an instance that was stopped and starts
again is ready without measuring.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from stoker import logs
from stoker.errors import StokerError
from stoker.worker.config import BenchmarkConfig, HandlerConfig
from stoker.worker.workload import Workload

DEFAULT_CONCURRENCY = 10

MAX_PERF = 1e15
"""Largest perf that is believed, load units per second."""

Post = Callable[[bytes], Awaitable[None]]
"""Sends a payload to the model server; raises StokerError unless it is answered well."""

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
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
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


def _key(handler: HandlerConfig, model_identity: str) -> str:
    benchmark = handler.benchmark_config
    assert benchmark is not None
    source: Any = benchmark.dataset
    if benchmark.generator is not None:
        source = getattr(benchmark.generator, "__qualname__", "generator")
    described = msgspec.json.encode(
        [handler.route, benchmark.runs, requests_per_run(handler), source, model_identity],
        enc_hook=repr,
        order="sorted",
    )
    return hashlib.sha256(described).hexdigest()


def requests_per_run(handler: HandlerConfig) -> int:
    """Requests sent together: never more than the worker itself would let through."""
    benchmark = handler.benchmark_config
    assert benchmark is not None
    if not handler.allow_parallel_requests:
        return 1
    wanted = benchmark.concurrency or DEFAULT_CONCURRENCY
    return min(wanted, handler.max_concurrency or wanted)


async def measure(
    handler: HandlerConfig, post: Post, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Measure the capacity behind `handler`.

    Returns:
        load units per second of the best run.

    Raises:
        BenchmarkError: no run went through without a failure, or the payloads cannot be used.
    """
    benchmark = handler.benchmark_config
    assert benchmark is not None
    workload = Workload(handler.route, handler.workload_calculator)
    count = requests_per_run(handler)
    payloads = _Payloads(benchmark)
    problem = ""
    if benchmark.do_warmup:
        body, _ = (await payloads.take(1, workload))[0]
        problem = await _try(post, body)
    best = 0.0
    for run in range(benchmark.runs):
        batch = await payloads.take(count, workload)
        began = clock()
        problems = await asyncio.gather(*(_try(post, body) for body, _ in batch))
        seconds = clock() - began
        failed = [text for text in problems if text]
        if failed:
            problem = failed[0]
            _log.warning("a benchmark run failed", run=run, failed=len(failed), problem=problem)
            continue
        perf = sum(load for _, load in batch) / max(seconds, 1e-9)
        best = max(best, perf)
        _log.debug("benchmark run", run=run, perf=round(perf, 3), seconds=round(seconds, 3))
    if not best and problem:
        raise BenchmarkError(f"benchmark of {handler.route} failed: {problem}")
    if not 0.0 < best <= MAX_PERF:
        raise BenchmarkError(f"benchmark of {handler.route} measured {best:g} load units/s")
    return best


async def _try(post: Post, body: bytes) -> str:
    """What went wrong; empty when nothing did."""
    try:
        await post(body)
    except StokerError as error:
        return str(error) or type(error).__name__
    return ""


class _Payloads:
    def __init__(self, benchmark: BenchmarkConfig) -> None:
        self._benchmark = benchmark
        self._next = 0

    async def take(self, count: int, workload: Workload) -> list[tuple[bytes, float]]:
        """Bodies for the model server, and their loads."""
        return [await self._one(workload) for _ in range(count)]

    async def _one(self, workload: Workload) -> tuple[bytes, float]:
        dataset, generator = self._benchmark.dataset, self._benchmark.generator
        try:
            if dataset is not None:
                payload = dataset[self._next % len(dataset)]
                self._next += 1
            else:
                assert generator is not None
                # It may load a tokenizer or a word list: reports must go on meanwhile.
                payload = await asyncio.to_thread(generator)
            raw = msgspec.json.encode(payload)
            load = workload.of(msgspec.Raw(raw))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise BenchmarkError(f"benchmark payload cannot be made: {reason}") from error
        return raw, load
