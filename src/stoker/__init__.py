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
        BenchmarkConfig,
        HandlerConfig,
        LogActionConfig,
        Worker,
        WorkerConfig,
    )

__all__ = [
    "BenchmarkConfig",
    "Client",
    "ConfigError",
    "HandlerConfig",
    "LogActionConfig",
    "NotFoundError",
    "StokerError",
    "Worker",
    "WorkerConfig",
    "__version__",
]

_ROOMS = {
    "Client": "stoker.client",
    "BenchmarkConfig": "stoker.worker",
    "HandlerConfig": "stoker.worker",
    "LogActionConfig": "stoker.worker",
    "Worker": "stoker.worker",
    "WorkerConfig": "stoker.worker",
}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'stoker' has no attribute {name!r}")
    return getattr(importlib.import_module(_ROOMS[name]), name)
