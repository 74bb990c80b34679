"""The worker as a whole: puts the parts together, and ends in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import secrets
import shutil
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stoker import logs
from stoker.errors import ConfigError, StokerError
from stoker.http import Cors, Exchange, HttpServer, Origin, UpstreamPool
from stoker.tickets import possession
from stoker.version import __version__
from stoker.wire import WorkerStatus, encode
from stoker.worker.admission import Admission
from stoker.worker.app import WorkerApp
from stoker.worker.auth import Gate, Mode
from stoker.worker.benchmark import ResultFile, requests_per_run
from stoker.worker.capacity import Capacity
from stoker.worker.config import WorkerConfig
from stoker.worker.job import Job
from stoker.worker.metering import Figures, Meter
from stoker.worker.metrics import Reading, WorkerMetrics
from stoker.worker.reporting import Pace, Reporter
from stoker.worker.settings import SocketOptions, WorkerSettings
from stoker.worker.watch import ModelWatch, Rhythm

FINAL_REPORT_SECONDS = 5.0
"""Longest time that the last report may take."""

FLUSH_SECONDS = 5.0
"""Longest time that clients get to read the end of an answer that is complete."""

CLEANUP_SECONDS = 5.0
"""Longest time that a handler's own code gets to clean up when it is cut off."""

CONNECT_SECONDS = 60.0
"""Longest time for a connection to the model server, where the route has no `timeout`."""

TICK_SECONDS = 1.0
"""Between two looks at sessions and at the figures of a saturated model server."""

_GIGABYTE = 1e9
_log = logs.get_logger("worker")


class RunningWorker:
    """A worker that is running; made by `Worker`, or by a program that embeds one.

    Attributes:
        port: that it listens on, after `start`.
        http_port: on loopback, for the model server's own calls; 0: it was taken.
        url: under which clients know it, after `start`.
        boot_id: random, new for each start.
        on_ready: called once, when the worker lets requests in for the first time.
    """

    def __init__(
        self,
        config: WorkerConfig,
        settings: WorkerSettings,
        *,
        environ: Mapping[str, str] | None = None,
        pace: Pace | None = None,
        rhythm: Rhythm | None = None,
        listening: SocketOptions | None = None,
    ) -> None:
        """Put the parts together.

        Raises:
            ConfigError: the two do not fit together.
        """
        log_file = config.model_log_file or settings.model_log
        if config.log_action_config.on_load and not log_file:
            raise ConfigError(
                "model_log_file", "is required for log_action_config.on_load (or set MODEL_LOG)"
            )
        environ = environ or {}
        self.settings = settings
        self._listening = listening or SocketOptions()
        self.boot_id = secrets.token_hex(8)
        self.port = 0
        self.http_port = 0
        self.url = ""
        self.on_ready: Callable[[], None] = lambda: None
        self.gate = Gate(
            mtoken=settings.mtoken,
            worker_id=settings.worker_id,
            boot_id=self.boot_id,
            mode=Mode.OPEN if settings.unsecured else Mode.UNDECIDED,
        )
        if settings.tickets_required:
            self.gate.demand_tickets()
        self._meter = Meter()
        self._capacity = Capacity()
        self._admission: Admission[Job] = Admission(
            full_at=requests_per_run(config.benchmark_handler)
        )
        self._metrics = WorkerMetrics(self._gauges, self._state)
        self._pool = UpstreamPool(
            Origin.parse(config.model_origin()),
            # A model server that is busy may be slow to take connections as well.
            connect_timeout=min(CONNECT_SECONDS, settings.silence_timeout),
            response_timeout=settings.silence_timeout,
            idle_read_timeout=settings.silence_timeout,
        )
        self._watch = ModelWatch(
            config,
            log_file,
            ResultFile(
                settings.state_dir,
                config.benchmark_handler,
                f"{environ.get('BACKEND', '')}\n{environ.get('STOKER_BACKEND_OPTIONS', '')}",
            ),
            self._model_changed,
            rhythm=rhythm,
            silence=settings.silence_timeout,
            # On a loopback address and without authentication: no stranger causes an error.
            trusting=settings.unsecured,
        )
        self._app = WorkerApp(
            config,
            gate=self.gate,
            pool=self._pool,
            meter=self._meter,
            admission=self._admission,
            metrics=self._metrics,
            describe=self._health,
            prove=self._proof,
            session_idle_timeout=settings.session_idle_timeout,
            session_close_routes=settings.session_close_routes,
            metrics_keys=() if settings.unsecured else (settings.mtoken, settings.metrics_key),
            cors=Cors(settings.cors_origins, setting="STOKER_CORS_ORIGINS"),
        )
        self._app.on_answer = self._watch.answered
        self._watch.traffic = self._app
        direct = any(handler.direct for handler in config.handlers)
        self._server = HttpServer(
            self._app,
            stream_body=self._app.direct.body_limit if direct else None,
            accept_upgrade=self._app.direct.may_upgrade if direct else None,
            on_refused=lambda reason: self._metrics.refused(f"http_{reason}"),
        )
        # For the model server's own calls, plain and on loopback; see `_listen_locally`.
        self._local_server = HttpServer(self._answer_local)
        self._reporter = Reporter(
            settings.report_addrs, self._meter, self.gate, self._describe, pace=pace
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._broken = False
        self._began = time.monotonic()
        self._loadtime = 0.0
        self._disk_at_start = 0.0
        self._disk = (float("-inf"), 0.0)
        self._stop = asyncio.Event()
        self._idle = asyncio.Event()
        self._stopped = asyncio.Event()

    # --- start

    async def start(self) -> None:
        """Listen, and begin to watch and to report.

        Raises:
            ConfigError: the port or the certificate cannot be used.
        """
        settings = self.settings
        context = None
        if settings.use_ssl:
            context = self._listening.ssl_context or _certificate(settings)
        try:
            self.port = await self._server.listen(
                settings.host, settings.port, ssl=context, **self._listening.options
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                problem = f"port {settings.port} on {settings.host} is taken by another program"
                raise ConfigError("WORKER_PORT", problem) from None
            problem = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
            raise ConfigError("STOKER_HOST", problem) from None
        await self._listen_locally()
        self.url = self.gate.url = settings.public_url(self.port)
        self._disk_at_start = self._disk_usage()
        _log.info(
            "worker is listening",
            worker_id=settings.worker_id,
            host=settings.host,
            port=self.port,
            url=self.url,
            authorisation=self.gate.mode.value,
        )
        self._tasks.append(asyncio.create_task(self._guarded(self._watch.run())))
        if settings.report_addrs:
            self._tasks.append(asyncio.create_task(self._guarded(self._reporter.run())))
        self._tasks.append(asyncio.create_task(self._guarded(self._tick())))
        self._tasks.append(asyncio.create_task(self._end_when_told()))

    async def _listen_locally(self) -> None:
        """Open the port for the model server's own calls.

        Raises:
            ConfigError: a port that was asked for cannot be had.
        """
        wanted = self.settings.http_port
        port = wanted or 0
        if wanted is None and self.settings.port:
            port = min(self.port + 1, 65535)
        try:
            self.http_port = await self._local_server.listen("127.0.0.1", port)
        except OSError as error:
            if wanted is not None:
                problem = f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}"
                raise ConfigError("WORKER_HTTP_PORT", problem) from None
            _log.warning(
                "no port for the model server's own calls: set WORKER_HTTP_PORT",
                port=port,
            )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._app.sessions.sweep(time.monotonic())
            self.look_at_capacity(time.monotonic())

    def look_at_capacity(self, now: float) -> None:
        """Correct perf by what is served under saturation (called every `TICK_SECONDS`).

        Args:
            now: seconds, by the monotonic clock.
        """
        changed = self._capacity.observe(
            now,
            self._meter.served,
            saturated=not self._admission.take_slack(self._app.lanes),
            request_seconds=self._app.request_seconds,
        )
        if changed:
            self._admission.perf = self._capacity.perf
            _log.info(
                "capacity was corrected under load",
                perf=f"{self._capacity.perf:.4g} {self._watch.unit}",
            )
            self._reporter.wake()

    async def _guarded(self, work: Any) -> None:
        """A part that breaks must not leave a worker that looks alive: stop it."""
        try:
            await work
        except Exception:
            _log.exception("a part of the worker broke; stopping")
            self._broken = True
            self.stop()

    # --- end

    def stop(self) -> None:
        """Begin to stop: no new requests, while running ones may end; again changes nothing."""
        if self._app.draining:
            return
        self._app.draining = True
        _log.info("draining", working=self._app.working, queued=self._app.queued)
        self._reporter.wake()
        self._app.on_idle = self._idle.set
        if not self._meter.live:
            self._idle.set()
        self._stop.set()

    def interrupt(self) -> None:
        """What a person at the terminal asks for: `stop`; the second time, cut what still runs."""
        if self._app.draining:
            _log.info("stopping at once")
            self._app.cutting = True
            self._idle.set()
        else:
            self.stop()

    async def wait_stopped(self) -> None:
        """Wait until everything that began with `stop` is done.

        Raises:
            StokerError: it was stopped because a part of it broke.
        """
        await self._stopped.wait()
        if self._broken:
            raise StokerError("a part of the worker broke; the log says which")

    async def _end_when_told(self) -> None:
        await self._stop.wait()
        try:
            # Until the last running request is done, newcomers are still told 503 and when to come
            # back: they may have been sent here before the control plane heard of the end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.drain_timeout):
                    await self._idle.wait()
            left = self._app.working + self._app.queued
            if left:
                _log.warning("requests are cut off", requests=left)
            self._app.cutting = True
            await self._app.sessions.end_all()
            await self._server.drain(0.0 if left else FLUSH_SECONDS)
            await self._app.end_tasks(CLEANUP_SECONDS)
            await self._last_report()
        finally:
            self._stopped.set()

    async def _last_report(self) -> None:
        if not self.settings.report_addrs:
            return
        # A report that is on its way is let through: cut off, it might count twice.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINAL_REPORT_SECONDS):
                await self._reporter.report(tries=1)

    async def close(self) -> None:
        """Let go of everything at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._app.sessions.close()
        await self._server.drain(0.0)
        await self._app.end_tasks(CLEANUP_SECONDS)
        await self._local_server.drain(0.0)
        await self._pool.close()
        await self._reporter.close()
        _log.info("worker has stopped")

    # --- what the parts ask of each other

    def _model_changed(self) -> None:
        readiness = self._watch.readiness
        self._capacity.measured(self._watch.perf)
        self._admission.perf = self._capacity.perf
        self._app.accepting = readiness.ready
        if readiness.ready and not self._loadtime:
            self._loadtime = time.monotonic() - self._began
            _log.info("worker is ready", loadtime=round(self._loadtime, 3))
            self.on_ready()
        self._reporter.wake()

    def _state(self) -> str:
        return "draining" if self._app.draining else self._watch.readiness.state.value

    def _health(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "state": self._state(),
            "queued": self._app.queued,
            "working": self._app.working,
            "version": __version__,
        }
        if (progress := self._watch.progress) is not None:
            told["benchmark"] = {"run": progress.run, "runs": progress.runs}
        return told

    def _answer_local(self, exchange: Exchange) -> None:
        """Answer on the port for this machine alone: the model server and the launcher."""
        if exchange.path == "/healthz" and exchange.method in ("GET", "HEAD"):
            more = {
                "busy": self._watch.busy,
                "error": self._watch.readiness.error,
                "perf": f"{self._capacity.perf:.4g} {self._watch.unit}",
            }
            exchange.respond(200, encode(self._health() | more))
        else:
            self._app.sessions.answer_local(exchange)

    def _proof(self, challenge: str) -> dict[str, Any]:
        """What shows the control plane that we are the worker whose URL this is."""
        settings = self.settings
        if settings.unsecured:
            return {}
        proof = possession(settings.mtoken.encode(), settings.worker_id, challenge)
        return {"worker_id": settings.worker_id, "proof": proof}

    def _describe(self, figures: Figures) -> WorkerStatus:
        disk = self._disk_usage()
        working, loads = self._meter.working_requests()
        return WorkerStatus(
            id=self.settings.worker_id,
            mtoken=self.settings.mtoken,
            url=self.url,
            version=f"stoker {__version__}",
            loadtime=self._loadtime,
            cur_load=self._meter.cur_load,
            new_load=figures.new_load,
            rej_load=figures.rej_load,
            cur_perf=figures.cur_perf,
            max_perf=self._capacity.perf,
            error_msg=self._error(),
            num_requests_working=self._meter.live,
            num_requests_recieved=figures.received,
            additional_disk_usage=disk - self._disk_at_start,
            disk_usage=disk,
            working_request_idxs=working,
            working_loads=loads,
            boot_id=self.boot_id,
            draining=self._app.draining,
            slots=self._app.slots,
        )

    def _error(self) -> str:
        """Why this worker does not serve; empty while it does, and while it loads at first.

        A worker that was ready and is not says so until it is again: a control plane would take
        "loading" after "ready" for an old report that came late. One that is being stopped reports
        no error: its model server may be going as well.
        """
        if self._app.draining:
            return ""
        readiness = self._watch.readiness
        if readiness.error or readiness.ready or not self._loadtime:
            return readiness.error
        return "the model server was restarted and is coming back"

    def _disk_usage(self) -> float:
        """Gigabytes used on the disk of the state directory; looked up once a minute."""
        now = time.monotonic()
        if now - self._disk[0] > 60.0:
            used = 0.0
            with contextlib.suppress(OSError):
                used = shutil.disk_usage(self.settings.state_dir).used / _GIGABYTE
            self._disk = (now, used)
        return self._disk[1]

    def _gauges(self) -> Iterable[Reading]:
        reporter, meter = self._reporter, self._meter
        yield (
            "ready",
            "1 while requests are let in.",
            float(self._app.accepting and not self._app.draining),
        )
        yield "queued_requests", "Requests waiting for their turn.", self._app.queued
        yield "working_requests", "Requests at the model server.", self._app.working
        yield "connections", "Connections of clients.", self._server.connections
        yield "current_load", "Load units queued or working.", meter.cur_load
        yield "capacity", "Load units per second.", self._capacity.perf
        yield "capacity_corrections", "Times that load put it right.", self._capacity.corrections
        yield "sessions", "Sessions open.", len(self._app.sessions)
        yield "expected_wait_seconds", "Load over capacity.", self._admission.expected_wait()
        yield "load_seconds", "Time until ready; 0 before.", self._loadtime
        yield "reports_accepted", "Reports that a control plane took.", reporter.accepted
        yield "reports_failed", "Reports that none took.", reporter.failed
        yield (
            "last_report_timestamp_seconds",
            "Of the last that was taken.",
            (reporter.last_accepted_at),
        )
        yield "forgotten_requests", "Finished requests that were never told.", meter.forgotten


def _certificate(settings: WorkerSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.ssl_cert, settings.ssl_key)
    except (OSError, ssl.SSLError) as error:
        files = f"{settings.ssl_cert} and {settings.ssl_key}"
        reason = error.strerror or type(error).__name__
        raise ConfigError("USE_SSL", f"{files} cannot be used: {reason}") from None
    return context
