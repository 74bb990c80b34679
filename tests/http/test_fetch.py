from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

import pytest

from stoker.errors import InvalidMessageError
from stoker.http import Exchange, HttpServer, UpstreamError, fetch

if TYPE_CHECKING:
    from tests.http.conftest import Harness


def reflect(exchange: Exchange) -> None:
    exchange.respond(
        200,
        b"%b %b %b" % (exchange.method.encode(), exchange.target, exchange.body),
        headers=[(b"x-got", exchange.header(b"x-sent") or b"")],
    )


async def test_a_request_is_sent_and_its_answer_returned(net: Harness) -> None:
    server, port = await net.serve(reflect)
    answer = await fetch(
        f"http://127.0.0.1:{port}/a b?c=d e",
        method="PUT",
        headers=[(b"x-sent", b"1")],
        body=b"body",
    )
    assert (answer.status, answer.body) == (200, b"PUT /a%20b?c=d%20e body")
    assert answer.header(b"x-got") == b"1"
    await net.until(lambda: server.connections == 0)


async def test_json_is_decoded_or_refused(net: Harness) -> None:
    _, port = await net.serve(lambda exchange: exchange.respond(200, exchange.body))
    url = f"http://127.0.0.1:{port}/"
    assert (await fetch(url, method="POST", body=b"[1]")).json() == [1]
    with pytest.raises(InvalidMessageError):
        (await fetch(url, method="POST", body=b"[")).json()


async def test_an_answer_that_does_not_come_is_a_timeout(net: Harness) -> None:
    desk, server, port = await net.desk()
    with pytest.raises(UpstreamError) as raised:
        await fetch(f"http://127.0.0.1:{port}/", timeout=0.05)
    assert raised.value.kind == "timeout"
    await net.until(lambda: server.connections == 0)
    assert desk.seen <= 1


async def test_an_answer_that_is_too_large_is_an_error(net: Harness) -> None:
    _, port = await net.serve(lambda exchange: exchange.respond(200, b"x" * 1001))
    with pytest.raises(UpstreamError) as raised:
        await fetch(f"http://127.0.0.1:{port}/", max_body=1000)
    assert raised.value.kind == "malformed"
    assert len((await fetch(f"http://127.0.0.1:{port}/", max_body=1001)).body) == 1001


async def test_a_refused_connection_is_an_error_without_the_address(net: Harness) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(UpstreamError) as raised:
        await fetch(f"http://127.0.0.1:{port}/?api_key=secret")
    assert raised.value.kind == "refused"
    assert "secret" not in str(raised.value)


async def test_a_certificate_that_is_not_trusted_is_called_so(server_tls: ssl.SSLContext) -> None:
    server = HttpServer(lambda exchange: exchange.respond(200))
    port = await server.listen(ssl=server_tls)
    with pytest.raises(UpstreamError, match="certificate is not trusted: self-signed certificate"):
        await fetch(f"https://127.0.0.1:{port}/?api_key=secret")
    await server.drain(0.0)


async def test_https_where_plain_http_is_spoken_is_told_from_a_refusal(net: Harness) -> None:
    _, _, port = await net.desk()
    with pytest.raises(UpstreamError, match="speaks no TLS"):
        await fetch(f"https://127.0.0.1:{port}/")


async def test_a_name_that_does_not_exist_is_told_from_a_refusal() -> None:
    with pytest.raises(UpstreamError, match="name cannot be looked up"):
        await fetch("http://no-such-host.invalid/")


async def test_a_cancelled_fetch_closes_its_connection(net: Harness) -> None:
    desk, server, port = await net.desk()
    task = asyncio.create_task(fetch(f"http://127.0.0.1:{port}/"))
    await desk.next()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await net.until(lambda: server.connections == 0)


async def test_a_pool_is_used_for_its_connections(net: Harness) -> None:
    _, port = await net.serve(reflect)
    pool = net.pool(port)
    for _ in range(3):
        await fetch(f"http://127.0.0.1:{port}/", pool=pool)
    assert pool.connections == 1


@pytest.mark.parametrize("url", ["ftp://a/", "nothing", "http://"])
async def test_a_url_that_cannot_be_used_is_an_error(url: str) -> None:
    with pytest.raises(ValueError):
        await fetch(url)


async def test_a_server_that_closes_in_the_handshake_is_not_said_to_refuse() -> None:
    def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UpstreamError, match=r"closed the connection .* does it speak TLS"):
        await fetch(f"https://127.0.0.1:{port}/")
    server.close()
