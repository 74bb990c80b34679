"""What a health check says, asked of a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.http import Exchange, check_health
from stoker.http.health import MAX_BODY, MAX_REDIRECTS

if TYPE_CHECKING:
    from tests.http.conftest import Harness


async def asked(net: Harness, status: int, body: bytes = b"", location: str = "") -> str:
    def answer(exchange: Exchange) -> None:
        if exchange.path == "/health/":
            exchange.respond(200, b"{}")
        else:
            exchange.respond(status, body, headers=[(b"location", location.encode())])

    _, port = await net.serve(answer)
    return (await check_health(f"http://127.0.0.1:{port}/health", 5.0)).problem


@pytest.mark.parametrize(
    "body", [b"", b"OK", b"{}", b'{"status": "ok", "error": null}', b"{cut", b'["error"]']
)
async def test_a_good_status_is_good_whatever_the_body_is(net: Harness, body: bytes) -> None:
    assert not await asked(net, 200, body)
    assert not await asked(net, 204)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "CUDA error", "code": 500}}', "CUDA error"),
        (b'{"error": {"code": 7}}', "{'code': 7}"),
        (b' {"error": "out of memory"}', "out of memory"),
        (b'{"status": "DOWN"}', "its status is DOWN"),
        (b'{"status": "unhealthy"}', "its status is unhealthy"),
    ],
)
async def test_an_error_under_a_good_status_is_bad(net: Harness, body: bytes, said: str) -> None:
    assert await asked(net, 200, body) == f"answered 200 with an error: {said}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_on_the_same_server_is_followed(net: Harness, status: int) -> None:
    assert not await asked(net, status, location="/health/")


@pytest.mark.parametrize("location", ["", "http://127.0.0.1:9/", "http://[", "https:///health/"])
async def test_a_redirect_to_elsewhere_is_not_followed(net: Harness, location: str) -> None:
    assert await asked(net, 307, location=location) == "answered 307"


async def test_redirects_that_go_round_end(net: Harness) -> None:
    assert await asked(net, 307, location="/health") == "answered 307"
    assert MAX_REDIRECTS < 10


async def test_of_a_long_answer_the_beginning_is_enough(net: Harness) -> None:
    assert not await asked(net, 200, b"# HELP\n" * MAX_BODY)


async def test_nobody_there_and_no_answer_in_time_are_told_apart(net: Harness) -> None:
    refused = await check_health("http://127.0.0.1:9/", 5.0)
    assert refused.problem
    assert refused.refused
    _, port = await net.serve(lambda _exchange: None)
    late = await check_health(f"http://127.0.0.1:{port}/", 0.05)
    assert late.timed_out
    assert not late.refused
