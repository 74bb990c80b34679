"""Servers of every temper on loopback, and a worker without authentication before them."""

import asyncio

import pytest

from stoker.http import HttpServer
from stoker.loadtest import LoadTest, PayloadTemplate, Plan, UrlTarget
from stoker.worker import (
    BenchmarkConfig,
    HandlerConfig,
    RunningWorker,
    WorkerConfig,
    WorkerSettings,
)
from stoker.worker.watch import Rhythm

SSE = [(b"content-type", b"text/event-stream")]


class Temper:
    """A model server: each path does one thing."""

    def __init__(self):
        self.bodies = []
        self.waiting = []
        self.arrived = asyncio.Event()
        self.most_at_once = 0

    def __call__(self, exchange):
        if exchange.path == "/health":
            exchange.respond(200)
            return
        self.bodies.append(exchange.body)
        getattr(self, f"do_{exchange.path.strip('/')}")(exchange)
        self.arrived.set()

    def do_echo(self, exchange):
        exchange.respond(200, exchange.body)

    def do_boom(self, exchange):
        exchange.respond(500, b'{"error": "out of memory"}')

    def do_busy(self, exchange):
        exchange.respond(429, b'{"error": "too busy"}', headers=[(b"retry-after", b"3")])

    def do_away(self, exchange):
        exchange.respond(503)

    def do_stream(self, exchange):
        exchange.start(200, SSE)
        for text in ("a", "b", "c"):
            exchange.write(b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % text.encode())
        exchange.write(b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\n')
        exchange.write(b"data: [DONE]\n\n")
        exchange.finish()

    def do_cut(self, exchange):
        exchange.start(200, SSE)
        exchange.write(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
        exchange.abort()

    def do_mute(self, exchange):
        exchange.abort()

    def do_wait(self, exchange):
        """Answered by the test."""
        self.waiting.append(exchange)
        self.most_at_once = max(self.most_at_once, len(self.waiting))

    async def until_waiting(self, count):
        async with asyncio.timeout(10):
            while len(self.waiting) < count:
                self.arrived.clear()
                await self.arrived.wait()

    def release(self):
        while self.waiting:
            self.waiting.pop().respond(200, b"{}")


class Time:
    """A clock that goes on while somebody sleeps, or when a test sets it."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time():
    return Time()


@pytest.fixture
async def model():
    temper = Temper()
    server = HttpServer(temper)
    temper.url = f"http://127.0.0.1:{await server.listen('127.0.0.1', 0)}"
    yield temper
    await server.drain(0.0)


@pytest.fixture
async def worker_url(model, tmp_path):
    """A worker without authentication, ready."""
    names = ["echo", "boom", "busy", "stream", "cut", "mute", "wait"]
    handlers = [HandlerConfig(f"/{name}", allow_parallel_requests=True) for name in names]
    handlers[0].benchmark_config = BenchmarkConfig(dataset=[{"a": 1}], runs=1, concurrency=1)
    ready = asyncio.Event()
    running = RunningWorker(
        WorkerConfig(
            model_server_url=model.url,
            model_server_port=None,
            model_healthcheck_url="/health",
            handlers=handlers,
        ),
        WorkerSettings(unsecured=True, host="127.0.0.1", port=0, state_dir=tmp_path),
        rhythm=Rhythm(log=0.01, calm=0.05, eager=0.02, check_timeout=2.0),
    )
    running.on_ready = ready.set
    await running.start()
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        model.bodies.clear()
        yield f"http://127.0.0.1:{running.port}"
    finally:
        await running.close()


@pytest.fixture
async def aim():
    """Makes load tests of a URL; their connections end with the test."""
    targets = []

    def make(url, route, payload=None, *, raw=False, time=None, max_in_flight=4096, **plan):
        target = UrlTarget(url, route, raw=raw)
        targets.append(target)
        payloads = [PayloadTemplate({"i": "{{i}}"} if payload is None else payload)]
        more = {} if time is None else {"clock": time, "sleep": time.sleep}
        return LoadTest(target, payloads, Plan(**plan), max_in_flight=max_in_flight, **more)

    yield make
    for target in targets:
        await target.close()
