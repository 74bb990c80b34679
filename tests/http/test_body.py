from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http.test_properties import Memory, cut

from stoker.http import BodySource, Exchange, HttpServer, Limits
from stoker.http.connection import ServerConnection
from stoker.http.limits import HOLD_BYTES, LINGER_SECONDS, REST_BYTES

if TYPE_CHECKING:
    from tests.http.conftest import Harness

READ_BYTES = 262_144  # the most that one read of either loop brings
GET = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def post(length: int, *lines: bytes) -> bytes:
    head = b"".join(line + b"\r\n" for line in lines)
    return b"POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%b\r\n" % (length, head)


CHUNKED = b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def up_to(size: int) -> Callable[[Exchange], int | None]:
    """A hook: bodies for /up are streamed."""
    return lambda exchange: size if exchange.path == "/up" else None


class Taker:
    """Takes a body, and keeps what came."""

    def __init__(self, exchange: Exchange) -> None:
        assert exchange.source is not None
        self.data = b""
        self.ended = 0
        self.gone = 0
        exchange.on_disconnect = self._gone
        self.source = exchange.source
        exchange.source.take(self._part, self._end)

    def _part(self, data: bytes) -> None:
        assert data
        assert not self.ended
        self.data += data

    def _end(self) -> None:
        self.ended += 1

    def _gone(self) -> None:
        self.gone += 1


async def test_a_streamed_body_is_taken_as_it_arrives(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(6, b"X-A: b"))
    exchange = await desk.next()  # before any of the body
    assert (exchange.method, exchange.path, exchange.header(b"x-a")) == ("POST", "/up", b"b")
    assert exchange.content_length == 6
    taker = Taker(exchange)
    client.send(b"abc")
    await net.until(lambda: taker.data == b"abc")
    assert not taker.ended
    client.send(b"def")
    await net.until(lambda: taker.ended == 1)
    assert (taker.data, exchange.body) == (b"abcdef", b"")
    exchange.respond(200, b"ok")
    assert (await client.answer()).body == b"ok"
    client.send(GET)
    (await desk.next()).respond(204)
    assert (await client.answer()).status == 204


async def test_a_body_that_the_hook_does_not_want_is_collected(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(b"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
    client.send(b"def")
    exchange = await desk.next()
    assert (exchange.source, exchange.body) == (None, b"abcdef")


async def test_a_request_without_a_body_is_not_streamed(net: Harness) -> None:
    asked: list[Exchange] = []
    desk, _, port = await net.desk(stream_body=asked.append)
    client = await net.dial(port)
    client.send(GET + post(0))
    assert (await desk.next()).source is None
    assert not asked


async def test_the_bound_of_a_streamed_body_is_the_applications(net: Harness) -> None:
    limits = Limits(max_body_bytes=4)
    desk, _, port = await net.desk(limits, stream_body=up_to(8))
    client = await net.dial(port)
    client.send(post(8) + b"x" * 8)
    taker = Taker(await desk.next())
    await net.until(lambda: taker.ended == 1)
    answer = await net.ask(port, post(9))
    assert (answer.status, desk.seen) == (413, 1)
    assert net.refused == ["body_too_large"]


async def test_chunks_beyond_the_bound_are_refused_and_the_application_told(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(4))
    client = await net.dial(port)
    client.send(CHUNKED + b"4\r\nabcd\r\n")
    exchange = await desk.next()
    taker = Taker(exchange)
    await net.until(lambda: taker.data == b"abcd")
    client.send(b"1\r\ne\r\n0\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 413
    assert (taker.data, taker.ended, taker.gone) == (b"abcd", 0, 1)
    assert (exchange.status, exchange.failure) == (413, "the body is too large")
    exchange.respond(200)  # too late, and of no effect
    assert await client.rest() == b""


async def test_chunks_beyond_the_bound_cut_an_answer_that_has_begun(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(4))
    client = await net.dial(port)
    client.send(CHUNKED + b"4\r\nabcd\r\n")
    exchange = await desk.next()
    taker = Taker(exchange)
    exchange.start(200)
    client.send(b"1\r\ne\r\n0\r\n\r\n")
    await client.closed()
    await net.until(lambda: server.connections == 0)
    assert (taker.gone, exchange.status) == (1, 200)
    assert net.refused == ["body_too_large"]


@pytest.mark.parametrize("bad", [b"X\r\n", b"2\r\nabX\r\n"])
async def test_a_body_that_is_not_valid_is_refused_in_its_midst(net: Harness, bad: bytes) -> None:
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(CHUNKED + b"3\r\nabc\r\n")
    taker = Taker(await desk.next())
    await net.until(lambda: taker.data == b"abc")
    client.send(bad)
    assert (await client.answer()).status == 400
    assert (taker.ended, taker.gone) == (0, 1)


async def test_100_continue_is_sent_when_the_body_is_taken(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(3, b"Expect: 100-continue"))
    exchange = await desk.next()
    assert not client.reader._buffer  # type: ignore[attr-defined]
    taker = Taker(exchange)
    assert (await client.answer()).status == 100
    client.send(b"abc")
    await net.until(lambda: taker.ended == 1)
    exchange.respond(200)
    answer = await client.answer()
    assert (answer.status, answer.headers.get(b"connection")) == (200, None)


async def test_a_client_that_did_not_wait_for_100_continue_gets_none(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(6, b"Expect: 100-continue") + b"abc")
    exchange = await desk.next()
    await net.until(lambda: server.buffered == 3)
    taker = Taker(exchange)
    exchange.respond(200)
    assert taker.data == b"abc"
    assert (await client.answer()).status == 200
    client.send(b"def" + GET)
    (await desk.next()).respond(204)
    assert (await client.answer()).status == 204


async def test_an_answer_in_place_of_100_continue_closes(net: Harness) -> None:
    # The client may send the body or not: what follows could be read in two ways.
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(3, b"Expect: 100-continue"))
    (await desk.next()).respond(403)
    answer = await client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (403, b"close")
    client.send(GET)
    assert await client.rest() == b""
    assert desk.seen == 1


async def test_an_answer_before_a_long_body_is_whole_reaches_the_client(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**24) + bytes(2**20))
    exchange = await desk.next()
    exchange.respond(403, b"no")
    answer = await client.answer()
    assert (answer.status, answer.body, answer.headers[b"connection"]) == (403, b"no", b"close")
    client.send(bytes(2**20))  # is thrown away: no reset
    assert await client.rest() == b""
    server.sweep(server.now + LINGER_SECONDS + 2)
    await net.until(lambda: server.connections == 0)


async def test_a_long_answer_before_the_bodys_end_is_not_cut_by_lingering(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**24))
    (await desk.next()).respond(200, bytes(2**24))
    server.sweep(server.now + LINGER_SECONDS + 2)
    assert len((await client.answer()).body) == 2**24


async def test_the_small_rest_of_a_body_is_dropped_to_keep_the_connection(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(REST_BYTES) + b"x")
    (await desk.next()).respond(403)
    answer = await client.answer()
    assert (answer.status, b"connection" in answer.headers) == (403, False)
    client.send(bytes(REST_BYTES - 1) + GET)
    exchange = await desk.next()
    assert exchange.path == "/next"
    exchange.respond(204)
    assert (await client.answer()).status == 204


async def test_a_rest_that_does_not_come_is_not_waited_for(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(10) + b"x")
    (await desk.next()).respond(403)
    assert (await client.answer()).status == 403
    server.sweep(server.now + 70)
    assert await client.rest() == b""  # closed without a second answer


async def test_requests_behind_a_streamed_one_wait_for_their_turn(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(GET + post(3) + b"abc" + GET)
    first = await desk.next()
    assert desk.seen == 1
    first.respond(200, b"1")
    second = await desk.next()
    assert (second.path, desk.seen) == ("/up", 2)
    taker = Taker(second)
    assert (taker.data, taker.ended) == (b"abc", 1)
    second.respond(200, b"2")
    (await desk.next()).respond(200, b"3")
    assert [(await client.answer()).body for _ in range(3)] == [b"1", b"2", b"3"]


async def test_a_streamed_body_behind_a_running_request_is_held_within_bounds(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(GET + post(2**24) + bytes(2**24))
    first = await desk.next()
    (connection,) = server.open
    await net.until(lambda: connection._read_paused)  # type: ignore[union-attr]
    assert server.buffered <= HOLD_BYTES + READ_BYTES
    first.respond(200)
    second = await desk.next()
    taker = Taker(second)
    await net.until(lambda: taker.ended == 1)
    assert (len(taker.data), server.buffered) == (2**24, 0)


async def test_a_client_that_leaves_in_the_midst_of_a_body_is_told(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(6) + b"abc")
    exchange = await desk.next()
    taker = Taker(exchange)
    client.leave()
    await net.until(lambda: taker.gone == 1)
    assert (taker.ended, exchange.failure, server.connections) == (0, "", 0)


async def test_a_client_that_leaves_while_we_do_not_read_is_noticed(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**24) + bytes(HOLD_BYTES + 1000))  # what a window surely has room for
    exchange = await desk.next()
    gone: list[int] = []
    exchange.on_disconnect = lambda: gone.append(1)
    (connection,) = server.open
    await net.until(lambda: connection._read_paused)  # type: ignore[union-attr]
    server.sweep(server.now + 1)
    assert not gone
    client.leave()

    def noticed() -> bool:
        server.sweep(server.now + 1)
        return gone == [1]

    await net.until(noticed)
    await net.until(lambda: server.connections == 0)
    assert server.buffered == 0


async def test_while_paused_little_is_held_and_reading_stops(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**24) + bytes(2**24))
    exchange = await desk.next()
    taker = Taker(exchange)
    taker.source.pause()
    seen = len(taker.data)
    (connection,) = server.open
    await net.until(lambda: connection._read_paused)  # type: ignore[union-attr]
    assert len(taker.data) == seen
    assert HOLD_BYTES <= server.buffered <= HOLD_BYTES + READ_BYTES
    taker.source.resume()
    await net.until(lambda: taker.ended == 1)
    assert (len(taker.data), server.buffered) == (2**24, 0)


async def test_what_all_hold_together_is_bounded(net: Harness) -> None:
    limits = Limits(max_buffered_bytes=1000)
    desk, server, port = await net.desk(limits, stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2000))
    exchange = await desk.next()
    gone: list[int] = []
    exchange.on_disconnect = lambda: gone.append(1)
    client.send(bytes(1001))  # nobody takes it
    assert (await client.answer()).status == 503
    assert (gone, server.buffered) == ([1], 0)


async def test_a_body_that_does_not_come_is_refused(net: Harness) -> None:
    desk, server, port = await net.desk(Limits(body_timeout=60), stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**24))
    exchange = await desk.next()
    taker = Taker(exchange)
    server.sweep(server.now + 59)
    assert taker.gone == 0
    server.sweep(server.now + 3)
    assert (await client.answer()).status == 408
    assert (taker.gone, exchange.status) == (1, 408)


async def test_a_client_that_stalls_is_cut_however_much_it_sent_before(net: Harness) -> None:
    desk, server, port = await net.desk(Limits(body_timeout=60), stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**30) + bytes(2**24))
    taker = Taker(await desk.next())
    await net.until(lambda: len(taker.data) == 2**24)
    for _ in range(3):
        server.sweep(server.now + 20)  # 2**24 bytes are worth 1024 s, if they were saved up
    assert taker.gone == 0
    for _ in range(2):
        server.sweep(server.now + 31)
    assert taker.gone == 1


async def test_a_pause_of_ours_costs_the_client_no_time(net: Harness) -> None:
    desk, server, port = await net.desk(Limits(body_timeout=60), stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(6) + b"abc")
    exchange = await desk.next()
    server.sweep(server.now + 1000)  # not taken yet
    taker = Taker(exchange)
    taker.source.pause()
    server.sweep(server.now + 1000)
    taker.source.resume()
    server.sweep(server.now + 50)
    assert taker.gone == 0
    client.send(b"def")
    await net.until(lambda: taker.ended == 1)
    server.sweep(server.now + 1000)  # the answer's time is the application's own
    exchange.respond(200)
    assert (await client.answer()).status == 200


async def test_a_hook_that_raises_is_a_500(net: Harness) -> None:
    def broken(exchange: Exchange) -> int:
        raise LookupError("secret")

    desk, _, port = await net.desk(stream_body=broken)
    answer = await net.ask(port, post(3) + b"abc")
    assert (answer.status, desk.seen, net.refused) == (500, 0, ["failed"])
    assert b"secret" not in answer.body


async def test_a_taker_that_raises_is_a_500(net: Harness) -> None:
    def broken(data: bytes) -> None:
        raise LookupError("secret")

    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(3))
    exchange = await desk.next()
    assert exchange.source is not None
    exchange.source.take(broken, lambda: None)
    client.send(b"abc" + GET)
    answer = await client.answer()
    assert (answer.status, b"error_id" in answer.body, b"secret" in answer.body) == (
        *(500, True, False),
    )
    await desk.next()  # the body was whole: the connection goes on


async def test_a_body_is_taken_once(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(3))
    exchange = await desk.next()
    taker = Taker(exchange)
    with pytest.raises(RuntimeError):
        Taker(exchange)
    assert not taker.gone


async def test_a_taker_may_pause_and_answer_in_its_calls(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(2**30))
    client = await net.dial(port)
    client.send(post(2**20) + b"abc")
    exchange = await desk.next()
    source = exchange.source
    assert source is not None
    source.take(lambda data: exchange.respond(403, data), lambda: None)
    assert (await client.answer()).body == b"abc"
    client.send(bytes(1000))
    assert await client.rest() == b""


async def test_a_client_that_wants_it_closed_gets_it_closed_behind_its_body(net: Harness) -> None:
    desk, _, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(3, b"Connection: close") + b"abc")
    exchange = await desk.next()
    taker = Taker(exchange)
    await net.until(lambda: taker.ended == 1)
    exchange.respond(200)
    assert (await client.answer()).headers[b"connection"] == b"close"
    assert await client.rest() == b""


async def test_an_abort_gives_back_what_was_held(net: Harness) -> None:
    desk, server, port = await net.desk(stream_body=up_to(100))
    client = await net.dial(port)
    client.send(post(6) + b"abc")
    exchange = await desk.next()
    await net.until(lambda: server.buffered == 3)
    exchange.start(200)
    exchange.abort()
    await client.closed()
    assert server.buffered == 0


def test_a_client_that_resets_just_before_its_early_answer_breaks_nothing() -> None:
    class Reset(Memory):
        def write_eof(self) -> None:
            raise OSError(107, "Transport endpoint is not connected")

    server = HttpServer(lambda exchange: exchange.respond(403), stream_body=up_to(2**30))
    connection = ServerConnection(server)
    transport = Reset()
    connection.connection_made(transport)
    connection.data_received(post(2**24))
    assert transport.written.startswith(b"HTTP/1.1 403 ")
    assert transport.ended


# --- any segmentation, framing and pace


def framed(body: bytes, chunks: list[int] | None) -> bytes:
    if chunks is None:
        return post(len(body)) + body
    parts = cut(body, chunks)
    return CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts) + b"0\r\n\r\n"


class Paced(Memory):
    """A transport that knows whether it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True

    def pause_reading(self) -> None:
        assert self.reading
        self.reading = False

    def resume_reading(self) -> None:
        assert not self.reading
        self.reading = True


@given(
    body=st.one_of(
        st.binary(min_size=1, max_size=2000),
        st.integers(1, 4 * HOLD_BYTES).map(lambda size: (b"%x," % size * size)[:size]),
    ),
    chunks=st.none() | st.lists(st.integers(0, 300_000), max_size=6),
    places=st.lists(st.integers(0, 300_000), max_size=8),
    taken_after=st.integers(0, 4),
    pauses=st.sets(st.integers(0, 20)),
    resumes=st.sets(st.integers(0, 20)),
    pipelined=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_a_taken_body_is_the_body_however_it_is_cut_framed_and_paced(
    body: bytes,
    chunks: list[int] | None,
    places: list[int],
    taken_after: int,
    pauses: set[int],
    resumes: set[int],
    pipelined: bool,
) -> None:
    got: list[bytes] = []
    ends: list[int] = []
    streamed: list[Exchange] = []
    others: list[Exchange] = []

    def handler(exchange: Exchange) -> None:
        (others if exchange.source is None else streamed).append(exchange)

    def part(data: bytes) -> None:
        got.append(data)
        if len(got) in pauses:
            source().pause()

    def source() -> BodySource:
        assert streamed[0].source is not None
        return streamed[0].source

    def go_on() -> None:
        if source()._on_end is None:
            source().take(part, lambda: ends.append(1))
        source().resume()

    server = HttpServer(handler, stream_body=up_to(len(body)))
    connection = ServerConnection(server)
    transport = Paced()
    connection.connection_made(transport)
    data = framed(body, chunks) + (GET if pipelined else b"")
    for step, segment in enumerate(cut(data, places)):
        if streamed and (step == taken_after or step in resumes):
            go_on()
        while not transport.reading:  # then nothing can come before it is taken
            go_on()
        connection.data_received(segment)
        assert server.buffered <= HOLD_BYTES + len(segment)
    while not ends:
        go_on()
    assert (b"".join(got), ends) == (body, [1])
    assert (server.buffered, source().received, source().complete) == (0, len(body), True)
    streamed[0].respond(200)
    assert len(others) == pipelined
