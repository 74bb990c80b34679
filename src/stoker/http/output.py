"""What goes out on a client's connection: its flow, its time-out, its end."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stoker.http.server import HttpServer

_RESET = struct.pack("ii", 1, 0)
_HALF_CLOSED = getattr(select, "POLLRDHUP", 0)


def hung_up(transport: asyncio.Transport, *, half: bool) -> bool:
    """Whether the peer has left, although we do not read: asks the kernel.

    Args:
        transport: on a socket.
        half: a peer that has closed its sending half, with input perhaps unread, has left as well;
            else only one that has reset the connection.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    poll = select.poll()
    poll.register(sock.fileno(), _HALF_CLOSED if half else 0)  # a reset is always told
    return bool(poll.poll(0))


class Output(asyncio.Protocol):
    """The half of a server connection that writes.

    Attributes:
        write: the transport's own, one call less for each part.
        write_paused: the client takes less than we write.
    """

    __slots__ = (
        "_stuck_at",
        "_stuck_since",
        "_transport",
        "_writable",
        "server",
        "write",
        "write_paused",
    )

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self._transport: asyncio.Transport
        self._stuck_at = 0  # output waiting at the last sweep
        self._stuck_since = 0.0
        self._writable: asyncio.Future[None] | None = None
        self.write_paused = False

    @property
    def peer(self) -> str:
        """Address of the client as ``host:port``; empty on a Unix socket."""
        peer = self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = transport  # type: ignore[assignment]
        self.write = self._transport.write

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the client takes less than we write."""
        self.write_paused = True
        self._watch_output()

    def _watch_output(self) -> None:
        """From now on the client has the write time-out to take something."""
        self._stuck_since = self.server.now
        self._stuck_at = self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self.write_paused = False
        self._wake()

    async def wait_writable(self) -> None:
        """Until `write_paused` is over or the connection is lost."""
        if self._writable is None:
            self._writable = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._writable)

    def _wake(self) -> None:
        if self._writable is not None:
            if not self._writable.done():
                self._writable.set_result(None)
            self._writable = None

    def _expire_output(self, now: float, slack: float) -> None:
        """Cut a client that has taken nothing since the last look, for the write time-out."""
        waiting = self._transport.get_write_buffer_size()
        if waiting < self._stuck_at:
            self._stuck_since = now
        elif now - self._stuck_since - slack > self.server.limits.write_timeout:
            self.server.refused("write_timeout")
            self._transport.abort()
        self._stuck_at = waiting

    def reset(self) -> None:
        """Close at once, with a TCP reset where the socket knows it."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
