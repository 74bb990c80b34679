"""One connection of a client, in the order in which it lives: made, answer, refusal, end.

What comes in is read in `intake`, what goes out flows in `output`.

Rules:
- Requests are answered one at a time and in their order.
- All waiting ends in `expire`.
- A client that closes, even only its sending half, has left: its exchange is told at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from stoker import logs
from stoker.http.exchange import Exchange
from stoker.http.intake import Intake, log_failure
from stoker.http.limits import MIN_BODY_RATE
from stoker.http.messages import CLOSE, build_head, status_line
from stoker.http.output import hung_up
from stoker.http.phase import Phase, patience
from stoker.http.strict import Refusal
from stoker.wire import error_body

if TYPE_CHECKING:
    from stoker.http.server import HttpServer
    from stoker.http.tunnel import TunnelEnd

_log = logs.get_logger("http")


def _nothing() -> None:
    pass


class ServerConnection(Intake):
    """The Protocol of the server side."""

    __slots__ = ("_arrived", "_crowded", "_refusal")

    def __init__(
        self,
        server: HttpServer,
        crowded: bool = False,
        arrived: Callable[[], None] = _nothing,
    ) -> None:
        """Wait for the transport.

        Args:
            server: its own.
            crowded: there is no room for it; it is refused as soon as it is made.
            arrived: called when it is made.
        """
        super().__init__(server)
        self._crowded = crowded
        self._arrived = arrived
        self._refusal: Refusal | None = None  # to be sent when those before it are answered

    # --- made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        self._arrived()
        self._arrived = _nothing
        server = self.server
        self.since = server.now
        server.open.add(self)
        if self._crowded or server.draining:
            self._deaf = True
            self._refuse(Refusal(503, "too_many_connections", "too many connections"), linger=False)

    # --- answer

    def _run(self, exchange: Exchange) -> None:
        self._active = exchange
        try:
            self.server.handler(exchange)
        except BaseException:  # in a parser's callback nobody else would see it
            self._failed(exchange)

    def _failed(self, exchange: Exchange) -> None:
        """The handler raised: the log gets the traceback, the caller an id to quote."""
        error_id = log_failure(exchange)
        if exchange.started:
            exchange.abort()
        else:
            exchange.respond(500, error_body("internal error", error_id=error_id))

    def answered(self, exchange: Exchange) -> None:
        """The answer of the active exchange is written."""
        self._active = None
        if exchange.source is not None:
            exchange.source.close()
        if not exchange.keep_alive:
            if self._incoming is exchange or self._early is not None:
                self._linger()  # there may be input that nobody reads
            else:
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
            self._resume_reading()
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

    # --- upgrade

    def switch(self, head: bytes, end: TunnelEnd) -> bytes:
        """Give the connection to another protocol (see `Exchange.switch`)."""
        early = bytes(self._early or b"")
        self._active = self._early = None
        self._give_back()
        self._wake()
        self.write(head)
        self._transport.set_protocol(end)
        self.server.open.discard(self)
        self.server.open.add(end)
        self._resume_reading()
        end.begin(self._transport)
        self.phase = Phase.CLOSED
        self._parser = None  # it holds us, and we hold it
        return early

    # --- refusal

    def _give_up(self, refusal: Refusal) -> None:
        """Take no more requests; answer those that are in, then refuse and close."""
        self._deaf = True
        incoming, self._incoming = self._incoming, None
        self._body = None
        if self._early is not None:
            incoming = self._queue[-1] if self._queue else self._active
            self._early = None
        if incoming is not None and (incoming.source is not None or incoming.upgrade):
            self._give_up_on(incoming, refusal)
            return
        if self._active is None and not self._queue:
            self._refuse(refusal)
        else:
            self._refusal = refusal

    def _give_up_on(self, exchange: Exchange, refusal: Refusal) -> None:
        """The application has the request already, or it waits: end it with a refusal."""
        if exchange is self._active:
            self._active = None
            answered = exchange.started
            if not answered:
                exchange.status = refusal.status
            exchange.failure = str(refusal)
            self._tell_lost(exchange)
            if answered:
                self.server.refused(refusal.reason)
                self.close()
                self.reset()
                return
        elif self._queue and self._queue[-1] is exchange:
            self._queue.pop()
            if exchange.source is not None:
                exchange.source.close()
        elif exchange.finished:
            self._linger()  # it is answered; only the rest of its body was thrown away
            return
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
        if linger:
            self._linger()
        else:
            self.close()

    def _linger(self) -> None:
        """Close when the client has read the answer: throw away what it still sends."""
        self._deaf = True
        self._early = None
        self._give_back()
        if not self._transport.can_write_eof() or self._transport.is_closing():
            self.close()
            return
        # Closing with unread input would send a reset, which can overtake the refusal.
        try:
            self._transport.write_eof()
        except OSError:  # the client has reset the connection, of which we hear next
            self.close()
            return
        self.phase = Phase.LINGER
        self.since = self.server.now
        self._watch_output()
        self._resume_reading()

    # --- flow

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the client takes less than we write."""
        super().pause_writing()
        active = self._active
        if active is not None and active.on_pause is not None:
            active.on_pause()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        super().resume_writing()
        active = self._active
        if active is None:
            self._next()
        elif active.on_resume is not None:
            active.on_resume()

    # --- end

    def idle_for(self, now: float) -> float:
        """Seconds for which it has had no whole request; negative where it has one.

        A body that arrives is not idle for as long as it keeps up with `MIN_BODY_RATE`.
        """
        if self.phase > Phase.BODY or self._active is not None or self.write_paused:
            return -1.0
        arrived = self._body_size / MIN_BODY_RATE if self.phase is Phase.BODY else 0.0
        return max(0.0, now - self.since - arrived)

    def give_way(self) -> None:
        """It is idle, and others want to come in: close."""
        if self._active is None:
            self.close()

    def drain(self) -> None:
        """The server stops: close unless a request is here, which is still answered."""
        if self.phase is Phase.IDLE and self._active is None:
            self.close()

    def expire(self, now: float, slack: float) -> None:
        """End what has waited for too long; `slack` is the coarseness of the clock."""
        if self.write_paused and self.phase < Phase.LINGER:
            self._expire_output(now, slack)
            return
        if self.phase is Phase.LINGER and self._transport.get_write_buffer_size():
            self._expire_output(now, slack)  # a long answer that came before the body's end
            self.since = now
            return
        limits = self.server.limits
        active = self._active
        if active is not None and (active is self._incoming or self._early is not None):
            self._expire_streamed(active, now, slack)
            return
        if active is not None or now - self.since - slack <= patience(
            self.phase, limits, self._body_size
        ):
            return
        if self.phase >= Phase.LINGER:
            self._transport.abort()
        elif self.phase is Phase.IDLE:
            self.close()
        else:
            self._give_up(Refusal(408, "timeout", "the request did not arrive in time"))

    def _expire_streamed(self, exchange: Exchange, now: float, slack: float) -> None:
        source = exchange.source
        if source is not None and source.too_slow(now, slack, self.server.limits):
            self._give_up(Refusal(408, "timeout", "the request did not arrive in time"))
        elif self._read_paused and hung_up(self._transport, half=True):
            self._leave()
            self._transport.abort()

    def close(self) -> None:
        """Close once all output has gone out."""
        self._deaf = True
        self._forget_queue()
        self.phase = Phase.CLOSING
        self.since = self.server.now
        self._transport.close()

    def cut(self, *, reset: bool = False) -> None:
        """End in the midst of an answer; `reset`: so that it cannot look complete."""
        self._active = None
        self.close()
        if reset:
            self.reset()

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

    def _leave(self) -> None:
        self._give_back()
        active, self._active = self._active, None
        self._incoming = self._early = None
        self._forget_queue()
        self._wake()
        if active is not None:
            self._tell_lost(active)

    def _tell_lost(self, exchange: Exchange) -> None:
        try:
            exchange.lost()
        except Exception:
            _log.exception("on_disconnect failed", path=exchange.path)

    def _forget_queue(self) -> None:
        for exchange in self._queue:
            if exchange.source is not None:
                exchange.source.close()
        self._queue.clear()
