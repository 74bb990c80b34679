from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from stoker.http import Exchange, Limits

if TYPE_CHECKING:
    from tests.http.conftest import Harness

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


def ok(exchange: Exchange) -> None:
    exchange.respond(200, b"%d" % len(exchange.body))


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    ("request_bytes", "status", "reason"),
    [
        (b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * 200), 414, "target_too_long"),
        (b"GET /%b" % (b"a" * 70_000), 414, "target_too_long"),
        (POST + b"X: %b\r\n\r\n" % (b"a" * 2000), 431, "header_too_large"),
        (POST + b"X: a\r\n" * 21 + b"\r\n", 431, "header_too_large"),
        (POST + b"Content-Length: 1001\r\n\r\n", 413, "body_too_large"),
        (
            POST + b"Transfer-Encoding: chunked\r\n\r\n3e9\r\n" + b"a" * 1001,
            413,
            "body_too_large",
        ),
    ],
)
async def test_what_is_too_large_is_refused_before_all_of_it_is_here(
    net: Harness, request_bytes: bytes, status: int, reason: str
) -> None:
    limits = Limits(
        max_header_bytes=1000, max_headers=20, max_target_bytes=100, max_body_bytes=1000
    )
    desk, _, port = await net.desk(limits)
    client = await net.dial(port)
    client.send(request_bytes)
    answer = await client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (status, b"close")
    assert net.refused == [reason]
    assert desk.seen == 0


@pytest.mark.parametrize(
    "beginning",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: ",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n",
    ],
)
@pytest.mark.parametrize("filler", [b"a" * 500, b"x: y\r\n" * 50])
async def test_a_head_extension_or_trailer_without_end_is_refused(
    net: Harness, beginning: bytes, filler: bytes
) -> None:
    desk, server, port = await net.desk(Limits(max_header_bytes=2000, max_headers=1000))
    client = await net.dial(port)
    client.send(beginning)
    await net.until(lambda: server.connections == 1)
    (connection,) = server.open
    for _ in range(20):
        connection.data_received(filler)  # each as a read of its own
    assert (await client.answer()).status in (400, 431)
    assert desk.seen == 0


async def test_a_body_at_the_limit_is_taken(net: Harness) -> None:
    _, port = await net.serve(ok, Limits(max_body_bytes=1000))
    answer = await net.ask(port, POST + b"Content-Length: 1000\r\n\r\n" + b"a" * 1000)
    assert (answer.status, answer.body) == (200, b"1000")


async def test_a_large_body_in_many_reads_is_no_large_head(net: Harness) -> None:
    _, port = await net.serve(ok, Limits(max_header_bytes=200))
    client = await net.dial(port)
    body = POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 50_000 + b"0\r\n\r\n"
    client.send(body + POST + b"Content-Length: 300000\r\n\r\n" + b"a" * 300_000 + GET)
    assert (await client.answer()).body == b"50000"
    assert (await client.answer()).body == b"300000"
    assert (await client.answer()).body == b"0"


async def test_bodies_of_all_connections_together_have_a_bound(net: Harness) -> None:
    desk, server, port = await net.desk(Limits(max_buffered_bytes=3_000_000))
    request = POST + b"Content-Length: 2000000\r\n\r\n" + b"a" * 2_000_000
    first, second = await net.dial(port), await net.dial(port)
    first.send(request)
    exchange = await desk.next()
    second.send(request)
    assert (await second.answer()).status == 503
    assert net.refused == ["too_many_bytes"]
    exchange.respond(200)
    assert (await first.answer()).status == 200
    second.leave()
    await net.until(lambda: server.buffered == 0)
    first.send(request)
    (await desk.next()).respond(200)
    assert (await first.answer()).status == 200


async def test_bodies_that_have_only_begun_count_as_well(net: Harness) -> None:
    _, server, port = await net.desk(Limits(max_buffered_bytes=100_000))
    begun = POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 30_000
    held = []
    for _ in range(3):
        held.append(await net.dial(port))
        held[-1].send(begun)
        await net.until(lambda: server.buffered >= len(held) * 30_000)
    fourth = await net.dial(port)
    fourth.send(begun)
    assert (await fourth.answer()).status == 503
    assert net.refused == ["too_many_bytes"]
    for client in (*held, fourth):
        client.leave()
    await net.until(lambda: server.buffered == 0)


async def test_connections_above_the_bound_get_503(net: Harness) -> None:
    _, server, port = await net.desk(Limits(max_connections=2))
    held = [await net.dial(port) for _ in range(2)]
    await net.until(lambda: server.connections == 2)
    third = await net.dial(port)
    assert (await third.answer()).status == 503
    assert await third.rest() == b""
    assert net.refused == ["too_many_connections"]
    held[0].leave()
    await net.until(lambda: server.connections == 1)


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"", 75, None),
        (b"\r\n", 10, 408),
        (b"GE", 10, 408),
        (b"GET /", 10, 408),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", 10, 408),
        (POST + b"Content-Length: 5\r\n\r\n", 60, 408),
        (POST + b"Content-Length: 5\r\n\r\nab", 60, 408),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 60, 408),
    ],
)
async def test_a_connection_that_says_no_more_is_ended_in_time(
    net: Harness, sent: bytes, seconds: float, status: int | None
) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(sent)
    await net.until(lambda: server.connections == 1)
    (connection,) = server.open
    await net.until(lambda: connection._fed == len(sent))
    server.sweep(now() + seconds - 1)
    assert not connection._deaf
    server.sweep(now() + seconds + 3)
    if status is None:
        assert await client.rest() == b""
    else:
        assert (await client.answer()).status == status
        assert net.refused == ["timeout"]
    assert desk.seen == 0


async def test_a_slow_body_that_keeps_its_pace_is_waited_for(net: Harness) -> None:
    _, server, port = await net.desk()
    client = await net.dial(port)
    client.send(POST + b"Content-Length: 1000000\r\n\r\n" + b"a" * 327_680)  # worth 20 s
    await net.until(lambda: server.connections == 1)
    (connection,) = server.open
    await net.until(lambda: connection._body_size == 327_680)
    server.sweep(now() + 75)
    assert not connection._deaf
    server.sweep(now() + 85)
    assert connection._deaf


async def test_the_answer_has_all_the_time_it_needs(net: Harness) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    server.sweep(now() + 1e6)
    exchange.respond(200, b"late")
    assert (await client.answer()).body == b"late"


async def test_the_idle_time_begins_with_the_answer(net: Harness) -> None:
    server, port = await net.serve(ok)
    client = await net.dial(port)
    server.sweep(now() + 70)
    client.send(GET)
    await client.answer()
    server.sweep(now() + 80)
    assert server.connections == 1
    server.sweep(now() + 160)
    assert await client.rest() == b""


async def test_a_client_that_takes_nothing_is_cut_but_a_slow_one_is_not(net: Harness) -> None:
    desk, server, port = await net.desk()
    client = await net.dial(port)
    client.send(GET)
    exchange = await desk.next()
    exchange.start(200)
    exchange.write(b"x" * 32 * 2**20)
    begun = now()
    server.sweep(begun + 50)
    (connection,) = server.open
    before = connection._transport.get_write_buffer_size()
    await client.reader.readexactly(16 * 2**20)
    await net.until(lambda: connection._transport.get_write_buffer_size() < before)
    server.sweep(begun + 100)  # it took something since the last look, so its time begins anew
    server.sweep(begun + 150)
    assert not exchange.disconnected
    server.sweep(begun + 200)
    await net.until(lambda: exchange.disconnected)
    assert net.refused == ["write_timeout"]


async def test_a_client_that_reads_nothing_cannot_make_answers_pile_up(net: Harness) -> None:
    served = 0

    def handler(exchange: Exchange) -> None:
        nonlocal served
        served += 1
        exchange.respond(200, b"x" * 100_000)

    server, port = await net.serve(handler, Limits(max_pipelined=1000))
    client = await net.dial(port)
    client.send(GET * 900)
    await net.until(lambda: server.connections == 1)
    (connection,) = server.open
    await net.until(lambda: connection.write_paused)
    assert connection._transport.get_write_buffer_size() < 400_000
    assert served < 200
    for _ in range(900):
        assert len((await client.answer()).body) == 100_000
    assert served == 900


async def test_reading_stops_while_the_client_takes_no_answers(net: Harness) -> None:
    server, port = await net.serve(lambda exchange: exchange.respond(200, b"x" * 100_000))
    client = await net.dial(port)
    await net.until(lambda: server.connections == 1)
    (connection,) = server.open
    sent = 0
    while not connection._read_paused:
        client.send(GET)
        sent += 1
        await net.until(lambda: connection._completed == sent)  # noqa: B023
    assert len(connection._queue) == Limits().max_pipelined
    for _ in range(sent):
        assert len((await client.answer()).body) == 100_000
    client.send(GET)
    assert (await client.answer()).status == 200


async def test_a_refused_client_that_lingers_is_cut(net: Harness) -> None:
    _, server, port = await net.desk()
    client = await net.dial(port)
    client.send(b"garbage\r\n\r\n")
    assert (await client.answer()).status == 400
    server.sweep(now() + 5)
    await net.until(lambda: server.connections == 0)


async def test_a_refusal_arrives_although_the_client_goes_on_sending(net: Harness) -> None:
    server, port = await net.serve(ok, Limits(max_body_bytes=1000))
    client = await net.dial(port)
    client.send(POST + b"Content-Length: 5000000\r\n\r\n")
    await net.until(lambda: net.refused == ["body_too_large"])
    client.send(b"a" * 5_000_000)
    await client.writer.drain()
    assert server.connections == 1  # it takes what comes, as a reset would destroy the answer
    assert (await client.answer()).status == 413
    client.leave()
    await net.until(lambda: server.connections == 0)
