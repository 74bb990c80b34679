from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import pytest

from stoker import descriptors
from stoker.http import Exchange, Origin, UpstreamError, UpstreamPool
from stoker.http.messages import Headers

if TYPE_CHECKING:
    from tests.http.conftest import Harness

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Sink:
    """Keeps an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.error: UpstreamError | None = None
        self.ends = 0
        self.end = asyncio.Event()

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        self.status = status

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_complete(self) -> None:
        self.ends += 1
        self.end.set()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self.on_complete()

    async def result(self) -> bytes | str:
        async with asyncio.timeout(5):
            await self.end.wait()
        assert self.ends == 1
        return self.error.kind if self.error else self.body


def ask(pool: UpstreamPool, method: str = "GET") -> Sink:
    sink = Sink()
    pool.request(method, b"/", [], b"", sink)
    return sink


def now() -> float:
    return asyncio.get_running_loop().time()


def ok(exchange: Exchange) -> None:
    exchange.respond(200, b"ok")


async def test_a_connection_is_used_again(net: Harness) -> None:
    server, port = await net.serve(ok)
    pool = net.pool(port)
    for _ in range(5):
        assert await ask(pool).result() == b"ok"
    assert (server.connections, pool.connections, pool.idle) == (1, 1, 1)


async def test_the_connection_used_last_is_used_first(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port)
    both = [ask(pool), ask(pool)]
    first, second = await desk.next(), await desk.next()
    second.respond(200)
    first.respond(200)
    for sink in both:
        await sink.result()
    last = pool._idle[-1]
    ask(pool)
    await desk.next()
    assert last not in pool._idle


async def test_idle_connections_expire(net: Harness) -> None:
    server, port = await net.serve(ok)
    pool = net.pool(port, keep_alive=20)
    assert await ask(pool).result() == b"ok"
    pool.sweep(now() + 18)
    assert pool.idle == 1
    pool.sweep(now() + 21)
    assert (pool.idle, pool.connections) == (0, 0)
    await net.until(lambda: server.connections == 0)


async def test_the_servers_own_keep_alive_time_is_respected(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=5, max=9\r\n\r\n"))

    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == b"ok"
    pool.sweep(now() + 3)
    assert pool.idle == 1
    pool.sweep(now() + 4.5)
    assert pool.idle == 0


async def test_at_most_max_connections_are_open_and_the_others_wait(net: Harness) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port, max_connections=2)
    sinks = [ask(pool) for _ in range(5)]
    for _ in range(5):
        exchange = await desk.next()
        assert server.connections <= 2
        exchange.respond(200, b"ok")
    assert [await sink.result() for sink in sinks] == [b"ok"] * 5


async def test_a_waiting_request_goes_on_when_a_connection_is_lost(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port, max_connections=1)
    first, second = ask(pool), ask(pool)
    (await desk.next()).abort()
    assert await first.result() == "closed"
    (await desk.next()).respond(200, b"ok")
    assert await second.result() == b"ok"


async def test_an_aborted_request_that_waits_is_never_sent(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port, max_connections=1)
    first, dropped, third = Sink(), Sink(), Sink()
    pool.request("GET", b"/1", [], b"", first)
    pool.request("GET", b"/2", [], b"", dropped).abort()
    pool.request("GET", b"/3", [], b"", third)
    for path in ("/1", "/3"):
        exchange = await desk.next()
        assert exchange.path == path
        exchange.respond(200, b"ok")
    await third.result()
    assert dropped.ends == 0


async def test_a_request_aborted_while_its_connection_opens_is_never_sent(net: Harness) -> None:
    desk, server, port = await net.desk()
    pool = net.pool(port)
    sink = Sink()
    pool.request("GET", b"/", [], b"", sink).abort()
    await net.until(lambda: pool.idle == 1)
    assert (desk.seen, sink.ends) == (0, 0)
    assert server.connections <= 1


async def test_abort_closes_the_connection_at_once(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port)
    sink = Sink()
    request = pool.request("GET", b"/", [], b"", sink)
    exchange = await desk.next()
    request.abort()
    request.abort()
    assert pool.connections == 0
    await net.until(lambda: exchange.disconnected)
    assert sink.ends == 0


def closes_on_second_request(seen: list[bytes], *, reset: bool):  # type: ignore[no-untyped-def]
    """A script: the first connection answers once, and closes at the second request, unanswered."""

    async def script(reader: Reader, writer: Writer) -> None:
        first = not seen
        while True:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            if first and len(seen) == 2:
                if reset:
                    writer.transport.abort()
                return
            writer.write(OK)

    return script


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize(
    ("method", "result"), [("GET", b"ok"), ("HEAD", b""), ("POST", "closed"), ("PUT", "closed")]
)
async def test_only_get_and_head_are_sent_again_after_a_stale_connection(
    net: Harness, method: str, result: bytes | str, reset: bool
) -> None:
    seen: list[bytes] = []
    pool = net.pool(await net.upstream(closes_on_second_request(seen, reset=reset)))
    assert await ask(pool).result() == b"ok"
    assert await ask(pool, method).result() == result
    assert len(seen) == (2 if result == "closed" else 3)


async def test_a_request_whose_answer_has_begun_is_not_sent_again(net: Harness) -> None:
    seen: list[bytes] = []

    async def script(reader: Reader, writer: Writer) -> None:
        for answer in (OK, b"HTTP/1.1 200 O"):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)

    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == b"ok"
    assert await ask(pool).result() == "closed"
    assert len(seen) == 2


async def test_a_fresh_connection_that_closes_is_not_tried_again(net: Harness) -> None:
    seen: list[bytes] = []

    async def script(reader: Reader, writer: Writer) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))

    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == "closed"
    assert len(seen) == 1


async def test_a_post_is_not_sent_on_a_connection_that_the_server_has_closed(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        await go.wait()

    go = asyncio.Event()
    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == b"ok"
    (connection,) = pool._idle
    # The server closes while our loop has not looked yet: only the socket itself can tell.
    connection._transport.pause_reading()
    go.set()
    sock = connection._transport.get_extra_info("socket")
    peer = socket.socket(fileno=socket.dup(sock.fileno()))
    peer.setblocking(False)

    def hung_up() -> bool:
        try:
            return peer.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False

    await net.until(hung_up)
    peer.close()
    assert connection.reusable(connection.since)
    assert not connection.reusable(connection.since + 1)
    pool.now += 1
    assert await ask(pool, "POST").result() == b"ok"


async def test_an_answer_that_nobody_asked_for_closes_the_connection(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await writer.drain()
        await go.wait()
        writer.write(OK)
        await reader.read()

    go = asyncio.Event()
    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == b"ok"
    go.set()
    await net.until(lambda: pool.connections == 0)


@pytest.mark.parametrize("more", [b"x", b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
async def test_bytes_behind_an_answer_are_never_taken_for_the_next(
    net: Harness, more: bytes
) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + more)
        await reader.read()

    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == b"ok"
    assert pool.connections == 0


async def test_a_connection_is_not_kept_when_the_server_closes_it(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await reader.read()

    pool = net.pool(await net.upstream(script))
    assert await ask(pool).result() == b"ok"
    assert pool.connections == 0


async def test_a_connection_is_not_used_again_after_an_event_stream(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nKeep-Alive: timeout=5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\n:\n\n\r\n0\r\n\r\n"
        )

    pool = net.pool(await net.upstream(script))
    # The second is sent before the loop can see that the server has closed.
    for _ in range(2):
        assert await ask(pool, "POST").result() == b":\n\n"
    assert pool.connections == 0


async def test_an_early_answer_drops_a_connection_that_takes_no_body(net: Harness) -> None:
    async def script(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await seen.wait()
        writer.write(OK)
        await gone.wait()

    seen, gone = asyncio.Event(), asyncio.Event()
    pool = net.pool(await net.upstream(script))
    sink = Sink()
    request = pool.request("POST", b"/", [], b"x" * 32 * 2**20, sink)
    await net.until(lambda: request.connection is not None)
    connection = request.connection
    assert connection is not None
    seen.set()
    assert await sink.result() == b"ok"
    assert pool.connections == 0
    await net.until(lambda: connection._parser is None)  # lost, not waiting
    gone.set()


async def test_a_connection_that_cannot_be_opened_in_time_is_a_timeout(net: Harness) -> None:
    # A listener that never accepts: once its backlog is full, connecting takes for ever.
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    fillers = [socket.socket() for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    pool = net.pool(listener.getsockname()[1], connect_timeout=0.05)
    assert await ask(pool).result() == "timeout"
    for each in (*fillers, listener):
        each.close()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99_999), ("\0", 80), ("a" * 300, 80)])
async def test_a_place_that_cannot_be_is_refused(net: Harness, host: str, port: int) -> None:
    pool = UpstreamPool(Origin(host=host, port=port))
    net.pools.append(pool)
    assert await ask(pool).result() == "refused"


async def test_pausing_stops_reading_and_resuming_goes_on(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port, idle_read_timeout=20)
    sink = Sink()
    request = pool.request("GET", b"/", [], b"", sink)
    exchange = await desk.next()
    exchange.start(200)
    await net.until(lambda: sink.status == 200)
    request.pause()
    while not exchange.paused:
        exchange.write(b"x" * 65_536)
    exchange.finish()
    pool.sweep(now() + 1000)  # the wait is ours, not the server's
    assert sink.body == b""
    request.resume()
    assert isinstance(await sink.result(), bytes)
    assert len(sink.body) >= 65_536


async def test_a_pause_before_the_connection_is_open_holds(net: Harness) -> None:
    _, port = await net.serve(ok)
    pool = net.pool(port)
    sink = Sink()
    request = pool.request("GET", b"/", [], b"", sink)
    request.pause()
    await net.until(lambda: request.connection is not None)
    assert request.connection is not None
    assert request.connection._paused
    request.resume()
    assert await sink.result() == b"ok"


async def test_close_ends_every_request_with_an_error(net: Harness) -> None:
    desk, _, port = await net.desk()
    pool = net.pool(port, max_connections=1)
    sinks = [ask(pool), ask(pool)]
    await desk.next()
    await pool.close()
    assert [await sink.result() for sink in sinks] == ["closed", "closed"]
    assert pool.connections == 0


async def test_close_ends_a_request_whose_connection_is_being_opened(net: Harness) -> None:
    _, port = await net.serve(ok)
    pool = net.pool(port)
    sink = ask(pool)
    await pool.close()
    assert await sink.result() == "closed"


@pytest.mark.parametrize(
    ("url", "authority", "port"),
    [
        ("http://127.0.0.1:8080", b"127.0.0.1:8080", 8080),
        ("http://example.org/path", b"example.org", 80),
        ("http://[::1]:81", b"[::1]:81", 81),
        ("https://example.org", b"example.org", 443),
    ],
)
async def test_an_origin_is_read_from_a_url(url: str, authority: bytes, port: int) -> None:
    origin = Origin.parse(url)
    assert (origin.authority, origin.port) == (authority, port)
    assert (origin.ssl is not None) == url.startswith("https")


@pytest.mark.parametrize("url", ["ftp://a", "a:80", "http://", "", "http://a:99999"])
async def test_what_is_no_http_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError):
        Origin.parse(url)


@pytest.mark.parametrize("own", [False, True])
async def test_the_last_descriptors_are_for_our_own_calls_and_not_for_clients_requests(
    net: Harness, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    _, port = await net.serve(ok)
    pool = UpstreamPool(Origin("127.0.0.1", port), own_calls=own)
    monkeypatch.setattr(descriptors, "last", lambda: 0)
    sink = ask(pool)
    assert await sink.result() == (b"ok" if own else "refused")
    assert own or "no file descriptor is left" in str(sink.error)
    await pool.close()
