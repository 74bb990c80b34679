"""One request and its response on a server connection.

Rules of the response:
- `respond` is the whole answer; or else `start`, any number of `write`, then `finish`.
- `abort` ends a started answer so that the client can see that it is cut.
- After the client has gone, all of them are accepted and do nothing.
- The body of an answer to HEAD, and of 204 and 304, is dropped here; callers need not know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from stoker.http.messages import (
    CHUNKED,
    CLOSE,
    KEEP_ALIVE,
    LAST_CHUNK,
    NOT_RETURNED,
    STATUS_LINES,
    UPGRADE,
    Headers,
    build_head,
    join_head,
    status_line,
)

if TYPE_CHECKING:
    from stoker.http.body import BodySource
    from stoker.http.connection import ServerConnection
    from stoker.http.server import HttpServer
    from stoker.http.tunnel import TunnelEnd

_NO_BODY, _LENGTH, _CHUNKED, _UNTIL_CLOSE = range(4)


class Exchange:
    """A request that is in, body and all (unless it is streamed), and the means to answer it.

    Attributes:
        method: upper case, one of `stoker.http.strict.METHODS`.
        target: as received, in origin form (an absolute form is reduced to it).
        path: the target up to ``?``, not percent-decoded.
        query: the target after ``?``.
        headers: in their order, names in lower case.
        hop_headers: names that the client's Connection header declares to be for this hop only.
        body: decoded (no chunk framing); empty where `source` gives it.
        content_length: of the body as announced; None: in chunks, so it is not known.
        source: of a body that is taken as it arrives (`stoker.http.HttpServer`'s `stream_body`).
        upgrade: the client asks for a WebSocket, and the server's `accept_upgrade` let it pass:
            give it to `stoker.http.tunnel`, or answer it; then the connection is closed.
        failure: why the server ended it: its body was too large, too slow or not valid.
        context: free for the application.
        own_lines: header lines that are added to the answer, each with its break (`Cors`).
        on_disconnect: called once if the client goes before the answer is finished, or if the
            server ended the exchange (see `failure`).
        on_pause: called when the client takes less than we write; stop producing.
        on_resume: called when it has caught up.
    """

    __slots__ = (
        "_connection",
        "_framing",
        "_left",
        "_pending",
        "body",
        "content_length",
        "context",
        "disconnected",
        "failure",
        "finished",
        "headers",
        "hop_headers",
        "keep_alive",
        "method",
        "on_disconnect",
        "on_pause",
        "on_resume",
        "own_lines",
        "path",
        "query",
        "source",
        "started",
        "status",
        "target",
        "upgrade",
        "version_1_0",
    )

    def __init__(self, connection: ServerConnection, target: bytes) -> None:
        self._connection = connection
        self._framing = _NO_BODY
        self._pending = b""
        self._left = 0
        self.method = ""
        self.target = target
        self.path = ""
        self.query = b""
        self.headers: Headers = []
        self.body: bytes = b""
        self.content_length: int | None = 0
        self.source: BodySource | None = None
        self.upgrade = False
        self.failure = ""
        self.context: Any = None
        self.keep_alive = True
        self.version_1_0 = False
        self.hop_headers: frozenset[bytes] | None = None
        self.own_lines = b""
        self.status = 0
        self.started = False
        self.finished = False
        self.disconnected = False
        self.on_disconnect: Callable[[], None] | None = None
        self.on_pause: Callable[[], None] | None = None
        self.on_resume: Callable[[], None] | None = None

    @property
    def peer(self) -> str:
        """Address of the client as ``host:port``; empty on a Unix socket."""
        return self._connection.peer

    @property
    def server(self) -> HttpServer:
        """The server that it came to."""
        return self._connection.server

    @property
    def paused(self) -> bool:
        """The client takes less than we write."""
        return self._connection.write_paused

    def header(self, name: bytes) -> bytes | None:
        """First value of the header `name` (lower case), without surrounding blanks."""
        for key, value in self.headers:
            if key == name:
                return value.strip()
        return None

    def respond(
        self,
        status: int,
        body: bytes = b"",
        *,
        content_type: bytes = b"application/json",
        headers: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer as a whole.

        Raises:
            RuntimeError: an answer was started already.
            ValueError: a header has a line break in it.
        """
        if self.started:
            raise RuntimeError("this exchange has been answered already")
        connection = self._connection
        last = connection.server.date_line
        if status >= 200 and status not in (204, 304):
            last = b"content-length: %d\r\n%b" % (len(body), last)
            headers = [(b"content-type", content_type), *headers]
        else:
            body = b""
        last += self.own_lines + self._connection_line()
        head = build_head(status_line(status), headers, last)
        self.started = self.finished = True
        self.status = status
        if not self.disconnected:
            connection.write(head if self.method == "HEAD" else head + body)
            connection.answered(self)

    def start(
        self,
        status: int,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        content_length: int | None = None,
        reason: bytes = b"",
    ) -> None:
        """Begin an answer whose body follows; the head is sent at once.

        Args:
            status: from 200.
            headers: without framing (Content-Length, Transfer-Encoding, Connection).
            content_length: bytes that will be written; None: chunked, or for HTTP/1.0 until close.
            reason: default: the status's own phrase.

        Raises:
            RuntimeError: an answer was started already.
            ValueError: a header has a line break in it.
        """
        last = self._frame(status, content_length)
        if self.own_lines:
            headers = _without_cors(headers)
        self._pending = build_head(status_line(status, reason), headers, last)
        self.flush()

    def start_relayed(self, status: int, headers: Headers, content_length: int | None) -> None:
        """`start` with parsed headers; the head waits for the first `write`, `finish` or `flush`.

        Headers for one hop only are left out here.
        """
        last = self._frame(status, content_length)
        if self.own_lines:
            headers = _without_cors(headers)
        line = STATUS_LINES.get(status) or status_line(status)
        self._pending = join_head(line, headers, NOT_RETURNED, last)

    def _frame(self, status: int, content_length: int | None) -> bytes:
        """Decide how the body is framed; gives the header lines that say so."""
        if self.started:
            raise RuntimeError("this exchange has been answered already")
        if status in (204, 304):
            framing = _NO_BODY
            last = b""
            if content_length is not None and status != 204:
                last = b"content-length: %d\r\n" % content_length
        elif content_length is not None:
            framing = _LENGTH
            last = b"content-length: %d\r\n" % content_length
        elif self.version_1_0:
            framing = _UNTIL_CLOSE
            self.keep_alive = False
            last = b""
        else:
            framing = _CHUNKED
            last = CHUNKED
        last += self.own_lines
        self._framing = _NO_BODY if self.method == "HEAD" else framing
        self._left = content_length or 0
        self.status = status
        self.started = True
        if self.keep_alive and not self.version_1_0 and not self._connection.server.draining:
            return last  # what nearly every answer comes to
        return last + self._connection_line()

    def flush(self) -> None:
        """Send a head that waits."""
        if self._pending and not self.disconnected:
            self._connection.write(self._pending)
            self._pending = b""

    def write(self, data: bytes) -> None:
        """Send a part of the body, now; empty parts are ignored.

        Raises:
            RuntimeError: not started, or finished already.
            ValueError: more than the announced `content_length`.
        """
        if self.finished or not self.started:
            if self.disconnected:
                return
            raise RuntimeError("write() belongs between start() and finish()")
        if self.disconnected or not data:
            return
        framing = self._framing
        if framing == _CHUNKED:
            data = b"%b%x\r\n%b\r\n" % (self._pending, len(data), data)
        elif framing == _LENGTH:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                raise ValueError("more was written than the announced content_length")
            if self._pending:
                data = self._pending + data
        elif framing == _UNTIL_CLOSE:
            data = self._pending + data
        else:
            return
        self._pending = b""
        self._connection.write(data)

    def finish(self) -> None:
        """End the answer; one that is shorter than announced is cut instead.

        Raises:
            RuntimeError: not started, or finished already.
        """
        if self.finished or not self.started:
            if self.disconnected:
                return
            raise RuntimeError("finish() belongs once after start()")
        if self._framing == _LENGTH and self._left:
            self.abort()
            return
        self.finished = True
        if self.disconnected:
            return
        if self._framing == _CHUNKED:
            self._connection.write(self._pending + LAST_CHUNK)
        elif self._pending:
            self._connection.write(self._pending)
        self._connection.answered(self)

    def abort(self) -> None:
        """Close the connection, so that the client sees a cut answer; what was written is sent."""
        if self.finished:
            return
        self.finished = True
        if self.source is not None:
            self.source.close()
        if not self.disconnected:
            # Without framing an orderly end would look like a whole answer: reset instead.
            self._connection.cut(reset=self._framing == _UNTIL_CLOSE)

    async def drain(self) -> None:
        """Wait until the client has caught up (or gone): for tasks that produce the body."""
        while self._connection.write_paused and not self.disconnected:
            await self._connection.wait_writable()

    def _connection_line(self) -> bytes:
        if not self.keep_alive or self._connection.server.draining:
            self.keep_alive = False
            return CLOSE
        return KEEP_ALIVE if self.version_1_0 else b""

    def switch(self, headers: Headers, end: TunnelEnd) -> bytes:
        """Answer ``101 Switching Protocols`` and give the connection to another protocol.

        Args:
            headers: of the answer; those for one hop only are left out here.
            end: the protocol; it has the connection's transport when this returns.

        Returns:
            What the client has sent behind its head.
        """
        self.started = self.finished = True
        self.status = 101
        self.on_disconnect = self.on_pause = self.on_resume = None
        head = join_head(status_line(101), headers, NOT_RETURNED, UPGRADE)
        return self._connection.switch(head, end)

    def lost(self) -> None:
        """The connection is gone (called by the connection, once)."""
        self.disconnected = True
        if self.source is not None:
            self.source.close()
        callback = self.on_disconnect
        self.on_disconnect = self.on_pause = self.on_resume = None
        if callback is not None and not self.finished:
            callback()


def _without_cors(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Leave out what an upstream says about origins: we say it."""
    return [header for header in headers if not header[0].startswith(b"access-control-")]


def coded(exchange: Exchange) -> str:
    """Why a body that cannot be read is none of the client's mistakes of content: it is compressed.

    Nothing is unpacked here, because a body of kilobytes may unpack to gigabytes.

    Returns:
        A sentence for the answer, 415; empty: the body is as it should be.
    """
    coding = exchange.header(b"content-encoding") or b""
    if coding.lower() in (b"", b"identity"):
        return ""
    shown = coding[:40].decode("ascii", "replace")
    return f"a body with Content-Encoding: {shown} is not unpacked here: send it as it is"


def bearer(exchange: Exchange) -> bytes | None:
    """The token in ``Authorization: Bearer …``; None where there is none."""
    header = exchange.header(b"authorization")
    if header is None or header[:7].lower() != b"bearer ":
        return None
    return header[7:].strip()
