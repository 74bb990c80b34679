"""Providers: where instances come from.

`LocalProvider` makes them out of directories and processes on this machine; `AttachedProvider`
lists those that people started elsewhere by hand.
"""

from __future__ import annotations

from stoker.providers.attached import AttachedProvider
from stoker.providers.base import Instance, InstanceSpec, InstanceStatus, Offer, Provider
from stoker.providers.local import LocalProvider

__all__ = [
    "AttachedProvider",
    "Instance",
    "InstanceSpec",
    "InstanceStatus",
    "LocalProvider",
    "Offer",
    "Provider",
]
