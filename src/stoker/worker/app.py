"""The worker's HTTP side: from an envelope to the model server and back.

The way of a request, each step a plain call, none a task:
route -> ready? -> envelope -> authorised? -> load -> admission -> relay -> metered.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from time import monotonic, time
from typing import Any

import msgspec

from stoker import logs
from stoker.errors import InvalidMessageError, TicketError
from stoker.http import Exchange, Outcome, RelayObserver, UpstreamPool, relay, relay_prefix
from stoker.wire import encode, error_body
from stoker.worker.admission import Admission, Lane, Place, Verdict, retry_after_header
from stoker.worker.auth import Gate, UndecidedError
from stoker.worker.config import HandlerConfig, RequestParser, WorkerConfig
from stoker.worker.metering import Meter
from stoker.worker.metrics import CONTENT_TYPE, WorkerMetrics
from stoker.worker.workload import Workload

CLIENT_LEFT = 499
"""Status in the metrics of a request whose client went before the answer was whole."""

NOT_READY_RETRY = b"5"
"""``Retry-After`` of a worker that is not ready or is draining, seconds."""

_MAX_ACCEPT = 256
_MAX_PREFIXES = 64
_NOT_FOUND = error_body("no such route")
_NOT_READY = error_body("this worker is not ready: its model server cannot serve now")
_DRAINING = error_body("this worker takes no new requests: it is being stopped")
_UNDECIDED = error_body("this worker has not heard from its control plane yet")
_NO_SESSION = error_body("no such session")
_TOO_BUSY = error_body("too busy: the expected wait is above this route's max_queue_time")
_POST_ONLY = error_body("this route takes POST only")
_GET_ONLY = error_body("this route takes GET only")

_log = logs.get_logger("worker")
_decode_payload = msgspec.json.Decoder(dict[str, Any]).decode
_STATUS_OF = {
    Outcome.UPSTREAM_REFUSED: 502,
    Outcome.UPSTREAM_CLOSED: 502,
    Outcome.UPSTREAM_MALFORMED: 502,
    Outcome.UPSTREAM_TIMEOUT: 504,
    Outcome.ABORTED: 503,
    Outcome.CLIENT_GONE: CLIENT_LEFT,
}


class Route:
    """A handler, with what its requests need at hand."""

    __slots__ = ("_prefixes", "figures", "lane", "max_queue_time", "parser", "path", "workload")

    def __init__(self, handler: HandlerConfig, lane: Lane[Job], metrics: WorkerMetrics) -> None:
        self.path = handler.route
        self._prefixes: dict[bytes | None, bytes] = {}
        self.lane = lane
        self.max_queue_time = handler.max_queue_time
        self.parser = handler.request_parser
        self.workload = Workload(handler.route, handler.workload_calculator)
        self.figures = metrics.route(handler.route)

    def prefix(self, accept: bytes | None) -> bytes:
        """What the model server is told: nothing of the caller's but what it accepts."""
        known = self._prefixes.get(accept)
        if known is not None:
            return known
        wanted = b"*/*" if accept is None or len(accept) > _MAX_ACCEPT else accept
        headers = [(b"content-type", b"application/json"), (b"accept", wanted)]
        try:
            made = relay_prefix("POST", self.path.encode(), headers)
        except ValueError:  # the parser lets no such header pass; were it to, no place may leak
            return self.prefix(None)
        if len(self._prefixes) < _MAX_PREFIXES and (accept is None or len(accept) <= _MAX_ACCEPT):
            self._prefixes[accept] = made
        return made


class Job(Place, RelayObserver):
    """One request from its arrival to its end: its place in the lane, and what is counted of it.

    Attributes:
        request_idx: the router's number for it.
        entered_queue_at: Unix time.
        work_started_at: Unix time; None: it has not started.
        arrived: when it came, by the monotonic clock.
        started: when it went to the model server, by the monotonic clock.
    """

    __slots__ = (
        "app",
        "arrived",
        "body",
        "entered_queue_at",
        "exchange",
        "request_idx",
        "route",
        "started",
        "work_started_at",
    )

    def __init__(
        self, app: WorkerApp, route: Route, exchange: Exchange, index: int, load: float, now: float
    ) -> None:
        self.lane = route.lane
        self.load = load
        self.working = self.gone = False
        self.app = app
        self.route = route
        self.exchange = exchange
        self.body = b""
        self.request_idx = index
        self.entered_queue_at = now
        self.work_started_at: float | None = None
        self.arrived = self.started = monotonic()

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        """The relay ended (see `stoker.http.RelayObserver`)."""
        if outcome is Outcome.COMPLETE:
            self.app.ended(self, "Success" if status < 400 else "Error", status)
            return
        if outcome is Outcome.CLIENT_GONE:
            # At the end of a drain it is we who hang up.
            self.app.ended(self, "Error" if self.app.cutting else "Cancelled", CLIENT_LEFT)
            return
        _log.warning(
            "the model server failed a request",
            route=self.route.path,
            outcome=outcome.value,
            why=detail,
        )
        self.app.ended(self, "Error", _STATUS_OF[outcome])
        if outcome is not Outcome.ABORTED:
            self.app.on_upstream_failure()

    def left_the_queue(self) -> None:
        """The client went while its request was waiting."""
        self.app.ended(self, "Cancelled", CLIENT_LEFT)


class WorkerApp:
    """Answers every request to the worker; give it to `stoker.http.HttpServer`.

    Attributes:
        accepting: False while the model server cannot serve: 503.
        draining: True from the moment that the worker is being stopped: 503.
        cutting: True when what still runs is being cut off.
        on_idle: called while draining, when the last request has ended.
        on_upstream_failure: called when the model server failed a request.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        gate: Gate,
        pool: UpstreamPool,
        meter: Meter,
        admission: Admission[Job],
        metrics: WorkerMetrics,
        describe: Callable[[], dict[str, Any]],
    ) -> None:
        """Prepare.

        Args:
            config: one that passed its `check`.
            gate: authorises.
            pool: of the model server.
            meter: counts for the control plane.
            admission: decides who waits.
            metrics: counts for Prometheus.
            describe: what ``/healthz`` tells besides ``ready``.
        """
        self.accepting = False
        self.draining = False
        self.cutting = False
        self.on_upstream_failure: Callable[[], None] = lambda: None
        self.on_idle: Callable[[], None] = lambda: None
        self._gate = gate
        self._pool = pool
        self._meter = meter
        self._admission = admission
        self._metrics = metrics
        self._describe = describe
        one_at_a_time: Lane[Job] = Lane(1)
        self._routes: dict[str, Route] = {}
        for handler in config.handlers:
            lane = one_at_a_time
            if handler.allow_parallel_requests:
                lane = Lane(handler.max_concurrency)
            self._routes[handler.route] = Route(handler, lane, metrics)
        self._lanes = list({id(r.lane): r.lane for r in self._routes.values()}.values())

    @property
    def queued(self) -> int:
        """Requests waiting for their turn."""
        return sum(len(lane.queue) for lane in self._lanes)

    @property
    def working(self) -> int:
        """Requests at the model server."""
        return sum(lane.working for lane in self._lanes)

    # --- a request comes in

    def __call__(self, exchange: Exchange) -> None:
        """Take a request (see `stoker.http.Handler`)."""
        route = self._routes.get(exchange.path)
        if route is None or exchange.method != "POST":
            self._answer_itself(exchange, route)
            return
        if not self.accepting or self.draining:
            body, reason = (_DRAINING, "draining") if self.draining else (_NOT_READY, "not_ready")
            self._refuse(exchange, 503, body, reason, retry_after=NOT_READY_RETRY)
            return
        gate = self._gate
        try:
            envelope = gate.read(exchange.body)
        except InvalidMessageError as error:
            status = 400 if "body" in error.fields else 422
            body = error_body("the request is not valid", error.fields)
            self._refuse(exchange, status, body, "invalid")
            return
        if envelope.session_id is not None:
            self._refuse(exchange, 410, _NO_SESSION, "no_session")
            return
        now = time()
        try:
            gate.check(envelope.auth_data, now)
        except TicketError as error:
            body = error_body(str(error), reason=error.reason)
            self._refuse(exchange, 401, body, f"unauthorised_{error.reason}")
            return
        except UndecidedError:
            self._refuse(exchange, 503, _UNDECIDED, "undecided", retry_after=NOT_READY_RETRY)
            return
        payload = envelope.payload
        load = route.workload.of(payload)
        job = Job(self, route, exchange, envelope.auth_data.request_idx, load, now)
        if route.parser is None:
            job.body = bytes(payload)
        elif not self._parse(job, route.parser, payload):
            return
        exchange.body = b""  # the envelope is not needed any more; it may be large
        self._admit(job)

    def _parse(self, job: Job, parser: RequestParser, payload: msgspec.Raw) -> bool:
        """Let the handler's own parser make the body; whether it could (else it is answered)."""
        try:
            job.body = encode(parser(_decode_payload(payload)))
        except Exception:
            number = secrets.token_hex(6)
            _log.exception("request_parser failed", route=job.route.path, error_id=number)
            job.route.figures.answered(500)
            self._meter.accepted(job)
            self._meter.ended(job, "Error", job.entered_queue_at)
            job.exchange.respond(500, error_body("request_parser failed", error_id=number))
            return False
        return True

    # --- admission

    def _admit(self, job: Job) -> None:
        route = job.route
        verdict = self._admission.enter(job, route.max_queue_time)
        if verdict is Verdict.REFUSE:
            self._meter.refused(job.request_idx, job.load, job.entered_queue_at)
            route.figures.answered(429)
            after = retry_after_header(self._admission.retry_after)
            job.exchange.respond(429, _TOO_BUSY, headers=((b"retry-after", after),))
            return
        self._meter.accepted(job)
        route.figures.load += job.load
        if verdict is Verdict.START:
            self._start(job, job.entered_queue_at)
        else:
            job.exchange.on_disconnect = job.left_the_queue

    def _start(self, job: Job, now: float) -> None:
        job.work_started_at = now
        route, exchange = job.route, job.exchange
        if job.started == job.arrived:
            route.figures.queue.nothing += 1
        else:
            route.figures.queue.add(job.started - job.arrived)
        body, job.body = job.body, b""
        relay(
            exchange,
            self._pool,
            prefix=route.prefix(exchange.header(b"accept")),
            body=body,
            observer=job,
        )

    def ended(self, job: Job, status: str, http_status: int) -> None:
        """A job is over: count it, and start those that waited for its place."""
        now = time()
        figures = job.route.figures
        figures.answered(http_status)
        if job.working:
            figures.work.add(monotonic() - job.started)
        if status == "Success":
            figures.served += job.load
        self._meter.ended(job, status, now)
        if self.draining and not self._meter.live:
            self.on_idle()
        for following in self._admission.leave(job):
            following.started = monotonic()
            self._start(following, now)

    # --- the worker's own routes, and refusals

    def _answer_itself(self, exchange: Exchange, route: Route | None) -> None:
        path, reading = exchange.path, exchange.method in ("GET", "HEAD")
        if route is not None:
            self._refuse(exchange, 405, _POST_ONLY, "method", allow=b"POST")
        elif path == "/healthz" and reading:
            ready = self.accepting and not self.draining
            body = encode({"ready": ready, "draining": self.draining} | self._describe())
            exchange.respond(200 if ready else 503, body)
        elif path == "/metrics" and reading:
            exchange.respond(200, self._metrics.render(), content_type=CONTENT_TYPE)
        elif path in ("/healthz", "/metrics"):
            self._refuse(exchange, 405, _GET_ONLY, "method", allow=b"GET, HEAD")
        else:
            self._refuse(exchange, 404, _NOT_FOUND, "not_found")

    def _refuse(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        reason: str,
        *,
        retry_after: bytes = b"",
        allow: bytes = b"",
    ) -> None:
        self._metrics.refused(reason)
        headers = []
        if retry_after:
            headers.append((b"retry-after", retry_after))
        if allow:
            headers.append((b"allow", allow))
        exchange.respond(status, body, headers=headers)
