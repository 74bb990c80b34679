"""The async client: requests to endpoints, and everything that manages them."""

from __future__ import annotations

try:
    import httpx as _httpx  # noqa: F401
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "stoker.client needs httpx: pip install 'httpx>=0.28'", name="httpx"
    ) from None

from stoker.client.client import Client
from stoker.client.errors import (
    AnswerFailedError,
    RequestFailedError,
    RouteTimeoutError,
    UnauthorizedError,
)
from stoker.client.prefixes import prefixes
from stoker.client.responses import ClientResponse, ClientStream
from stoker.client.sessions import Session
from stoker.inference import Piece, ServerSentEvent

__all__ = [
    "AnswerFailedError",
    "Client",
    "ClientResponse",
    "ClientStream",
    "Piece",
    "RequestFailedError",
    "RouteTimeoutError",
    "ServerSentEvent",
    "Session",
    "UnauthorizedError",
    "prefixes",
]
