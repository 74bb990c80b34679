"""The worker: an authenticated, metered, queueing façade in front of one model server."""

from __future__ import annotations

from stoker.worker.config import (
    BenchmarkConfig,
    HandlerConfig,
    LogActionConfig,
    RawCalculator,
    WorkerConfig,
    raw_calculator,
)
from stoker.worker.running import RunningWorker
from stoker.worker.settings import WorkerSettings
from stoker.worker.worker import Worker

__all__ = [
    "BenchmarkConfig",
    "HandlerConfig",
    "LogActionConfig",
    "RawCalculator",
    "RunningWorker",
    "Worker",
    "WorkerConfig",
    "WorkerSettings",
    "raw_calculator",
]
