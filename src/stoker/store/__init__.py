"""What the control plane must not forget: endpoints, workergroups, workers, templates, keys, logs.

`Store.open` gives a `Store`; everything it returns is a frozen struct of `stoker.store.records`.
"""

from __future__ import annotations

from stoker.store.endpoints import EndpointRows
from stoker.store.keys import ApiKeyRows
from stoker.store.log import LogRows
from stoker.store.records import (
    ApiKeyRecord,
    EndpointRecord,
    LogEntry,
    Origin,
    RemovedRecord,
    TemplateRecord,
    WorkergroupRecord,
    WorkerRecord,
    group_name,
)
from stoker.store.templates import TemplateRows
from stoker.store.workers import WorkerRows

__all__ = [
    "ApiKeyRecord",
    "EndpointRecord",
    "LogEntry",
    "Origin",
    "RemovedRecord",
    "Store",
    "TemplateRecord",
    "WorkerRecord",
    "WorkergroupRecord",
    "group_name",
]


class Store(EndpointRows, WorkerRows, TemplateRows, ApiKeyRows, LogRows):
    """One open database; each method is one transaction, all or nothing.

    Unknown ids raise `stoker.errors.NotFoundError`.
    """
