from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import TYPE_CHECKING

from stoker.http import Exchange, relay, tunnel

if TYPE_CHECKING:
    from tests.http.conftest import Harness


def ours() -> Counter[str]:
    """How many objects of the engine there are, by their type."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(
        kind.__name__ for kind in kinds if str(kind.__module__).startswith("stoker.http.")
    )


async def test_what_is_over_needs_no_garbage_collector(net: Harness) -> None:
    """Its rounds are rare where `gc.freeze` is used, and a stop of milliseconds elsewhere."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"websocket" in head:
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\n"
                b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
            )
            writer.write(await reader.readexactly(3))
        else:
            await reader.readexactly(6)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    pool = net.pool(await net.upstream(script))

    def handle(exchange: Exchange) -> None:
        if exchange.upgrade:
            tunnel(exchange, pool)
        else:
            relay(exchange, pool)

    server, port = await net.serve(handle, stream_body=lambda _: 100, accept_upgrade=lambda _: True)
    upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    upload = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc"
    gc.collect()
    before = ours()
    gc.disable()
    try:
        for request, status in ((upgrade, 101), (upload, 200)):
            client = await net.dial(port)
            client.send(request)
            await net.until(lambda: pool.connections == 1)
            client.send(b"def")
            assert (await client.answer()).status == status
            client.leave()
            await net.until(lambda: server.connections == pool.connections == 0)
        await net.until(lambda: ours() <= before)
    finally:
        gc.enable()
