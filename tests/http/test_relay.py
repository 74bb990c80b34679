from __future__ import annotations

import asyncio
import json
import ssl
from typing import TYPE_CHECKING

import pytest

from stoker.http import Exchange, Origin, Outcome, UpstreamPool, fetch, relay, relay_prefix

if TYPE_CHECKING:
    from tests.http.conftest import Harness

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter


def echo(exchange: Exchange) -> None:
    exchange.respond(200, exchange.body, content_type=b"text/plain")


async def head_of(reader: Reader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def says(*parts: bytes, stay: bool = False):  # type: ignore[no-untyped-def]
    """A script: takes a request's head, answers with `parts`, and closes (or stays)."""

    async def script(reader: Reader, writer: Writer) -> None:
        await head_of(reader)
        for part in parts:
            writer.write(part)
            await writer.drain()
        if stay:
            await reader.read()

    return script


async def test_a_request_goes_up_and_its_answer_comes_back(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    front, watcher = await net.front(upstream)
    client = await net.dial(front)
    client.send(b"POST /a?b=c HTTP/1.1\r\nHost: front\r\nX-A: b\r\nContent-Length: 3\r\n\r\nabc")
    exchange = await desk.next()
    assert (exchange.method, exchange.target, exchange.body) == ("POST", b"/a?b=c", b"abc")
    assert exchange.header(b"host") == b"127.0.0.1:%d" % upstream
    assert exchange.header(b"x-a") == b"b"
    exchange.respond(418, b"tea", headers=[(b"x-b", b"c")])
    answer = await client.answer()
    assert (answer.status, answer.body, answer.headers[b"x-b"]) == (418, b"tea", b"c")
    assert (watcher.outcomes, watcher.statuses, watcher.data) == ([Outcome.COMPLETE], [418], b"tea")


async def test_method_target_headers_and_body_can_be_replaced(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)
    _, front = await net.serve(
        lambda exchange: relay(
            exchange, pool, method="PUT", target=b"/b", headers=[(b"x-b", b"2")], body=b"other"
        )
    )
    client = await net.dial(front)
    client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nContent-Length: 3\r\n\r\nabc")
    exchange = await desk.next()
    assert (exchange.method, exchange.target, exchange.body) == ("PUT", b"/b", b"other")
    assert exchange.header(b"x-a") is None
    assert exchange.header(b"x-b") == b"2"
    exchange.respond(200)
    assert (await client.answer()).status == 200


@pytest.mark.parametrize(
    "bad",
    [
        {"target": b"/a b"},
        {"target": b"/a\r\nX: y"},
        {"target": b""},
        {"method": "GET / HTTP/1.1\r\n"},
        {"headers": [(b"x", b"a\r\nb: c")]},
        {"headers": [(b"x\n", b"a")]},
    ],
)
async def test_a_request_that_would_break_apart_is_not_sent(
    net: Harness, bad: dict[str, object]
) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)
    _, front = await net.serve(lambda exchange: relay(exchange, pool, **bad))  # type: ignore[arg-type]
    assert (await net.ask(front, GET)).status == 500
    assert desk.seen == 0


async def test_a_prefix_made_beforehand_takes_the_place_of_target_and_headers(
    net: Harness,
) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)
    prefix = relay_prefix("POST", b"/made", [(b"x-made", b"1"), (b"connection", b"close")])
    _, front = await net.serve(
        lambda exchange: relay(exchange, pool, method="POST", prefix=prefix, body=b"abc")
    )
    client = await net.dial(front)
    client.send(b"GET /asked HTTP/1.1\r\nHost: a\r\nX-Asked: 1\r\n\r\n")
    exchange = await desk.next()
    assert (exchange.method, exchange.target, exchange.body) == ("POST", b"/made", b"abc")
    assert {name for name, _ in exchange.headers} == {b"x-made", b"host", b"content-length"}
    exchange.respond(200)
    assert (await client.answer()).status == 200


async def test_headers_of_one_hop_are_dropped_both_ways(net: Harness) -> None:
    seen: list[bytes] = []

    async def script(reader: Reader, writer: Writer) -> None:
        seen.append(await head_of(reader))
        writer.write(
            b"HTTP/1.1 200 OK\r\nConnection: X-Up, keep-alive\r\nX-Up: 1\r\nKeep-Alive: timeout=9"
            b"\r\nProxy-Connection: a\r\nX-Stays: 1\r\nContent-Length: 0\r\n\r\n"
        )
        await reader.read()

    front, _ = await net.front(await net.upstream(script))
    answer = await net.ask(
        front,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Down\r\nX-Down: 1\r\nTE: trailers\r\n"
        b"Proxy-Authorization: b\r\nX-Goes: 1\r\n\r\n",
    )
    assert set(answer.headers) == {b"x-stays", b"content-length"}
    names = {line.split(b":")[0] for line in seen[0].split(b"\r\n")[1:-2]}
    assert names == {b"x-goes", b"host"}


@pytest.mark.parametrize(
    ("answer", "chunked", "body"),
    [
        (b"Content-Length: 6\r\n\r\nabcdef", False, b"abcdef"),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", True, b"abcdef"),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: trailer\r\n\r\n", True, b"a"),
        (b"\r\nabcdef", True, b"abcdef"),
        (b"Content-Length: 0\r\n\r\n", False, b""),
    ],
)
async def test_each_framing_of_the_upstream_arrives(
    net: Harness, answer: bytes, chunked: bool, body: bytes
) -> None:
    front, watcher = await net.front(await net.upstream(says(b"HTTP/1.1 200 OK\r\n" + answer)))
    got = await net.ask(front, GET)
    assert (got.status, got.chunked, got.body) == (200, chunked, body)
    assert await watcher.outcome() is Outcome.COMPLETE


async def test_an_answer_is_passed_on_as_it_arrives(net: Harness) -> None:
    step = asyncio.Queue[bytes]()

    async def script(reader: Reader, writer: Writer) -> None:
        await head_of(reader)
        while part := await step.get():
            writer.write(part)
        await reader.read()

    front, _ = await net.front(await net.upstream(script))
    client = await net.dial(front)
    client.send(GET)
    step.put_nowait(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"chunked" in await head_of(client.reader)
    for part in (b"one", b"two"):
        step.put_nowait(b"3\r\n%b\r\n" % part)
        assert await client.reader.readexactly(8) == b"3\r\n%b\r\n" % part
    step.put_nowait(b"0\r\n\r\n")
    assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_interim_answers_are_left_out(net: Harness) -> None:
    front, _ = await net.front(
        await net.upstream(
            says(
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            )
        )
    )
    answer = await net.ask(front, GET)
    assert (answer.status, answer.body) == (200, b"a")
    assert b"link" not in answer.headers


async def test_head_is_relayed_without_body_and_the_connection_is_used_again(net: Harness) -> None:
    _, upstream = await net.serve(lambda exchange: exchange.respond(200, b"x" * 50))
    pool = net.pool(upstream)
    _, front = await net.serve(lambda exchange: relay(exchange, pool))
    client = await net.dial(front)
    for _ in range(2):
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await client.answer(head=True)).headers[b"content-length"] == b"50"
        client.send(GET)
        assert (await client.answer()).body == b"x" * 50
    assert pool.connections == 1


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"9"),
    ],
)
async def test_answers_without_body_are_relayed(
    net: Harness, head: bytes, length: bytes | None
) -> None:
    front, watcher = await net.front(await net.upstream(says(head, stay=True)))
    client = await net.dial(front)
    client.send(GET)
    assert (await client.answer()).headers.get(b"content-length") == length
    assert await watcher.outcome() is Outcome.COMPLETE


async def test_an_early_answer_to_a_large_body_is_fine(net: Harness) -> None:
    front, _ = await net.front(
        await net.upstream(says(b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\nno", stay=True))
    )
    body = b"x" * 8_000_000
    answer = await net.ask(
        front, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert (answer.status, answer.body) == (400, b"no")


async def test_a_large_answer_arrives_whole(net: Harness) -> None:
    _, upstream = await net.serve(echo)
    front, _ = await net.front(upstream)
    body = bytes(range(256)) * 40_000
    answer = await net.ask(
        front, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert answer.body == body


# --- failures

GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 1\n\na",
    "gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "gzip, chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "switching": b"HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "plain 101": b"HTTP/1.1 101 S\r\n\r\n",
    "status 000": b"HTTP/1.1 000 x\r\n\r\n",
    "status 1000": b"HTTP/1.1 1000 x\r\n\r\n",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300 + b"\r\n",
    "endless interim": b"HTTP/1.1 100 Continue\r\n\r\n" * 30,
    "NUL": b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
async def test_a_malformed_answer_is_a_502(net: Harness, name: str) -> None:
    front, watcher = await net.front(await net.upstream(says(GARBAGE[name], stay=True)))
    client = await net.dial(front)
    client.send(GET)
    answer = await client.answer()
    assert answer.status == 502
    assert answer.body.startswith(b'{"error":')
    assert await watcher.outcome() is Outcome.UPSTREAM_MALFORMED
    client.send(GET)
    assert (await client.answer()).status == 502  # the client's connection goes on


@pytest.mark.parametrize("line", [b"x: " + b"a" * 200_000, b"X: y\r\n" * 40_000])
async def test_an_endless_head_of_the_upstream_is_cut_off(net: Harness, line: bytes) -> None:
    front, watcher = await net.front(
        await net.upstream(says(b"HTTP/1.1 200 OK\r\n", line, stay=True))
    )
    assert (await net.ask(front, GET)).status == 502
    assert await watcher.outcome() is Outcome.UPSTREAM_MALFORMED


async def test_no_upstream_is_a_502(net: Harness) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    front, watcher = await net.front(port)
    answer = await net.ask(front, GET)
    assert answer.status == 502
    assert json.loads(answer.body)["error"] == "the upstream refused the connection"
    assert watcher.outcomes == [Outcome.UPSTREAM_REFUSED]


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nContent-Le"])
async def test_an_upstream_that_closes_before_its_head_is_a_502(net: Harness, said: bytes) -> None:
    front, watcher = await net.front(await net.upstream(says(said)))
    assert (await net.ask(front, GET)).status == 502
    assert watcher.outcomes == [Outcome.UPSTREAM_CLOSED]


@pytest.mark.parametrize(
    ("head", "outcome"),
    [
        (b"Content-Length: 10\r\n\r\nabc", Outcome.UPSTREAM_CLOSED),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Outcome.UPSTREAM_CLOSED),
        (b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", Outcome.UPSTREAM_MALFORMED),
    ],
)
async def test_an_answer_that_breaks_off_is_cut_for_the_client(
    net: Harness, head: bytes, outcome: Outcome
) -> None:
    front, watcher = await net.front(await net.upstream(says(b"HTTP/1.1 200 OK\r\n" + head)))
    client = await net.dial(front)
    client.send(GET)
    got = await client.rest()
    assert b"abc" in got
    assert not got.endswith(b"0\r\n\r\n")
    assert await watcher.outcome() is outcome
    assert watcher.statuses == [200]


async def test_a_reset_in_an_answer_until_close_is_no_end(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readexactly(4)  # the rest stays unread: closing will reset
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await writer.drain()
        await go.wait()
        writer.transport.abort()

    go = asyncio.Event()
    front, watcher = await net.front(await net.upstream(script))
    client = await net.dial(front)
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n" + b"x" * 900_000)
    await client.reader.readuntil(b"abc")
    go.set()
    assert not (await client.rest()).endswith(b"0\r\n\r\n")
    assert await watcher.outcome() is Outcome.UPSTREAM_CLOSED


async def test_an_upstream_that_does_not_answer_is_a_504(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream, response_timeout=20)
    _, front = await net.serve(lambda exchange: relay(exchange, pool))
    client = await net.dial(front)
    client.send(GET)
    exchange = await desk.next()
    now = asyncio.get_running_loop().time()
    pool.sweep(now + 19)
    assert not exchange.disconnected
    pool.sweep(now + 23)
    assert (await client.answer()).status == 504
    await net.until(lambda: exchange.disconnected)


async def test_an_upstream_that_stops_in_its_answer_is_cut(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream, idle_read_timeout=20)
    _, front = await net.serve(lambda exchange: relay(exchange, pool))
    client = await net.dial(front)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200)
    await head_of(client.reader)
    pool.sweep(asyncio.get_running_loop().time() + 23)
    assert await client.rest() == b""


# --- the client


@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_aborts_the_upstream(net: Harness, begun: bool) -> None:
    desk, _, upstream = await net.desk()
    front, watcher = await net.front(upstream)
    client = await net.dial(front)
    client.send(GET)
    exchange = await desk.next()
    if begun:
        exchange.start(200)
        await head_of(client.reader)
    client.leave()
    assert await watcher.outcome() is Outcome.CLIENT_GONE
    await net.until(lambda: exchange.disconnected)
    assert watcher.outcomes == [Outcome.CLIENT_GONE]


async def test_a_client_that_does_not_read_bounds_our_memory(net: Harness) -> None:
    desk, upstream_server, upstream = await net.desk()
    pool = net.pool(upstream)
    server, front = await net.serve(lambda exchange: relay(exchange, pool))
    client = await net.dial(front)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200)
    written = 0
    while written < 64 * 2**20:
        # Until the upstream itself cannot write any more: its reader, our pool, has paused.
        while not exchange.paused and written < 64 * 2**20:
            exchange.write(b"x" * 65_536)
            written += 65_536
        if exchange.paused:
            await net.until(lambda: not exchange.paused or all(up._paused for up in pool._open))
        if exchange.paused:
            break
    (connection,) = server.open
    assert written < 64 * 2**20
    assert connection._transport.get_write_buffer_size() < 2**20
    exchange.finish()
    assert len((await client.answer()).body) == written
    assert upstream_server.connections == 1


async def test_abort_before_the_answer_leaves_it_to_the_caller(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)
    exchanges = asyncio.Queue[Exchange]()
    _, front = await net.serve(exchanges.put_nowait)
    client = await net.dial(front)
    client.send(GET)
    exchange = await exchanges.get()
    running = relay(exchange, pool)
    behind = await desk.next()
    running.abort()
    running.abort()
    exchange.respond(410, b"gone")
    assert (await client.answer()).body == b"gone"
    await net.until(lambda: behind.disconnected)


async def test_abort_in_the_answer_cuts_it(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)
    exchanges = asyncio.Queue[Exchange]()
    _, front = await net.serve(exchanges.put_nowait)
    client = await net.dial(front)
    client.send(GET)
    running = relay(await exchanges.get(), pool)
    behind = await desk.next()
    behind.start(200)
    behind.write(b"abc")
    await client.reader.readuntil(b"abc\r\n")
    running.abort()
    assert await client.rest() == b""
    await net.until(lambda: behind.disconnected)


async def test_tls_on_both_sides(
    net: Harness, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    upstream, _ = await net.serve(echo)
    pool = UpstreamPool(
        Origin.tcp("127.0.0.1", await upstream.listen(ssl=server_tls), ssl=client_tls)
    )
    net.pools.append(pool)
    front, _ = await net.serve(lambda exchange: relay(exchange, pool))
    port = await front.listen(ssl=server_tls)
    for _ in range(3):
        answer = await fetch(
            f"https://127.0.0.1:{port}/", method="POST", body=b"y" * 200_000, ssl=client_tls
        )
        assert answer.body == b"y" * 200_000
    assert pool.connections == 1


async def test_an_untrusted_upstream_is_a_502(net: Harness, server_tls: ssl.SSLContext) -> None:
    upstream, _ = await net.serve(echo)
    pool = UpstreamPool(Origin.parse(f"https://127.0.0.1:{await upstream.listen(ssl=server_tls)}"))
    net.pools.append(pool)
    _, front = await net.serve(lambda exchange: relay(exchange, pool))
    assert (await net.ask(front, GET)).status == 502


# --- a request with a limit of its own


@pytest.mark.parametrize("begun", [False, True])
async def test_a_request_that_has_its_own_patience_is_not_cut_by_the_pool(
    net: Harness, begun: bool
) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream, response_timeout=20, idle_read_timeout=20)
    _, front = await net.serve(lambda exchange: relay(exchange, pool, patience=3600.0))
    client = await net.dial(front)
    client.send(GET)
    exchange = await desk.next()
    if begun:
        exchange.start(200)
        await head_of(client.reader)
    now = asyncio.get_running_loop().time()
    pool.sweep(now + 3590)
    assert not exchange.disconnected
    pool.sweep(now + 3603)
    await net.until(lambda: exchange.disconnected)


async def test_the_pool_knows_when_the_upstream_was_last_heard(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)
    _, front = await net.serve(lambda exchange: relay(exchange, pool))
    client = await net.dial(front)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200)
    await head_of(client.reader)
    before = pool.heard
    later = asyncio.get_running_loop().time() + 5
    pool.sweep(later)
    exchange.write(b"more")
    await client.reader.readuntil(b"more")
    assert before < pool.heard == later
    exchange.finish()
