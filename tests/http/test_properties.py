from __future__ import annotations

import asyncio
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stoker.http import Exchange, HttpServer, Limits, Origin, UpstreamError, UpstreamPool, relay
from stoker.http.connection import ServerConnection
from stoker.http.messages import Headers
from stoker.http.phase import Phase
from stoker.http.request import UpstreamRequest
from stoker.http.upstream import UpstreamConnection


class Memory(asyncio.Transport):
    """A transport that keeps what is written, for protocols that are fed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.written += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def close(self) -> None:
        self.ended = True

    abort = close

    def is_closing(self) -> bool:
        return self.ended

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_write_buffer_size(self) -> int:
        return 0


LIMITS = Limits(max_header_bytes=400, max_headers=8, max_target_bytes=100, max_body_bytes=200)

STREAMS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Empty:\r\nX: y \r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\na\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
    b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
    b"HEAD /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    b"DELETE /4 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /5 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabX\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 201\r\n\r\n" + b"x" * 201,
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nc9\r\n" + b"x" * 201,
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\nGET /bad HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
    b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % (b"x" * 100),
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 8 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"y" * 400),
    b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % (b"y" * 380),
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nGET / HTTP/1.1\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n\x00\x01",
]


def feed(segments: list[bytes]) -> tuple[list[tuple[object, ...]], bytes, bool]:
    """What the handler sees, what the client gets, and whether the connection ends."""
    seen: list[tuple[object, ...]] = []

    def handler(exchange: Exchange) -> None:
        seen.append((exchange.method, exchange.target, tuple(exchange.headers), exchange.body))
        exchange.respond(200, b"%d" % len(seen))

    connection = ServerConnection(HttpServer(handler, LIMITS))
    transport = Memory()
    connection.connection_made(transport)
    for segment in segments:
        connection.data_received(segment)
    return seen, transport.written, transport.ended


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_request_cut_into_single_bytes_is_the_same_request(stream: bytes) -> None:
    whole = feed([stream])
    assert feed([stream[n : n + 1] for n in range(len(stream))])[::2] == whole[::2]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, 2000), max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_split_of_the_bytes_gives_the_same_result(stream: bytes, places: list[int]) -> None:
    seen, written, ended = feed([stream])
    seen_cut, written_cut, ended_cut = feed(cut(stream, places))
    assert (seen_cut, ended_cut) == (seen, ended)
    statuses = [part[9:12] for part in written.split(b"HTTP/1.1")]
    assert [part[9:12] for part in written_cut.split(b"HTTP/1.1")] == statuses


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda stream, place, noise: stream[:place] + noise + stream[place:],
            st.sampled_from(STREAMS),
            st.integers(0, 200),
            st.binary(max_size=8),
        ),
        st.builds(
            lambda stream, place: stream[: place % len(stream)],
            st.sampled_from(STREAMS),
            st.integers(0, 2000),
        ),
    ),
    st.lists(st.integers(0, 2000), max_size=6),
)
@settings(max_examples=120, deadline=None)
@example(b"\r\n\r\n", [1])
@example(b"G", [])
def test_no_bytes_crash_a_connection_or_hold_it_for_ever(data: bytes, places: list[int]) -> None:
    server = HttpServer(lambda exchange: exchange.respond(200), LIMITS)
    connection = ServerConnection(server)
    transport = Memory()
    connection.connection_made(transport)
    for segment in cut(data, places):
        connection.data_received(segment)
    for later in (1000.0, 2000.0, 3000.0):
        server.sweep(later)
    assert connection.phase >= Phase.LINGER
    assert transport.ended


OWS = st.text(" \t", max_size=3)


@given(
    name=st.sampled_from(["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING"]),
    value=st.tuples(
        OWS,
        st.sampled_from(["chunked", "Chunked", "CHUNKED"])
        | st.text("chunked,;= \"'\tgzip\x0b\x0c\xa0", max_size=12),
        OWS,
    ).map("".join),
    places=st.lists(st.integers(0, 200), max_size=4),
)
@settings(max_examples=400, deadline=None)
@example("Transfer-Encoding", "chunked\t", [])
@example("Transfer-Encoding", "chunked ", [])
def test_chunks_are_read_as_chunks_by_every_reader_or_by_none(
    name: str, value: str, places: list[int]
) -> None:
    """So neither a proxy in front nor the model server behind sees another request than we do."""
    framing = f"{name}:{value}\r\n\r\n".encode("latin-1") + b"2\r\nab\r\n0\r\n\r\n"
    seen, written, ended = feed(cut(b"POST / HTTP/1.1\r\nHost: a\r\n" + framing, places))
    if seen:
        assert value.strip(" \t").lower() == "chunked"
        assert [request[3] for request in seen] == [b"ab"]
    else:
        assert ended or b"connection: close" in written
        assert written.startswith(b"HTTP/1.1 400")
    sink = Sink()
    pool = UpstreamPool(Origin("127.0.0.1", 1))
    connection = UpstreamConnection(pool)
    connection.connection_made(Memory())
    connection.send(UpstreamRequest(pool, "GET", b"", b"", sink), reused=False)
    for part in cut(b"HTTP/1.1 200 OK\r\n" + framing, places):
        connection.data_received(part)
    assert (sink.body, sink.ends) in [(b"ab", ["complete"]), (b"", ["malformed"])]


GUARDED = ["transfer-encoding", "content-length", "host", "connection", "expect", "stoker-auth"]


@given(
    name=st.sampled_from(GUARDED),
    sign=st.sampled_from("_.!#$%&'*+^`|~"),
    upper=st.booleans(),
)
@example("transfer-encoding", "_", False)
def test_no_header_may_imitate_one_that_frames_or_authorises(
    name: str, sign: str, upper: bool
) -> None:
    """Where a server turns names into variables, `Transfer_Encoding` is `Transfer-Encoding`."""
    if "-" not in name:
        return
    spelt = name.replace("-", sign)
    line = f"{spelt.upper() if upper else spelt}: chunked\r\n".encode()
    seen, written, _ = feed([b"POST / HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n"])
    assert (seen, written[9:12]) == ([], b"400")


@given(
    protocol=st.sampled_from([b"RTSP/1.0", b"RTSP/1.1", b"RTSP/2.0", b"ICE/1.0", b"ICE/1.1"]),
    before=st.sampled_from([b"", b"\r\n", b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n"]),
    places=st.lists(st.integers(0, 100), max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_other_protocols_with_the_same_look_are_not_taken_for_http(
    protocol: bytes, before: bytes, places: list[int]
) -> None:
    stream = before + b"GET /2 " + protocol + b"\r\nHost: a\r\n\r\n"
    seen, written, _ = feed(cut(stream, places))
    assert [request[1] for request in seen] == ([b"/1"] if b"/1" in before else [])
    assert re.findall(rb"HTTP/1.1 (\d+)", written)[-1] in (b"400", b"505")


class Sink:
    def __init__(self) -> None:
        self.head: tuple[int, tuple[tuple[bytes, bytes], ...], int | None] | None = None
        self.body = b""
        self.ends: list[str] = []

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        assert self.head is None
        self.head = (status, tuple(headers), content_length)

    def on_data(self, data: bytes) -> None:
        assert self.head
        assert not self.ends
        self.body += data

    def on_complete(self) -> None:
        self.ends.append("complete")

    def on_error(self, error: UpstreamError) -> None:
        self.ends.append(error.kind)


ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nT: v\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
]


def answer(segments: list[bytes], method: str = "GET") -> Sink:
    pool = UpstreamPool(Origin.tcp("127.0.0.1", 1))
    connection = UpstreamConnection(pool)
    transport = Memory()
    connection.connection_made(transport)
    sink = Sink()
    connection.send(UpstreamRequest(pool, method, b"head", b"", sink), reused=False)
    for segment in segments:
        if not transport.ended:
            connection.data_received(segment)
    connection.connection_lost(None)
    return sink


@given(
    st.sampled_from(ANSWERS),
    st.lists(st.integers(0, 2000), max_size=12),
    st.sampled_from(["GET", "HEAD", "POST"]),
)
@settings(max_examples=100, deadline=None)
def test_any_split_of_an_answer_gives_the_same_answer(
    stream: bytes, places: list[int], method: str
) -> None:
    whole, split = answer([stream], method), answer(cut(stream, places), method)
    assert (split.head, split.body, split.ends) == (whole.head, whole.body, whole.ends)


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda stream, place, noise: stream[:place] + noise + stream[place:],
            st.sampled_from(ANSWERS),
            st.integers(0, 200),
            st.binary(max_size=8),
        ),
    ),
    st.lists(st.integers(0, 2000), max_size=6),
)
@settings(max_examples=120, deadline=None)
def test_whatever_an_upstream_says_ends_exactly_once(data: bytes, places: list[int]) -> None:
    assert len(answer(cut(data, places)).ends) == 1


@given(
    st.lists(st.binary(min_size=1, max_size=3000), max_size=8),
    st.lists(st.binary(min_size=1, max_size=3000), max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_bodies_pass_unchanged_however_they_are_chunked(up: list[bytes], down: list[bytes]) -> None:
    async def run() -> None:
        got: list[bytes] = []

        def model(exchange: Exchange) -> None:
            got.append(exchange.body)
            exchange.start(200)
            for part in down:
                exchange.write(part)
            exchange.finish()

        upstream = HttpServer(model)
        pool = UpstreamPool(Origin.tcp("127.0.0.1", await upstream.listen()))
        front = HttpServer(lambda exchange: relay(exchange, pool))
        reader, writer = await asyncio.open_connection("127.0.0.1", await front.listen())
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in up:
            writer.write(b"%x\r\n%b\r\n" % (len(part), part))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        async with asyncio.timeout(5):
            await reader.readuntil(b"\r\n\r\n")
            body = b""
            while size := int(await reader.readuntil(b"\r\n"), 16):
                body += (await reader.readexactly(size + 2))[:-2]
        assert got == [b"".join(up)]
        assert body == b"".join(down)
        writer.close()
        await front.drain(0)
        await pool.close()
        await upstream.drain(0)

    asyncio.run(run())
