"""One connection of a client, read in the order in which it lives: made, data, head, body, answer.

Rules:
- Requests are answered one at a time and in their order; what was read ahead waits, bounded.
- Whatever could be read in two ways is refused with 400 and the connection closed. llhttp refuses
  bad framing by itself (both lengths, a repeated Content-Length, bad chunks, obs-fold, bare CR or
  LF, control characters); `on_headers_complete` adds what it lets pass.
- All bytes that a client makes us hold are counted; all waiting ends in `expire`.
- A client that closes, even only its sending half, has left: its exchange is told at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

import httptools

from stoker import logs
from stoker.http.exchange import Exchange
from stoker.http.limits import PIPELINE_BYTES
from stoker.http.messages import CLOSE, CONTINUE, Headers, build_head, status_line
from stoker.http.phase import Phase, patience
from stoker.http.strict import Refusal, check_head, check_size
from stoker.wire import error_body

if TYPE_CHECKING:
    from stoker.http.server import HttpServer

_log = logs.get_logger("http")
_REQUEST_LINE_BYTES = 64
"""Method, version and blanks, which `check_size` does not count (the target it does)."""

_RESET = struct.pack("ii", 1, 0)


class ServerConnection(asyncio.Protocol):
    """The Protocol of the server side."""

    __slots__ = (
        "_active",
        "_ahead",
        "_body",
        "_body_seen",
        "_body_size",
        "_budget",
        "_completed",
        "_deaf",
        "_fed",
        "_head_bytes",
        "_head_complete",
        "_headers",
        "_incoming",
        "_owes_continue",
        "_parser",
        "_queue",
        "_read_paused",
        "_refusal",
        "_stuck_at",
        "_stuck_since",
        "_transport",
        "_writable",
        "known_host",
        "phase",
        "server",
        "since",
        "write",
        "write_paused",
    )

    def __init__(self, server: HttpServer) -> None:
        self.server = server
        self._transport: asyncio.Transport
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None  # being read
        self._head_complete = False
        self._headers: Headers = []  # where header lines go: the exchange's, later the trailer's
        self._owes_continue = False
        self._active: Exchange | None = None  # being answered
        self._queue: deque[Exchange] = deque()  # read ahead
        self._refusal: Refusal | None = None  # to be sent when those before it are answered
        self._deaf = False  # no more requests are taken
        self._completed = 0  # requests read
        self._fed = 0  # size of the read being parsed
        self._head_bytes = -1  # of a head or trailer, beyond the read in which it began
        self._body: bytearray | None = None  # from the second piece on
        self._body_size = 0
        self._body_seen = 0
        self._budget = 0  # bytes taken of the server's max_buffered_bytes
        self._ahead = 0  # bytes read ahead of the active exchange
        self._read_paused = False
        self._stuck_at = 0  # output waiting at the last sweep
        self._stuck_since = 0.0
        self._writable: asyncio.Future[None] | None = None
        self.known_host: bytes | None = None
        self.write_paused = False
        self.phase = Phase.IDLE
        self.since = 0.0

    @property
    def peer(self) -> str:
        """Address of the client as ``host:port``; empty on a Unix socket."""
        peer = self._transport.get_extra_info("peername")
        return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""

    # --- made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = transport  # type: ignore[assignment]
        self.write = self._transport.write
        server = self.server
        self.since = server.now
        crowded = len(server.open) >= server.limits.max_connections
        server.open.add(self)
        if crowded or server.draining:
            self._deaf = True
            self._refuse(Refusal(503, "too_many_connections", "too many connections"), linger=False)

    # --- data

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._deaf:
            return
        completed = self._completed
        self._fed = len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self._deaf:
                self._give_up(_refusal_of(error))
            return
        incoming = self._incoming
        if self._active is not None or self._queue:
            if incoming is not None or self._queue:
                self._bound_ahead()
        elif incoming is not None:
            phase = Phase.BODY if self._head_complete else Phase.HEAD
            if phase is not self.phase:
                self.phase = phase
                self.since = self.server.now
        elif self.phase is Phase.IDLE and completed == self._completed:
            self.phase = Phase.HEAD  # begun, but not even the target is in
            self.since = self.server.now
        if incoming is not None:
            self._bound_unparsed(incoming)

    def _bound_ahead(self) -> None:
        """Stop reading while much has been read ahead of the request being answered."""
        self._ahead += self._fed
        full = len(self._queue) >= self.server.limits.max_pipelined
        if (full or self._ahead > PIPELINE_BYTES) and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def _bound_unparsed(self, incoming: Exchange) -> None:
        """Refuse a head, chunk extension or trailer that does not end.

        The read in which it began is not counted, as other things may be in it: -1 says so.
        """
        if self._head_complete and self._body_seen != self._body_size:
            if not self._body_seen:
                # The first piece of a body that is to be waited for. `on_body` leaves it out, as
                # most bodies are whole then; but a read may be of 256 KiB, so 10,000 clients that
                # send as much and no more would hold 2.5 GiB.
                self._budget += len(incoming.body)
                if not self.server.take(len(incoming.body)):
                    self._give_up(Refusal(503, "too_many_bytes", "too many large requests at once"))
                    return
            self._body_seen = self._body_size
            self._head_bytes = 0
        elif self._head_bytes < 0:
            self._head_bytes = 0
        else:
            self._head_bytes += self._fed
        limits = self.server.limits
        try:
            if not self._head_complete:
                check_size(incoming, limits)
            if self._head_bytes > limits.max_header_bytes + _REQUEST_LINE_BYTES:
                raise Refusal(431, "header_too_large", "the header lines are too large")
        except Refusal as refusal:
            self._give_up(refusal)

    # --- parser callbacks, in their order

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        if self._incoming is None:
            self._incoming = incoming = Exchange(self, url)
            self._headers = incoming.headers
            self._head_complete = False
            self._head_bytes = -1
        else:
            self._incoming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header line, or one of the trailer (dropped at the end of the request)."""
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """The head is in.

        Raises:
            Refusal: back through the parser to `data_received`.
        """
        incoming = self._incoming
        assert incoming is not None
        limits = self.server.limits
        if self._head_bytes >= 0 or self._fed > limits.max_target_bytes:
            check_size(incoming, limits)
        if check_head(incoming, self._parser, limits, self):
            self._owes_continue = True
            self._send_continue()
        self._headers = []
        self._head_complete = True
        self._head_bytes = -1
        self._body_size = self._body_seen = 0

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        incoming = self._incoming
        assert incoming is not None
        self._body_size += len(data)
        if self._body_size > self.server.limits.max_body_bytes:
            raise Refusal(413, "body_too_large", "the body is too large")
        if not incoming.body:
            incoming.body = data
            return
        # A body in several pieces: those of all connections together have a bound.
        self._budget += len(data)
        if not self.server.take(len(data)):
            raise Refusal(503, "too_many_bytes", "too many large requests at once")
        if self._body is None:
            self._body = bytearray(incoming.body)
        self._body += data

    def on_message_complete(self) -> None:
        """The request is in: answer it, or let it wait for those before it."""
        incoming = self._incoming
        assert incoming is not None
        self._incoming = None
        self._owes_continue = False  # the client did not wait for it
        if self._deaf:
            return  # closed by the answer to a request before it, in this same read
        self._completed += 1
        if self._body is not None:
            incoming.body = bytes(self._body)
            self._body = None
        if not incoming.keep_alive:
            self._deaf = True
        if self._active is None and not self._queue and not self.write_paused:
            self._run(incoming)
            return
        self._queue.append(incoming)
        if len(self._queue) > self.server.limits.max_pipelined:
            incoming.keep_alive = False  # the last one; the client may send the others again
            self._deaf = True
            self.server.refused("too_many_pipelined")
            raise Refusal(503, "too_many_pipelined", "too many requests at once")

    # --- answer

    def _run(self, exchange: Exchange) -> None:
        self._active = exchange
        try:
            self.server.handler(exchange)
        except Exception:
            self._failed(exchange)

    def _failed(self, exchange: Exchange) -> None:
        """The handler raised: the log gets the traceback, the caller an id to quote."""
        error_id = secrets.token_hex(6)
        _log.exception(
            "handler failed", error_id=error_id, method=exchange.method, path=exchange.path
        )
        if exchange.started:
            exchange.abort()
        else:
            exchange.respond(500, error_body("internal error", error_id=error_id))

    def answered(self, exchange: Exchange) -> None:
        """The answer of the active exchange is written."""
        self._active = None
        if not exchange.keep_alive:
            self.close()
        elif self._queue or self._refusal is not None or self._read_paused:
            self._next()
        else:
            self._await_request()

    def _next(self) -> None:
        """Go on with what was read ahead, unless the client takes no answers."""
        if self.write_paused or self._active is not None or self.phase >= Phase.LINGER:
            return
        if self._queue:
            # Recursion through `answered` ends after at most max_pipelined exchanges.
            self._run(self._queue.popleft())
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            if self._read_paused:
                self._read_paused = False
                self._transport.resume_reading()
            self._await_request()

    def _await_request(self) -> None:
        self._ahead = 0
        self.since = self.server.now
        incoming = self._incoming
        if self._budget:
            self._give_back(0 if incoming is None else min(self._budget, self._body_size))
        if incoming is None:
            self.phase = Phase.IDLE
            if self.server.draining:
                self.close()
        else:
            self.phase = Phase.BODY if self._head_complete else Phase.HEAD
            if self._owes_continue:
                self._send_continue()

    def _send_continue(self) -> None:
        if self._active is None and not self._queue:
            self._owes_continue = False
            self.write(CONTINUE)

    # --- refusal

    def _give_up(self, refusal: Refusal) -> None:
        """Take no more requests; answer those that are in, then refuse and close."""
        self._deaf = True
        self._incoming = None
        self._body = None
        if self._active is None and not self._queue:
            self._refuse(refusal)
        else:
            self._refusal = refusal

    def _refuse(self, refusal: Refusal, *, linger: bool = True) -> None:
        self._refusal = None
        self.server.refused(refusal.reason)
        body = error_body(str(refusal))
        own = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        line = status_line(refusal.status)
        self.write(build_head(line, (), own + self.server.date_line + CLOSE) + body)
        if not linger or not self._transport.can_write_eof():
            self.close()
            return
        # Closing with unread input would send a reset, which can overtake the refusal.
        self._transport.write_eof()
        self.phase = Phase.LINGER
        self.since = self.server.now
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()

    # --- flow

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the client takes less than we write."""
        self.write_paused = True
        self._stuck_since = self.server.now
        self._stuck_at = self._transport.get_write_buffer_size()
        active = self._active
        if active is not None and active.on_pause is not None:
            active.on_pause()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self.write_paused = False
        self._wake()
        active = self._active
        if active is None:
            self._next()
        elif active.on_resume is not None:
            active.on_resume()

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

    # --- end

    def drain(self) -> None:
        """The server stops: close unless a request is here, which is still answered."""
        if self.phase is Phase.IDLE and self._active is None:
            self.close()

    def expire(self, now: float, slack: float) -> None:
        """End what has waited for too long; `slack` is the coarseness of the clock."""
        if self.write_paused and self.phase < Phase.LINGER:
            self._expire_output(now, slack)
            return
        limits = self.server.limits
        if self._active is not None or now - self.since - slack <= patience(
            self.phase, limits, self._body_size
        ):
            return
        if self.phase >= Phase.LINGER:
            self._transport.abort()
        elif self.phase is Phase.IDLE:
            self.close()
        else:
            self._give_up(Refusal(408, "timeout", "the request did not arrive in time"))

    def _expire_output(self, now: float, slack: float) -> None:
        """Cut a client that has taken nothing since the last look, for the write time-out."""
        waiting = self._transport.get_write_buffer_size()
        if waiting < self._stuck_at:
            self._stuck_since = now
        elif now - self._stuck_since - slack > self.server.limits.write_timeout:
            self.server.refused("write_timeout")
            self._transport.abort()
        self._stuck_at = waiting

    def close(self) -> None:
        """Close once all output has gone out."""
        self._deaf = True
        self._queue.clear()
        self.phase = Phase.CLOSING
        self.since = self.server.now
        self._transport.close()

    def cut(self, *, reset: bool = False) -> None:
        """End in the midst of an answer; `reset`: so that it cannot look complete."""
        self._active = None
        self.close()
        if reset:
            self.reset()

    def reset(self) -> None:
        """Close at once, with a TCP reset where the socket knows it."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`: the client sends no more, which we take for leaving."""
        if self._active is not None:
            self._leave()
            self._transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self.phase = Phase.CLOSED
        self._deaf = True
        self._leave()
        self._parser = None  # it holds us, and we hold it
        self.server.lost(self)

    def _give_back(self, kept: int = 0) -> None:
        self.server.buffered -= self._budget - kept
        self._budget = kept

    def _leave(self) -> None:
        self._give_back()
        active, self._active = self._active, None
        self._incoming = None
        self._queue.clear()
        self._wake()
        if active is not None:
            try:
                active.lost()
            except Exception:
                _log.exception("on_disconnect failed", path=active.path)


def _refusal_of(error: Exception) -> Refusal:
    cause = error.__context__
    if isinstance(cause, Refusal):
        return cause
    return Refusal(400, "bad_request", f"not a valid HTTP request: {error}")
