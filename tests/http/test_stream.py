from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.http import HttpServer, Origin, StreamedResponse, UpstreamError, UpstreamPool
from stoker.http.exchange import Exchange
from stoker.http.stream import BUFFER_BYTES, open_stream

if TYPE_CHECKING:
    from tests.http.conftest import Harness

READ_BYTES = 262_144  # the most that one read of either loop brings


async def test_an_answer_is_taken_part_by_part_while_it_arrives(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port)
    opened = asyncio.create_task(answer_begun(pool, desk))
    exchange = await desk.next()
    assert (exchange.method, exchange.target, exchange.body) == ("POST", b"/a?b", b"in")
    assert exchange.header(b"x-sent") == b"1"
    assert exchange.header(b"host") == b"127.0.0.1:%d" % port
    exchange.start(418, [(b"x-got", b" 2 ")])
    status, got, parts = await opened
    assert (status, got) == (418, b"2")
    exchange.write(b"one")
    assert await anext(parts) == b"one"
    exchange.write(b"two")
    assert await anext(parts) == b"two"
    exchange.finish()
    with pytest.raises(StopAsyncIteration):
        await anext(parts)
    await parts.aclose()
    await net.until(lambda: pool.idle == 1)


async def answer_begun(pool: UpstreamPool, desk: object):  # type: ignore[no-untyped-def]
    headers = [(b"x-sent", b"1"), (b"connection", b"close"), (b"host", b"elsewhere")]

    async def parts():  # type: ignore[no-untyped-def]
        async with open_stream(pool, "POST", b"/a?b", headers, b"in") as response:
            yield response
            async for part in response:
                yield part

    stream = parts()
    response = await anext(stream)
    return response.status, response.header(b"x-got"), stream


async def test_the_connection_of_a_whole_answer_is_used_again(net: Harness) -> None:
    _, port = await net.serve(lambda exchange: exchange.respond(200, b"body"))
    pool = net.pool(port)
    for _ in range(3):
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            assert await response.read(4) == b"body"
    assert pool.connections == 1


async def test_a_taker_that_waits_makes_the_upstream_wait(net: Harness) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port)
    total = 64 * BUFFER_BYTES

    async def take() -> int:
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            held.append(response)
            await go.wait()
            return len(await response.read(total))

    held: list[StreamedResponse] = []
    go = asyncio.Event()
    task = asyncio.create_task(take())
    exchange = await desk.next()
    exchange.start(200)
    for _ in range(64):
        exchange.write(bytes(BUFFER_BYTES))
    exchange.finish()
    await net.until(lambda: bool(held) and held[0]._paused)
    assert held[0]._held <= BUFFER_BYTES + READ_BYTES
    assert server.connections == 1
    go.set()
    assert await task == total


async def test_leaving_before_the_end_closes_the_connection(net: Harness) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port)

    async def leave() -> None:
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            assert response.status == 200

    task = asyncio.create_task(leave())
    (await desk.next()).start(200)
    await task
    assert pool.connections == 0
    await net.until(lambda: server.connections == 0)


async def test_a_cancelled_task_closes_the_connection(net: Harness) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port)

    async def wait() -> None:
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            await response.read(1)

    task = asyncio.create_task(wait())
    (await desk.next()).start(200)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await net.until(lambda: server.connections == 0)


async def test_abort_wakes_the_one_who_waits(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port)
    opened: asyncio.Queue[StreamedResponse] = asyncio.Queue()

    async def wait() -> None:
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            opened.put_nowait(response)
            await response.read(1)

    task = asyncio.create_task(wait())
    (await desk.next()).start(200)
    (await opened.get()).abort()
    with pytest.raises(UpstreamError, match="given up"):
        await task
    assert pool.connections == 0


async def test_a_cut_answer_is_an_error_after_what_came(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port)
    parts: list[bytes] = []

    async def take() -> None:
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            async for part in response:
                parts.append(part)

    task = asyncio.create_task(take())
    exchange = await desk.next()
    exchange.start(200)
    exchange.write(b"half")
    exchange.abort()
    with pytest.raises(UpstreamError) as raised:
        await task
    assert raised.value.kind == "closed"
    assert parts == [b"half"]


@pytest.mark.parametrize("begun", [False, True])
async def test_the_timeout_is_for_everything(net: Harness, begun: bool) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port)

    async def take() -> None:
        async with open_stream(pool, "GET", b"/", [], b"", timeout=0.05) as response:
            assert begun
            await response.read(1)

    task = asyncio.create_task(take())
    exchange = await desk.next()
    if begun:
        exchange.start(200)
    with pytest.raises(UpstreamError) as raised:
        await task
    assert raised.value.kind == "timeout"
    await net.until(lambda: server.connections == 0)


async def test_an_answer_that_is_too_large_is_given_up(net: Harness) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port)

    async def take() -> None:
        async with open_stream(pool, "GET", b"/", [], b"") as response:
            await response.read(3)

    task = asyncio.create_task(take())
    exchange = await desk.next()
    exchange.start(200)
    exchange.write(b"four")
    with pytest.raises(UpstreamError, match="larger than 3 bytes"):
        await task
    await net.until(lambda: server.connections == 0)


async def test_a_refused_connection_is_an_error(net: Harness) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    with pytest.raises(UpstreamError) as raised:
        async with open_stream(net.pool(port), "GET", b"/", [], b""):
            pass
    assert raised.value.kind == "refused"


async def test_a_header_that_breaks_the_request_apart_is_not_sent(net: Harness) -> None:
    desk, _, port = await net.desk()
    with pytest.raises(ValueError):
        async with open_stream(net.pool(port), "GET", b"/", [(b"x", b"a\r\nb: c")], b""):
            pass
    assert desk.seen == 0


@given(st.lists(st.integers(1, 3 * BUFFER_BYTES), max_size=8), st.sets(st.integers(0, 40)))
@settings(max_examples=25, deadline=None)
def test_the_parts_are_the_body_whatever_the_pace(sizes: list[int], waits: set[int]) -> None:
    async def run() -> None:
        sent = [bytes([number % 251]) * size for number, size in enumerate(sizes)]

        def model(exchange: Exchange) -> None:
            exchange.start(200)
            for part in sent:
                exchange.write(part)
            exchange.finish()

        upstream = HttpServer(model)
        pool = UpstreamPool(Origin.tcp("127.0.0.1", await upstream.listen()))
        got = []
        async with asyncio.timeout(5), open_stream(pool, "GET", b"/", [], b"") as response:
            async for part in response:
                got.append(part)
                if len(got) in waits:
                    await asyncio.sleep(0)
        assert b"".join(got) == b"".join(sent)
        await pool.close()
        await upstream.drain(0)

    asyncio.run(run())
