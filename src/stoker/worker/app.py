"""The worker's HTTP side: from an envelope to the model server and back.

The way of a request, each step a plain call, none a task (but for a handler's own code):
route -> ready? -> envelope -> authorised, or of a session? -> load -> admission -> start -> end.
"""

from __future__ import annotations

import asyncio
import math
import re
import secrets
from collections.abc import Callable, Sequence
from hmac import compare_digest
from time import monotonic
from typing import Any

from stoker import logs
from stoker.errors import InvalidMessageError, TicketError
from stoker.http import (
    Cors,
    Exchange,
    UpstreamPool,
    bearer,
    coded,
)
from stoker.wire import AuthData, encode, error_body
from stoker.worker.admission import Admission, Lane, Verdict, retry_after_header
from stoker.worker.auth import Gate, UndecidedError
from stoker.worker.config import WorkerConfig
from stoker.worker.custom import CustomJob
from stoker.worker.direct import DirectRoutes
from stoker.worker.job import CLIENT_LEFT, Job, Route, TokenJob
from stoker.worker.metering import Meter
from stoker.worker.metrics import CONTENT_TYPE, WorkerMetrics
from stoker.worker.multipart import PayloadError
from stoker.worker.preparing import Preparer
from stoker.worker.session_calls import SessionCalls
from stoker.worker.sessions import Session
from stoker.worker.workload import outgrown

NOT_READY_RETRY = b"5"
"""``Retry-After`` of a worker that is not ready or is draining, seconds."""

_MAX_NAMED = 30
_NOT_READY = error_body("this worker is not ready: its model server cannot serve now")
_DRAINING = error_body("this worker takes no new requests: it is being stopped")
_UNDECIDED = error_body("this worker has not heard from its control plane yet")
_TOO_BUSY = error_body("too busy: the expected wait is above this route's max_queue_time")
_TIMED_OUT = error_body("the request took longer than this route's timeout")
_POST_ONLY = error_body("this route takes POST only")
_METRICS_KEY = error_body("metrics need the worker's mtoken or STOKER_METRICS_KEY, as a bearer")
_GET_ONLY = error_body("this route takes GET only")

_CHALLENGE = re.compile(rb"challenge=([0-9a-f]{16,64})")

_GIVEN_UP = frozenset({CLIENT_LEFT, 410, 504})
"""Statuses of requests that we ended, and the model server may not have noticed."""

_WANTED = frozenset({408, 429, CLIENT_LEFT})
"""Statuses below 500 of requests that could have been served at another time."""

_log = logs.get_logger("worker")


class WorkerApp:
    """Answers every request to the worker; give it to `stoker.http.HttpServer`.

    Attributes:
        accepting: False while the model server cannot serve: 503.
        draining: True from the moment that the worker is being stopped: 503.
        cutting: True when what still runs is being cut off.
        on_idle: called while draining, when the last request has ended.
        on_answer: called when the model server has answered a request: whether well, and if not,
            what was wrong. Not for what is the request's or the client's fault.
        pool: of the model server.
        sessions: the calls about sessions.
        direct: requests without an envelope.
        tasks: of handlers' own code, while they run.
        request_seconds: how long a request takes at the model server, start to end: a moving mean.
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
        prove: Callable[[str], dict[str, Any]] = lambda _challenge: {},
        cors: Cors | None = None,
        metrics_keys: Sequence[str] = (),
        session_idle_timeout: float = math.inf,
        session_close_routes: Sequence[str] = (),
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
            metrics_keys: what opens ``/metrics``; none: it is open.
            session_idle_timeout: seconds without a request after which a session ends.
            session_close_routes: paths that a session may have called at its end, besides routes.
            cors: pages of which origins may call the routes and sessions.
            prove: what it tells besides to a control plane that sends a challenge.
        """
        self.accepting = False
        self.draining = False
        self.cutting = False
        self.request_seconds = 0.0
        self._given_up = 0.0  # seconds for which the model server may be at what nobody awaits
        self.tasks: set[asyncio.Task[None]] = set()
        self.on_answer: Callable[[bool, str], None] = lambda _ok, _why: None
        self.on_idle: Callable[[], None] = lambda: None
        self.pool = pool
        self.gate = gate
        self.meter = meter
        self._admission = admission
        self._metrics = metrics
        self._describe = describe
        self._prove = prove
        self._cors = cors
        self._metrics_keys = [key.encode() for key in metrics_keys if key]
        declared = [path for h in config.handlers for path in (h.route, h.model_path)]
        self.sessions = SessionCalls(
            self,
            config.max_sessions,
            idle_timeout=session_idle_timeout,
            close_routes=(*declared, *session_close_routes),
        )
        one_at_a_time: Lane[Job] = Lane(1)
        self._routes: dict[str, Route] = {}
        for handler in config.handlers:
            lane = one_at_a_time
            if handler.parallel:
                lane = Lane(handler.max_concurrency)
            self._routes[handler.route] = Route(handler, lane, metrics)
        named = ", ".join(sorted(self._routes)[:_MAX_NAMED])
        self._not_found = error_body(f"no such route; this worker has {named}")
        self.direct = DirectRoutes(self, self._routes.values())
        self.lanes = list({id(r.lane): r.lane for r in self._routes.values()}.values())

    @property
    def queued(self) -> int:
        """Requests waiting for their turn."""
        return sum(len(lane.queue) for lane in self.lanes)

    @property
    def working(self) -> int:
        """Requests at the model server."""
        return sum(lane.working for lane in self.lanes)

    @property
    def allowed(self) -> float:
        """Seconds for which the model server may be silent because of what is at work; 0: nothing.

        See `stoker.worker.watch.Traffic`; a WebSocket that is open is no work.
        """
        limits = (
            self._limit(job)
            for job in self.meter.requests
            if isinstance(job, Job) and job.working and job.brief
        )
        return max(limits, default=0.0) or self._given_up

    def _limit(self, job: Job) -> float:
        timeout = job.route.timeout
        return self.pool.response_timeout if timeout is None else timeout

    def alive(self) -> None:
        """The model server gave a sign of life (see `stoker.worker.watch.Traffic`)."""
        self._given_up = 0.0

    @property
    def heard(self) -> float:
        """When a byte of any answer last came (see `stoker.worker.watch.Traffic`)."""
        return self.pool.heard

    @property
    def slots(self) -> int:
        """Requests worked on at once where the capacity is measured; 0: no limit is known."""
        for route in self._routes.values():
            if route.config.carries_benchmark:
                return route.lane.limit or 0
        return 0

    # --- a request comes in

    def __call__(self, exchange: Exchange) -> None:
        """Take a request (see `stoker.http.Handler`)."""
        route = self._routes.get(exchange.path)
        if self._cors and self._browser(exchange, route):
            return
        if route is None or exchange.method != "POST" or route.direct:
            self._take_other(exchange, route)
        else:
            self._take_envelope(exchange, route)

    def _browser(self, exchange: Exchange, route: Route | None) -> bool:
        """Let pages read what routes and sessions answer; whether that was a preflight."""
        path = exchange.path
        if route is None and not self.sessions.knows(path) and self.direct.find(path) is None:
            return False
        assert self._cors is not None
        return self._cors.take(exchange)

    def _take_envelope(self, exchange: Exchange, route: Route) -> None:
        if not self.accepting:
            self.not_ready(exchange)
            return
        gate = self.gate
        try:
            envelope = gate.read(exchange.body)
        except InvalidMessageError as error:
            self.invalid(exchange, error)
            return
        now = monotonic()
        auth = envelope.auth_data
        job: Job
        session: Session[Job] | None = None
        if envelope.session_id is not None:
            session = self.sessions.enter(exchange, envelope.session_id, auth, now)
            if session is None:
                return
        elif not self.authorised(exchange, auth, now):
            return
        payload = envelope.payload
        exchange.body = b""  # the envelope is not needed any more; it may be large
        prepare = route.prepare
        if prepare is not None:
            made = self._prepared(exchange, route, prepare, payload, auth, session, now)
            if made is None:
                return
            job = made
        elif route.counts_tokens:
            load, prompt_load = route.workload.of_tokens(payload)
            job = counted = TokenJob(self, route, exchange, auth.request_idx, load, now)
            counted.prompt_load = prompt_load
            job.body = bytes(payload)
        else:
            load = route.workload.of(payload)
            job = Job(self, route, exchange, auth.request_idx, load, now)
            job.body = bytes(payload)
        job.session = session
        self.admit(job)

    def _take_other(self, exchange: Exchange, route: Route | None) -> None:
        direct = self.direct.wants(exchange, route)
        if direct is not None:
            self.direct.take(exchange, direct, monotonic())
        elif route is not None and exchange.method == "POST":
            self._take_envelope(exchange, route)
        else:
            self._answer_itself(exchange, route or self.direct.find(exchange.path))

    def authorised(self, exchange: Exchange, auth: AuthData, now: float) -> bool:
        """Whether a request that belongs to no session may come in; answers it if not."""
        if self.draining:
            self.refuse(exchange, 503, _DRAINING, "draining", retry_after=NOT_READY_RETRY)
            return False
        try:
            self.gate.check(auth, now)
        except TicketError as error:
            body = error_body(str(error), reason=error.reason)
            self.refuse(exchange, 401, body, f"unauthorised_{error.reason}")
            return False
        except UndecidedError:
            self.refuse(exchange, 503, _UNDECIDED, "undecided", retry_after=NOT_READY_RETRY)
            return False
        return True

    def _prepared(
        self,
        exchange: Exchange,
        route: Route,
        prepare: Preparer,
        payload: Any,
        auth: AuthData,
        session: Session[Job] | None,
        now: float,
    ) -> Job | None:
        """A job whose payload the handler's own code or form has made; None: it is answered."""
        index = auth.request_idx
        try:
            prepared = prepare(payload)
        except PayloadError as error:
            body = error_body("the request is not valid", error.fields)
            self._failed_early(exchange, route, index, session, now, error.status, body)
            return None
        except (Exception, SystemExit):
            body = self.own_code_failed(route, "reading the payload failed")
            self._failed_early(exchange, route, index, session, now, 500, body)
            return None
        custom = CustomJob.needed(route.config)
        make = CustomJob if custom else TokenJob if route.counts_tokens else Job
        job = make(self, route, exchange, index, prepared.load, now)
        job.body, job.content_type = prepared.body, prepared.content_type
        if isinstance(job, CustomJob):
            job.payload = prepared.payload
        elif isinstance(job, TokenJob):
            job.prompt_load = prepared.prompt_load
        return job

    async def end_tasks(self, seconds: float) -> None:
        """Wait until handlers' own code, once cancelled, has ended."""
        if self.tasks:
            await asyncio.wait(tuple(self.tasks), timeout=seconds)

    def own_code_failed(self, route: Route, what: str) -> bytes:
        """A handler's own code raised (call it in the ``except``): the log gets the traceback.

        Returns:
            the answer's body, with an id that is found in the log.
        """
        number = secrets.token_hex(6)
        _log.exception(what, route=route.path, error_id=number)
        return error_body("internal error in this route's handler", error_id=number)

    def _failed_early(
        self,
        exchange: Exchange,
        route: Route,
        index: int,
        session: Session[Job] | None,
        now: float,
        status: int,
        body: bytes,
    ) -> None:
        """A payload cannot be used: the router hears that its request is over."""
        job = Job(self, route, exchange, index, 0.0, now)
        job.session = session
        route.figures.answered(status)
        if session is None:
            self.gate.failed(index)
        self.meter.accepted(job)
        self.meter.ended(job, "Error", now)
        exchange.respond(status, body)

    # --- admission

    def admit(self, job: Job) -> None:
        """Let a job wait, work, or be refused."""
        route = job.route
        job.load = job.estimate = route.workload.believed(job.claim, self._admission.perf)
        verdict = self._admission.enter(job, route.max_queue_time)
        if verdict is Verdict.REFUSE:
            if job.session is None:
                self.gate.failed(job.request_idx)
            self.meter.refused(
                job.request_idx, job.load, job.entered_queue_at, job.silent, route.path
            )
            route.figures.answered(429)
            after = retry_after_header(self._admission.retry_after)
            job.exchange.respond(429, _TOO_BUSY, headers=((b"retry-after", after),))
            return
        self.meter.accepted(job)
        route.figures.load += job.load
        if job.session is not None:
            job.session.jobs[job] = None
        if verdict is Verdict.START:
            self._start(job, job.entered_queue_at)
        else:
            job.exchange.on_disconnect = job.client_left

    def _start(self, job: Job, now: float) -> None:
        job.work_started_at = now
        route = job.route
        if job.started == job.arrived:
            route.figures.queue.nothing += 1
        else:
            route.figures.queue.add(job.started - job.arrived)
        if route.timeout is not None:
            job.expire_after(route.timeout, _TIMED_OUT)
        job.start()

    def progress(self, job: Job, tokens: int) -> None:
        """Tokens of an answer have passed: they are no load any more."""
        served = job.route.workload.of_usage(0, tokens)
        if not served:
            return
        had = job.served + served
        if (more := outgrown(had, job.claim) - job.estimate) > 0.0:
            self._admission.grow(job, more)
            self.meter.grow(job, more)
        off = self._admission.progress(job, served)
        self.meter.progress(job, served, off)

    def ended(self, job: Job, status: str, http_status: int) -> None:
        """A job is over: count it, and start those that waited for its place."""
        if job.gone:
            return
        now = monotonic()
        figures = job.route.figures
        figures.answered(http_status)
        if job.working:
            if job.brief and http_status in _GIVEN_UP:
                self._given_up = max(self._given_up, self._limit(job))
            took = monotonic() - job.started
            figures.work.add(took)
            if job.brief:
                self.request_seconds += (took - self.request_seconds) * 0.1
        actual: float | None = None
        if status == "Success":
            actual = self._turned_out(job)
            figures.served += job.estimate if actual is None else actual
            if job.tells:
                self.on_answer(True, "")
        else:
            job.flush()
            if status == "Error" and 400 <= http_status < 500 and http_status not in _WANTED:
                actual = self._turned_down(job)
            if status == "Error" and not 400 <= http_status < 500 and not self.cutting:
                self.on_answer(False, f"{job.route.path} failed ({http_status})")
        if status == "Error" and job.session is None:
            self.gate.failed(job.request_idx)
        self.meter.ended(job, status, now, actual=actual)
        job.running = None
        if job.timer is not None or job.session is not None:
            job.let_go()
        for following in self._admission.leave(job):
            following.started = monotonic()
            self._start(following, now)
        if self.draining and not self.meter.live:
            self.on_idle()

    def _turned_out(self, job: Job) -> float | None:
        """The load of a job that was answered well; None: as it was believed."""
        perf = self._admission.perf
        done = perf * (monotonic() - job.started) if perf > 0.0 else job.estimate
        actual = job.counted(done)
        shown = min(job.claim, done) if actual is None else actual
        if job.tells and job.brief:
            job.route.workload.learn(shown)
        if actual is None and shown > job.estimate:
            return shown
        return actual

    def _turned_down(self, job: Job) -> float:
        """The load of a job whose request was wrong: what it claimed, nobody will need.

        Otherwise claims that no model server takes, at no cost to who makes them, would look like
        demand for more workers.
        """
        done = self._admission.perf * (monotonic() - job.started) if job.working else 0.0
        return max(job.served, min(job.estimate, done))

    # --- the worker's own routes, and refusals

    def _answer_itself(self, exchange: Exchange, route: Route | None) -> None:
        path, reading = exchange.path, exchange.method in ("GET", "HEAD")
        if route is not None:
            self._wrong_method(exchange, route)
        elif path == "/healthz" and reading:
            ready = self.accepting and not self.draining
            known = {"ready": ready, "draining": self.draining} | self._describe()
            if challenge := _CHALLENGE.fullmatch(exchange.query):
                known |= self._prove(challenge[1].decode())
            body = encode(known)
            exchange.respond(200 if ready else 503, body)
        elif path == "/metrics" and reading and not self._may_read_metrics(exchange):
            self.refuse(exchange, 401, _METRICS_KEY, "unauthorised_metrics")
        elif path == "/metrics" and reading:
            exchange.respond(200, self._metrics.render(), content_type=CONTENT_TYPE)
        elif path in ("/healthz", "/metrics"):
            self.refuse(exchange, 405, _GET_ONLY, "method", allow=b"GET, HEAD")
        elif self.sessions.knows(path):
            if exchange.method == "POST":
                self.sessions.answer(exchange)
            else:
                self.refuse(exchange, 405, _POST_ONLY, "method", allow=b"POST")
        else:
            self.refuse(exchange, 404, self._not_found, "not_found")

    def _may_read_metrics(self, exchange: Exchange) -> bool:
        """They name routes and loads: for whoever shows the worker's mtoken, or the key for it."""
        if not self._metrics_keys:
            return True
        shown = bearer(exchange) or b""
        return any(compare_digest(shown, key) for key in self._metrics_keys)

    def _wrong_method(self, exchange: Exchange, route: Route) -> None:
        """The route is there, but not for this method."""
        allowed = list(route.config.methods)
        if not route.path.endswith("/*"):
            allowed = ["POST", *(m for m in allowed if m != "POST")]
        allow = ", ".join(allowed)
        body = error_body(f"this route takes {allow or 'WebSockets'} only")
        self.refuse(exchange, 405, body, "method", allow=allow.encode())

    def invalid(self, exchange: Exchange, error: InvalidMessageError) -> None:
        """Answer a body that cannot be read."""
        if "body" in error.fields and (coding := coded(exchange)):
            self.refuse(
                exchange,
                415,
                error_body(coding),
                "coded",
                headers=[(b"accept-encoding", b"identity")],
            )
            return
        status = 400 if "body" in error.fields else 422
        body = error_body("the request is not valid", error.fields)
        self.refuse(exchange, status, body, "invalid")

    def not_ready(self, exchange: Exchange) -> None:
        """Answer while the model server cannot serve."""
        self.refuse(exchange, 503, _NOT_READY, "not_ready", retry_after=NOT_READY_RETRY)

    def refuse(
        self,
        exchange: Exchange,
        status: int,
        body: bytes,
        reason: str,
        *,
        retry_after: bytes = b"",
        allow: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Turn a request away; `reason` is one of ours, for the metrics."""
        self._metrics.refused(reason)
        more = list(headers)
        if retry_after:
            more.append((b"retry-after", retry_after))
        if allow:
            more.append((b"allow", allow))
        exchange.respond(status, body, headers=more)
