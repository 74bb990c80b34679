"""Stoker: serve any model on GPUs that come and go.

All that a user needs is importable from here; each name loads its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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


_ROOMS = {"Client": "stoker.client"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS.get(name, "stoker.worker")), name)
