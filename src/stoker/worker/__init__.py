"""The worker: an authenticated, metered, queueing façade in front of one model server."""

from __future__ import annotations

from stoker.worker.config import (
    BenchmarkConfig,
    HandlerConfig,
    LogActionConfig,
    MultipartConfig,
    RawCalculator,
    WorkerConfig,
    raw_calculator,
)
from stoker.worker.handling import ModelResponse, Request, Response
from stoker.worker.payloads import ApiPayload, EndpointHandler, JsonDataException
from stoker.worker.running import RunningWorker
from stoker.worker.settings import WorkerSettings
from stoker.worker.worker import Worker

__all__ = [
    "ApiPayload",
    "BenchmarkConfig",
    "EndpointHandler",
    "HandlerConfig",
    "JsonDataException",
    "LogActionConfig",
    "ModelResponse",
    "MultipartConfig",
    "RawCalculator",
    "Request",
    "Response",
    "RunningWorker",
    "Worker",
    "WorkerConfig",
    "WorkerSettings",
    "raw_calculator",
]
