"""The server: listening sockets, the connections that are open, their clock and their end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl as ssl_module
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

from stoker.http.accept import Door
from stoker.http.connection import ServerConnection
from stoker.http.exchange import Exchange
from stoker.http.limits import Limits
from stoker.http.sweep import Sweep

if TYPE_CHECKING:
    from stoker.http.tunnel import TunnelEnd

Handler = Callable[[Exchange], object]
"""Called when a request is in, head and body (of a streamed one: its head); answers now, or later
through the exchange.

What it returns is ignored.
"""


class HttpServer:
    """Serves HTTP/1.1 (and 1.0) on any number of sockets.

    Args:
        handler: synchronous; whatever takes time starts a task of its own. An exception in it
            becomes a 500 with an id, and the traceback goes to the log under that id.
        limits: what strangers may make us hold.
        stream_body: called at the end of each head that a body follows, with method, path, query
            and headers in place. It gives the bytes that this body may have, to get the request at
            once and its body as it arrives (`Exchange.source`); or None, to get it with its body.
        accept_upgrade: called at the end of a head that asks for a WebSocket. True gives the
            request to the handler, marked (`Exchange.upgrade`); without it the answer is 501.
        on_refused: called with a short reason for each request or connection that is refused
            before the handler sees it: ``bad_request``, ``header_too_large``,
            ``target_too_long``, ``body_too_large``, ``timeout``, ``write_timeout``,
            ``unsupported``, ``too_many_connections``, ``too_many_pipelined``, ``too_many_bytes``;
            ``failed`` when `stream_body` or `accept_upgrade` raised. Of a streamed request it may
            come while the handler has it, which is told by `Exchange.on_disconnect`.
    """

    def __init__(
        self,
        handler: Handler,
        limits: Limits | None = None,
        *,
        stream_body: Callable[[Exchange], int | None] | None = None,
        accept_upgrade: Callable[[Exchange], bool] | None = None,
        on_refused: Callable[[str], None] | None = None,
    ) -> None:
        self.handler = handler
        self.limits = limits or Limits()
        self.stream_body = stream_body
        self.accept_upgrade = accept_upgrade
        self.open: set[ServerConnection | TunnelEnd] = set()
        self.draining = False
        self.buffered = 0
        self.now = 0.0
        self.date_line = b""
        self._on_refused = on_refused
        self._door = Door(self, lambda *about: ServerConnection(self, *about))
        self._paths: list[str] = []
        self._all_closed: asyncio.Event = asyncio.Event()
        shortest = min(
            self.limits.header_timeout,
            self.limits.body_timeout,
            self.limits.idle_timeout,
            self.limits.write_timeout,
            self.limits.tunnel_idle_timeout,
        )
        self._sweep = Sweep(self.sweep, period=min(1.0, shortest / 4))

    @property
    def connections(self) -> int:
        """How many are open now, or about to be: those of which the TLS handshake is under way."""
        return len(self.open) + self._door.handshakes

    async def listen(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        ssl: ssl_module.SSLContext | None = None,
        backlog: int = 1024,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
    ) -> int:
        """Accept connections on a TCP port.

        Args:
            host: address to bind.
            port: 0 takes a free one.
            ssl: speak TLS with this context.
            backlog: connections that the kernel holds until they are accepted.
            reuse_address: see `asyncio.loop.create_server`, like the next.
            reuse_port: let others listen on the same port.

        Returns:
            The port.

        Raises:
            OSError: the address cannot be bound.
        """
        loop = self._begin()
        listener = await loop.create_server(
            lambda: ServerConnection(self),
            host,
            port,
            start_serving=False,
            reuse_address=reuse_address,
            reuse_port=reuse_port,
        )
        # asyncio has bound the addresses; accepting is ours (see `accept`).
        sockets = [socket.socket(fileno=os.dup(sock.fileno())) for sock in listener.sockets]
        listener.close()
        for sock in sockets:
            sock.listen(backlog)
            self._door.open(sock, ssl)
        bound: int = sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: str | Path) -> None:
        """Accept connections on a Unix socket, for this user only.

        Raises:
            OSError: the socket cannot be made.
        """
        self._begin()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.bind(str(path))
            os.chmod(path, 0o600)  # noqa: PTH101 -- neither blocks worth a thread
            sock.listen(1024)
        except BaseException:
            sock.close()
            raise
        self._door.open(sock)
        self._paths.append(str(path))

    def _begin(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        self._sweep.start()
        self._tell_time(loop.time())
        return loop

    def _tell_time(self, now: float) -> None:
        self.now = now
        self.date_line = b"date: %b\r\n" % formatdate(usegmt=True).encode()

    def sweep(self, now: float) -> None:
        """End everything that has waited for too long at `now`, in the loop's seconds."""
        self._tell_time(now)
        for connection in tuple(self.open):
            connection.expire(now, self._sweep.period)

    def take(self, size: int) -> bool:
        """A connection holds `size` bytes more of a body; False: above the bound."""
        self.buffered += size
        return self.buffered <= self.limits.max_buffered_bytes

    def refused(self, reason: str) -> None:
        """A request or connection was refused (called by the connections)."""
        if self._on_refused is not None:
            self._on_refused(reason)

    def lost(self, connection: ServerConnection | TunnelEnd) -> None:
        """A connection is gone (called by it)."""
        self.open.discard(connection)
        if not self.open:
            self._all_closed.set()

    async def drain(self, timeout: float) -> None:
        """Stop: accept no more, close idle connections, let answers end, then cut what is left.

        Args:
            timeout: seconds that running answers and tunnels get; 0 cuts them at once.
        """
        self.draining = True
        self._door.close()
        for path in self._paths:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
        for connection in tuple(self.open):
            connection.drain()
        for wait, cut in ((timeout, True), (1.0, False)):
            self._all_closed.clear()
            if not self.open:
                break
            try:
                async with asyncio.timeout(wait):
                    await self._all_closed.wait()
            except TimeoutError:
                if cut:
                    for connection in tuple(self.open):
                        connection.reset()
        self._sweep.stop()
