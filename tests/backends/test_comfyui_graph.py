"""A whole job of ComfyUI, with a small server in its place that speaks its protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stoker.backends.comfyui_graph import ComfyError, Generate, text_to_image
from stoker.http import Exchange, HttpServer, UpstreamError

GRAPH = text_to_image("model.safetensors", width=64, height=64, steps=2)


class Comfy:
    """Queues what it gets; a job is done after so many looks at its history."""

    def __init__(self) -> None:
        self.looks_left = 2
        self.queued: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.status: dict[str, Any] = {"status_str": "success", "messages": []}
        self.refusal: tuple[int, bytes] | None = None
        self.changed = asyncio.Event()

    def handle(self, exchange: Exchange) -> None:
        if exchange.path == "/prompt":
            self.queued.append(json.loads(exchange.body))
            if self.refusal is not None:
                exchange.respond(*self.refusal)
            else:
                exchange.respond(200, b'{"prompt_id": "p1", "number": 1, "node_errors": {}}')
        elif exchange.path == "/history/p1":
            self.looks_left -= 1
            done = {"p1": {"outputs": {"7": {"images": [1]}}, "status": self.status}}
            exchange.respond(200, json.dumps({} if self.looks_left >= 0 else done).encode())
        elif exchange.path == "/queue":
            self.deleted += json.loads(exchange.body)["delete"]
            exchange.respond(200, b"")
        self.changed.set()


@pytest.fixture
async def comfy() -> AsyncIterator[tuple[Comfy, Generate, list[float]]]:
    found, pauses = Comfy(), []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    server = HttpServer(found.handle)
    port = await server.listen("127.0.0.1")
    yield found, Generate(f"http://127.0.0.1:{port}", pause=pause), pauses
    await server.drain(0.0)


Running = tuple[Comfy, Generate, list[float]]


async def test_a_job_is_waited_for_and_answered_with_its_outputs(comfy: Running) -> None:
    server, generate, pauses = comfy
    told = await generate(GRAPH, client_id="me", unknown=1)
    assert told == {
        "prompt_id": "p1",
        "status": "success",
        "messages": [],
        "outputs": {"7": {"images": [1]}},
    }
    assert server.queued == [{"prompt": GRAPH, "client_id": "me"}]
    assert len(pauses) == 2


async def test_a_server_that_is_too_busy_for_a_look_at_the_history_is_asked_again(
    comfy: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, generate, _ = comfy
    call, silent = generate._call, [True, True]

    async def slow(method: str, path: str, *args: Any, **more: Any) -> dict[str, Any]:
        if path == "/history/p1" and silent:
            silent.pop()
            raise UpstreamError("timeout", "no answer within 30 s")
        return await call(method, path, *args, **more)

    monkeypatch.setattr(generate, "_call", slow)
    assert (await generate(GRAPH))["status"] == "success"
    assert len(server.queued) == 1


async def test_a_job_that_failed_says_why(comfy: Running) -> None:
    server, generate, _ = comfy
    failure = ["execution_error", {"node_id": "5", "exception_message": "out of memory"}]
    server.status = {"status_str": "error", "messages": [["execution_start", {}], failure]}
    told = await generate(GRAPH)
    assert (told["status"], told["messages"]) == ("error", [failure])


async def test_a_graph_that_is_not_valid_is_answered_with_its_errors(comfy: Running) -> None:
    server, generate, pauses = comfy
    server.refusal = (400, b'{"error": {"type": "x"}, "node_errors": {"5": {}}}')
    told = await generate({})
    assert (told["status"], told["node_errors"]) == ("error", {"5": {}})
    assert pauses == []


async def test_what_must_succeed_raises_where_it_does_not(comfy: Running) -> None:
    server, generate, _ = comfy
    server.status = {"status_str": "error", "messages": [["execution_error", {"why": "no VRAM"}]]}
    with pytest.raises(ComfyError, match="no VRAM"):
        await generate(GRAPH, must_succeed=True)
    server.refusal = (400, b'{"error": {"type": "no such checkpoint"}, "node_errors": {}}')
    with pytest.raises(ComfyError, match="no such checkpoint"):
        await generate(GRAPH, must_succeed=True)


@pytest.mark.parametrize("refusal", [(200, b"nonsense"), (500, b"{}"), (200, b"[]")])
async def test_an_answer_that_nobody_can_go_on_with_is_an_error(
    comfy: Running, refusal: tuple[int, bytes]
) -> None:
    server, generate, _ = comfy
    server.refusal = refusal
    with pytest.raises(ComfyError, match="/prompt answered"):
        await generate(GRAPH)


async def test_a_client_that_leaves_takes_its_job_out_of_the_queue(comfy: Running) -> None:
    server, generate, _ = comfy
    server.looks_left = 10**9
    task = asyncio.ensure_future(generate(GRAPH))
    async with asyncio.timeout(10.0):
        while server.looks_left == 10**9:
            server.changed.clear()
            await server.changed.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.deleted == ["p1"]


def test_two_graphs_of_the_benchmark_are_not_alike() -> None:
    again = text_to_image("model.safetensors", width=64, height=64, steps=2)
    assert again["5"]["inputs"]["seed"] != GRAPH["5"]["inputs"]["seed"]
    assert again["4"] == GRAPH["4"]
