from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvloop

from stoker.http import HttpServer, Limits, Origin, Outcome, RelayObserver, UpstreamPool, relay
from stoker.http.exchange import Exchange
from stoker.http.messages import Headers

PATIENCE = 30.0  # seconds for anything that is sure to happen


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test here runs on both loops: uvloop serves, asyncio is the reference."""
    del config, item
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    chunked: bool


class RawClient:
    """A client that sends exactly the given bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, head: bool = False) -> Answer:
        async with asyncio.timeout(PATIENCE):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
            headers = dict(line.lower().split(b": ", 1) for line in lines)
            status = int(first.split(b" ")[1])
            chunked = headers.get(b"transfer-encoding") == b"chunked"
            if head or status in (204, 304) or status < 200:
                body = b""
            elif b"content-length" in headers:
                body = await self.reader.readexactly(int(headers[b"content-length"]))
            elif chunked:
                parts = []
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    parts.append((await self.reader.readexactly(size + 2))[:-2])
                body = b"".join(parts)
                assert await self.reader.readexactly(2) == b"\r\n"
            else:
                body = await self.reader.read()
            return Answer(status, headers, body, chunked)

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()

    async def closed(self) -> None:
        """Until the server has closed, however roughly."""
        with contextlib.suppress(ConnectionError):
            await self.rest()

    def leave(self) -> None:
        self.writer.transport.abort()


class Desk:
    """A handler that keeps the exchanges for the test to answer."""

    def __init__(self) -> None:
        self.seen = 0
        self._exchanges: asyncio.Queue[Exchange] = asyncio.Queue()

    def __call__(self, exchange: Exchange) -> None:
        self.seen += 1
        self._exchanges.put_nowait(exchange)

    async def next(self) -> Exchange:
        async with asyncio.timeout(PATIENCE):
            return await self._exchanges.get()


@dataclass
class Harness:
    """Starts servers, upstreams and clients on loopback, and ends them."""

    servers: list[HttpServer] = field(default_factory=list)
    pools: list[UpstreamPool] = field(default_factory=list)
    clients: list[RawClient] = field(default_factory=list)
    raw: list[asyncio.Server] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def serve(
        self,
        handler: Callable[[Exchange], object],
        limits: Limits | None = None,
        **hooks: Any,
    ) -> tuple[HttpServer, int]:
        server = HttpServer(handler, limits, on_refused=self.refused.append, **hooks)
        self.servers.append(server)
        return server, await server.listen()

    async def desk(
        self, limits: Limits | None = None, **hooks: Any
    ) -> tuple[Desk, HttpServer, int]:
        """A server whose exchanges wait for the test."""
        desk = Desk()
        return desk, *await self.serve(desk, limits, **hooks)

    async def dial(self, port: int) -> RawClient:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        client = RawClient(reader, writer)
        self.clients.append(client)
        return client

    async def ask(self, port: int, data: bytes) -> Answer:
        client = await self.dial(port)
        client.send(data)
        return await client.answer()

    async def upstream(
        self, script: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> int:
        """A raw server: `script` runs for each connection, which is closed after it."""

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self.tasks.append(task)
            try:
                await script(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        server = await asyncio.start_server(run, "127.0.0.1", 0)
        self.raw.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def pool(self, port: int, **options: float) -> UpstreamPool:
        pool = UpstreamPool(Origin.tcp("127.0.0.1", port), **options)  # type: ignore[arg-type]
        self.pools.append(pool)
        return pool

    async def front(
        self, port: int, limits: Limits | None = None, *, stream: bool = False, **options: float
    ) -> tuple[int, Watcher]:
        """A relay before the upstream on `port`; `stream`: bodies pass as they arrive."""
        pool = self.pool(port, **options)
        watcher = Watcher()
        hooks = {"stream_body": lambda _: 2**40} if stream else {}
        _, front = await self.serve(
            lambda exchange: relay(exchange, pool, observer=watcher), limits, **hooks
        )
        return front, watcher

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the loop turn until something is so."""
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 -- there is no event to wait for
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        for client in self.clients:
            client.leave()
        for server in self.servers:
            await server.drain(0)
        for pool in self.pools:
            await pool.close()
        for raw in self.raw:
            raw.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Watcher(RelayObserver):
    """Keeps what a relay told."""

    def __init__(self) -> None:
        self.heads: list[tuple[int, Headers]] = []
        self.data = b""
        self.outcomes: list[Outcome] = []
        self.statuses: list[int] = []
        self.done = asyncio.Event()

    def on_head(self, status: int, headers: Headers) -> None:
        self.heads.append((status, headers))

    def on_data(self, data: bytes) -> None:
        self.data += data

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        self.outcomes.append(outcome)
        self.statuses.append(status)
        self.done.set()

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(PATIENCE):
            await self.done.wait()
        return self.outcomes[0]


@pytest.fixture
async def net() -> AsyncIterator[Harness]:
    harness = Harness()
    yield harness
    await harness.end()


@pytest.fixture
def server_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


@pytest.fixture
def client_tls(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate[0]))
