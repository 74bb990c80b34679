"""Connections to one upstream server, kept alive between requests.

The connection used last is used first (LIFO): under light load the others reach their expiry.
"""

from __future__ import annotations

import asyncio
import errno
import math
import os
import re
import socket
import ssl as ssl_module
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stoker import descriptors
from stoker.http.messages import CHUNKED, build_head
from stoker.http.request import ResponseSink, UpstreamError, UpstreamRequest
from stoker.http.sweep import Sweep
from stoker.http.upstream import UpstreamConnection

if TYPE_CHECKING:
    from stoker.http.tunnel import TunnelEnd

_TARGET = re.compile(rb"[!-~\x80-\xff]+")
_METHOD = re.compile(r"[A-Z]+")
_BODYLESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


NO_DESCRIPTOR = "no file descriptor is left for a connection to the upstream"


def request_line(method: str, target: bytes) -> bytes:
    """The first line of a request.

    Raises:
        ValueError: method or target would break the line apart.
    """
    if not _METHOD.fullmatch(method):
        raise ValueError("a method is in upper-case letters")
    if not _TARGET.fullmatch(target):
        raise ValueError("a target is not empty, and has no blanks or control characters")
    return b"%b %b HTTP/1.1\r\n" % (method.encode(), target)


def why_not_connected(error: Exception) -> str:
    """Why no connection could be opened, in words that tell what to look at."""
    if isinstance(error, ssl_module.SSLCertVerificationError):
        return f"the upstream's certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl_module.SSLError):
        return f"the upstream speaks no TLS that we understand: {error.reason or error}"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return NO_DESCRIPTOR
    if isinstance(error, socket.gaierror):
        return f"the upstream's name cannot be looked up: {error.strerror or error}"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
        return f"the upstream cannot be reached: {os.strerror(error.errno)}"
    if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        return "the upstream closed the connection before it was set up: does it speak TLS there?"
    return "the upstream refused the connection"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an upstream server is; made by `tcp`, `unix` or `parse`.

    Attributes:
        host: name or address; empty for a Unix socket.
        port: TCP port; 0 for a Unix socket.
        path: of a Unix socket.
        ssl: context for TLS.
        authority: what the Host header says.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    ssl: ssl_module.SSLContext | None = None
    authority: bytes = b"localhost"

    @staticmethod
    def tcp(host: str, port: int, ssl: ssl_module.SSLContext | None = None) -> Origin:
        """A TCP port, with TLS if a context is given."""
        name = f"[{host}]" if ":" in host else host
        default = 443 if ssl else 80
        authority = name if port == default else f"{name}:{port}"
        return Origin(host=host, port=port, ssl=ssl, authority=authority.encode("idna"))

    @staticmethod
    def unix(path: str) -> Origin:
        """A Unix socket."""
        return Origin(path=path)

    @staticmethod
    def parse(url: str, ssl: ssl_module.SSLContext | None = None) -> Origin:
        """The origin of an ``http://`` or ``https://`` URL; its path is not looked at.

        Args:
            url: for example ``http://127.0.0.1:8080``.
            ssl: context for https; default: the system's certificate authorities.

        Raises:
            ValueError: another scheme, or no host.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL like http://host:port")
        if parts.scheme == "https":
            context = ssl or ssl_module.create_default_context()
            return Origin.tcp(parts.hostname, parts.port or 443, context)
        return Origin.tcp(parts.hostname, parts.port or 80)

    async def connect(self, connection: UpstreamConnection) -> None:
        """Open a connection.

        Raises:
            OSError: refused, unknown host, TLS failure.
        """
        loop = asyncio.get_running_loop()
        if self.path:
            await loop.create_unix_connection(lambda: connection, self.path)
        else:
            await loop.create_connection(
                lambda: connection, self.host, self.port, ssl=self.ssl or None
            )


class UpstreamPool:
    """Sends requests to one origin.

    Attributes:
        heard: when a byte of any answer last came, in the loop's seconds, at most a sweep behind.

    Args:
        origin: where to.
        max_connections: open at once; further requests wait in their order. None: no bound.
        connect_timeout: seconds for opening a connection.
        response_timeout: seconds from the request to the head of the answer, where the request sets
            no limit of its own (`UpstreamRequest.patience`).
        idle_read_timeout: seconds between two parts of an answer, likewise.
        keep_alive: seconds for which an unused connection is kept; less if the server says so.
        own_calls: it may have the last descriptors, which clients' requests must not use up.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        max_connections: int | None = None,
        connect_timeout: float = 5.0,
        response_timeout: float = 600.0,
        idle_read_timeout: float = 300.0,
        keep_alive: float = 60.0,
        own_calls: bool = False,
    ) -> None:
        self.origin = origin
        self._own_calls = own_calls
        self.response_timeout = response_timeout
        self.idle_read_timeout = idle_read_timeout
        self._max_connections = max_connections
        self._connect_timeout = connect_timeout
        self._keep_alive = keep_alive
        self._open: set[UpstreamConnection | TunnelEnd] = set()
        self._idle: list[UpstreamConnection] = []
        self._opening: dict[asyncio.Task[None], UpstreamRequest] = {}
        self._waiting: deque[UpstreamRequest] = deque()
        self._closed = False
        self._host_line = b"host: %b\r\n" % origin.authority
        self.now = 0.0  # the coarse clock, in the loop's seconds
        self.heard = float("-inf")
        shortest = min(response_timeout, idle_read_timeout, keep_alive)
        self._sweep = Sweep(self.sweep, period=max(0.01, min(1.0, shortest / 4)))

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many wait for a request."""
        return len(self._idle)

    def request(
        self,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        sink: ResponseSink,
    ) -> UpstreamRequest:
        """Send a request; the answer goes to `sink`.

        Args:
            method: upper case.
            target: in origin form.
            headers: names in lower case, without framing; a Host header takes our own's place.
            body: sent with its Content-Length.
            sink: never called before this returns.

        Raises:
            ValueError: the target or a header would break the request apart.
        """
        head = build_head(request_line(method, target), headers, self.own_lines(method, body))
        return self.send(UpstreamRequest(self, method, head, body, sink))

    def own_lines(self, method: str, body: bytes) -> bytes:
        """The header lines that are ours to set: Host and Content-Length."""
        if body or method not in _BODYLESS:
            return b"%bcontent-length: %d\r\n" % (self._host_line, len(body))
        return self._host_line

    def stream_lines(self, content_length: int | None) -> bytes:
        """Our own header lines for a body that is passed on; None: in chunks."""
        if content_length is None:
            return self._host_line + CHUNKED
        return b"%bcontent-length: %d\r\n" % (self._host_line, content_length)

    def send(self, request: UpstreamRequest) -> UpstreamRequest:
        """Put a request on its way; its head is complete and trusted."""
        idle = self._idle
        now = self.now
        while idle:
            connection = idle.pop()
            if connection.reusable(now):
                connection.send(request, reused=True)
                return request
            connection.drop()
        if self._max_connections and self.connections + len(self._opening) >= self._max_connections:
            self._waiting.append(request)
        else:
            self._start_opening(request)
        return request

    def _start_opening(self, request: UpstreamRequest) -> None:
        self._sweep.start()
        self.now = max(self.now, self._sweep.now)
        task = asyncio.get_running_loop().create_task(self._open_for(request))
        self._opening[task] = request
        task.add_done_callback(lambda done: self._opening.pop(done, None))

    async def _open_for(self, request: UpstreamRequest) -> None:
        connection = UpstreamConnection(self)
        try:
            # A busy server that takes no more connections is silent as well.
            limit = max(self._connect_timeout, request.patience or 0.0)
            async with asyncio.timeout(None if limit == math.inf else limit):
                await self.origin.connect(connection)
        except TimeoutError:
            self._opening_failed(
                request, UpstreamError("timeout", "the upstream cannot be reached")
            )
            return
        except (OSError, ValueError, OverflowError) as error:  # also of a host that cannot be
            self._opening_failed(request, UpstreamError("refused", why_not_connected(error)))
            return
        self._open.add(connection)
        if not self._own_calls and connection.fileno() >= descriptors.last():
            connection.drop()
            self._opening_failed(request, UpstreamError("refused", NO_DESCRIPTOR))
            return
        if self._closed:
            connection.drop()
        elif request.aborted:
            self.release(connection)
        else:
            connection.send(request, reused=False)

    def _opening_failed(self, request: UpstreamRequest, error: UpstreamError) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._opening.pop(task, None)
        if not request.aborted:
            request.sink.on_error(error)
        self._serve_waiting()

    # --- called by connections and requests

    def release(self, connection: UpstreamConnection) -> None:
        """A connection is free again."""
        if self._closed:
            connection.drop()
        elif self._waiting:
            connection.send(self._waiting.popleft(), reused=True)
        else:
            connection.since = self.now
            connection.expires = connection.since + self._keep_alive
            self._idle.append(connection)

    def replace(self, connection: UpstreamConnection, end: TunnelEnd) -> None:
        """A connection has switched protocols; it still counts."""
        self._open.discard(connection)
        self._open.add(end)

    def closed(self, connection: UpstreamConnection | TunnelEnd) -> None:
        """A connection is gone."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        if self._waiting and not self._closed:
            self._start_opening(self._waiting.popleft())

    def repeat(self, request: UpstreamRequest) -> None:
        """Send a request again, on a fresh connection."""
        if not self._closed:
            self._start_opening(request)
        else:
            request.sink.on_error(UpstreamError("closed", "the pool is closed"))

    def forget(self, request: UpstreamRequest) -> None:
        """A request was aborted before it had a connection."""
        if request in self._waiting:
            self._waiting.remove(request)

    def limit_keep_alive(self, seconds: float) -> None:
        """The server says how long it keeps a connection."""
        self._keep_alive = min(self._keep_alive, seconds)

    def sweep(self, now: float) -> None:
        """End everything that has waited for too long at `now`, in the loop's seconds."""
        self.now = now
        for connection in tuple(self._open):
            connection.expire(now, self._sweep.period)
        if not self._open and not self._opening:
            self._sweep.stop()

    async def close(self) -> None:
        """Close every connection; running requests get an error of kind ``closed``."""
        self._closed = True
        self._sweep.stop()
        error = UpstreamError("closed", "the pool is closed")
        waiting = [*self._waiting, *self._opening.values()]
        self._waiting.clear()
        tasks = tuple(self._opening)
        for task in tasks:
            task.cancel()
        for connection in tuple(self._open):
            connection.fail(error)
        for request in waiting:
            if not request.aborted:
                request.aborted = True
                request.sink.on_error(error)
        await asyncio.gather(*tasks, return_exceptions=True)
