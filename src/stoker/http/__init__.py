"""The HTTP/1.1 engine of the hot paths: server, upstream pool, and the relay between them."""

from __future__ import annotations

from stoker.http.body import BodySource
from stoker.http.cors import Cors
from stoker.http.exchange import Exchange, bearer, coded
from stoker.http.fetch import Response, fetch
from stoker.http.health import Health, check_health
from stoker.http.limits import Limits
from stoker.http.pool import Origin, UpstreamPool
from stoker.http.relay import Outcome, Relay, RelayObserver, relay, relay_prefix
from stoker.http.request import ResponseSink, UpstreamError, UpstreamRequest
from stoker.http.server import Handler, HttpServer
from stoker.http.stream import StreamedResponse, open_stream
from stoker.http.tunnel import Tunnel, TunnelObserver, tunnel

__all__ = [
    "BodySource",
    "Cors",
    "Exchange",
    "Handler",
    "Health",
    "HttpServer",
    "Limits",
    "Origin",
    "Outcome",
    "Relay",
    "RelayObserver",
    "Response",
    "ResponseSink",
    "StreamedResponse",
    "Tunnel",
    "TunnelObserver",
    "UpstreamError",
    "UpstreamPool",
    "UpstreamRequest",
    "bearer",
    "check_health",
    "coded",
    "fetch",
    "open_stream",
    "relay",
    "relay_prefix",
    "tunnel",
]
