"""Accepting connections: what comes in is counted from the first moment, and bounded.

Rules:

* A connection counts from its acceptance on, so one that never ends its TLS handshake counts too.
* Above the bound, connections that have been idle for longest make room for new ones, so that
  whoever holds many open and says nothing keeps nobody out. One whose TLS handshake, head or body
  does not get on is idle as well.
* Where none is idle, a connection is answered with 503. Where TLS has to be spoken for that, only
  so many of them at once; the others are closed.
* Where no descriptor is left, nothing is accepted for a moment. The kernel holds who comes
  meanwhile, and the log says so.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl as ssl_module
from collections.abc import Callable
from typing import TYPE_CHECKING

from stoker import descriptors, logs

if TYPE_CHECKING:
    from stoker.http.server import HttpServer

BATCH = 64
"""Connections accepted in a row before anything else gets its turn."""

PAUSE = 0.2
"""Seconds for which nothing is accepted where no descriptor or memory is left for it."""

MAX_REFUSALS = 64
"""TLS handshakes at once that are made only to answer 503."""

TELL_EVERY = 10.0
"""Seconds between two lines that say that connections are refused."""

IDLE_ENOUGH = 2.0
"""Seconds without a whole request after which a connection may have to make room."""

CLEAR_EVERY = 0.05
"""Seconds between two looks for idle connections; a look goes over all that are open."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_log = logs.get_logger("http")

Factory = Callable[[bool, Callable[[], None]], asyncio.Protocol]


class Door:
    """The listening sockets of a server, and the handshakes that are under way."""

    def __init__(self, server: HttpServer, make: Factory) -> None:
        """Listen nowhere yet.

        Args:
            server: counts the connections that are open, and has the bounds.
            make: makes the protocol of a connection; it gets whether the connection is to be
                refused, and what to call when it is made.
        """
        self._server = server
        self._make = make
        self._sockets: dict[socket.socket, ssl_module.SSLContext | None] = {}
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._handshakes: set[asyncio.Task[None]] = set()
        self._since: dict[asyncio.Task[None], float] = {}
        """Handshakes of connections that are not refused, the oldest first, and their beginning."""
        self._coming = 0
        self._refusing = 0
        self._room = 0
        self._cleared_at = float("-inf")
        self._refused = 0
        self._told_at = float("-inf")

    @property
    def handshakes(self) -> int:
        """Connections that are accepted and not yet open."""
        return self._coming

    def open(self, sock: socket.socket, ssl: ssl_module.SSLContext | None = None) -> None:
        """Accept on a bound, listening socket, which is ours from now on."""
        sock.setblocking(False)
        self._sockets[sock] = ssl
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def close(self) -> None:
        """Accept no more; handshakes end."""
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            if (pause := self._pauses.pop(sock, None)) is not None:
                pause.cancel()
            else:
                loop.remove_reader(sock)
            sock.close()
        self._sockets.clear()
        for task in self._handshakes:
            task.cancel()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(BATCH):
            if sock not in self._sockets:
                return
            try:
                connection, _peer = sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause(sock, error)
                    return
                continue  # the client has left already, or a firewall forbids it
            connection.setblocking(False)
            self._take(connection, self._sockets[sock])

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock)
        self._pauses[sock] = loop.call_later(PAUSE, self._resume, sock)
        self._tell(f"nothing can be accepted: {error.strerror}")

    def _resume(self, sock: socket.socket) -> None:
        del self._pauses[sock]
        asyncio.get_running_loop().add_reader(sock, self._accept, sock)

    def _take(self, connection: socket.socket, ssl: ssl_module.SSLContext | None) -> None:
        server = self._server
        full = len(server.open) + self.handshakes >= server.limits.max_connections
        scarce = connection.fileno() >= descriptors.ceiling()
        crowded = (full or scarce) and not self._make_room()
        if crowded:
            self._refused += 1
            self._tell(
                "connections are refused: too many are open"
                if full
                else "connections are refused: too few file descriptors are left"
            )
            if ssl is not None and self._refusing >= MAX_REFUSALS:
                server.refused("too_many_connections")
                connection.close()
                return
        coming = not crowded

        def arrived() -> None:
            nonlocal coming
            self._coming -= coming
            coming = False
            self._since.pop(task, None)  # open from now on: its own idleness counts

        self._coming += coming
        self._refusing += crowded
        task = asyncio.get_running_loop().create_task(
            self._hand_over(connection, ssl, lambda: self._make(crowded, arrived))
        )
        self._handshakes.add(task)
        if coming:
            self._since[task] = asyncio.get_running_loop().time()

        def settled(done: asyncio.Task[None]) -> None:
            self._handshakes.discard(done)
            self._refusing -= crowded
            arrived()
            if done.cancelled() or done.exception() is not None:
                connection.close()  # no TLS, or not in time: the client's own affair

        task.add_done_callback(settled)

    def _make_room(self) -> bool:
        """End some of what is idle for longest; whether a connection may come in."""
        now = asyncio.get_running_loop().time()
        if not self._room and now - self._cleared_at >= CLEAR_EVERY:
            self._cleared_at = now
            idle: list[tuple[float, Callable[[], object]]] = []
            for connection in self._server.open:
                if (seconds := connection.idle_for(now)) >= IDLE_ENOUGH:
                    idle.append((seconds, connection.give_way))
            for task, since in self._since.items():
                if now - since >= IDLE_ENOUGH:
                    idle.append((now - since, task.cancel))
            idle.sort(key=lambda one: -one[0])
            for _, end in idle[: max(1, len(idle) // 8)]:
                end()
                self._room += 1
            if self._room:
                self._tell("idle connections are closed: too many are open")
        if not self._room:
            return False
        self._room -= 1
        return True

    async def _hand_over(
        self,
        connection: socket.socket,
        ssl: ssl_module.SSLContext | None,
        make: Callable[[], asyncio.Protocol],
    ) -> None:
        patience = self._server.limits.header_timeout if ssl is not None else None
        await asyncio.get_running_loop().connect_accepted_socket(
            make, connection, ssl=ssl, ssl_handshake_timeout=patience
        )

    def _tell(self, text: str) -> None:
        """Say it, at most so often: whoever causes it must not fill the log."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= TELL_EVERY:
            _log.warning(
                text,
                open=len(self._server.open),
                max_connections=self._server.limits.max_connections,
                max_files=descriptors.limit(),
                refused=self._refused,
            )
            self._told_at, self._refused = now, 0
