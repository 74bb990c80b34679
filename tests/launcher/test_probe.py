"""What the launcher says over HTTP, to a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from stoker.http import Exchange, HttpServer
from stoker.launcher import probe


class Plane:
    """A control plane that writes down what it is told."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[str, str, Any]] = []
        self.server = HttpServer(self.answer)

    def answer(self, exchange: Exchange) -> None:
        body = json.loads(exchange.body) if exchange.body else None
        self.got.append((exchange.method, exchange.path, body))
        exchange.respond(self.status, b"{}")


@pytest.fixture
async def plane() -> AsyncIterator[tuple[Plane, str]]:
    made = Plane()
    port = await made.server.listen()
    yield made, f"http://127.0.0.1:{port}"
    await made.server.drain(0.0)


STATUS = probe.trouble(7, "secret-mtoken", "http://127.0.0.1:1", "boom")


async def test_an_error_is_reported_as_a_worker_would(plane: tuple[Plane, str]) -> None:
    control, url = plane
    assert await probe.report(url + "/", STATUS)
    ((method, path, body),) = control.got
    assert (method, path) == ("POST", "/worker_status/")
    assert (body["id"], body["mtoken"], body["error_msg"]) == (7, "secret-mtoken", "boom")
    assert body["draining"] is True
    assert body["loadtime"] == 0.0


async def test_the_next_control_plane_is_told_when_the_first_is_gone(
    plane: tuple[Plane, str],
) -> None:
    control, url = plane
    assert await probe.report(f"http://127.0.0.1:9, not a url,{url}", STATUS)
    assert len(control.got) == 1


async def test_a_control_plane_that_cannot_be_reached_is_named_with_the_reason(
    plane: tuple[Plane, str],
) -> None:
    control, url = plane
    assert await probe.unreachable(f"http://127.0.0.1:9,{url}") == ""
    control.status = 503  # it starts, and is there
    assert await probe.unreachable(url) == ""
    assert await probe.unreachable("http://127.0.0.1:9") == (
        "the control plane at http://127.0.0.1:9 cannot be told: "
        "the upstream refused the connection"
    )


async def test_a_refusal_is_no_success(plane: tuple[Plane, str]) -> None:
    control, url = plane
    control.status = 401
    assert not await probe.report(url, STATUS)


@pytest.mark.parametrize(("status", "seen"), [(200, "ok"), (503, "refused"), (404, "refused")])
async def test_only_a_good_status_is_health(
    plane: tuple[Plane, str], status: int, seen: str
) -> None:
    control, url = plane
    control.status = status
    assert await probe.check_health(url + "/health", 5.0) == seen


async def test_nobody_there_is_a_refusal() -> None:
    assert await probe.check_health("http://127.0.0.1:9/health", 5.0) == "refused"


async def test_no_answer_is_a_timeout() -> None:
    silent = HttpServer(lambda _exchange: None)
    port = await silent.listen()
    assert await probe.check_health(f"http://127.0.0.1:{port}/health", 0.05) == "timeout"
    await silent.drain(0.0)


# --- whether the model server is at work


@pytest.mark.parametrize(
    ("status", "body", "busy"),
    [
        (200, b'{"ready": false, "busy": true}', True),
        (200, b'{"ready": true, "busy": false}', False),
        (200, b'{"ready": true}', False),
        (200, b'{"busy": "yes"}', False),
        (200, b"[1]", False),
        (200, b"no JSON", False),
        (503, b'{"busy": true}', False),
    ],
)
async def test_only_a_worker_that_says_so_has_a_busy_model_server(
    status: int, body: bytes, busy: bool
) -> None:
    server = HttpServer(lambda exchange: exchange.respond(status, body))
    port = await server.listen()
    assert await probe.says_busy(f"http://127.0.0.1:{port}") is busy
    await server.drain(0.0)
    assert not await probe.says_busy(f"http://127.0.0.1:{port}")
    assert not await probe.says_busy("")


def test_what_a_worker_is_at_is_told_in_words() -> None:
    told = {"state": "benchmarking", "benchmark": {"run": 1, "runs": 8}}
    assert probe.in_words(told) == "the worker measures the capacity: run 1 of 8 is done"
    told = {"state": "unhealthy", "error": "health check: answered 503"}
    assert probe.in_words(told).endswith("fails its health check: health check: answered 503")
    assert probe.in_words({"state": "ready"}) == ""
    assert probe.in_words({}) == ""
