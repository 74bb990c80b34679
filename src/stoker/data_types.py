"""What a ``worker.py`` imports from ``vastai.serverless.server.lib.data_types``, from Stoker.

Change the import line of the file, and nothing else::

    from stoker.data_types import ApiPayload, EndpointHandler, JsonDataException

Names and signatures are those of the PyPI package ``vastai``, 1.9.1.
"""

from __future__ import annotations

from typing import Any

from stoker.worker.payloads import ApiPayload, EndpointHandler, JsonDataException
from stoker.worker.payloads import P as ApiPayload_T  # noqa: N811 -- the name of the existing SDK

__all__ = ["ApiPayload", "ApiPayload_T", "EndpointHandler", "JsonDataException"]


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    # An AttributeError would become "cannot import name", which says nothing about what to do.
    raise ImportError(
        f"stoker.data_types has no {name}: it has {', '.join(__all__)}. What else that module of "
        "vastai holds is its worker's own book-keeping, for which Stoker has /metrics"
    )
