"""What comes in on a client's connection: read, parsed, bounded, and given to be answered.

Rules:
- Whatever could be read in two ways is refused with 400 and the connection closed. llhttp refuses
  bad framing by itself (both lengths, a repeated Content-Length, bad chunks, obs-fold, bare CR or
  LF, control characters); `on_headers_complete` adds what it lets pass.
- All bytes that a client makes us hold are counted; what was read ahead waits, bounded.
- A request goes to the application when it is whole; at the end of its head if its body is to be
  streamed. Then the rest of it is `_incoming` and `_active` at once.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import httptools

from stoker import logs
from stoker.http.body import BodySource
from stoker.http.exchange import Exchange
from stoker.http.limits import HOLD_BYTES, PIPELINE_BYTES
from stoker.http.messages import CONTINUE, Headers
from stoker.http.output import Output
from stoker.http.phase import Phase
from stoker.http.strict import Refusal, check_head, check_size, no_upgrade, too_large

if TYPE_CHECKING:
    from stoker.http.server import HttpServer

_log = logs.get_logger("http")

_Answer = TypeVar("_Answer")

_LINE_BYTES = 1 << 14
"""Of a head that comes in pieces, what is kept to look for its first line in."""

_METHOD_BYTES = 24
"""What may have come of a head before its target begins."""

_REQUEST_LINE_BYTES = 64
"""Method, version and blanks, which `check_size` does not count (the target it does)."""


class Intake(Output):
    """The half of a server connection that reads; `ServerConnection` answers."""

    __slots__ = (
        "_active",
        "_ahead",
        "_begun",
        "_body",
        "_body_seen",
        "_body_size",
        "_budget",
        "_completed",
        "_data",
        "_deaf",
        "_early",
        "_fed",
        "_head_bytes",
        "_head_complete",
        "_headers",
        "_heads",
        "_incoming",
        "_owes_continue",
        "_parser",
        "_queue",
        "_read_paused",
        "known_host",
        "phase",
        "since",
    )

    def __init__(self, server: HttpServer) -> None:
        super().__init__(server)
        self._parser: httptools.HttpRequestParser = httptools.HttpRequestParser(self)
        self._incoming: Exchange | None = None  # being read
        self._head_complete = False
        self._headers: Headers = []  # where header lines go: the exchange's, later the trailer's
        self._owes_continue = False
        self._active: Exchange | None = None  # being answered
        self._queue: deque[Exchange] = deque()  # read ahead
        self._deaf = False  # no more requests are taken
        self._completed = 0  # requests read
        self._fed = 0  # size of the read being parsed
        self._begun = b""  # of a head that is not complete, as it came in earlier reads
        self._data = b""  # the read being parsed
        self._heads = 0  # complete in that read
        self._head_bytes = -1  # of a head or trailer, beyond the read in which it began
        self._body: bytearray | None = None  # from the second piece on
        self._body_size = 0
        self._body_seen = 0
        self._budget = 0  # bytes taken of the server's max_buffered_bytes
        self._ahead = 0  # bytes read ahead of the active exchange
        self._read_paused = False
        self._early: bytearray | None = None  # behind the head of an upgrade
        self.known_host: bytes | None = None
        self.phase = Phase.IDLE
        self.since = 0.0

    # --- of the half that answers

    def _run(self, exchange: Exchange) -> None:
        """Give a request to the application."""
        raise NotImplementedError

    def _failed(self, exchange: Exchange) -> None:
        """The application raised."""
        raise NotImplementedError

    def _next(self) -> None:
        """Go on with what was read ahead."""
        raise NotImplementedError

    def _give_up(self, refusal: Refusal) -> None:
        """Take no more requests, and refuse."""
        raise NotImplementedError

    # --- data

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._deaf:
            if self._early is not None:
                self._hold_early(data)
            return
        completed = self._completed
        self._fed = len(data)
        self._data = data
        self._heads = 0 if self._incoming is None else 1  # else it began in an earlier read
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            if self._early is not None:
                self._hold_early(data[switch.args[0] :])
            elif not self._deaf:
                self._give_up(_refusal_of(switch))
            return
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._give_up(_refusal_of(error))
            return
        if self._deaf:
            return
        incoming = self._incoming
        if incoming is None:
            self._begun = data[-_METHOD_BYTES:]  # perhaps the first letters of a method
        else:
            self._begun = b"" if self._head_complete else (self._begun + data)[-_LINE_BYTES:]
        self._data = b""
        if self._active is not None or self._queue:
            if self._queue or (incoming is not None and incoming is not self._active):
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
            source = incoming.source
            if source is not None and source.full:
                self._pause_reading()

    def _pause_reading(self) -> None:
        if not self._read_paused and not self._transport.is_closing():
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _bound_ahead(self) -> None:
        """Stop reading while much has been read ahead of the request being answered."""
        self._ahead += self._fed
        full = len(self._queue) >= self.server.limits.max_pipelined
        if full or self._ahead > PIPELINE_BYTES:
            self._pause_reading()

    def _bound_unparsed(self, incoming: Exchange) -> None:
        """Refuse a head, chunk extension or trailer that does not end.

        The read in which it began is not counted, as other things may be in it: -1 says so.
        """
        if self._head_complete and self._body_seen != self._body_size:
            if not self._body_seen and incoming.source is None:
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
            self._incoming = incoming = Exchange(self, url)  # type: ignore[arg-type]
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
        self._check_protocol(incoming.target)
        expects_continue = check_head(incoming, self._parser, limits, self)
        self._headers = []
        self._head_complete = True
        self._head_bytes = -1
        self._body_size = self._body_seen = 0
        length = incoming.content_length
        if length != 0:
            self._owes_continue = expects_continue
            if self.server.stream_body is not None and self._stream(incoming):
                return
            if length is not None and length > limits.max_body_bytes:
                raise too_large()
            if expects_continue:
                self._send_continue()
        elif incoming.upgrade:
            wanted = self.server.accept_upgrade
            if wanted is None or not self._ask(wanted, incoming):
                raise no_upgrade()
            if not self._deaf:
                self._early = bytearray()

    def _check_protocol(self, target: bytes) -> None:
        """Refuse RTSP and ICE, which the parser takes for HTTP and does not tell apart."""
        self._heads += 1
        if self._heads == 1:
            end = self._data.find(b"\r\n")
            if self._data[end - 9 : end - 3] == b" HTTP/":
                return
        data = self._begun + self._data
        # Not the first head of this read, or one that began in another, or behind an empty line.
        if b" %b RTSP/" % target in data or b" %b ICE/" % target in data:
            raise Refusal(505, "unsupported", "only HTTP/1.0 and HTTP/1.1 are spoken here")

    def _ask(self, question: Callable[[Exchange], _Answer], incoming: Exchange) -> _Answer:
        """Let the application choose; if it raises, that is its failure, not the client's."""
        try:
            return question(incoming)
        except Exception:
            error_id = log_failure(incoming)
            raise Refusal(500, "failed", f"internal error ({error_id})") from None

    def _stream(self, incoming: Exchange) -> bool:
        """Give the request to the application before its body, if it wants that."""
        assert self.server.stream_body is not None
        max_bytes = self._ask(self.server.stream_body, incoming)
        if max_bytes is None:
            return False
        length = incoming.content_length
        if length is not None and length > max_bytes:
            raise too_large()
        incoming.source = source = BodySource(self, incoming, max_bytes)  # type: ignore[arg-type]
        incoming.keep_alive = self._keeps_after(source)
        if self._deaf:
            return True  # closed by the answer to a request before it, in this same read
        if self._active is None and not self._queue and not self.write_paused:
            self._run(incoming)
        elif len(self._queue) < self.server.limits.max_pipelined:
            self._queue.append(incoming)
        else:
            raise Refusal(503, "too_many_pipelined", "too many requests at once")
        return True

    def _keeps_after(self, source: BodySource) -> bool:
        """Whether an answer now, before the body's end, would leave the connection usable.

        A client that waits for ``100 Continue`` and is answered otherwise may send the body or not.
        """
        return source.keep_alive and not self._owes_continue and source.rest_is_small()

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        incoming = self._incoming
        assert incoming is not None
        self._body_size += len(data)
        if incoming.source is not None:
            self._pass_on(incoming, incoming.source, data)
            return
        if self._body_size > self.server.limits.max_body_bytes:
            raise too_large()
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

    def _pass_on(self, incoming: Exchange, source: BodySource, data: bytes) -> None:
        """A piece of a streamed body."""
        if self._deaf:
            return
        if self._body_size > source.max_bytes:
            raise too_large()
        self._owes_continue = False  # the client did not wait for it
        try:
            fits = source.push(data)
        except Exception:
            self._failed(incoming)
            return
        if not fits:
            raise Refusal(503, "too_many_bytes", "too many large requests at once")
        if not incoming.started:
            incoming.keep_alive = self._keeps_after(source)

    def _body_complete(self, incoming: Exchange, source: BodySource) -> None:
        if not incoming.started:
            incoming.keep_alive = source.keep_alive
        if not incoming.keep_alive:
            self._deaf = True
        if incoming.finished:
            self._next()  # it was answered early, and the rest thrown away
            return
        try:
            source.end()
        except Exception:
            self._failed(incoming)

    def on_message_complete(self) -> None:
        """The request is in: answer it, or let it wait for those before it."""
        incoming = self._incoming
        assert incoming is not None
        self._incoming = None
        self._owes_continue = False  # the client did not wait for it
        if self._deaf:
            return  # closed by the answer to a request before it, in this same read
        self._completed += 1
        if incoming.source is not None:
            self._body_complete(incoming, incoming.source)
            return
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

    def _send_continue(self) -> None:
        if self._active is None and not self._queue:
            self._owes_continue = False
            self.write(CONTINUE)

    # --- for the application that takes a body, or an upgrade

    def body_wanted(self, source: BodySource) -> None:
        """The application takes the body."""
        incoming = self._incoming
        if incoming is None or incoming.source is not source or incoming.started:
            return
        if self._owes_continue:
            self._owes_continue = False
            self.write(CONTINUE)
            incoming.keep_alive = self._keeps_after(source)

    def read_body(self, source: BodySource) -> None:
        """The application takes more of the body."""
        incoming = self._incoming
        if incoming is not None and incoming.source is source:
            self._resume_reading()

    def _hold_early(self, data: bytes) -> None:
        """Keep what comes behind the head of an upgrade, until it is answered."""
        assert self._early is not None
        if not data:
            return
        self._early += data
        self._budget += len(data)
        if not self.server.take(len(data)):
            self._give_up(Refusal(503, "too_many_bytes", "too many large requests at once"))
        elif len(self._early) >= HOLD_BYTES:
            self._pause_reading()

    def _give_back(self, kept: int = 0) -> None:
        self.server.buffered -= self._budget - kept
        self._budget = kept


def log_failure(exchange: Exchange) -> str:
    """The application raised: its traceback goes to the log, under the id that is returned."""
    error_id = secrets.token_hex(6)
    _log.exception("handler failed", error_id=error_id, method=exchange.method, path=exchange.path)
    return error_id


def _refusal_of(error: Exception) -> Refusal:
    cause = error.__context__
    if isinstance(cause, Refusal):
        return cause
    return Refusal(400, "bad_request", f"not a valid HTTP request: {error}")
