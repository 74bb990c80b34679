"""A WebSocket between a client and an upstream server: after the handshake, bytes both ways.

Rules:
- Nothing of the protocol inside is looked at: frames, masks and extensions are the peers' own.
- A side that takes less than the other sends stops the reading of the other: held for each
  direction are at most a transport's write buffer (64 KiB) and one read.
- When one side ends, orderly or not, the other is closed behind what it has still to get.
- A tunnel is a connection of its server and one of its pool until both its ends are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from stoker.http.exchange import Exchange
from stoker.http.limits import CLOSE_SECONDS
from stoker.http.messages import (
    NOT_FORWARDED,
    UPGRADE,
    Headers,
    build_head,
    end_to_end,
    join_head,
)
from stoker.http.output import hung_up
from stoker.http.pool import UpstreamPool, request_line
from stoker.http.relay import Outcome, Relay, RelayObserver
from stoker.http.request import UpstreamError, UpstreamRequest
from stoker.http.upstream import UpstreamConnection


class TunnelObserver:
    """Sees a tunnel; override what you need. Its methods must not raise."""

    __slots__ = ()

    def on_open(self, status: int) -> None:
        """The upstream answered: 101 when the tunnel is open, else what the client gets."""

    def on_data(self, up: int, down: int) -> None:
        """Bytes passed: `up` to the upstream, `down` to the client; one of them is 0."""

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        """The end, exactly once.

        Args:
            outcome: COMPLETE when a side of an open tunnel ended in order, or a refusal by the
                upstream was passed on; CLIENT_GONE or UPSTREAM_CLOSED when that side was reset;
                ABORTED by the application, the idle time-out or the server's end.
            status: 101 when it was open; else what the client got, 0 if nothing.
            detail: who ended it, or the error, in words.
        """


class Tunnel:
    """A WebSocket that is opened, open or done; made by `tunnel`."""

    __slots__ = (
        "_client",
        "_done",
        "_exchange",
        "_idle",
        "_observer",
        "_opening",
        "_pool",
        "_protocol",
        "_since",
        "_upstream",
    )

    def __init__(
        self,
        exchange: Exchange,
        pool: UpstreamPool,
        protocol: bytes | None,
        observer: TunnelObserver | None,
        idle: float | None = None,
    ) -> None:
        self._idle = exchange.server.limits.tunnel_idle_timeout if idle is None else idle
        self._exchange = exchange
        self._pool = pool
        self._protocol = protocol
        self._observer = observer or TunnelObserver()
        # Until the upstream says 101 this is a relayed request like any other.
        self._opening: Relay | None = Relay(exchange, _Opening(self))
        self._client: TunnelEnd | None = None
        self._upstream: TunnelEnd | None = None
        self._done = False
        self._since = 0.0

    def begin(self, head: bytes, *, patience: float | None = None) -> None:
        """Send the request to the upstream."""
        assert self._opening is not None
        request = UpstreamRequest(self._pool, "GET", head, b"", self._opening)
        request.on_switch = self._switched
        request.patience = patience
        self._opening.begin(request)

    # --- open

    def _switched(self, headers: Headers, connection: UpstreamConnection, rest: bytes) -> None:
        """The upstream said 101: take both transports."""
        exchange = self._exchange
        server = exchange.server
        if self._protocol is not None and not any(
            name == b"sec-websocket-protocol" for name, _ in headers
        ):
            headers = [*headers, (b"sec-websocket-protocol", self._protocol)]
        if self._opening is not None:
            self._opening.hand_over()
            self._opening = None
        self._client = client = TunnelEnd(self, server.lost)
        self._upstream = upstream = TunnelEnd(self, self._pool.closed)
        client.other, upstream.other = upstream, client
        self._since = server.now
        early = exchange.switch(headers, client)
        connection.give_to(upstream)
        self._observer.on_open(101)
        for end, data in ((client, early), (upstream, rest)):
            if data:
                end.data_received(data)

    def passed(self, end: TunnelEnd, size: int) -> None:
        """Bytes came in at `end`."""
        self._since = self._exchange.server.now
        if end is self._client:
            self._observer.on_data(size, 0)
        else:
            self._observer.on_data(0, size)

    def ended(self, end: TunnelEnd, exc: Exception | None) -> None:
        """`end` closed (None) or was reset."""
        side, reset = (
            ("client", Outcome.CLIENT_GONE)
            if end is self._client
            else ("upstream", Outcome.UPSTREAM_CLOSED)
        )
        if exc is None:
            self.end(Outcome.COMPLETE, f"the {side} closed")
        else:
            self.end(reset, f"the {side} was cut off")

    def gone(self, end: TunnelEnd) -> None:
        """The transport of `end` is closed: forget it, as it holds us."""
        if end is self._client:
            self._client = None
        else:
            self._upstream = None

    def end(self, outcome: Outcome, detail: str, *, at_once: bool = False) -> None:
        """Close both sides.

        Args:
            outcome: for the observer, as is `detail`.
            detail: in words.
            at_once: drop what they have still to get.
        """
        if self._done:
            return
        for end in (self._client, self._upstream):
            if end is not None:
                end.close(self._exchange.server.now, at_once=at_once)
        self.finish(outcome, 101, detail)

    def abort(self) -> None:
        """Stop at once; an upgrade that is not answered yet is left to the caller to answer."""
        if self._opening is not None:
            self._opening.abort()
        else:
            self.end(Outcome.ABORTED, "aborted", at_once=True)

    def expire(self, now: float, slack: float) -> None:
        """End it when no byte has passed for the idle time-out."""
        limit = self._idle
        if now - self._since - slack > limit:
            self.end(Outcome.ABORTED, f"nothing passed for {limit:g} s", at_once=True)

    def finish(self, outcome: Outcome, status: int, detail: str) -> None:
        """Tell the observer the end, if it has not been told."""
        if not self._done:
            self._done = True
            self._opening = None
            self._observer.on_done(outcome, status, detail)

    def refused(self, status: int) -> None:
        """The upstream answered without switching."""
        self._observer.on_open(status)

    def refusal_passed(self, size: int) -> None:
        """A part of that answer's body goes to the client."""
        self._observer.on_data(0, size)


class _Opening(RelayObserver):
    """Sees what becomes of the request for an upgrade, unless it becomes a tunnel."""

    __slots__ = ("_tunnel",)

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def on_head(self, status: int, headers: Headers) -> None:
        """See `RelayObserver`."""
        del headers
        self._tunnel.refused(status)

    def on_data(self, data: bytes) -> None:
        """See `RelayObserver`."""
        self._tunnel.refusal_passed(len(data))

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        """See `RelayObserver`."""
        self._tunnel.finish(outcome, status, detail)


class TunnelEnd(asyncio.Protocol):
    """The Protocol of one side of an open tunnel.

    Attributes:
        other: the other side; None once this one is gone.
    """

    __slots__ = ("_closing_since", "_forget", "_held", "_transport", "_tunnel", "other")

    def __init__(self, tunnel: Tunnel, forget: Callable[[TunnelEnd], None]) -> None:
        self._tunnel = tunnel
        self._forget = forget
        self._transport: asyncio.Transport
        self._held = False
        self._closing_since: float | None = None
        self.other: TunnelEnd | None = None

    def begin(self, transport: asyncio.Transport) -> None:
        """Have a transport. Its writing is not paused: a head is all that was written."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        other = self.other
        if self._closing_since is None and other is not None:
            self._tunnel.passed(self, len(data))
            other.write(data)

    def write(self, data: bytes) -> None:
        """Send to the peer."""
        self._transport.write(data)

    def hold(self) -> None:
        """Read no more for now."""
        if not self._held and not self._transport.is_closing():
            self._held = True
            self._transport.pause_reading()

    def release(self) -> None:
        """Read again."""
        if self._held and not self._transport.is_closing():
            self._held = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`: the peer takes less than we write."""
        if self.other is not None:
            self.other.hold()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        if self.other is not None:
            self.other.release()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`: a side that sends no more has left."""
        self._tunnel.ended(self, None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._tunnel.ended(self, exc)
        self._tunnel.gone(self)
        self.other = None
        self._forget(self)

    # --- called by the tunnel, the server and the pool

    def close(self, now: float, *, at_once: bool) -> None:
        """Close when the peer has got what waits for it, or at once."""
        if at_once:
            self._transport.abort()
        else:
            self._transport.close()
        self._closing_since = now

    def expire(self, now: float, slack: float) -> None:
        """End what has waited for too long; `slack` is the coarseness of the clock."""
        if self._closing_since is None:
            if self._held and hung_up(self._transport, half=False):
                self._tunnel.ended(self, ConnectionResetError())
            else:
                self._tunnel.expire(now, slack)
        elif now - self._closing_since - slack > CLOSE_SECONDS:
            self._transport.abort()

    def idle_for(self, now: float) -> float:
        """See `ServerConnection`: a tunnel is never without a request."""
        del now
        return -1.0

    def give_way(self) -> None:
        """See `ServerConnection`: it is never asked to."""

    def drain(self) -> None:
        """The server stops: like an answer that is being given, it may end by itself."""

    def reset(self) -> None:
        """The server's time is up."""
        self._tunnel.end(Outcome.ABORTED, "the server stops", at_once=True)

    def fail(self, error: UpstreamError) -> None:
        """The pool closes."""
        self._tunnel.end(Outcome.ABORTED, str(error), at_once=True)


def tunnel(
    exchange: Exchange,
    pool: UpstreamPool,
    *,
    target: bytes | None = None,
    headers: Iterable[tuple[bytes, bytes]] | None = None,
    protocol: bytes | None = None,
    idle: float | None = None,
    observer: TunnelObserver | None = None,
) -> Tunnel:
    """Ask an upstream server for the WebSocket that a client wants, and connect the two.

    Any other answer than ``101`` goes to the client as it is; a failure before it becomes 502 or
    504, as in `relay`. Either way the client's connection is then closed. `exchange.on_disconnect`,
    `on_pause` and `on_resume` belong to the tunnel.

    Args:
        exchange: an upgrade (`Exchange.upgrade`), not answered yet.
        pool: of the upstream server; the tunnel counts as one of its connections.
        target: default: the exchange's.
        headers: default: the exchange's. Those for one hop only and Host are left out, the lines
            that ask for the upgrade are added; the ``sec-websocket-`` ones must be among them.
        protocol: Sec-WebSocket-Protocol for the client if the upstream names none: for one that
            offers a subprotocol of ours, which the upstream does not get to see. A browser fails
            a WebSocket whose offer is not taken up.
        idle: seconds without a byte either way after which it is cut, and for which the upstream
            may leave the upgrade unanswered; None: the time-outs of the server and the pool.
        observer: sees it open, pass and end.

    Raises:
        ValueError: the exchange is no upgrade; the target or a header would break the request
            apart.
    """
    if not exchange.upgrade:
        raise ValueError("this request does not ask for a WebSocket")
    running = Tunnel(exchange, pool, protocol, observer, idle)
    if exchange.disconnected:
        running.finish(Outcome.CLIENT_GONE, 0, "the client had left")
        return running
    line = request_line("GET", exchange.target if target is None else target)
    own_lines = pool.own_lines("GET", b"") + UPGRADE
    if headers is None:
        dropped = NOT_FORWARDED | (exchange.hop_headers or frozenset())
        head = join_head(line, exchange.headers, dropped, own_lines)
    else:
        head = build_head(line, end_to_end(headers, NOT_FORWARDED), own_lines)
    running.begin(head, patience=idle)
    return running
