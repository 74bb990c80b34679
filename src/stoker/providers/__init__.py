"""Providers: where instances come from.

`LocalProvider` makes them out of directories and processes on this machine; `AttachedProvider`
lists those that people started elsewhere by hand.
"""

from __future__ import annotations

from stoker.providers.attached import AttachedProvider
from stoker.providers.base import (
    LOG_NAMES,
    Instance,
    InstanceSpec,
    InstanceStatus,
    LogLine,
    LogPart,
    Offer,
    Provider,
)
from stoker.providers.local import LocalProvider

__all__ = [
    "LOG_NAMES",
    "AttachedProvider",
    "Instance",
    "InstanceSpec",
    "InstanceStatus",
    "LocalProvider",
    "LogLine",
    "LogPart",
    "Offer",
    "Provider",
]
