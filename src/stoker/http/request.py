"""A request to an upstream server, as the one who sends it sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol

from stoker.errors import StokerError
from stoker.http.messages import Headers

if TYPE_CHECKING:
    from stoker.http.body import Upload
    from stoker.http.pool import UpstreamPool
    from stoker.http.upstream import UpstreamConnection

ErrorKind = Literal["refused", "timeout", "closed", "malformed"]


class UpstreamError(StokerError):
    """No answer, or not a whole one, came from the upstream server.

    Attributes:
        kind: ``refused`` (no connection), ``timeout``, ``closed`` (before the answer's end) or
            ``malformed`` (what came is not a valid answer).
    """

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind


class ResponseSink(Protocol):
    """Takes an answer as it arrives; must not raise."""

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        """The head; `content_length` None: the length is not known yet.

        Names are in lower case. Headers that the Connection header names are taken out already.
        """

    def on_data(self, data: bytes) -> None:
        """A part of the body."""

    def on_complete(self) -> None:
        """The answer is whole."""

    def on_error(self, error: UpstreamError) -> None:
        """The answer ends here, or never began."""


class UpstreamRequest:
    """A request on its way; made by `UpstreamPool.request`.

    Attributes:
        body_follows: during `ResponseSink.on_head`: `on_data` or `on_complete` is called next, in
            this same turn, so that head and data can be written at once.
        upload: passes on a body that is not here yet, in place of `body`; such a request is never
            sent a second time.
        patience: seconds for which the upstream may be silent, before its answer and in it; None:
            the time-outs of the pool.
        on_switch: the request asks for another protocol. Called in place of the sink with the
            headers of a ``101``, the connection, and what came behind that head.
    """

    __slots__ = (
        "aborted",
        "body",
        "body_follows",
        "connection",
        "head",
        "method",
        "on_switch",
        "patience",
        "paused",
        "pool",
        "sink",
        "upload",
    )

    def __init__(
        self, pool: UpstreamPool, method: str, head: bytes, body: bytes, sink: ResponseSink
    ) -> None:
        self.pool = pool
        self.method = method
        self.head = head
        self.body = body
        self.sink = sink
        self.connection: UpstreamConnection | None = None
        self.aborted = False
        self.paused = False
        self.body_follows = False
        self.upload: Upload | None = None
        self.patience: float | None = None
        self.on_switch: Callable[[Headers, UpstreamConnection, bytes], None] | None = None

    def abort(self) -> None:
        """Give up: the connection is closed at once, and the sink is called no more."""
        if not self.aborted:
            self.aborted = True
            connection = self.connection
            if connection is not None:
                connection.drop()
            else:
                self.pool.forget(self)

    def pause(self) -> None:
        """Take no more of the answer for now."""
        self.paused = True
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        """Take it again."""
        self.paused = False
        if self.connection is not None:
            self.connection.resume()
