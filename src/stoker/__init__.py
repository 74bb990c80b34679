"""Stoker: serve any model on GPUs that come and go.

All that a user needs is importable from here; each name loads its room when it is first used.
"""

from __future__ import annotations

from stoker import lazy
from stoker.version import __version__

# Not that of `typing`, whose import takes a while: every program of ours begins with this file, and
# Ctrl-C leaves a stack trace until it is loaded (see `stoker.cli.main`).
TYPE_CHECKING = False
if TYPE_CHECKING:
    from stoker.client import Client
    from stoker.errors import ConfigError, NotFoundError, StokerError
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
        "errors": "ConfigError NotFoundError StokerError",
        "worker": "ApiPayload BenchmarkConfig EndpointHandler HandlerConfig JsonDataException "
        "LogActionConfig ModelResponse MultipartConfig Request Response Worker WorkerConfig "
        "raw_calculator",
    },
)
