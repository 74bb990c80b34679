"""One request from its arrival to its end: its place in the lane, and what is counted of it.

* `Job` is relayed: the fast path, without custom code. An error inside an answer whose status is
  good is seen as it passes, and is a failure.
* `TokenJob` is relayed, and its tokens are counted as they pass.
* `stoker.worker.custom.CustomJob` is answered by a handler's own code.

Life: made, admitted (`WorkerApp.admit`), perhaps queued, `start`, then exactly one
`WorkerApp.ended`. `abort` cuts it at any moment before that.
"""

from __future__ import annotations

import asyncio
import math
from time import monotonic
from typing import TYPE_CHECKING

from stoker import logs
from stoker.http import Exchange, Outcome, Relay, RelayObserver, relay, relay_prefix
from stoker.http.messages import Headers
from stoker.inference import AnswerReader, Unpacker, is_readable, is_unlabelled
from stoker.worker.admission import Lane, Place
from stoker.worker.config import HandlerConfig
from stoker.worker.metrics import WorkerMetrics
from stoker.worker.preparing import JSON, preparer_of
from stoker.worker.sessions import Session
from stoker.worker.workload import Workload

if TYPE_CHECKING:
    from stoker.worker.app import WorkerApp

CLIENT_LEFT = 499
"""Status in the metrics of a request whose client went before the answer was whole."""

_MAX_ACCEPT = 256
_MAX_PREFIXES = 64
_MAX_SHOWN = 200

PROGRESS_TOKENS = 8
"""Tokens that pass before they are taken off the load: each time costs 1.5 us."""

_log = logs.get_logger("worker")
_STATUS_OF = {
    Outcome.UPSTREAM_REFUSED: 502,
    Outcome.UPSTREAM_CLOSED: 502,
    Outcome.UPSTREAM_MALFORMED: 502,
    Outcome.UPSTREAM_TIMEOUT: 504,
    Outcome.ABORTED: 503,
    Outcome.CLIENT_GONE: CLIENT_LEFT,
}


class Route:
    """A handler, with what its requests need at hand.

    Attributes:
        config: the handler.
        path: at the worker.
        lane: where its requests queue.
        prepare: makes payloads ready; None: they are passed on as they are.
        counts_tokens: the answers' tokens are counted.
        patience: seconds for which the model server may be silent in a request. Without end where
            the route has a `timeout` of its own: nothing else cuts a request then. None: the
            worker's ``STOKER_SILENCE_TIMEOUT``.
        direct: there are requests without an envelope; see `stoker.worker.direct`.
    """

    __slots__ = (
        "_prefixes",
        "config",
        "counts_tokens",
        "direct",
        "figures",
        "lane",
        "max_queue_time",
        "path",
        "patience",
        "prepare",
        "target",
        "timeout",
        "workload",
    )

    def __init__(self, handler: HandlerConfig, lane: Lane[Job], metrics: WorkerMetrics) -> None:
        self.config = handler
        self.direct = handler.direct
        self.path = handler.route
        self.target = handler.model_path.encode()
        self.lane = lane
        self.max_queue_time = handler.queue_limit
        self.timeout = handler.timeout
        self.patience = None if handler.timeout is None else math.inf
        self.workload = Workload(handler.route, handler.workload_calculator)
        self.prepare = preparer_of(handler, self.workload)
        self.counts_tokens = self.workload.in_tokens
        self.figures = metrics.route(handler.route)
        self._prefixes: dict[bytes | None, bytes] = {}

    def headers(self, accept: bytes | None, content_type: bytes) -> Headers:
        """What the model server is told: nothing of the caller's but what it accepts."""
        wanted = b"*/*" if accept is None or len(accept) > _MAX_ACCEPT else accept
        return [
            (b"content-type", content_type),
            (b"accept", wanted),
            (b"accept-encoding", b"identity"),  # its tokens are counted as they pass
        ]

    def prefix(self, accept: bytes | None, content_type: bytes = JSON) -> bytes:
        """First line and header lines of a request to the model server."""
        if content_type is not JSON:
            return relay_prefix("POST", self.target, self.headers(accept, content_type))
        known = self._prefixes.get(accept)
        if known is not None:
            return known
        try:
            made = relay_prefix("POST", self.target, self.headers(accept, JSON))
        except ValueError:  # the parser lets no such header pass; were it to, no place may leak
            return self.prefix(None)
        if len(self._prefixes) < _MAX_PREFIXES and (accept is None or len(accept) <= _MAX_ACCEPT):
            self._prefixes[accept] = made
        return made


class Job(Place, RelayObserver):
    """A request that is relayed.

    Attributes:
        request_idx: the router's number for it.
        session: that it belongs to, if any.
        claim: load units that its payload or its ticket says.
        estimate: load units that it is believed to need in all; `load` is what is left of them.
        served: load units that are known to be served.
        entered_queue_at: seconds of the worker's monotonic clock.
        work_started_at: Unix time; None: it has not started.
        arrived: when it came, by the monotonic clock.
        started: when it went to the model server, by the monotonic clock.
        reader: reads the answer as it passes; None: it is none that can be read.
    """

    __slots__ = (
        "app",
        "arrived",
        "body",
        "claim",
        "content_type",
        "entered_queue_at",
        "estimate",
        "exchange",
        "reader",
        "request_idx",
        "route",
        "running",
        "served",
        "session",
        "started",
        "timer",
        "unpacker",
        "verdict",
        "work_started_at",
    )

    def __init__(
        self, app: WorkerApp, route: Route, exchange: Exchange, index: int, load: float, now: float
    ) -> None:
        self.lane = route.lane
        self.load = self.estimate = self.claim = load
        self.served = 0.0
        self.working = self.gone = False
        self.app = app
        self.route = route
        self.exchange = exchange
        self.body = b""
        self.content_type = JSON
        self.request_idx = index
        self.session: Session[Job] | None = None
        self.running: Relay | None = None
        self.reader: AnswerReader | None = None
        self.unpacker: Unpacker | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.verdict: tuple[int, bytes, str] | None = None
        self.entered_queue_at = now
        self.work_started_at: float | None = None
        self.arrived = self.started = monotonic()

    brief = True
    """How long it works says how long requests take."""

    @property
    def tells(self) -> bool:
        """A good answer says that the model works: reading a list of models does not."""
        return self.exchange.method == "POST"

    @property
    def path(self) -> str:
        """The route that it took."""
        return self.route.path

    @property
    def silent(self) -> bool:
        """The router is not told of it: it knows the session that the request is in."""
        return self.session is not None

    def start(self) -> None:
        """Go to the model server (called by the app, once)."""
        body, self.body = self.body, b""
        route, exchange = self.route, self.exchange
        running = relay(
            exchange,
            self.app.pool,
            prefix=route.prefix(exchange.header(b"accept"), self.content_type),
            body=body,
            patience=route.patience,
            observer=self,
        )
        if not self.gone:
            self.running = running

    def counted(self, done: float) -> float | None:
        """Its load by the model server's own count; None: nobody counted.

        Args:
            done: load units that the worker can have done while it worked on it.
        """
        return None

    def flush(self) -> None:
        """Take what is known to be served off the load: nothing is, here."""

    def on_head(self, status: int, headers: Headers) -> None:
        """See `stoker.http.RelayObserver`."""
        if status < 400 and (found := readable_type(headers)) is not None:
            content_type, self.unpacker = found
            self.reader = self.make_reader(content_type)

    def make_reader(self, content_type: bytes) -> AnswerReader:
        """What reads an answer of this type, which can be read."""
        return AnswerReader(content_type, failures_only=True)

    def on_data(self, data: bytes) -> None:
        """See `stoker.http.RelayObserver`."""
        if self.unpacker is not None:
            data = self.unpacked(data)
        if self.reader is not None:
            self.reader.feed(data)

    def unpacked(self, data: bytes) -> bytes:
        """A piece of a compressed answer, unpacked; if that fails, no more of it is read."""
        assert self.unpacker is not None
        data = self.unpacker.feed(data)
        if self.unpacker.failed:
            self.reader = self.unpacker = None
        return data

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        """The relay ended (see `stoker.http.RelayObserver`)."""
        if outcome is Outcome.COMPLETE:
            self.completed(status)
        elif outcome is Outcome.CLIENT_GONE:
            self.client_left()
        elif outcome is Outcome.ABORTED:
            # It is we who ended it, and the model server has not failed.
            if self.verdict is not None:
                self._tell(*self.verdict)
            else:
                self.app.ended(self, "Error", _STATUS_OF[outcome])
        else:
            self.upstream_failed(_STATUS_OF[outcome], outcome.value, detail)

    def completed(self, status: int) -> None:
        """The answer is whole: it ends here, well or not."""
        failure = None
        if self.reader is not None:
            self.reader.finish()
            failure = self.reader.failure
        if failure is None:
            self.app.ended(self, "Success" if status < 400 else "Error", status)
        elif failure.status < 500:  # the caller's doing
            self.app.ended(self, "Error", failure.status)
        else:
            said = logs.printable(logs.redact(failure.message))[:_MAX_SHOWN]
            self.upstream_failed(failure.status, "error_inside", said)

    def client_left(self) -> None:
        """The client went before its answer was whole."""
        # At the end of a drain it is we who hang up.
        self.app.ended(self, "Error" if self.app.cutting else "Cancelled", CLIENT_LEFT)

    def upstream_failed(self, status: int, outcome: str, detail: str) -> None:
        """The model server did not answer, or not to the end."""
        _log.warning(
            "the model server failed a request", route=self.route.path, outcome=outcome, why=detail
        )
        self.app.ended(self, "Error", status)

    def abort(self, status: int, body: bytes, told: str = "Error") -> None:
        """End it now.

        Args:
            status: of the answer, if none has begun; one that has begun is cut.
            body: of that answer.
            told: what the control plane hears: ``Error`` or ``Cancelled``.
        """
        if self.gone:
            return
        self.verdict = (status, body, told)
        if self.working:
            self.stop_work()
        else:
            self._tell(status, body, told)

    def expire_after(self, seconds: float, body: bytes) -> None:
        """Abort it, with 504, if it has not ended by then."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_later(seconds, self.abort, 504, body)

    def let_go(self) -> None:
        """It has ended (called by the app, once): hold nothing."""
        self.running = None
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.session is not None:
            self.session.left(self, monotonic())

    def stop_work(self) -> None:
        """Stop what runs; it ends with `verdict`."""
        if self.running is not None:
            self.running.abort()

    def _tell(self, status: int, body: bytes, told: str) -> None:
        if self.gone:
            return
        exchange = self.exchange
        exchange.on_disconnect = None
        if exchange.started:
            exchange.abort()
        elif not exchange.disconnected:
            exchange.respond(status, body)
        self.app.ended(self, told, status)


class TokenJob(Job):
    """A request whose answer's tokens are counted as they pass."""

    __slots__ = ("passed", "prompt_load")

    def __init__(
        self, app: WorkerApp, route: Route, exchange: Exchange, index: int, load: float, now: float
    ) -> None:
        super().__init__(app, route, exchange, index, load, now)
        self.passed = 0  # tokens that are still in the load
        self.prompt_load = 0.0

    def make_reader(self, content_type: bytes) -> AnswerReader:
        """See `Job`."""
        return AnswerReader(content_type)

    def on_data(self, data: bytes) -> None:
        """See `stoker.http.RelayObserver`."""
        if self.unpacker is not None:
            data = self.unpacked(data)
        reader = self.reader
        if reader is not None:
            self.passed += reader.feed(data)
            if self.passed >= PROGRESS_TOKENS:
                self.flush()

    def flush(self) -> None:
        """Take the tokens that have passed off the load."""
        passed, self.passed = self.passed, 0
        if passed:
            self.app.progress(self, passed)

    def counted(self, done: float) -> float | None:
        """Load by the model server's own count, or else by the tokens that passed."""
        reader = self.reader
        if reader is None:
            return None
        if self.passed:
            self.flush()
        of_usage = self.route.workload.of_usage
        completion = reader.completion_tokens
        if completion is None:
            if not reader.tokens:
                return None
            completion = reader.tokens
        if reader.prompt_tokens is not None:
            return of_usage(reader.prompt_tokens, completion)
        # The estimate of the prompt's part is all that is known of it, and a claim.
        load = of_usage(0, completion)
        return None if load is None else load + min(self.prompt_load, max(self.estimate, done))


def readable_type(headers: Headers) -> tuple[bytes, Unpacker | None] | None:
    """The type of an answer that can be read as it passes, and what unpacks it; None: it cannot."""
    content_type, codings = b"", []
    for name, value in headers:
        if name == b"content-type":
            content_type = value
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            codings.append(value)
    if not (is_readable(content_type) or is_unlabelled(content_type)) or len(codings) > 1:
        return None
    unpacker = Unpacker.of(codings[0]) if codings else None
    return None if codings and unpacker is None else (content_type, unpacker)
