"""The body of a request as it arrives, for an application that takes it part by part.

Rules:
- Nothing is passed on before `BodySource.take`, nor between `pause` and `resume`; what comes in
  the meantime is held, and from `HOLD_BYTES` on no more is read from the client. Held at most:
  `HOLD_BYTES` and one read, counted in the server's `max_buffered_bytes`.
- The client is waited for only while the application waits: a pause of ours costs it no time.
- After the answer has been given the rest is thrown away.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from stoker.http.limits import HOLD_BYTES, MIN_BODY_RATE, REST_BYTES, Limits
from stoker.http.messages import LAST_CHUNK

if TYPE_CHECKING:
    from stoker.http.connection import ServerConnection
    from stoker.http.exchange import Exchange
    from stoker.http.upstream import UpstreamConnection


def _ignore(data: bytes) -> None:
    del data


class BodySource:
    """Where the body of an exchange comes from; `Exchange.source` of a streamed request.

    An error in the body (too large, too slow, not valid) reaches the application as
    `Exchange.on_disconnect`: the client has been answered already, or cut.

    Attributes:
        max_bytes: more of a body is refused.
        received: bytes that have arrived, decoded.
        complete: all of it has arrived; parts may still be held.
        content_length: of the body as announced; None: in chunks.
        keep_alive: what the client wants of the connection. `Exchange.keep_alive` is False while
            so much of the body is missing that an answer now must close.
    """

    __slots__ = (
        "_connection",
        "_delivering",
        "_flowing",
        "_held",
        "_on_data",
        "_on_end",
        "_parts",
        "_window_began",
        "_window_bytes",
        "closed",
        "complete",
        "content_length",
        "keep_alive",
        "max_bytes",
        "received",
    )

    def __init__(self, connection: ServerConnection, exchange: Exchange, max_bytes: int) -> None:
        self._connection = connection
        self.max_bytes = max_bytes
        self.content_length = exchange.content_length
        self.keep_alive = exchange.keep_alive
        self.received = 0
        self.complete = False
        self.closed = False
        self._flowing = False
        self._delivering = False
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._on_data: Callable[[bytes], None] = _ignore
        self._on_end: Callable[[], None] | None = None
        self._window_began = connection.server.now
        self._window_bytes = 0

    # --- the application's side

    def take(self, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Begin to take the body; a client that waits for ``100 Continue`` gets it now.

        Args:
            on_data: called with each part, the first perhaps before this returns.
            on_end: called once, after the last part.

        Raises:
            RuntimeError: it is being taken already.
        """
        if self._on_end is not None:
            raise RuntimeError("this body is being taken already")
        self._on_data = on_data
        self._on_end = on_end
        if not self.closed:
            self._connection.body_wanted(self)
        self.resume()

    def pause(self) -> None:
        """Pass nothing on for now."""
        self._flowing = False

    def resume(self) -> None:
        """Pass on what is held and what comes."""
        if self.closed or self._flowing or self._on_end is None:
            return
        self._flowing = True
        self._window_began = self._connection.server.now
        self._window_bytes = 0
        if not self._delivering:
            self._deliver()

    def _deliver(self) -> None:
        self._delivering = True
        parts = self._parts
        try:
            while parts and self._flowing:
                part = parts.popleft()
                self._held -= len(part)
                self._connection.server.buffered -= len(part)
                self._on_data(part)
        finally:
            self._delivering = False
        if self._flowing and not self.closed:
            if self.complete:
                self._finish()
            else:
                self._connection.read_body(self)

    def _finish(self) -> None:
        on_end = self._on_end
        assert on_end is not None
        self.close()
        on_end()

    # --- the connection's side

    @property
    def full(self) -> bool:
        """So much is held that no more should be read."""
        return self._held >= HOLD_BYTES

    def push(self, data: bytes) -> bool:
        """A part arrived; False: too much is held by all connections together."""
        self.received += len(data)
        self._window_bytes += len(data)
        if self.closed:
            return True
        if self._flowing and not self._parts and not self._delivering:
            self._on_data(data)
            return True
        self._parts.append(data)
        self._held += len(data)
        return self._connection.server.take(len(data))

    def end(self) -> None:
        """All parts have arrived."""
        self.complete = True
        if self._flowing and not self._parts and not self._delivering and not self.closed:
            self._finish()

    def close(self) -> None:
        """No more is passed on, and what is held is dropped."""
        self.closed = True
        self._flowing = False
        self._connection.server.buffered -= self._held
        self._held = 0
        self._parts.clear()
        self._on_data = _ignore  # the taker may hold us, and we hold it
        self._on_end = None

    def rest_is_small(self) -> bool:
        """What is missing is worth reading to keep the connection after an early answer."""
        length = self.content_length
        return length is not None and length - self.received <= REST_BYTES

    def too_slow(self, now: float, slack: float, limits: Limits) -> bool:
        """Whether the client has been waited for too long.

        A window begins anew when it has brought `MIN_BODY_RATE`; one that brings less may last
        `Limits.body_timeout` and a second for each `MIN_BODY_RATE` bytes. So a client that stalls
        is cut after `body_timeout`, however much it has sent before. E.g. 1 GiB in 100 s, then
        nothing: cut 60 s later, not after the 65,536 s that its bytes would be worth.
        """
        if not self._flowing:
            return False
        elapsed = now - self._window_began
        earned = self._window_bytes / MIN_BODY_RATE
        if earned >= elapsed:
            self._window_began = now
            self._window_bytes = 0
            return False
        return elapsed - slack > limits.body_timeout + earned


class Upload:
    """Passes a body on to an upstream connection as fast as that takes it.

    Attributes:
        done: the whole body has been handed to the connection.
    """

    __slots__ = ("_chunked", "_connection", "_source", "done")

    def __init__(self, source: BodySource, *, chunked: bool) -> None:
        self._source = source
        self._chunked = chunked
        self._connection: UpstreamConnection | None = None
        self.done = False

    def begin(self, connection: UpstreamConnection) -> None:
        """The head has been sent on `connection`: the body may follow."""
        self._connection = connection
        self._source.take(self._part, self._end)

    def pause(self) -> None:
        """The upstream takes less than we send."""
        self._source.pause()

    def resume(self) -> None:
        """It has caught up."""
        self._source.resume()

    def stop(self) -> None:
        """The connection is gone, or its answer complete: drop what comes."""
        self._connection = None
        self._source.close()

    def _part(self, data: bytes) -> None:
        connection = self._connection
        if connection is not None:
            connection.write_body(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def _end(self) -> None:
        self.done = True
        connection = self._connection
        if connection is not None and self._chunked:
            connection.write_body(LAST_CHUNK)
