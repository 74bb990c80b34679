"""One connection to an upstream server, and one request on it.

Life of a connection: opened for a request, then by turns busy with one request and idle in the
pool, until one side closes it. Life of a request: waiting (for a connection), sent, head, body, and
exactly one of `on_complete` and `on_error`; nothing more comes after `UpstreamRequest.abort`. Or
the server switches protocols, if it was asked to, and the connection is given away.

A request is sent again, once and on a fresh connection, only if the connection was kept alive from
an earlier request, closed without a single byte of an answer, and the method is GET or HEAD. For
any other method the server might have begun to act on it: the caller gets ``closed``. That is rare,
because `reusable` looks at the socket of a connection that was idle for a while before anything is
sent on it: a server that had hung up is noticed while no byte has been sent. A request whose body
is passed on as it arrives is never repeated: the body is gone.

After an event stream a connection is not used again: llama.cpp's server says that it will keep the
connection, and closes it right behind the last chunk, so a request that comes at once would be
lost. Beside a stream of seconds a new connection (0.2 ms) is nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
from typing import TYPE_CHECKING

import httptools

from stoker.http.limits import (
    LAST_WORDS_BYTES,
    UPSTREAM_HEAD_BYTES,
    UPSTREAM_HEADERS,
    UPSTREAM_INTERIM,
)
from stoker.http.messages import PLAIN_CONNECTION, REASONS, Headers, named_by_connection
from stoker.http.request import UpstreamError, UpstreamRequest

if TYPE_CHECKING:
    from stoker.http.body import Upload
    from stoker.http.pool import UpstreamPool
    from stoker.http.tunnel import TunnelEnd

_IDLE_LOOK = 0.5
"""Idle seconds from which the socket is looked at before reuse (a system call, about 1 us)."""

_REPEATABLE = frozenset({"GET", "HEAD"})

_JOIN_BYTES = 65_536
"""Bodies up to this size are copied behind the head, to go out in one write."""


class UpstreamConnection(asyncio.Protocol):
    """The Protocol of the upstream side."""

    __slots__ = (
        "_choked",
        "_chunks",
        "_complete",
        "_content_length",
        "_got_bytes",
        "_has_head",
        "_head_sent",
        "_headers",
        "_interim",
        "_interims",
        "_keep",
        "_lost",
        "_parser",
        "_paused",
        "_pool",
        "_request",
        "_reused",
        "_status",
        "_switch_headers",
        "_transport",
        "_unparsed",
        "_unsent",
        "_until_close",
        "expires",
        "since",
    )

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser | None = None
        self._request: UpstreamRequest | None = None
        self._reused = False
        self._lost = False
        self._paused = False
        self._choked = False  # it takes less of a streamed body than we send
        self._unsent = 0  # of it, at the last sweep
        self.since = 0.0
        self.expires = 0.0
        self._reset()

    def _reset(self) -> None:
        self._headers: Headers = []
        self._chunks: list[bytes] = []
        self._status = 0
        self._content_length: int | None = None
        self._until_close = False
        self._has_head = False  # read
        self._head_sent = False  # passed on
        self._complete = False
        self._got_bytes = False
        self._interim = False
        self._interims = 0
        self._switch_headers: Headers | None = None  # of a 101
        self._unparsed = 0
        self._keep = False

    # --- made, idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = transport  # type: ignore[assignment]

    @property
    def answering(self) -> bool:
        """The head of the answer has come."""
        return self._has_head

    def fileno(self) -> int:
        """Its file descriptor; -1 where it has none."""
        sock = self._transport.get_extra_info("socket")
        return -1 if sock is None else int(sock.fileno())

    def reusable(self, now: float) -> bool:
        """Whether the server still holds the connection, as far as can be seen from here."""
        if self._lost or self._transport.is_closing() or now >= self.expires:
            return False
        if now - self.since < _IDLE_LOOK:
            return True
        sock = self._transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return not poll.poll(0)  # readable means closed, or an answer that nobody asked for

    # --- request

    def send(self, request: UpstreamRequest, *, reused: bool) -> None:
        """Put a request on an idle connection."""
        self._reused = reused
        if reused:
            self._reset()
        if self._parser is None:
            self._parser = httptools.HttpResponseParser(self)
        self._request = request
        request.connection = self
        self.since = self._pool.now
        if request.paused:
            self.pause()
        if request.upload is not None:
            self._transport.write(request.head)
            request.upload.begin(self)
        elif len(request.body) <= _JOIN_BYTES:
            self._transport.write(request.head + request.body)
        else:
            self._transport.write(request.head)
            self._transport.write(request.body)

    def pause(self) -> None:
        """Stop reading."""
        if not self._paused and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self.since = self._pool.now
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # --- a body that is passed on as it arrives

    def write_body(self, data: bytes) -> None:
        """Send a part of the body, framed."""
        if not self._transport.is_closing():
            self.since = self._pool.now
            self._transport.write(data)

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the upstream takes less than we send."""
        self._choked = True
        self._unsent = self._transport.get_write_buffer_size()
        if self._request is not None and self._request.upload is not None:
            self._request.upload.pause()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._choked = False
        self.since = self._pool.now
        if self._request is not None and self._request.upload is not None:
            self._request.upload.resume()

    # --- answer

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        request = self._request
        if request is None or self._parser is None:
            self.drop()  # an answer that nobody asked for
            return
        self._got_bytes = True
        self.since = self._pool.heard = self._pool.now
        problem = ""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            if self._switch_headers is not None:
                self._switch(request, self._switch_headers, data[switch.args[0] :])
                return
            problem = "it switches protocols"
        except httptools.HttpParserError as error:
            cause = error.__context__
            problem = str(cause if isinstance(cause, UpstreamError) else error)
        if self._complete:
            self._keep = self._keep and not problem
            problem = ""
        elif self._chunks or (self._has_head and not self._head_sent):
            self._unparsed = 0
        else:
            self._unparsed += len(data)
            if self._unparsed > UPSTREAM_HEAD_BYTES:
                problem = "its header lines are too large"
        self._deliver(request)
        if problem and self._request is request:
            self._fail(UpstreamError("malformed", f"the upstream's answer is not valid: {problem}"))

    def _deliver(self, request: UpstreamRequest) -> None:
        """Pass on what this read brought; the request may be aborted by any of the calls."""
        sink = request.sink
        chunks = self._chunks
        if not self._head_sent:
            if not self._has_head:
                return
            self._head_sent = True
            request.body_follows = bool(chunks) or self._complete
            status = self._status
            headers, self._headers = self._headers, []
            sink.on_head(status, REASONS.get(status, b""), headers, self._content_length)
        if chunks:
            self._chunks = []
            if not request.aborted:
                sink.on_data(chunks[0] if len(chunks) == 1 else b"".join(chunks))
        if self._complete and not request.aborted:
            self._release(request)
            sink.on_complete()

    def _switch(self, request: UpstreamRequest, headers: Headers, rest: bytes) -> None:
        """The upstream has taken up the other protocol."""
        self._parser = self._request = request.connection = None
        assert request.on_switch is not None
        request.on_switch(headers, self, rest)

    def give_to(self, end: TunnelEnd) -> None:
        """Let `end` have the transport and this connection's place in the pool."""
        self._transport.set_protocol(end)
        self._pool.replace(self, end)
        end.begin(self._transport)

    def _release(self, request: UpstreamRequest) -> None:
        """The answer is whole: to the pool, or closed when it cannot be used again."""
        self._request = None
        request.connection = None
        if self._paused:
            self.resume()
        if request.upload is not None:
            self._keep = self._keep and request.upload.done
            request.upload.stop()
        if request.method == "HEAD":
            self._parser = None  # it would wait for the body that the head announced
        if self._keep and not self._transport.get_write_buffer_size():
            self._pool.release(self)
        else:
            # Not an orderly close: that would wait for a server that does not take our body.
            self.drop()

    # --- parser callbacks, in their order

    def on_message_begin(self) -> None:
        """The first byte of an answer; of a second one, if the first is complete."""
        if self._complete:
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header line, or one of the trailer (dropped)."""
        if not self._has_head:
            headers = self._headers
            headers.append((name.lower(), value))
            if len(headers) > UPSTREAM_HEADERS:
                raise UpstreamError("malformed", "it has too many header lines")

    def on_headers_complete(self) -> None:
        """The head is in."""
        assert self._parser is not None
        assert self._request is not None
        status: int = self._parser.get_status_code()
        if self._has_head or status < 200:
            self._interims += 1
            self._interim = True
            if status == 101 and self._request.on_switch is not None:
                upgrades = [value for name, value in self._headers if name == b"upgrade"]
                if [value.strip().lower() for value in upgrades] != [b"websocket"]:
                    raise UpstreamError("malformed", "it switches to a protocol of its own choice")
                self._switch_headers = self._headers
                return
            if self._has_head or status < 100 or self._interims > UPSTREAM_INTERIM:
                raise UpstreamError("malformed", "its status line is out of place")
            return
        self._status = status
        self._keep = self._parser.should_keep_alive()
        chunked = False
        named: frozenset[bytes] = frozenset()
        for name, value in self._headers:
            if name == b"content-length":
                if not value.strip(b" ").isdigit():  # llhttp has checked the rest
                    raise UpstreamError("malformed", "its Content-Length is not valid")
                self._content_length = int(value)
            elif name == b"transfer-encoding":
                chunked = True
                if value.rstrip(b" ").lower() != b"chunked":  # to the byte, as llhttp reads it
                    raise UpstreamError("malformed", "its Transfer-Encoding is not supported")
            elif name == b"content-type":
                if value.startswith(b"text/event-stream"):
                    self._keep = False
            elif name == b"keep-alive":
                self._hint(value)
            elif name == b"connection" and value not in PLAIN_CONNECTION:
                named |= named_by_connection(value)
        if named:
            self._headers = [header for header in self._headers if header[0] not in named]
        self._has_head = True
        if self._request.method == "HEAD":
            self._complete = True
        elif self._content_length is None and not chunked:
            self._until_close = True

    def _hint(self, value: bytes) -> None:
        """``Keep-Alive: timeout=5``: do not use it in its last second."""
        name, _, seconds = value.partition(b",")[0].partition(b"=")
        if name.strip().lower() == b"timeout" and seconds.strip().isdigit():
            self._pool.limit_keep_alive(max(0.0, float(seconds) - 1.0))

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        if self._complete:
            self._keep = False  # a body after HEAD
        else:
            self._chunks.append(data)

    def on_message_complete(self) -> None:
        """The answer is whole, or was an interim one."""
        if self._interim:
            self._interim = False
            self._headers = []
        else:
            self._complete = True

    # --- end

    def _fail(self, error: UpstreamError) -> None:
        request = self._request
        self.drop()
        if request is not None and not request.aborted:
            request.sink.on_error(error)

    def drop(self) -> None:
        """Close at once; the request, if any, hears nothing."""
        request, self._request = self._request, None
        if request is not None:
            request.connection = None
            if request.upload is not None:
                request.upload.stop()
        if not self._lost:
            self._lost = True
            self._transport.abort()
            self._pool.closed(self)

    def fail(self, error: UpstreamError) -> None:
        """Close at once and tell the request."""
        self._fail(error)

    def expire(self, now: float, slack: float) -> None:
        """End what has waited for too long; `slack` is the coarseness of the clock."""
        request = self._request
        if request is None:
            if now >= self.expires:
                self.drop()
            return
        waited = now - self.since - slack
        if self._paused or (request.upload is not None and self._sending(request.upload, now)):
            return
        limit, patience = self._pool.response_timeout, request.patience
        problem = "the upstream did not answer in time"
        if self._has_head:
            limit = self._pool.idle_read_timeout
            problem = "the upstream stopped in the midst of its answer"
        if waited > (limit if patience is None else patience):
            self._fail(UpstreamError("timeout", problem))

    def _sending(self, upload: Upload, now: float) -> bool:
        """Whether the body is still on its way: the client's time, not the upstream's.

        An upstream that takes nothing of it has the time that it has for its answer.
        """
        if not self._choked:
            return not upload.done
        unsent = self._transport.get_write_buffer_size()
        moves = unsent < self._unsent
        self._unsent = unsent
        if moves:
            self.since = now
        return moves

    def _read_last_words(self) -> None:
        """Read what an upstream said before it refused the rest of a body.

        The failed write has ended the transport, and a 413 may lie unread in the socket. With TLS
        it cannot be had.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._transport.get_extra_info("ssl_object") is not None:
            return
        left = LAST_WORDS_BYTES
        with contextlib.suppress(OSError), sock.dup() as copy:
            copy.setblocking(False)
            while left > 0 and self._request is not None and (data := copy.recv(left)):
                left -= len(data)
                self.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if exc is not None and self._request is not None and self._request.upload is not None:
            self._read_last_words()
        request, self._request = self._request, None
        known, self._lost = self._lost, True
        self._parser = None  # it holds us, and we hold it
        if request is not None:
            request.connection = None
            if request.upload is not None:
                request.upload.stop()
        if not known:
            self._pool.closed(self)
        if request is None or request.aborted:
            return
        if self._until_close and self._head_sent and exc is None:
            request.sink.on_complete()
        elif (
            self._reused
            and not self._got_bytes
            and request.method in _REPEATABLE
            and request.upload is None
        ):
            self._pool.repeat(request)
        else:
            where = "in the midst of its answer" if self._has_head else "without an answer"
            request.sink.on_error(UpstreamError("closed", f"the upstream closed {where}"))
