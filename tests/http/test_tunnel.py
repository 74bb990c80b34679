"""WebSockets through the engine, with real peers on both sides: `websockets` and `aiohttp`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from tests.http.conftest import PATIENCE
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from stoker.http import Exchange, Limits, Outcome, Tunnel, TunnelObserver, tunnel
from stoker.http.tunnel import TunnelEnd

if TYPE_CHECKING:
    from tests.http.conftest import Harness

MIB = 2**20


class Seen(TunnelObserver):
    """Keeps what a tunnel told."""

    def __init__(self) -> None:
        self.opened: list[int] = []
        self.up = self.down = 0
        self.done: list[tuple[Outcome, int, str]] = []

    def on_open(self, status: int) -> None:
        self.opened.append(status)

    def on_data(self, up: int, down: int) -> None:
        self.up += up
        self.down += down

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        self.done.append((outcome, status, detail))


class Front:
    """A server with a tunnel to `port`, and what became of it."""

    def __init__(self, net: Harness, port: int) -> None:
        self.net = net
        self.pool = net.pool(port)
        self.seen = Seen()
        self.tunnels: list[Tunnel] = []
        self.options: dict[str, Any] = {}
        self.port = 0

    async def listen(self, limits: Limits | None = None) -> Front:
        self.server, self.port = await self.net.serve(
            self.handle, limits, accept_upgrade=lambda exchange: exchange.path.startswith("/ws")
        )
        return self

    def handle(self, exchange: Exchange) -> None:
        if exchange.upgrade:
            self.tunnels.append(tunnel(exchange, self.pool, observer=self.seen, **self.options))
        else:
            exchange.respond(200, b"plain")

    async def over(self) -> tuple[Outcome, int, str]:
        await self.net.until(lambda: bool(self.seen.done))
        await self.net.until(lambda: self.server.connections == self.pool.connections == 0)
        (done,) = self.seen.done
        return done

    def dial(self, **options: Any) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}/ws?a=b", open_timeout=PATIENCE, proxy=None, **options
        )


Talk = Callable[[ServerConnection], Awaitable[None]]


@contextlib.asynccontextmanager
async def model(talk: Talk, **options: Any) -> AsyncIterator[int]:
    """A WebSocket server of the `websockets` package."""
    async with serve(talk, "127.0.0.1", 0, **options) as server:
        yield server.sockets[0].getsockname()[1]


async def echo(peer: ServerConnection) -> None:
    async for message in peer:
        await peer.send(message)


async def within(work: Awaitable[Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        return await work


def held(ends: Iterable[object]) -> bool:
    """Whether one of them is a tunnel's, and not read."""
    return any(isinstance(end, TunnelEnd) and end._held for end in ends)


async def test_text_and_binary_pass_both_ways(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()
        async with front.dial(compression=None) as client:
            for message in ("", "text \u2603", b"", bytes(range(256)), "x" * 100_000):
                await client.send(message)
                assert await within(client.recv()) == message
            assert (front.server.connections, front.pool.connections) == (1, 1)
        assert (await front.over())[:2] == (Outcome.COMPLETE, 101)
    assert front.seen.opened == [101]
    assert front.seen.up > 100_000 < front.seen.down


async def test_the_upstream_sees_the_clients_request(net: Harness) -> None:
    async def tell(peer: ServerConnection) -> None:
        request = peer.request
        assert request is not None
        names = sorted(name.lower() for name in request.headers if "sec-" not in name.lower())
        await peer.send(f"{request.path} {names} {request.headers['Host']}")

    async with model(tell) as port:
        front = await Front(net, port).listen()
        async with front.dial(
            additional_headers={"X-A": "b", "Proxy-Authorization": "secret"}, compression=None
        ) as client:
            expected = ["connection", "host", "upgrade", "user-agent", "x-a"]
            assert await within(client.recv()) == f"/ws?a=b {expected} 127.0.0.1:{port}"


async def test_target_and_headers_can_be_replaced(net: Harness) -> None:
    async def tell(peer: ServerConnection) -> None:
        request = peer.request
        assert request is not None
        await peer.send(f"{request.path} {request.headers.get('Authorization')}")

    async with model(tell) as port:
        front = await Front(net, port).listen()

        def handle(exchange: Exchange) -> None:
            kept = [header for header in exchange.headers if header[0] != b"authorization"]
            tunnel(exchange, front.pool, target=b"/inner", headers=kept)

        front.server.handler = handle
        async with front.dial(additional_headers={"Authorization": "secret"}) as client:
            assert await within(client.recv()) == "/inner None"


async def test_a_fragmented_message_stays_fragmented(net: Harness) -> None:
    frames: list[str] = []

    async def collect(peer: ServerConnection) -> None:
        frames.extend([frame async for frame in peer.recv_streaming()])  # type: ignore[misc]
        await peer.send(iter(["d", "e", "f"]))

    async with model(collect) as port:
        front = await Front(net, port).listen()
        async with front.dial(compression=None) as client:
            await client.send(iter(["a", "b", "c"]))
            got = [frame async for frame in client.recv_streaming()]
    assert [frame for frame in frames if frame] == ["a", "b", "c"]
    assert [frame for frame in got if frame] == ["d", "e", "f"]


async def test_pings_and_pongs_pass(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()
        async with front.dial() as client:
            await within(await client.ping(b"12"))


async def test_compression_is_the_peers_own_affair(net: Harness) -> None:
    text = "the same words again and again " * 20_000
    async with model(echo) as port:
        front = await Front(net, port).listen()
        async with front.dial(
            compression=None, extensions=[ClientPerMessageDeflateFactory()]
        ) as client:
            assert [extension.name for extension in client.protocol.extensions] == [
                "permessage-deflate"
            ]
            await client.send(text)
            assert await within(client.recv()) == text
    assert len(zlib.compress(text.encode())) < front.seen.up < len(text) / 10


@pytest.mark.parametrize("closes", ["client", "server"])
async def test_close_codes_arrive(net: Harness, closes: str) -> None:
    got: list[tuple[int | None, str | None]] = []

    async def talk(peer: ServerConnection) -> None:
        if closes == "server":
            await peer.close(4001, "enough")
        await peer.wait_closed()
        got.append((peer.close_code, peer.close_reason))

    async with model(talk) as port:
        front = await Front(net, port).listen()
        async with front.dial() as client:
            if closes == "client":
                await client.close(4001, "enough")
            else:
                with pytest.raises(ConnectionClosed):
                    await within(client.recv())
            assert (client.close_code, client.close_reason) == (4001, "enough")
        outcome, _, _ = await front.over()
    assert got == [(4001, "enough")]
    assert outcome is Outcome.COMPLETE


async def test_a_subprotocol_is_agreed_on_by_the_peers(net: Harness) -> None:
    async with model(echo, subprotocols=["second"]) as port:
        front = await Front(net, port).listen()
        async with front.dial(subprotocols=["first", "second"]) as client:
            assert client.subprotocol == "second"


async def test_a_subprotocol_of_ours_is_taken_up_where_the_upstream_names_none(
    net: Harness,
) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()

        def handle(exchange: Exchange) -> None:
            headers = [h for h in exchange.headers if h[0] != b"sec-websocket-protocol"]
            tunnel(exchange, front.pool, headers=headers, protocol=b"ours.abc")

        front.server.handler = handle
        async with front.dial(subprotocols=["ours.abc"]) as client:
            assert client.subprotocol == "ours.abc"


async def test_large_messages_and_a_slow_reader_keep_memory_bounded(net: Harness) -> None:
    sent = 0

    async def pour(peer: ServerConnection) -> None:
        nonlocal sent
        for _ in range(64):
            await peer.send(bytes(MIB))
            sent += 1

    async with model(pour, compression=None) as port:
        front = await Front(net, port).listen()
        async with front.dial(compression=None, max_size=2 * MIB, max_queue=1) as client:
            await net.until(lambda: held(front.pool._open))
            (end,) = front.server.open
            assert isinstance(end, TunnelEnd)
            assert end._transport.get_write_buffer_size() <= 65_536 + 262_144
            assert sent < 64
            for _ in range(64):
                assert len(await within(client.recv())) == MIB
    assert front.seen.down > 64 * MIB


async def test_a_slow_upstream_makes_the_client_wait(net: Harness) -> None:
    go = asyncio.Event()
    got: list[int] = []

    async def wait(peer: ServerConnection) -> None:
        await go.wait()
        async for message in peer:
            got.append(len(message))

    async with model(wait, compression=None, max_size=2 * MIB, max_queue=1) as port:
        front = await Front(net, port).listen()
        async with front.dial(compression=None) as client:

            async def pour() -> None:
                for _ in range(64):
                    await client.send(bytes(MIB))

            task = asyncio.create_task(pour())
            await net.until(lambda: held(front.server.open))
            (end,) = front.pool._open
            assert end._transport.get_write_buffer_size() <= 65_536 + 262_144
            assert not task.done()
            go.set()
            await within(task)
        await front.over()
    assert got == [MIB] * 64


@pytest.mark.parametrize("dies", ["client", "upstream"])
async def test_a_side_that_is_reset_while_it_is_not_read_is_noticed(
    net: Harness, dies: str
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        if dies == "upstream":
            writer.write(bytes(32 * MIB))
            await over.wait()
            reset(writer)
        else:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await over.wait()

    over = asyncio.Event()
    front = await Front(net, await net.upstream(script)).listen()
    client = await net.dial(front.port)
    client.send(HEAD)
    assert (await client.answer()).status == 101
    if dies == "client":
        client.send(bytes(32 * MIB))
        await net.until(lambda: held(front.server.open))
        reset(client.writer)
    else:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await net.until(lambda: held(front.pool._open))
        over.set()

    def noticed() -> bool:
        front.server.sweep(front.server.now)
        front.pool.sweep(front.pool.now)
        return bool(front.seen.done)

    await net.until(noticed)
    over.set()
    gone = Outcome.CLIENT_GONE if dies == "client" else Outcome.UPSTREAM_CLOSED
    assert [done[:2] for done in front.seen.done] == [(gone, 101)]


async def test_a_client_that_leaves_before_the_answer_is_noticed_though_not_read(
    net: Harness,
) -> None:
    desk, above, port = await net.desk(accept_upgrade=lambda _: True)
    front = await Front(net, port).listen()
    client = await net.dial(front.port)
    client.send(HEAD + bytes(66_000))
    await desk.next()
    await net.until(lambda: any(c._read_paused for c in front.server.open))  # type: ignore[union-attr]
    client.leave()

    def noticed() -> bool:
        front.server.sweep(front.server.now)
        return bool(front.seen.done)

    await net.until(noticed)
    assert (await front.over())[:2] == (Outcome.CLIENT_GONE, 0)
    await net.until(lambda: above.connections == 0)


async def test_a_server_that_dies_ends_the_client(net: Harness) -> None:
    async def die(peer: ServerConnection) -> None:
        await peer.recv()
        peer.transport.abort()

    async with model(die) as port:
        front = await Front(net, port).listen()
        async with front.dial() as client:
            await client.send("x")
            with pytest.raises(ConnectionClosedError):
                await within(client.recv())
        outcome, status, _ = await front.over()
    assert (outcome in (Outcome.COMPLETE, Outcome.UPSTREAM_CLOSED), status) == (True, 101)


@pytest.mark.parametrize("side", [Outcome.CLIENT_GONE, Outcome.UPSTREAM_CLOSED])
async def test_a_reset_is_told_from_an_end(net: Harness, side: Outcome) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED)
        if side is Outcome.UPSTREAM_CLOSED:
            await reader.read(1)
            reset(writer)
        await reader.read()

    front = await Front(net, await net.upstream(script)).listen()
    client = await net.dial(front.port)
    client.send(HEAD)
    assert (await client.answer()).status == 101
    if side is Outcome.CLIENT_GONE:
        reset(client.writer)
    else:
        client.send(b"x")
        await client.closed()
    assert (await front.over())[:2] == (side, 101)


def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_a_client_that_dies_ends_the_server(net: Harness) -> None:
    over = asyncio.Event()

    async def listen(peer: ServerConnection) -> None:
        await peer.wait_closed()
        over.set()

    async with model(listen) as port:
        front = await Front(net, port).listen()
        client = await front.dial()
        client.transport.abort()
        await within(over.wait())
        outcome, status, _ = await front.over()
    assert (outcome in (Outcome.COMPLETE, Outcome.CLIENT_GONE), status) == (True, 101)


async def test_an_upstream_that_refuses_is_quoted(net: Harness) -> None:
    for status in (403, 404):

        def refuse(exchange: Exchange, status: int = status) -> None:
            exchange.respond(status, b'{"error": "no"}', headers=[(b"x-why", b"policy")])

        _, port = await net.serve(refuse, accept_upgrade=lambda _: True)
        front = await Front(net, port).listen()
        with pytest.raises(InvalidStatus) as raised:
            await front.dial()
        response = raised.value.response
        assert (response.status_code, response.body) == (status, b'{"error": "no"}')
        assert response.headers["X-Why"] == "policy"
        assert front.seen.opened == [status]
        await net.until(lambda front=front: front.server.connections == 0)
        assert front.seen.done == [(Outcome.COMPLETE, status, "")]
        assert front.seen.down == len(b'{"error": "no"}')


async def test_an_upstream_that_is_not_there_is_a_502(net: Harness) -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    front = await Front(net, port).listen()
    with pytest.raises(InvalidStatus) as raised:
        await front.dial()
    assert raised.value.response.status_code == 502
    assert [done[:2] for done in front.seen.done] == [(Outcome.UPSTREAM_REFUSED, 502)]


async def test_aiohttp_talks_to_aiohttp(net: Harness) -> None:
    async def handle(request: web.Request) -> web.WebSocketResponse:
        peer = web.WebSocketResponse(protocols=["chat"])
        await peer.prepare(request)
        async for message in peer:
            if message.type is aiohttp.WSMsgType.TEXT:
                await peer.send_str(message.data + "!")
            else:
                await peer.send_bytes(message.data)
        return peer

    app = web.Application()
    app.router.add_get("/ws", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    front = await Front(net, port).listen()
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{front.port}/ws", protocols=["chat"]) as client,
    ):
        assert client.protocol == "chat"
        await client.send_str("hello")
        assert await client.receive_str(timeout=PATIENCE) == "hello!"
        await client.send_bytes(bytes(MIB))
        assert await client.receive_bytes(timeout=PATIENCE) == bytes(MIB)
        await client.close(code=4002)
    assert (await front.over())[0] is Outcome.COMPLETE
    await runner.cleanup()


async def test_an_idle_tunnel_is_cut(net: Harness) -> None:
    async with model(echo, ping_interval=None) as port:
        front = await Front(net, port).listen(Limits(tunnel_idle_timeout=100))
        async with front.dial(ping_interval=None) as client:
            server = front.server
            server.sweep(server.now + 90)
            await client.send("a byte either way is life")
            await within(client.recv())
            server.sweep(server.now + 90)
            assert not front.seen.done
            server.sweep(server.now + 20)
            with pytest.raises(ConnectionClosedError):
                await within(client.recv())
        assert await front.over() == (Outcome.ABORTED, 101, "nothing passed for 100 s")


async def test_the_servers_end_cuts_tunnels_when_its_time_is_up(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()
        async with front.dial() as client:
            ending = asyncio.create_task(front.server.drain(0.05))
            await client.send("still")
            assert await within(client.recv()) == "still"
            await within(ending)
            with pytest.raises(ConnectionClosedError):
                await within(client.recv())
        assert await front.over() == (Outcome.ABORTED, 101, "the server stops")


async def test_the_end_of_the_pool_cuts_its_tunnels(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()
        async with front.dial() as client:
            await front.pool.close()
            with pytest.raises(ConnectionClosedError):
                await within(client.recv())
        assert await front.over() == (Outcome.ABORTED, 101, "the pool is closed")


async def test_the_application_can_abort_an_open_tunnel(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()
        async with front.dial() as client:
            front.tunnels[0].abort()
            front.tunnels[0].abort()
            with pytest.raises(ConnectionClosedError):
                await within(client.recv())
        assert await front.over() == (Outcome.ABORTED, 101, "aborted")


async def test_a_tunnel_counts_as_a_connection(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen(Limits(max_connections=1))
        async with front.dial() as client:
            assert (await net.ask(front.port, HEAD)).status == 503
            await client.send("on")
            assert await within(client.recv()) == "on"


# --- byte by byte

HEAD = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n"
    b"X-A: b\r\n\r\n"
)


async def test_what_came_with_the_heads_is_passed_on(net: Harness) -> None:
    got: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n" + SWITCHED + b"down")
        got.append(await reader.readexactly(4))
        writer.write(b"more")

    front = await Front(net, await net.upstream(script)).listen()
    client = await net.dial(front.port)
    client.send(HEAD + b"early"[:2])
    client.send(b"up")
    answer = await client.answer()
    assert answer.status == 101
    assert answer.headers[b"connection"] == b"upgrade"
    assert answer.headers[b"upgrade"] == b"websocket"
    assert answer.headers[b"x-a"] == b"b"
    assert await client.rest() == b"downmore"
    assert got == [b"eaup"]
    assert await front.over() == (Outcome.COMPLETE, 101, "the upstream closed")


async def test_what_comes_before_the_answer_is_bounded(net: Harness) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        writer.write(SWITCHED)
        got.append(len(await reader.readexactly(8 * MIB)))

    got: list[int] = []
    go = asyncio.Event()
    front = await Front(net, await net.upstream(script)).listen()
    client = await net.dial(front.port)
    client.send(HEAD + bytes(8 * MIB))
    await net.until(lambda: any(c._read_paused for c in front.server.open))  # type: ignore[union-attr]
    assert 0 < front.server.buffered <= 65_536 + 262_144
    go.set()
    assert (await client.answer()).status == 101
    assert await client.rest() == b""
    assert (got, front.server.buffered) == ([8 * MIB], 0)


async def test_too_much_before_the_answer_is_refused(net: Harness) -> None:
    desk, server, port = await net.desk(
        Limits(max_buffered_bytes=100), accept_upgrade=lambda _: True
    )
    client = await net.dial(port)
    client.send(HEAD)
    exchange = await desk.next()
    gone: list[int] = []
    exchange.on_disconnect = lambda: gone.append(1)
    client.send(bytes(101))
    assert (await client.answer()).status == 503
    assert (gone, server.buffered, net.refused) == ([1], 0, ["too_many_bytes"])


async def test_too_much_behind_an_upgrade_that_waits_is_refused_in_its_turn(net: Harness) -> None:
    limits = Limits(max_buffered_bytes=100)
    desk, server, port = await net.desk(limits, accept_upgrade=lambda _: True)
    client = await net.dial(port)
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + HEAD + bytes(101))
    (await desk.next()).respond(200, b"first")
    assert (await client.answer()).body == b"first"
    assert (await client.answer()).status == 503
    assert (desk.seen, server.buffered) == (1, 0)


async def test_a_client_that_leaves_before_the_answer_aborts_the_upstream(net: Harness) -> None:
    desk, above, port = await net.desk(accept_upgrade=lambda _: True)
    front = await Front(net, port).listen()
    client = await net.dial(front.port)
    client.send(HEAD)
    await desk.next()
    client.leave()
    assert (await front.over())[:2] == (Outcome.CLIENT_GONE, 0)
    await net.until(lambda: above.connections == 0)


async def test_an_upgrade_that_is_aborted_before_its_answer_is_left_to_the_caller(
    net: Harness,
) -> None:
    desk, above, port = await net.desk(accept_upgrade=lambda _: True)
    front = await Front(net, port).listen()
    client = await net.dial(front.port)
    client.send(HEAD)
    await desk.next()
    front.tunnels[0].abort()
    front.tunnels[0]._exchange.respond(504)
    answer = await client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (504, b"close")
    assert [done[0] for done in front.seen.done] == [Outcome.ABORTED]
    await net.until(lambda: above.connections == 0)


@pytest.mark.parametrize(
    "head",
    [
        HEAD.replace(b"/ws", b"/other"),
        HEAD.replace(b"GET", b"POST"),
        HEAD.replace(b"websocket", b"other"),
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 1\r\n\r\nx"),
        HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ],
)
async def test_other_upgrades_are_refused_as_ever(net: Harness, head: bytes) -> None:
    front = await Front(net, 1).listen()
    assert (await net.ask(front.port, head)).status in (400, 501)
    assert not front.tunnels


async def test_without_the_hook_there_is_no_upgrade(net: Harness) -> None:
    desk, _, port = await net.desk()
    assert (await net.ask(port, HEAD)).status == 501
    assert desk.seen == 0


async def test_an_answer_to_an_upgrade_closes_the_connection(net: Harness) -> None:
    desk, _, port = await net.desk(accept_upgrade=lambda _: True)
    client = await net.dial(port)
    client.send(HEAD + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    (await desk.next()).respond(401, b"who?")
    answer = await client.answer()
    assert (answer.status, answer.body, answer.headers[b"connection"]) == (401, b"who?", b"close")
    assert await client.rest() == b""
    assert desk.seen == 1


async def test_an_upgrade_waits_for_the_requests_before_it(net: Harness) -> None:
    async with model(echo) as port:
        front = await Front(net, port).listen()
        held: list[Exchange] = []
        whole = front.handle
        front.server.handler = lambda e: whole(e) if e.upgrade else held.append(e)
        client = await net.dial(front.port)
        key = b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n"
        text = b"\x81\x82\x00\x00\x00\x00hi"
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + HEAD[:-2] + key + b"\r\n" + text)
        await net.until(lambda: bool(held))
        assert not front.tunnels
        held[0].respond(200, b"first")
        assert (await client.answer()).body == b"first"
        assert (await client.answer()).status == 101
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.readexactly(4) == b"\x81\x02hi"
        client.leave()


@pytest.mark.parametrize(
    "answer",
    [
        SWITCHED.replace(b"Connection: Upgrade\r\n", b""),
        SWITCHED.replace(b"Upgrade: WebSocket\r\n", b""),
        SWITCHED.replace(b"WebSocket", b"h2c"),
    ],
)
async def test_a_switch_that_was_not_asked_for_is_not_valid(net: Harness, answer: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await reader.read()

    front = await Front(net, await net.upstream(script)).listen()
    client = await net.dial(front.port)
    client.send(HEAD)
    assert (await client.answer()).status == 502
    client.leave()
    assert (await front.over())[:2] == (Outcome.UPSTREAM_MALFORMED, 502)


async def test_a_plain_request_is_no_tunnel(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")
    exchange = await desk.next()
    with pytest.raises(ValueError):
        tunnel(exchange, net.pool(port))


async def test_a_side_that_takes_no_more_is_not_waited_for_for_ever(net: Harness) -> None:
    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(SWITCHED + bytes(16 * MIB))
        await reader.read()

    front = await Front(net, await net.upstream(pour)).listen()
    client = await net.dial(front.port)
    client.send(HEAD)
    await net.until(lambda: held(front.pool._open))
    front.tunnels[0].end(Outcome.COMPLETE, "over")
    await net.until(lambda: front.pool.connections == 0)
    server = front.server
    server.sweep(server.now + 5)
    assert server.connections == 1  # it may still take what waits for it
    server.sweep(server.now + 10)
    await net.until(lambda: server.connections == 0)
