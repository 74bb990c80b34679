"""Streamed bodies and tunnels over TLS, where a transport pauses, closes and resets otherwise."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.http.conftest import PATIENCE, RawClient, Watcher
from tests.http.test_tunnel import MIB, Seen, within
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from stoker.http import Exchange, Origin, Outcome, UpstreamPool, relay, tunnel

if TYPE_CHECKING:
    from tests.http.conftest import Harness


@dataclass
class Front:
    """TLS towards the client and towards the upstream."""

    net: Harness
    server_tls: ssl.SSLContext
    client_tls: ssl.SSLContext
    port: int = 0

    async def before(self, upstream: int) -> Front:
        origin = Origin.tcp("127.0.0.1", upstream, ssl=self.client_tls)
        self.pool = UpstreamPool(origin)
        self.net.pools.append(self.pool)
        self.watcher = Watcher()
        self.seen = Seen()

        def handle(exchange: Exchange) -> None:
            if exchange.upgrade:
                tunnel(exchange, self.pool, observer=self.seen)
            else:
                relay(exchange, self.pool, observer=self.watcher)

        self.server, _ = await self.net.serve(
            handle, stream_body=lambda _: 2**40, accept_upgrade=lambda _: True
        )
        self.port = await self.server.listen(ssl=self.server_tls)
        return self

    async def dial(self) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.client_tls)
        client = RawClient(reader, writer)
        self.net.clients.append(client)
        return client


@pytest.fixture
async def front(net: Harness, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> Front:
    return Front(net, server_tls, client_tls)


def post(length: int) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length


async def test_a_body_passes_and_its_reader_sets_the_pace(front: Front, net: Harness) -> None:
    desk, model, _ = await net.desk(stream_body=lambda _: 2**40)
    await front.before(await model.listen(ssl=front.server_tls))
    client = await front.dial()
    total = 32 * MIB
    client.send(post(total) + bytes(total))
    exchange = await desk.next()
    assert exchange.source is not None
    await net.until(lambda: any(c._read_paused for c in front.server.open))  # type: ignore[union-attr]
    size = 0

    def part(data: bytes) -> None:
        nonlocal size
        size += len(data)

    exchange.source.take(part, lambda: exchange.respond(200, b"%d" % size))
    assert (await client.answer()).body == b"%d" % total
    assert front.watcher.outcomes == [Outcome.COMPLETE]


async def test_an_early_answer_reaches_a_client_that_still_sends(
    front: Front, net: Harness
) -> None:
    desk, model, _ = await net.desk(stream_body=lambda _: 2**40)
    await front.before(await model.listen(ssl=front.server_tls))
    client = await front.dial()
    client.send(post(2**30) + bytes(MIB))
    (await desk.next()).respond(413, b"big")
    answer = await client.answer()
    assert (answer.status, answer.body) == (413, b"big")
    await client.closed()
    await net.until(lambda: front.server.connections == 0)


async def test_a_websocket_passes(front: Front, net: Harness) -> None:
    async def talk(peer: ServerConnection) -> None:
        async for message in peer:
            await peer.send(message)
            if message == "end":
                await peer.close(4001, "enough")

    async with serve(talk, "127.0.0.1", 0, ssl=front.server_tls, max_size=8 * MIB) as model:
        await front.before(model.sockets[0].getsockname()[1])
        async with connect(
            f"wss://127.0.0.1:{front.port}/",
            ssl=front.client_tls,
            open_timeout=PATIENCE,
            max_size=8 * MIB,
            proxy=None,
        ) as client:
            for message in ("text", bytes(4 * MIB), "end"):
                await client.send(message)
                assert await within(client.recv()) == message
            with pytest.raises(ConnectionClosed):
                await within(client.recv())
            assert client.close_code == 4001
        await net.until(lambda: front.server.connections == front.pool.connections == 0)
    assert [done[:2] for done in front.seen.done] == [(Outcome.COMPLETE, 101)]


async def test_a_websocket_whose_server_dies_ends(front: Front, net: Harness) -> None:
    async def die(peer: ServerConnection) -> None:
        await peer.recv()
        peer.transport.abort()

    async with serve(die, "127.0.0.1", 0, ssl=front.server_tls) as model:
        await front.before(model.sockets[0].getsockname()[1])
        async with connect(
            f"wss://127.0.0.1:{front.port}/", ssl=front.client_tls, proxy=None
        ) as client:
            await client.send("x")
            with pytest.raises(ConnectionClosed):
                await within(client.recv())
        await net.until(lambda: front.server.connections == front.pool.connections == 0)
    assert len(front.seen.done) == 1
