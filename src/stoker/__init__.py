"""Stoker: serve any model on GPUs that come and go.

All that a user needs is importable from here; each name loads its room when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stoker import lazy
from stoker.errors import ConfigError, NotFoundError, StokerError
from stoker.version import __version__

if TYPE_CHECKING:
    from stoker.client import Client
    from stoker.worker import (
        ApiPayload,
        BenchmarkConfig,
        EndpointHandler,
        HandlerConfig,
        JsonDataException,
        LogActionConfig,
        ModelResponse,
        MultipartConfig,
        Request,
        Response,
        Worker,
        WorkerConfig,
        raw_calculator,
    )

__all__ = [
    "ApiPayload",
    "BenchmarkConfig",
    "Client",
    "ConfigError",
    "EndpointHandler",
    "HandlerConfig",
    "JsonDataException",
    "LogActionConfig",
    "ModelResponse",
    "MultipartConfig",
    "NotFoundError",
    "Request",
    "Response",
    "StokerError",
    "Worker",
    "WorkerConfig",
    "__version__",
    "raw_calculator",
]


def __dir__() -> list[str]:
    return __all__


__getattr__ = lazy.front(
    __name__,
    {
        "client": "Client",
        "worker": "ApiPayload BenchmarkConfig EndpointHandler HandlerConfig JsonDataException "
        "LogActionConfig ModelResponse MultipartConfig Request Response Worker WorkerConfig "
        "raw_calculator",
    },
)
