from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.errors import ConfigError
from stoker.http import Cors, Exchange, relay

if TYPE_CHECKING:
    from tests.http.conftest import Harness

APP = "https://app.example.org"


def preflight(origin: str = APP, path: str = "/x") -> bytes:
    return (
        f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n"
        "Access-Control-Request-Method: POST\r\n"
        "Access-Control-Request-Headers: authorization, content-type\r\n\r\n"
    ).encode()


def asking(origin: str = APP, method: str = "GET") -> bytes:
    return f"{method} /x HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n".encode()


def guarded(cors: Cors) -> object:
    def handler(exchange: Exchange) -> None:
        if not cors.take(exchange):
            exchange.respond(401, b"{}")

    return handler


async def test_a_preflight_is_answered_before_any_authorisation(net: Harness) -> None:
    _, port = await net.serve(guarded(Cors([APP])))
    answer = await net.ask(port, preflight())
    assert answer.status == 204
    assert answer.headers[b"access-control-allow-origin"] == APP.encode()
    assert answer.headers[b"vary"] == b"origin"
    allowed = answer.headers[b"access-control-allow-headers"]
    assert b"authorization" in allowed
    assert b"content-type" in allowed
    assert b"post" in answer.headers[b"access-control-allow-methods"]  # the harness lowers it


async def test_a_page_may_read_an_answer_and_also_a_refusal(net: Harness) -> None:
    _, port = await net.serve(guarded(Cors([APP])))
    answer = await net.ask(port, asking())
    assert answer.status == 401
    assert answer.headers[b"access-control-allow-origin"] == APP.encode()
    assert b"retry-after" in answer.headers[b"access-control-expose-headers"]


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example.org",
        "https://app.example.org:8443",
        "https://app.example.org.evil.example",
        "https://evil.example?https://app.example.org",
        "null",
        "*",
        "",
    ],
)
async def test_another_origin_is_let_nowhere(net: Harness, origin: str) -> None:
    _, port = await net.serve(guarded(Cors([APP])))
    for request, status in ((preflight(origin), 403), (asking(origin), 401)):
        answer = await net.ask(port, request)
        assert answer.status == status
        assert b"access-control-allow-origin" not in answer.headers


async def test_any_origin_is_let_in_without_credentials(net: Harness) -> None:
    _, port = await net.serve(guarded(Cors(["*"])))
    for request in (preflight("https://anybody.example"), asking("https://anybody.example")):
        answer = await net.ask(port, request)
        assert answer.headers[b"access-control-allow-origin"] == b"*"
        assert b"access-control-allow-credentials" not in answer.headers


async def test_it_is_off_where_no_origin_is_named(net: Harness) -> None:
    cors = Cors([])
    assert not cors
    _, port = await net.serve(guarded(cors))
    answer = await net.ask(port, preflight())
    assert answer.status == 401
    assert not [name for name in answer.headers if name.startswith(b"access-control")]


async def test_what_an_upstream_says_of_origins_is_left_out(net: Harness) -> None:
    def upstream(exchange: Exchange) -> None:
        lines = [(b"access-control-allow-origin", b"*"), (b"x-own", b"1")]
        exchange.respond(
            200, b"{}", headers=[*lines, (b"access-control-allow-credentials", b"true")]
        )

    _, behind = await net.serve(upstream)
    pool = net.pool(behind)
    cors = Cors([APP])

    def front(exchange: Exchange) -> None:
        if not cors.take(exchange):
            relay(exchange, pool)

    _, port = await net.serve(front)
    answer = await net.ask(port, asking())
    assert answer.headers[b"access-control-allow-origin"] == APP.encode()
    assert b"access-control-allow-credentials" not in answer.headers
    assert answer.headers[b"x-own"] == b"1"


@pytest.mark.parametrize("wrong", ["app.example.org", "https://a/b", "https://", "ftp://a", "a\nb"])
def test_what_is_no_origin_is_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match="is no origin: write https://host"):
        Cors([wrong])
