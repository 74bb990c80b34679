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

__all__ = [
    "BenchmarkConfig",
    "HandlerConfig",
    "LogActionConfig",
    "RawCalculator",
    "WorkerConfig",
    "raw_calculator",
]
