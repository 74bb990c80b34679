from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.http.conftest import PATIENCE

from stoker.http import Exchange, Limits, Outcome, relay
from stoker.http.limits import HOLD_BYTES

if TYPE_CHECKING:
    from tests.http.conftest import Harness

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

HOST = b"HTTP/1.1\r\nHost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MIB = 2**20


def post(length: int) -> bytes:
    return b"POST /a %bContent-Length: %d\r\nX-A: b\r\n\r\n" % (HOST, length)


async def choked(net: Harness) -> None:
    """Until the upstream takes no more of the body."""
    await net.until(lambda: any(c._choked for c in net.pools[-1]._open))  # type: ignore[union-attr]


async def test_a_body_is_passed_on_before_it_is_whole(net: Harness) -> None:
    desk, _, upstream = await net.desk(stream_body=lambda _: 100)
    front, watcher = await net.front(upstream, stream=True)
    client = await net.dial(front)
    client.send(post(6) + b"abc")
    exchange = await desk.next()
    assert (exchange.content_length, exchange.header(b"x-a")) == (6, b"b")
    got: list[bytes] = []
    assert exchange.source is not None
    exchange.source.take(got.append, lambda: exchange.respond(200, b"ok"))
    await net.until(lambda: got == [b"abc"])
    client.send(b"def")
    assert (await client.answer()).body == b"ok"
    assert b"".join(got) == b"abcdef"
    assert watcher.outcomes == [Outcome.COMPLETE]


async def test_chunks_stay_chunks(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    front, _ = await net.front(upstream, stream=True)
    client = await net.dial(front)
    for _ in range(2):
        client.send(b"PUT /a %bTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" % HOST)
        client.send(b"3\r\ndef\r\n0\r\nX-Trailer: dropped\r\n\r\n")
        exchange = await desk.next()
        assert (exchange.content_length, exchange.body) == (None, b"abcdef")
        exchange.respond(200)
        assert (await client.answer()).status == 200
    assert net.pools[0].connections == 1


async def test_a_body_that_is_given_takes_the_place_of_a_streamed_one(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    pool = net.pool(upstream)

    def handler(exchange: Exchange) -> None:
        assert exchange.source is not None
        got: list[bytes] = []
        exchange.source.take(
            got.append, lambda: relay(exchange, pool, body=b"".join(got).upper()) and None
        )

    _, front = await net.serve(handler, stream_body=lambda _: 100)
    client = await net.dial(front)
    client.send(post(6) + b"abcdef")
    exchange = await desk.next()
    assert exchange.body == b"ABCDEF"
    exchange.respond(200)
    assert (await client.answer()).status == 200


async def test_an_upstream_that_does_not_read_makes_the_client_wait(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        left = 64 * MIB
        while left:
            left -= len(await reader.read(MIB))
        writer.write(OK)
        await writer.drain()

    go = asyncio.Event()
    front, _ = await net.front(await net.upstream(script), stream=True)
    client = await net.dial(front)
    client.send(post(64 * MIB) + bytes(64 * MIB))
    server = net.servers[-1]
    await choked(net)
    await net.until(lambda: any(c._read_paused for c in server.open))  # type: ignore[union-attr]
    (above,) = net.pools[0]._open
    assert above._transport.get_write_buffer_size() <= 3 * 262_144
    assert server.buffered <= HOLD_BYTES + 262_144
    go.set()
    assert (await client.answer()).body == b"ok"
    assert server.buffered == 0


async def test_a_client_that_does_not_read_makes_the_upstream_wait(net: Harness) -> None:
    # Both ways at once: an echo.
    def echo(exchange: Exchange) -> None:
        assert exchange.source is not None
        exchange.start(200)
        exchange.on_pause, exchange.on_resume = exchange.source.pause, exchange.source.resume
        exchange.source.take(exchange.write, exchange.finish)

    _, upstream = await net.serve(echo, stream_body=lambda _: 2**30)
    front, watcher = await net.front(upstream, stream=True)
    client = await net.dial(front)
    client.send(b"POST /a %bTransfer-Encoding: chunked\r\n\r\n" % HOST)
    part, parts = bytes(range(256)) * 1024, 0

    def all_wait() -> bool:
        """The server before the upstream, and the upstream, read nothing; nor does the client."""
        for server in net.servers:
            if not any(c._read_paused for c in server.open):  # type: ignore[union-attr]
                return False
        return client.writer.transport.get_write_buffer_size() > 0

    # Only as much as it takes: how much fits into the sockets between is the kernel's affair.
    async with asyncio.timeout(PATIENCE):
        while not all_wait():
            if not client.writer.transport.get_write_buffer_size():
                client.send(b"%x\r\n%b\r\n" % (len(part), part))
                parts += 1
            await asyncio.sleep(0)
    assert 0 < len(watcher.data) < parts * len(part)
    client.send(b"0\r\n\r\n")
    assert (await client.answer()).body == part * parts
    assert await watcher.outcome() is Outcome.COMPLETE


async def test_an_upstream_that_refuses_early_and_closes_is_heard(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")

    front, watcher = await net.front(await net.upstream(script), stream=True)
    client = await net.dial(front)
    client.send(post(2**30) + bytes(4 * MIB))
    answer = await client.answer()
    assert (answer.status, answer.body, answer.headers[b"connection"]) == (413, b"big", b"close")
    assert watcher.outcomes == [Outcome.COMPLETE]


async def test_last_words_are_read_from_an_upstream_that_has_hung_up(net: Harness) -> None:
    # Both the refusal and the next part of the body are there when the loop turns again; the part
    # comes first, writing it fails, and the transport ends with the refusal unread.
    def script(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            begun.set()
            assert hung_up.wait(5)
            sender.sendall(bytes(1000))
            connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 3\r\n\r\nbig")
        done.set()

    begun, hung_up, done = threading.Event(), threading.Event(), threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=script, args=(listener,))
        thread.start()
        front, watcher = await net.front(listener.getsockname()[1], stream=True)
        sender = socket.create_connection(("127.0.0.1", front))
        with sender:
            sender.setblocking(True)
            sender.sendall(post(2**30) + bytes(1000))
            await net.until(begun.is_set)
            await net.until(lambda: net.pools[0].connections == 1)
            hung_up.set()
            done.wait(5)  # the loop stands still meanwhile
            assert await watcher.outcome() is Outcome.COMPLETE
            assert (watcher.statuses, watcher.data) == ([413], b"big")
        thread.join()


async def test_a_streamed_request_is_never_sent_twice(net: Harness) -> None:
    seen: list[bytes] = []

    async def script(reader: Reader, writer: Writer) -> None:
        for number in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(head[:4])
            if number:
                return  # closes the kept connection without a word
            await reader.readexactly(3)
            writer.write(OK)
            await writer.drain()

    front, _ = await net.front(await net.upstream(script), stream=True)
    client = await net.dial(front)
    request = b"GET /a %bContent-Length: 3\r\n\r\nabc" % HOST
    client.send(request)
    assert (await client.answer()).status == 200
    client.send(request)
    assert (await client.answer()).status == 502
    assert seen == [b"GET ", b"GET "]


async def test_an_upstream_that_dies_in_the_midst_of_a_body_is_a_502(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    front, watcher = await net.front(await net.upstream(script), stream=True)
    client = await net.dial(front)
    client.send(post(2**30) + bytes(MIB))
    assert (await client.answer()).status == 502
    assert watcher.outcomes == [Outcome.UPSTREAM_CLOSED]


async def test_a_refused_connection_is_a_502_and_no_100_continue(net: Harness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    front, watcher = await net.front(port, stream=True)
    client = await net.dial(front)
    client.send(post(3)[:-2] + b"Expect: 100-continue\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (502, b"close")
    assert watcher.outcomes == [Outcome.UPSTREAM_REFUSED]


async def test_100_continue_is_ours_and_not_forwarded(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    front, _ = await net.front(upstream, stream=True)
    client = await net.dial(front)
    client.send(post(3)[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert (await client.answer()).status == 100
    client.send(b"abc")
    exchange = await desk.next()
    assert (exchange.header(b"expect"), exchange.body) == (None, b"abc")
    exchange.respond(200)
    assert (await client.answer()).status == 200


async def stuck(reader: Reader, writer: Writer) -> None:
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


async def test_an_upstream_that_takes_nothing_of_a_body_is_a_504(net: Harness) -> None:
    front, watcher = await net.front(await net.upstream(stuck), stream=True, response_timeout=60)
    client = await net.dial(front)
    client.send(post(2**30) + bytes(64 * MIB))
    await choked(net)
    pool = net.pools[-1]
    pool.sweep(pool.now + 50)
    assert not watcher.outcomes

    def given_up() -> bool:
        pool.sweep(pool.now + 70)  # more than once if the kernel takes a last part
        return bool(watcher.outcomes)

    await net.until(given_up)
    assert (await client.answer()).status == 504
    assert watcher.outcomes == [Outcome.UPSTREAM_TIMEOUT]


async def test_a_slow_client_is_no_fault_of_the_upstream(net: Harness) -> None:
    desk, _, upstream = await net.desk()
    front, watcher = await net.front(upstream, stream=True, response_timeout=60)
    client = await net.dial(front)
    client.send(post(6) + b"abc")
    pool = net.pools[-1]
    await net.until(lambda: pool.connections == 1)
    pool.sweep(pool.now + 1000)
    assert not watcher.outcomes
    client.send(b"def")
    exchange = await desk.next()  # now the body is whole, and its time has come
    pool.sweep(pool.now + 59)
    assert not watcher.outcomes
    pool.sweep(pool.now + 59)
    assert (await client.answer()).status == 504
    assert exchange.body == b"abcdef"


async def test_a_client_that_is_too_slow_aborts_the_upstream(net: Harness) -> None:
    desk, above, upstream = await net.desk()
    front, watcher = await net.front(upstream, Limits(body_timeout=60), stream=True)
    client = await net.dial(front)
    client.send(post(6) + b"abc")
    await net.until(lambda: above.connections == net.pools[-1].connections == 1)
    server = net.servers[-1]
    server.sweep(server.now + 70)
    assert (await client.answer()).status == 408
    assert (watcher.outcomes, watcher.statuses) == ([Outcome.CLIENT_GONE], [408])
    await net.until(lambda: above.connections == 0)
    assert desk.seen == 0


async def test_a_client_that_leaves_in_its_body_aborts_the_upstream(net: Harness) -> None:
    desk, above, upstream = await net.desk()
    front, watcher = await net.front(upstream, stream=True)
    client = await net.dial(front)
    client.send(post(6) + b"abc")
    await net.until(lambda: above.connections == 1)
    client.leave()
    assert await watcher.outcome() is Outcome.CLIENT_GONE
    await net.until(lambda: above.connections == 0)
    assert desk.seen == 0


@pytest.mark.parametrize("begun", [False, True])
async def test_an_aborted_relay_takes_no_more_of_the_body(net: Harness, begun: bool) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if begun:
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await reader.read()
        gone.set()

    gone = asyncio.Event()
    aborts: list[Callable[[], None]] = []
    exchanges: list[Exchange] = []
    pool = net.pool(await net.upstream(script))

    def handler(exchange: Exchange) -> None:
        exchanges.append(exchange)
        aborts.append(relay(exchange, pool).abort)

    _, front = await net.serve(handler, stream_body=lambda _: 2**30)
    client = await net.dial(front)
    client.send(post(2**20) + b"abc")
    await net.until(lambda: bool(exchanges) and exchanges[0].started is begun)
    await net.until(lambda: pool.connections == 1)
    aborts[0]()
    client.send(bytes(1000))
    await asyncio.wait_for(gone.wait(), 5)
    if begun:
        await client.closed()
    else:
        exchanges[0].respond(504)
        assert (await client.answer()).status == 504
