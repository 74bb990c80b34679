"""From a client to an upstream server and back, each part passed on as it arrives."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from stoker.http.body import Upload
from stoker.http.exchange import Exchange
from stoker.http.messages import NOT_FORWARDED, Headers, build_head, end_to_end, join_head
from stoker.http.pool import UpstreamPool, request_line
from stoker.http.request import UpstreamError, UpstreamRequest
from stoker.wire import error_body


class Outcome(Enum):
    """How a relayed request ended."""

    COMPLETE = "complete"
    CLIENT_GONE = "client_gone"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_CLOSED = "upstream_closed"
    UPSTREAM_MALFORMED = "upstream_malformed"
    ABORTED = "aborted"


_OUTCOMES = {
    "refused": Outcome.UPSTREAM_REFUSED,
    "timeout": Outcome.UPSTREAM_TIMEOUT,
    "closed": Outcome.UPSTREAM_CLOSED,
    "malformed": Outcome.UPSTREAM_MALFORMED,
}


class RelayObserver:
    """Sees a relayed answer pass; override what you need. Its methods must not raise."""

    __slots__ = ()

    def on_head(self, status: int, headers: Headers) -> None:
        """The upstream's head came."""

    def on_data(self, data: bytes) -> None:
        """A part of the body passes."""

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        """The end, exactly once.

        Args:
            outcome: how it ended.
            status: what the client got; 0 if it got nothing.
            detail: the error in words, or empty.
        """


class Relay:
    """A request that is being relayed; made by `relay`."""

    __slots__ = ("_done", "_exchange", "_observer", "_request")

    def __init__(self, exchange: Exchange, observer: RelayObserver | None) -> None:
        self._exchange = exchange
        self._observer = observer
        self._request: UpstreamRequest | None = None
        self._done = False

    def begin(self, request: UpstreamRequest) -> None:
        """Send the request, which has this relay for its sink."""
        self._request = request
        exchange = self._exchange
        exchange.on_disconnect = self._client_gone
        exchange.on_pause = request.pause
        exchange.on_resume = request.resume
        request.pool.send(request)

    # --- the upstream's answer (a ResponseSink)

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        """See `stoker.http.request.ResponseSink`."""
        if self._observer is not None:
            self._observer.on_head(status, headers)
        del reason  # the status says it
        exchange = self._exchange
        exchange.start_relayed(status, headers, content_length)
        if not self._request.body_follows:  # type: ignore[union-attr]
            exchange.flush()

    def on_data(self, data: bytes) -> None:
        """See `stoker.http.request.ResponseSink`."""
        self._exchange.write(data)
        if self._observer is not None:
            self._observer.on_data(data)

    def on_complete(self) -> None:
        """See `stoker.http.request.ResponseSink`."""
        exchange = self._exchange
        exchange.on_disconnect = exchange.on_pause = exchange.on_resume = None
        exchange.finish()
        if self._observer is None:
            self._done = True
            self._request = None
        else:
            self._finish(Outcome.COMPLETE, exchange.status, "")

    def on_error(self, error: UpstreamError) -> None:
        """See `stoker.http.request.ResponseSink`."""
        exchange = self._exchange
        exchange.on_disconnect = exchange.on_pause = exchange.on_resume = None
        if exchange.started:
            exchange.abort()
        else:
            exchange.respond(504 if error.kind == "timeout" else 502, error_body(str(error)))
        self._finish(_OUTCOMES[error.kind], exchange.status, str(error))

    # --- the other ends

    def hand_over(self) -> None:
        """The exchange is no relayed request any more: tell the observer nothing."""
        self._done = True
        self._request = None  # it holds us, and we hold it

    def _client_gone(self) -> None:
        if self._request is not None:
            self._request.abort()
        exchange = self._exchange
        self._finish(Outcome.CLIENT_GONE, exchange.status, exchange.failure or "the client left")

    def abort(self) -> None:
        """Stop: the upstream is aborted at once, and an answer that has begun is cut.

        An answer that has not begun is left to the caller.
        """
        if self._done:
            return
        exchange = self._exchange
        exchange.on_disconnect = exchange.on_pause = exchange.on_resume = None
        if self._request is not None:
            self._request.abort()
        if exchange.started:
            exchange.abort()
        self._finish(Outcome.ABORTED, exchange.status, "aborted")

    def _finish(self, outcome: Outcome, status: int, detail: str) -> None:
        if not self._done:
            self._done = True
            self._request = None  # it holds us, and we hold it
            if self._observer is not None:
                self._observer.on_done(outcome, status, detail)


def relay_prefix(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """First line and header lines for `relay`, checked once for many requests.

    Args:
        method: upper case; give the same to `relay`.
        target: in origin form.
        headers: names in lower case, without framing.

    Raises:
        ValueError: the method, the target or a header would break the request apart.
    """
    head = build_head(request_line(method, target), end_to_end(headers, NOT_FORWARDED), b"")
    return head.removesuffix(b"\r\n")


def relay(
    exchange: Exchange,
    pool: UpstreamPool,
    *,
    method: str | None = None,
    target: bytes | None = None,
    headers: Iterable[tuple[bytes, bytes]] | None = None,
    body: bytes | None = None,
    prefix: bytes | None = None,
    patience: float | None = None,
    observer: RelayObserver | None = None,
) -> Relay:
    """Send an exchange's request to an upstream server and its answer back to the client.

    Before the answer has begun, an upstream failure becomes a 502, or 504 for a time-out, with a
    JSON error; later, the client's connection is cut. A client that leaves aborts the upstream.
    An upstream that answers before it has all of a streamed body is heard, and gets no more of it.
    `exchange.on_disconnect`, `on_pause` and `on_resume` belong to the relay.

    Args:
        exchange: not answered yet.
        pool: of the upstream server.
        method: default: the exchange's.
        target: default: the exchange's.
        headers: default: the exchange's; those for one hop only, Host and framing are left out.
        body: default: the exchange's; one that is streamed (`Exchange.source`) is passed on as it
            arrives, as fast as both sides take it, and its request is never repeated.
        prefix: first line and header lines made beforehand (see `relay_prefix`), which spares
            making them for each request; `target` and `headers` are then not looked at.
        patience: seconds for which the upstream may be silent; None: the time-outs of the pool.
        observer: sees the answer pass.

    Raises:
        ValueError: the target or a header would break the request apart.
    """
    running = Relay(exchange, observer)
    if exchange.disconnected:
        running._finish(Outcome.CLIENT_GONE, 0, "the client had left")
        return running
    if prefix is not None:
        method = method or exchange.method
        line = prefix
    elif method is None and target is None:
        method = exchange.method
        line = b"%b %b HTTP/1.1\r\n" % (method.encode(), exchange.target)  # parsed, so trusted
    else:
        method = method or exchange.method
        line = request_line(method, exchange.target if target is None else target)
    upload: Upload | None = None
    if body is None:
        body = exchange.body
        if exchange.source is not None:
            upload = Upload(exchange.source, chunked=exchange.content_length is None)
    if upload is None:
        own_lines = pool.own_lines(method, body)
    else:
        own_lines = pool.stream_lines(exchange.content_length)
    if prefix is not None:
        head = b"%b%b\r\n" % (prefix, own_lines)
    elif headers is None:
        hop = exchange.hop_headers
        dropped = NOT_FORWARDED if hop is None else NOT_FORWARDED | hop
        head = join_head(line, exchange.headers, dropped, own_lines)
    else:
        head = build_head(line, end_to_end(headers, NOT_FORWARDED), own_lines)
    request = UpstreamRequest(pool, method, head, body, running)
    request.upload = upload
    request.patience = patience
    running.begin(request)
    return running
