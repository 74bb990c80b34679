from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from stoker.http import Exchange, Limits, Origin, UpstreamPool, fetch

if TYPE_CHECKING:
    from tests.http.conftest import Harness

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def echo(exchange: Exchange) -> None:
    exchange.respond(200, exchange.body or exchange.target, content_type=b"text/plain")


async def test_a_request_reaches_the_handler_whole(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(b"POST /a?b HTTP/1.1\r\nHost: a\r\nX-Id:  7 \r\nContent-Length: 3\r\n\r\nabc")
    exchange = await desk.next()
    assert (exchange.method, exchange.target, exchange.body) == ("POST", b"/a?b", b"abc")
    assert exchange.header(b"x-id") == b"7"
    assert exchange.header(b"x-none") is None
    assert exchange.peer.startswith("127.0.0.1:")
    exchange.respond(201, b"{}", headers=[(b"x-a", b"b")])
    answer = await client.answer()
    assert (answer.status, answer.body, answer.headers[b"x-a"]) == (201, b"{}", b"b")
    assert answer.headers[b"content-type"] == b"application/json"
    assert b"date" in answer.headers


async def test_a_connection_serves_one_request_after_the_other(net: Harness) -> None:
    _, port = await net.serve(echo)
    client = await net.dial(port)
    for number in range(5):
        client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
        assert (await client.answer()).body == b"/%d" % number


async def test_a_chunked_body_is_put_together(net: Harness) -> None:
    _, port = await net.serve(echo)
    answer = await net.ask(
        port,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"3;ext=1\r\nabc\r\n2\r\nde\r\n1\r\nf\r\n0\r\nX-Trailer: t\r\n\r\n",
    )
    assert answer.body == b"abcdef"


async def test_pipelined_requests_are_answered_in_their_order(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(4)))
    for number in range(4):
        exchange = await desk.next()
        assert desk.seen == number + 1
        exchange.respond(200, exchange.target)
        assert (await client.answer()).body == b"/%d" % number


async def test_too_many_pipelined_requests_are_cut_after_the_bound(net: Harness) -> None:
    desk, _, port = await net.desk(Limits(max_pipelined=3))
    client = await net.dial(port)
    client.send(GET * 50)
    for _ in range(5):
        (await desk.next()).respond(200, b"ok")
    last = [await client.answer() for _ in range(5)][-1]
    assert last.headers[b"connection"] == b"close"
    assert await client.rest() == b""
    assert desk.seen == 5


async def test_reading_stops_while_much_is_read_ahead(net: Harness) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    first = await desk.next()
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 9_000_000)
    (connection,) = server.open
    await net.until(lambda: connection._read_paused)
    assert connection._ahead < 2**20
    first.respond(200)
    assert len((await desk.next()).body) == 9_000_000


async def test_head_gets_the_headers_of_get_and_no_body(net: Harness) -> None:
    _, port = await net.serve(echo)
    client = await net.dial(port)
    client.send(b"HEAD /four HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.answer(head=True)).headers[b"content-length"] == b"5"
    client.send(GET)
    assert (await client.answer()).body == b"/"


@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_body_have_none(net: Harness, status: int) -> None:
    _, port = await net.serve(lambda exchange: exchange.respond(status, b"dropped"))
    client = await net.dial(port)
    client.send(GET + GET)
    for _ in range(2):
        answer = await client.answer()
        assert answer.status == status
        assert b"content-length" not in answer.headers


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_a_streamed_answer_to_head_has_no_body(net: Harness, method: bytes) -> None:
    def handler(exchange: Exchange) -> None:
        exchange.start(200)
        exchange.write(b"abc")
        exchange.finish()

    _, port = await net.serve(handler)
    client = await net.dial(port)
    client.send(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n" + GET)
    first = await client.answer(head=method == b"HEAD")
    assert first.chunked
    assert first.body == (b"" if method == b"HEAD" else b"abc")
    assert (await client.answer()).body == b"abc"


async def test_a_stream_is_sent_part_by_part(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200, [(b"content-type", b"text/event-stream")])
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    for part in (b"one", b"two"):
        exchange.write(part)
        assert await client.reader.readexactly(8) == b"3\r\n%b\r\n" % part
    exchange.write(b"")
    exchange.finish()
    assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_http_1_0_gets_a_stream_until_close(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    exchange = await desk.next()
    exchange.start(200)
    exchange.write(b"abc")
    exchange.finish()
    answer = await client.answer()
    assert (answer.chunked, answer.body) == (False, b"abc")
    assert answer.headers[b"connection"] == b"close"


async def test_http_1_0_is_kept_alive_only_when_it_asks(net: Harness) -> None:
    _, port = await net.serve(echo)
    client = await net.dial(port)
    client.send(b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (await client.answer()).headers[b"connection"] == b"keep-alive"
    client.send(b"GET /2 HTTP/1.0\r\n\r\n")
    assert (await client.answer()).headers[b"connection"] == b"close"
    assert await client.rest() == b""


async def test_connection_close_is_obeyed_and_what_follows_ignored(net: Harness) -> None:
    _, port = await net.serve(echo)
    client = await net.dial(port)
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET)
    assert (await client.answer()).body == b"/1"
    assert await client.rest() == b""
    assert net.refused == []


async def test_expect_100_continue_is_answered_before_the_body(net: Harness) -> None:
    _, port = await net.serve(echo)
    client = await net.dial(port)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert (await client.answer()).status == 100
    client.send(b"abc")
    assert (await client.answer()).body == b"abc"


async def test_expect_100_continue_waits_for_the_answer_before_it(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(
        GET + b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    (await desk.next()).respond(200, b"first")
    assert (await client.answer()).body == b"first"
    assert (await client.answer()).status == 100


async def test_no_100_continue_for_a_body_that_is_refused(net: Harness) -> None:
    _, port = await net.serve(echo, Limits(max_body_bytes=2))
    answer = await net.ask(
        port, b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    )
    assert answer.status == 413


async def test_a_failing_handler_costs_a_500_with_an_id_and_no_traceback(
    net: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    def handler(exchange: Exchange) -> None:
        if exchange.path == "/":
            raise LookupError("the inner matter")
        exchange.respond(200)

    _, port = await net.serve(handler)
    client = await net.dial(port)
    client.send(GET)
    answer = await client.answer()
    assert answer.status == 500
    assert b"inner" not in answer.body
    error_id = answer.body.decode().split('"error_id":"')[1].rstrip('"}')
    logged = capsys.readouterr()
    assert error_id in logged.out + logged.err
    client.send(b"GET /well HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError])
async def test_a_handler_that_means_to_end_more_than_its_answer_is_500(
    net: Harness, error: type
) -> None:
    def leave(_exchange: Exchange) -> None:
        raise error

    _, port = await net.serve(leave)
    assert (await fetch(f"http://127.0.0.1:{port}/", timeout=5.0)).status == 500


async def test_a_handler_that_fails_in_its_answer_cuts_it(net: Harness) -> None:
    def handler(exchange: Exchange) -> None:
        exchange.start(200)
        exchange.write(b"abc")
        raise LookupError

    _, port = await net.serve(handler)
    client = await net.dial(port)
    client.send(GET)
    assert (await client.rest()).endswith(b"3\r\nabc\r\n")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_an_aborted_answer_is_seen_to_be_cut(net: Harness, version: bytes) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(b"GET / HTTP/%b\r\nHost: a\r\n\r\n" % version)
    exchange = await desk.next()
    exchange.start(200)
    exchange.write(b"abc")
    await client.reader.readuntil(b"abc")
    exchange.abort()
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.reader.readuntil(b"0\r\n\r\n") if version == b"1.1" else await client.rest()


async def test_nothing_is_served_behind_an_aborted_answer(net: Harness) -> None:
    seen: list[str] = []

    def handler(exchange: Exchange) -> None:
        seen.append(exchange.path)
        exchange.abort()

    _, port = await net.serve(handler)
    client = await net.dial(port)
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    await client.closed()
    assert seen == ["/1"]


async def test_an_application_that_fails_when_told_of_a_leaving_client_leaks_nothing(
    net: Harness,
) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()

    def fail() -> None:
        raise LookupError

    exchange.on_disconnect = fail
    client.leave()
    await net.until(lambda: server.connections == 0)


async def test_an_answer_shorter_than_announced_is_cut(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200, content_length=5)
    exchange.write(b"abc")
    exchange.finish()
    assert (await client.rest()).endswith(b"abc")


async def test_more_than_announced_is_an_error_and_never_sent(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200, content_length=2)
    with pytest.raises(ValueError, match="content_length"):
        exchange.write(b"abc")
    assert (await client.rest()).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"a\0b"])
async def test_a_header_with_a_line_break_is_never_sent(net: Harness, value: bytes) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    with pytest.raises(ValueError, match="line break"):
        exchange.respond(200, headers=[(b"x", value)])
    with pytest.raises(ValueError, match="line break"):
        exchange.respond(200, content_type=value)
    exchange.respond(400)
    assert (await client.answer()).status == 400


async def test_an_exchange_is_answered_once(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    with pytest.raises(RuntimeError):
        exchange.write(b"too early")
    exchange.respond(200)
    for again in (exchange.finish, lambda: exchange.respond(200), lambda: exchange.start(200)):
        with pytest.raises(RuntimeError):
            again()
    await client.answer()


@pytest.mark.parametrize("how", ["abort", "eof"])
async def test_a_client_that_leaves_is_told_once(net: Harness, how: str) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    left = asyncio.Event()
    calls: list[int] = []

    def leave() -> None:
        calls.append(1)
        left.set()

    exchange.on_disconnect = leave
    if how == "abort":
        client.leave()
    else:
        client.writer.write_eof()
    async with asyncio.timeout(5):
        await left.wait()
    assert exchange.disconnected
    exchange.respond(200)
    await net.until(lambda: server.connections == 0)
    assert calls == [1]


async def test_a_client_that_does_not_read_pauses_the_writer(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    paused, resumed = asyncio.Event(), asyncio.Event()
    exchange.on_pause = paused.set
    exchange.on_resume = resumed.set
    exchange.start(200)
    written = 0
    while not exchange.paused:
        exchange.write(b"x" * 65_536)
        written += 65_536
        assert written < 64 * 2**20
    assert paused.is_set()
    draining = asyncio.create_task(exchange.drain())
    reading = asyncio.create_task(client.answer())
    async with asyncio.timeout(5):
        await draining
        await resumed.wait()
    exchange.finish()
    assert len((await reading).body) == written


async def test_drain_returns_when_the_client_leaves(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200)
    while not exchange.paused:
        exchange.write(b"x" * 65_536)
    draining = asyncio.create_task(exchange.drain())
    client.leave()
    async with asyncio.timeout(5):
        await draining
    assert exchange.disconnected


async def test_draining_lets_answers_end_and_closes_the_rest(net: Harness) -> None:
    desk, server, port = await net.desk()
    idle, busy = await net.dial(port), await net.dial(port)
    busy.send(GET)
    exchange = await desk.next()
    await net.until(lambda: server.connections == 2)
    draining = asyncio.create_task(server.drain(5))
    assert await idle.rest() == b""
    with pytest.raises(OSError):
        await net.dial(port)
    assert not draining.done()
    exchange.respond(200, b"done")
    answer = await busy.answer()
    assert (answer.body, answer.headers[b"connection"]) == (b"done", b"close")
    async with asyncio.timeout(5):
        await draining
    assert server.connections == 0


async def test_draining_cuts_what_does_not_end(net: Harness) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    await server.drain(0)
    assert exchange.disconnected
    await client.closed()
    assert server.connections == 0


async def test_a_unix_socket_is_served_to_its_owner_alone(net: Harness, tmp_path: Path) -> None:
    server, _ = await net.serve(echo)
    path = tmp_path / "socket"
    await server.listen_unix(path)
    assert path.stat().st_mode & 0o777 == 0o600
    pool = UpstreamPool(Origin.unix(str(path)))
    net.pools.append(pool)
    answer = await fetch("http://localhost/x", pool=pool)
    assert answer.body == b"/x"
    await server.drain(0)
    assert not path.exists()


async def test_tls_is_served(
    net: Harness, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    server, _ = await net.serve(echo)
    port = await server.listen(ssl=server_tls)
    url = f"https://127.0.0.1:{port}/"
    answer = await fetch(url, method="POST", body=b"x" * 300_000, ssl=client_tls)
    assert answer.body == b"x" * 300_000
