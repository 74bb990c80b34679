"""A simulated model server: OpenAI's routes, with a set speed and set faults.

``python -m stoker.backends.simulated_server --port N`` serves until SIGTERM. It loads no model and
says so: in each answer's text and headers (``x-simulated: true``), in ``/v1/models``, in its log.
How fast it answers is `stoker.backends.simulated_pace`, what it says `simulated_answers`.

Faults come by chance, but the same seed and the same order of requests give the same faults.
Exit codes: 0 after SIGTERM, 1 where it cannot listen or refuses to load, 2 for wrong arguments,
3 for a crash on purpose.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import uvloop

from stoker.backends.simulated_answers import (
    BENCHMARK_USER,
    Answer,
    Embeddings,
    GenerationRequest,
    read_embedding,
    read_generation,
)
from stoker.backends.simulated_pace import Job, Pace
from stoker.errors import InvalidMessageError
from stoker.http import Exchange, HttpServer
from stoker.logs import complain

MARK = ((b"x-simulated", b"true"),)
TICK = 0.02
"""Seconds between two looks at which tokens are due."""

EMBEDDING_SIZE = 64
CRASHED = 3


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """How the server behaves; rates from 0 to 1, speeds in tokens per second, times in seconds."""

    model: str = "simulated"
    slots: int = 8
    max_queue: int = 1024
    slot_speed: float = 50.0
    total_speed: float = 0.0
    prompt_speed: float = 2000.0
    answer_tokens: int = 128
    error_rate: float = 0.0
    drop_rate: float = 0.0
    stall_rate: float = 0.0
    stall_seconds: float = 30.0
    crash_after_requests: int = 0
    crash_after_seconds: float = 0.0
    seed: int = 0


@dataclass(eq=False)
class Live:
    """A request that is being answered."""

    exchange: Exchange
    job: Job
    answer: Answer | Embeddings
    stream: bool = False
    sent: int = 0
    fault_at: int = -1
    """Token at which the fault comes; -1: none."""
    stall: float = 0.0
    """Seconds that the fault lasts; 0: the connection is dropped."""
    silent_until: float = field(default=0.0)


class SimulatedServer:
    """Answers every request; give it to `stoker.http.HttpServer`.

    Args:
        behaviour: speeds and faults.
        clock: tells the time in seconds.

    Attributes:
        requests: taken so far, those of the benchmark left out.
    """

    def __init__(self, behaviour: Behaviour, clock: Callable[[], float]) -> None:
        self.behaviour = behaviour
        self.requests = 0
        self._clock = clock
        self._pace = Pace(
            slots=behaviour.slots,
            slot_speed=behaviour.slot_speed,
            total_speed=behaviour.total_speed or behaviour.slots * behaviour.slot_speed,
            prompt_speed=behaviour.prompt_speed,
            now=clock(),
        )
        self._live: set[Live] = set()
        self._random = random.Random(behaviour.seed)

    def __call__(self, exchange: Exchange) -> None:
        """Take a request (see `stoker.http.Handler`)."""
        if exchange.method in ("GET", "HEAD"):
            self._tell(exchange)
        elif exchange.method != "POST":
            self._refuse(exchange, 405, "use GET or POST")
        elif exchange.path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings"):
            try:
                self._take(exchange)
            except InvalidMessageError as error:
                self._refuse(exchange, 400, str(error))
        else:
            self._refuse(exchange, 404, "no such route")

    def _take(self, exchange: Exchange) -> None:
        behaviour = self.behaviour
        chat = exchange.path == "/v1/chat/completions"
        if exchange.path == "/v1/embeddings":
            asked, texts = None, read_embedding(exchange.body).texts
        else:
            asked, texts = read_generation(exchange.body, chat=chat), []
        exchange.body = b""  # it may be large, and the answer may take long
        fault, length = math.inf, 1.0
        if asked is None or asked.user != BENCHMARK_USER:
            self.requests += 1
            if 0 < behaviour.crash_after_requests < self.requests:
                crash(f"after {behaviour.crash_after_requests} requests")
            fault, length = self._random.random(), self._random.uniform(0.5, 1.5)
        if fault < behaviour.error_rate:
            self._refuse(exchange, 500, "a simulated fault")
            return
        if self._pace.waiting >= behaviour.max_queue:
            self._refuse(exchange, 503, "the simulated queue is full")
            return
        if asked is None:
            vectors = Embeddings(texts, model=behaviour.model, size=EMBEDDING_SIZE)
            live = Live(exchange, Job(vectors.tokens, 0), vectors)
        else:
            live = self._generate(exchange, asked, chat, length)
            self._spoil(live, fault - behaviour.error_rate)
        self._live.add(live)
        exchange.on_disconnect = lambda: self._gone(live)
        self._pace.submit(live.job, self._clock())

    def _generate(
        self, exchange: Exchange, asked: GenerationRequest, chat: bool, length: float
    ) -> Live:
        answer = Answer(
            self.behaviour.seed * 1_000_003 + self.requests,
            asked,
            model=self.behaviour.model,
            length=max(1, int(self.behaviour.answer_tokens * length)),
            chat=chat,
            now=int(time.time()),
        )
        return Live(exchange, Job(asked.prompt_tokens, answer.tokens), answer, asked.stream)

    def _spoil(self, live: Live, fault: float) -> None:
        """Let the fault that was drawn, if any, come when half of the answer is out."""
        behaviour = self.behaviour
        if fault < behaviour.drop_rate:
            live.fault_at = live.job.tokens // 2
        elif behaviour.stall_seconds and fault - behaviour.drop_rate < behaviour.stall_rate:
            live.fault_at, live.stall = live.job.tokens // 2, behaviour.stall_seconds

    def tick(self, now: float) -> None:
        """Send what is due at `now`."""
        if not self._live:
            return
        self._pace.advance(now)
        for live in tuple(self._live):
            self._send(live, now)

    def _send(self, live: Live, now: float) -> None:
        job, exchange = live.job, live.exchange
        if now < live.silent_until or exchange.paused:
            return
        if 0 <= live.fault_at <= job.produced and job.started:
            live.fault_at = -1
            if not live.stall:
                self._live.discard(live)
                exchange.on_disconnect = None
                self._pace.cancel(job, now)
                exchange.abort()
                return
            live.silent_until = now + live.stall
            return
        if live.stream and isinstance(live.answer, Answer) and job.produced > live.sent:
            if not exchange.started:
                exchange.start(200, [(b"content-type", b"text/event-stream"), *MARK])
            exchange.write(live.answer.events(live.sent, job.produced))
            live.sent = job.produced
        if job.done:
            self._live.discard(live)
            exchange.on_disconnect = None
            if live.stream and isinstance(live.answer, Answer):
                exchange.write(live.answer.end())
                exchange.finish()
            else:
                exchange.respond(200, live.answer.whole(), headers=MARK)

    def _gone(self, live: Live) -> None:
        self._live.discard(live)
        self._pace.cancel(live.job, self._clock())

    def _tell(self, exchange: Exchange) -> None:
        if exchange.path == "/health":
            exchange.respond(200, b'{"status": "ok", "simulated": true}', headers=MARK)
        elif exchange.path == "/v1/models":
            model = {"id": self.behaviour.model, "object": "model", "owned_by": "simulated"}
            body = msgspec.json.encode({"object": "list", "data": [model]})
            exchange.respond(200, body, headers=MARK)
        elif exchange.path == "/metrics":
            figures = {
                "requests_total": self.requests,
                "requests_running": len(self._pace.running),
                "requests_waiting": self._pace.waiting,
                "generation_tokens_total": self._pace.generated,
            }
            text = "".join(f"simulated_{name} {value}\n" for name, value in figures.items())
            exchange.respond(200, text.encode(), content_type=b"text/plain", headers=MARK)
        else:
            self._refuse(exchange, 404, "no such route")

    def _refuse(self, exchange: Exchange, status: int, problem: str) -> None:
        error = {"message": problem, "type": "simulated", "code": status}
        exchange.respond(status, msgspec.json.encode({"error": error}), headers=MARK)


def crash(why: str) -> None:
    """End at once, as a crash does."""
    complain("simulated_server", f"crash on purpose, {why}")
    os._exit(CRASHED)


async def serve(behaviour: Behaviour, host: str, port: int) -> int:
    """Serve until SIGTERM; returns the exit code."""
    loop = asyncio.get_running_loop()
    app = SimulatedServer(behaviour, loop.time)
    server = HttpServer(app)
    try:
        bound = await server.listen(host, port)
    except OSError as error:
        return _fail(f"cannot listen on {host}:{port}: {error.strerror}")
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    if behaviour.crash_after_seconds:
        after = behaviour.crash_after_seconds
        loop.call_later(after, crash, f"after {after:g} seconds")
    print(f"simulated_server: ready on http://{host}:{bound} (a simulation)", flush=True)

    def tick() -> None:
        now = loop.time()
        app.tick(now)
        if not told.is_set():
            # Not from `now`: where a tick takes longer than its turn, others must get theirs.
            loop.call_later(TICK, tick)

    tick()
    await told.wait()
    await server.drain(0.0)
    return 0


def _fail(problem: str) -> int:
    complain("simulated_server", problem)
    return 1


def main(argv: list[str] | None = None) -> int:
    """Load for a while, then serve until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="simulated_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--refuse-to-load", action="store_true")
    defaults = Behaviour()
    for name in Behaviour.__dataclass_fields__:
        default = getattr(defaults, name)
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    args = vars(parser.parse_args(argv))
    host, port = args.pop("host"), args.pop("port")
    load, refuse = args.pop("load_seconds"), args.pop("refuse_to_load")
    print(f"simulated_server: loading {args['model']!r} (a simulation)", flush=True)
    time.sleep(load)
    if refuse:
        return _fail("refuses to load, on purpose")
    code: int = uvloop.run(serve(Behaviour(**args), host, port))
    return code


if __name__ == "__main__":
    sys.exit(main())
