from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from stoker.backends.simulated_server import CRASHED, Behaviour, SimulatedServer
from stoker.errors import StokerError
from stoker.http import Exchange, HttpServer, Response, fetch

CHAT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40, "ignore_eos": True}


class Simulated:
    """A server in this process whose clock the test holds."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.now = 0.0
        self.app = SimulatedServer(behaviour, lambda: self.now)
        self.port = 0
        self._came = asyncio.Event()
        self._server = HttpServer(self._handle)

    def _handle(self, exchange: Exchange) -> None:
        self.app(exchange)
        self._came.set()

    async def start(self) -> None:
        self.port = await self._server.listen("127.0.0.1")

    async def stop(self) -> None:
        await self._server.drain(0.0)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.app.tick(self.now)

    async def arrived(self, count: int) -> None:
        """Wait until so many requests are in."""
        async with asyncio.timeout(10.0):
            while self.app.requests < count:
                self._came.clear()
                await self._came.wait()

    async def until(self, figure: str) -> None:
        """Wait until /metrics says so."""
        async with asyncio.timeout(10.0):
            while figure not in (await self.get("/metrics")).body.decode().splitlines():
                pass

    def post(self, payload: dict[str, Any], path: str = "/v1/chat/completions") -> Any:
        return asyncio.ensure_future(
            fetch(
                f"http://127.0.0.1:{self.port}{path}",
                method="POST",
                body=json.dumps(payload).encode(),
                timeout=10.0,
            )
        )

    async def get(self, path: str) -> Response:
        return await fetch(f"http://127.0.0.1:{self.port}{path}", timeout=10.0)


Start = Callable[..., Awaitable[Simulated]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    started: list[Simulated] = []

    async def begin(**behaviour: Any) -> Simulated:
        found = Simulated(Behaviour(**({"slot_speed": 20.0, "prompt_speed": 1e6} | behaviour)))
        started.append(found)
        await found.start()
        return found

    yield begin
    for found in started:
        await found.stop()


async def test_an_answer_comes_when_its_tokens_are_due(start: Start) -> None:
    server = await start()
    asked = server.post(CHAT)
    await server.arrived(1)
    server.pass_time(1.9)
    assert not asked.done()
    server.pass_time(0.2)
    reply = await asked
    assert json.loads(reply.body)["usage"]["completion_tokens"] == 40
    assert (b"x-simulated", b"true") in reply.headers


async def test_a_stream_comes_word_by_word(start: Start) -> None:
    server = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps(CHAT | {"stream": True}).encode()
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await server.arrived(1)
    server.pass_time(0.52)
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"x-simulated: true" in head.lower()
    got = await reader.read(100_000)
    assert got.count(b"data: ") == 10
    server.pass_time(2.0)
    rest = await reader.readuntil(b"data: [DONE]\n\n")
    assert rest.count(b"data: ") == 31
    writer.close()


async def test_a_client_that_leaves_frees_its_slot(start: Start) -> None:
    server = await start(slots=1)
    first, second = server.post(CHAT), server.post(CHAT)
    await server.arrived(2)
    first.cancel()
    await server.until("simulated_requests_waiting 0")
    server.pass_time(2.1)
    assert (await second).status == 200


async def test_it_says_in_its_list_of_models_that_it_is_simulated(start: Start) -> None:
    server = await start(model="mine")
    (model,) = json.loads((await server.get("/v1/models")).body)["data"]
    assert (model["id"], model["owned_by"]) == ("mine", "simulated")
    assert json.loads((await server.get("/health")).body)["simulated"] is True


async def test_texts_are_embedded_after_they_were_read(start: Start) -> None:
    server = await start(prompt_speed=100.0)
    asked = server.post({"input": "x" * 400}, "/v1/embeddings")
    await server.arrived(1)
    server.pass_time(0.9)
    assert not asked.done()
    server.pass_time(0.2)
    assert len(json.loads((await asked).body)["data"]) == 1


async def test_a_full_queue_refuses(start: Start) -> None:
    server = await start(slots=1, max_queue=1)
    asked = [server.post(CHAT) for _ in range(3)]
    await server.arrived(3)
    done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED, timeout=10.0)
    assert [task.result().status for task in done] == [503]
    for task in asked:
        task.cancel()


async def test_a_share_of_the_requests_fails_and_the_seed_says_which(start: Start) -> None:
    async def statuses(seed: int) -> list[int]:
        server = await start(error_rate=0.5, seed=seed, slot_speed=1e6)
        found = []
        for number in range(20):
            asked = server.post(CHAT)
            await server.arrived(number + 1)
            server.pass_time(1.0)
            found.append((await asked).status)
        return found

    first = await statuses(7)
    assert set(first) == {200, 500}
    assert await statuses(7) == first
    assert await statuses(8) != first


async def test_a_dropped_connection_is_cut_in_the_middle(start: Start) -> None:
    server = await start(drop_rate=1.0)
    asked = server.post(CHAT | {"stream": True})
    await server.arrived(1)
    server.pass_time(0.5)
    server.pass_time(1.0)
    with pytest.raises(StokerError):
        await asked


async def test_a_stalled_answer_goes_on_after_its_silence(start: Start) -> None:
    server = await start(stall_rate=1.0, stall_seconds=30.0)
    asked = server.post(CHAT)
    await server.arrived(1)
    server.pass_time(1.1)
    server.pass_time(20.0)
    assert not asked.done()
    server.pass_time(10.1)
    assert (await asked).status == 200


async def test_the_benchmark_is_spared(start: Start) -> None:
    server = await start(error_rate=0.5, drop_rate=0.6, stall_rate=1.0, crash_after_requests=1)
    asked = server.post(CHAT | {"user": "benchmark"})
    await server.until("simulated_requests_running 1")
    server.pass_time(3.0)
    assert (await asked).status == 200


@pytest.mark.parametrize(
    ("path", "payload", "status"),
    [("/v1/chat/completions", {}, 400), ("/v1/embeddings", {}, 400), ("/nowhere", {}, 404)],
)
async def test_a_wrong_request_is_refused(
    start: Start, path: str, payload: dict[str, Any], status: int
) -> None:
    server = await start()
    assert (await server.post(payload, path)).status == status


@pytest.mark.real
def test_as_a_process_it_answers_and_dies_when_told_to() -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "stoker.backends.simulated_server", "--slot-speed", "10000"),
            *("--crash-after-requests", "1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        told = next(line for line in process.stdout if "ready on http" in line)
        assert "a simulation" in told
        url = told.split()[3] + "/v1/chat/completions"
        request = urllib.request.Request(url, json.dumps(CHAT).encode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert json.loads(answer.read())["usage"]["completion_tokens"] == 40
        with pytest.raises(OSError):
            urllib.request.urlopen(request, timeout=20)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == CRASHED
        assert errors.strip() == ("simulated_server: error: crash on purpose, after 1 requests")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.real
def test_it_refuses_to_load_when_told_to() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stoker.backends.simulated_server", "--refuse-to-load"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "simulated_server: error: refuses to load" in done.stderr
