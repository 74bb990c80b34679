"""Real peers of a worker: a model server, a control plane, and clients, all on loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from stoker.http import Exchange, HttpServer, Response, fetch
from stoker.signatures import SignatureSigner
from stoker.tickets import Claims, mint
from stoker.wire import DeleteRequests, FinishedRequest, WorkerStatus, encode
from stoker.worker import (
    BenchmarkConfig,
    HandlerConfig,
    LogActionConfig,
    RunningWorker,
    WorkerConfig,
    WorkerSettings,
)
from stoker.worker.reporting import Pace
from stoker.worker.watch import Rhythm

MTOKEN = "secret-of-this-worker"
PACE = Pace(interval=0.02, quiet=0.2, retry_pause=0.01, timeout=2.0)
RHYTHM = Rhythm(
    log=0.01, calm=0.05, eager=0.02, check_timeout=2.0, hold=0.1, warm_up=0.1, retry=0.02
)
PATIENCE = 30.0
SIGNER = SignatureSigner(rsa.generate_private_key(public_exponent=65537, key_size=2048))


class Changes:
    """Something that tests wait for, without polling."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def notify(self) -> None:
        self._changed.set()

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until `condition()` is true; returns what it gave."""
        async with asyncio.timeout(PATIENCE):
            while not (found := condition()):
                self._changed.clear()
                await self._changed.wait()
        return found


class Model(Changes):
    """A model server. Each path does one thing; `seen` holds the requests."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Exchange] = []
        self.healthy = True
        self.deaf = False  # it answers no health check for now
        self.unanswered: list[Exchange] = []
        self.broken = False  # every answer is an error
        self.port = 0
        self.waiting: list[Exchange] = []
        self.left: list[Exchange] = []
        self._server: HttpServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = HttpServer(self.handle)
        self.port = await self._server.listen("127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.drain(0.0)
            self._server = None

    def bodies(self, path: str) -> list[bytes]:
        return [exchange.body for exchange in self.seen if exchange.path == path]

    def handle(self, exchange: Exchange) -> None:
        if exchange.path == "/health":
            if self.deaf:
                self.unanswered.append(exchange)
                self.notify()
            else:
                exchange.respond(200 if self.healthy else 503)
            return
        self.seen.append(exchange)
        if self.broken:
            exchange.respond(500, b'{"error": "the engine is dead"}')
            self.notify()
            return
        name = exchange.path.strip("/")
        getattr(self, f"do_{name}", self.do_echo)(exchange)
        self.notify()

    def do_echo(self, exchange: Exchange) -> None:
        exchange.respond(200, exchange.body)

    def do_refuse(self, exchange: Exchange) -> None:
        exchange.respond(422, b'{"why": "because"}')

    def do_break(self, exchange: Exchange) -> None:
        """What a client sends to make a good server fail."""
        exchange.respond(500, b'{"error": "that was too much"}')

    def do_wait(self, exchange: Exchange) -> None:
        """Answered by the test, from `waiting`."""
        self.waiting.append(exchange)

        def gone() -> None:
            self.left.append(exchange)
            self.notify()

        exchange.on_disconnect = gone

    def do_stream(self, exchange: Exchange) -> None:
        """Begins an event stream, which the test goes on with."""
        exchange.start(200, [(b"content-type", b"text/event-stream")])
        exchange.write(b"data: 1\n\n")
        self.do_wait(exchange)

    def do_ndjson(self, exchange: Exchange) -> None:
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.write(b'{"n": 1}\n')
        exchange.write(b'{"n": 2}\n')
        exchange.finish()

    def do_say(self, exchange: Exchange) -> None:
        """Answers with the type and the text that the payload names."""
        said = msgspec.json.decode(exchange.body)
        exchange.start(200, [(b"content-type", said["type"].encode())])
        for byte in said["text"].encode():
            exchange.write(bytes([byte]))
        exchange.finish()

    def do_binary(self, exchange: Exchange) -> None:
        body = bytes(range(256)) * 4096
        exchange.respond(200, body, content_type=b"image/png", headers=[(b"x-seed", b"7")])

    def do_die(self, exchange: Exchange) -> None:
        exchange.start(200, [], content_length=100)
        exchange.write(b"half of it")
        exchange.abort()


class ControlPlane(Changes):
    """A control plane that records what it is told, and makes tickets."""

    def __init__(self) -> None:
        super().__init__()
        self.reports: list[WorkerStatus] = []
        self.finished: list[FinishedRequest] = []
        self.tickets: bool | None = True
        self.status = 200
        self.clock_ahead = 0.0
        self.port = 0
        self.reqnum = 0
        self.attempts = 0
        self.pubkey_asked = 0
        self._server: HttpServer | None = None

    async def start(self) -> None:
        self._server = HttpServer(self.handle)
        self.port = await self._server.listen("127.0.0.1", self.port)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.drain(0.0)
            self._server = None

    def answer_with(self, handler: Callable[[Exchange], None]) -> None:
        """Answer everything so from now on."""
        assert self._server is not None
        self._server.handler = handler

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle(self, exchange: Exchange) -> None:
        if exchange.path == "/pubkey/":
            self.pubkey_asked += 1
            exchange.respond(200, SIGNER.public_pem, content_type=b"text/plain")
            return
        self.attempts += 1
        if self.status == 200 and exchange.path == "/worker_status/":
            self.reports.append(msgspec.json.decode(exchange.body, type=WorkerStatus))
        elif self.status == 200:
            assert exchange.path == "/delete_requests/"
            told = msgspec.json.decode(exchange.body, type=DeleteRequests)
            assert (told.worker_id, told.mtoken) == (7, MTOKEN)
            self.finished += told.requests
        # None: a foreign control plane, whose answer says nothing.
        reply: dict[str, Any] = {"ok": True, "now": time.time() + self.clock_ahead}
        reply["tickets"] = self.tickets
        exchange.respond(self.status, b"OK" if self.tickets is None else encode(reply))
        self.notify()

    @property
    def last(self) -> WorkerStatus:
        return self.reports[-1]

    def total(self, name: str) -> float:
        return float(sum(getattr(report, name) for report in self.reports))

    def auth(self, *, cost: float = 100.0, lasts: float = 60.0, **changes: Any) -> dict[str, Any]:
        """What ``/route/`` answers: a genuine ticket for the worker that reports, and a new one."""
        self.reqnum += 1
        reqnum: int = changes.get("reqnum", self.reqnum)
        claims = Claims(
            changes.get("worker_id", 7),
            changes.get("boot_id", self.last.boot_id),
            "chat",
            reqnum,
            reqnum,
            cost,
            int((time.time() + self.clock_ahead + lasts) * 1000),
        )
        return {
            "url": self.last.url,
            "signature": SIGNER.sign(changes.get("signed", self.last.url)),
            "endpoint": "chat",
            "cost": changes.get("claimed_cost", cost),
            "reqnum": reqnum,
            "request_idx": reqnum,
            "ticket": mint(changes.get("key", MTOKEN).encode(), claims),
            "status": "ignored",
        }


class Peer:
    """A worker under test, and what its clients do."""

    def __init__(self, running: RunningWorker, control: ControlPlane) -> None:
        self.running = running
        self.control = control
        # A writer that nobody holds closes its connection.
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.running.port}"

    def envelope(self, payload: bytes = b'{"a": 1}', auth: dict[str, Any] | None = None) -> bytes:
        shown = encode(self.control.auth() if auth is None else auth)
        return b'{"auth_data": %b, "session_id": null, "payload": %b}' % (shown, payload)

    async def get(self, path: str) -> Response:
        shown = [(b"authorization", f"Bearer {MTOKEN}".encode())]  # what /metrics asks for
        return await fetch(self.url + path, headers=shown, timeout=PATIENCE)

    async def post(self, path: str = "/echo", body: bytes | None = None, **more: Any) -> Response:
        return await fetch(
            self.url + path,
            method="POST",
            body=self.envelope() if body is None else body,
            timeout=PATIENCE,
            **more,
        )

    async def connect(
        self, path: str, body: bytes | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request and leave the answer to be read by the test."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.running.port)
        self._writers.append(writer)
        body = self.envelope() if body is None else body
        writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\n" % path.encode())
        writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        return reader, writer


def make_config(model: Model, log: Path | None = None, **handler: Any) -> WorkerConfig:
    """A worker in front of `model`, with a route for each thing that it does."""
    benchmark = BenchmarkConfig(dataset=[{"benchmark": True}], runs=2, concurrency=2)
    names = [
        "echo",
        "refuse",
        "wait",
        "stream",
        "ndjson",
        "say",
        "binary",
        "die",
        "parallel",
        "garbage",
        "break",
    ]
    handlers = [HandlerConfig(f"/{name}", **handler) for name in names]
    handlers[0].benchmark_config = benchmark
    for each in handlers:
        each.allow_parallel_requests = True
    return WorkerConfig(
        model_server_url="http://127.0.0.1",
        model_server_port=model.port,
        model_log_file=str(log) if log else None,
        model_healthcheck_url="/health",
        handlers=handlers,
        log_action_config=LogActionConfig(
            on_load=["model loaded"] if log else [], on_error=["CUDA error"], on_info=["hint"]
        ),
    )


def make_settings(control: ControlPlane, directory: Path, **changes: Any) -> WorkerSettings:
    values: dict[str, Any] = {
        "worker_id": 7,
        "mtoken": MTOKEN,
        "report_addrs": (control.url,),
        "host": "127.0.0.1",
        "port": 0,
        "public_host": "127.0.0.1",
        "state_dir": directory,
        "drain_timeout": 5.0,
        "session_close_routes": ("/bye",),
    }
    return WorkerSettings(**(values | changes))


StartWorker = Callable[..., Awaitable[Peer]]


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    server = Model()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def control() -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    await plane.start()
    yield plane
    await plane.stop()


@pytest.fixture
async def start_worker(
    model: Model, control: ControlPlane, tmp_path: Path
) -> AsyncIterator[StartWorker]:
    """Starts workers, by default one that is ready when this returns."""
    started: list[RunningWorker] = []

    async def start(
        *,
        config: WorkerConfig | None = None,
        ready: bool = True,
        settings: dict[str, Any] | None = None,
        pace: Pace = PACE,
        rhythm: dict[str, float] | None = None,
        **handler: Any,
    ) -> Peer:
        running = RunningWorker(
            config or make_config(model, **handler),
            make_settings(control, tmp_path, **(settings or {})),
            pace=pace,
            rhythm=replace(RHYTHM, **(rhythm or {})),
        )
        started.append(running)
        await running.start()
        if ready:
            boot = running.boot_id
            await control.until(
                lambda: control.reports and control.last.boot_id == boot and control.last.loadtime
            )
        return Peer(running, control)

    yield start
    for running in started:
        await running.close()


@pytest.fixture
async def worker(start_worker: StartWorker) -> Peer:
    return await start_worker()


@pytest.fixture
def config_for() -> Callable[..., WorkerConfig]:
    return make_config
