"""Accepting: what strangers hold open never takes the descriptors of our own calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stoker import descriptors
from stoker.http import Exchange, HttpServer, Limits, fetch
from stoker.http.accept import BATCH, Door
from stoker.http.limits import MIN_BODY_RATE

if TYPE_CHECKING:
    from tests.http.conftest import Harness

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def ok(exchange: Exchange) -> None:
    exchange.respond(200, b"ok")


def used() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def files(soft: int) -> Iterator[None]:
    """A soft limit of open files for this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_connection_that_would_need_the_reserve_gets_503_and_our_own_calls_go_on(
    net: Harness, capsys: pytest.CaptureFixture[str]
) -> None:
    _, port = await net.serve(ok)

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    upstream = await asyncio.start_server(model, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/health"
    statuses = []
    with files((used() + 40) * 4 // 3):
        for _ in range(60):
            client = await net.dial(port)
            client.send(GET)
            statuses.append((await client.answer()).status)
            if statuses[-1] == 503:
                break
        assert statuses[-1] == 503
        assert set(statuses[:-1]) == {200}
        assert (await fetch(url)).status == 200
        for _ in range(5):
            assert (await (await net.dial(port)).answer()).status == 503
        assert capsys.readouterr().err.count("too few file descriptors are left") == 1
        for client in net.clients:
            client.leave()
    await net.until(lambda: net.servers[0].connections == 0)
    assert (await fetch(f"http://127.0.0.1:{port}/")).status == 200
    upstream.close()


async def test_without_a_descriptor_accepting_rests_and_goes_on_later(
    net: Harness, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = 0
    accept = Door._accept

    def counted(door: Door, sock: socket.socket) -> None:
        nonlocal looks
        looks += 1
        accept(door, sock)

    monkeypatch.setattr(Door, "_accept", counted)
    monkeypatch.setattr("stoker.http.accept.PAUSE", 0.05)
    _, port = await net.serve(ok)
    client = socket.socket()
    client.setblocking(False)
    free = os.dup(0)
    os.close(free)
    loop = asyncio.get_running_loop()
    with files(free):
        await loop.sock_connect(client, ("127.0.0.1", port))
        await net.until(lambda: looks > 0)
        seen = looks
        for _ in range(1000):
            await asyncio.sleep(0)
        assert looks <= seen + 2
        assert "nothing can be accepted: Too many open files" in capsys.readouterr().err
    await loop.sock_sendall(client, GET)
    async with asyncio.timeout(5):
        assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200")
    client.close()


async def test_idle_connections_make_room_for_a_new_one_the_oldest_first(
    net: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.http.accept.IDLE_ENOUGH", 0.0)
    server, port = await net.serve(ok, Limits(max_connections=3))
    held, came = [], []
    for _ in range(3):
        held.append(await net.dial(port))
        held[-1].send(GET)
        assert (await held[-1].answer()).status == 200
        (latest,) = [one for one in server.open if one not in came]
        came.append(latest)
    for place, connection in enumerate(came):
        connection.since -= 10.0 - place  # each came a second after the one before it
    newest = await net.dial(port)
    newest.send(GET)
    assert (await newest.answer()).status == 200
    await held[0].closed()
    held[2].send(GET)
    assert (await held[2].answer()).status == 200


async def test_a_connection_with_a_request_makes_no_room(
    net: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.http.accept.IDLE_ENOUGH", 0.0)
    desk, server, port = await net.desk(Limits(max_connections=1))
    busy = await net.dial(port)
    busy.send(GET)
    await net.until(lambda: desk.seen == 1)
    assert (await (await net.dial(port)).answer()).status == 503
    assert server.connections == 1


async def test_the_open_connections_are_looked_over_only_so_often(
    net: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, server, port = await net.desk(Limits(max_connections=1))
    (await net.dial(port)).send(GET)
    await net.until(lambda: desk.seen == 1)
    looks = 0
    (connection,) = server.open
    idle_for = type(connection).idle_for

    def counted(connection: Any, now: float) -> float:
        nonlocal looks
        looks += 1
        return idle_for(connection, now)

    monkeypatch.setattr(type(connection), "idle_for", counted)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(30):
        assert (await (await net.dial(port)).answer()).status == 503
    assert 1 <= looks <= 1 + (loop.time() - began) / 0.05


async def test_a_connection_makes_no_room_while_the_task_that_opened_it_winds_up(
    net: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.http.accept.IDLE_ENOUGH", 0.0)
    done = asyncio.Event()
    hand_over = Door._hand_over

    async def slowly(*arguments: Any) -> None:
        await hand_over(*arguments)
        await done.wait()

    monkeypatch.setattr(Door, "_hand_over", slowly)
    desk, server, port = await net.desk(Limits(max_connections=1))
    busy = await net.dial(port)
    busy.send(GET)
    await net.until(lambda: desk.seen == 1)
    assert (await (await net.dial(port)).answer()).status == 503
    assert server.connections == 1
    done.set()


@pytest.mark.parametrize(
    "begun", [b"GET / HTTP/1.1\r\nHo", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"]
)
async def test_a_request_that_does_not_get_on_makes_room(
    net: Harness, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("stoker.http.accept.IDLE_ENOUGH", 0.01)
    server, port = await net.serve(ok, Limits(max_connections=1))
    slow = await net.dial(port)
    slow.send(begun)
    await net.until(lambda: any(one.idle_for(one.since) >= 0 and one.phase for one in server.open))
    server.open.copy().pop().since -= 10.0
    other = await net.dial(port)
    other.send(GET)
    assert (await other.answer()).status == 200
    await slow.closed()


async def test_a_body_that_keeps_coming_makes_no_room(net: Harness) -> None:
    server, port = await net.serve(ok, Limits(max_connections=1))
    client = await net.dial(port)
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n"
    client.send(head + bytes(4 * MIN_BODY_RATE))
    await net.until(lambda: any(one._body_size >= 4 * MIN_BODY_RATE for one in server.open))
    (connection,) = server.open
    assert connection.idle_for(connection.since + 3.9) == 0.0
    assert connection.idle_for(connection.since + 7.0) == pytest.approx(3.0)


async def test_a_half_open_tls_handshake_makes_room(
    net: Harness,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stoker.http.accept.IDLE_ENOUGH", 0.0)
    server = HttpServer(ok, Limits(max_connections=2))
    net.servers.append(server)
    port = await server.listen(ssl=server_tls)
    silent = [await net.dial(port) for _ in range(2)]
    await net.until(lambda: server.connections == 2)
    assert (await fetch(f"https://127.0.0.1:{port}/", ssl=client_tls)).status == 200
    await silent[0].closed()
    assert server.connections <= 2


async def test_a_half_open_tls_handshake_counts_as_a_connection_and_ends(
    net: Harness, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    server = HttpServer(ok, Limits(max_connections=2, header_timeout=0.5))
    net.servers.append(server)
    port = await server.listen(ssl=server_tls)
    silent = [await net.dial(port) for _ in range(2)]
    await net.until(lambda: server.connections == 2)
    url = f"https://127.0.0.1:{port}/"
    assert (await fetch(url, ssl=client_tls)).status == 503
    for client in silent:
        await client.closed()
    await net.until(lambda: server.connections == 0)
    assert (await fetch(url, ssl=client_tls)).status == 200


async def test_handshakes_to_say_503_are_bounded(
    net: Harness, server_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.http.accept.MAX_REFUSALS", 1)
    server = HttpServer(ok, Limits(max_connections=1), on_refused=net.refused.append)
    net.servers.append(server)
    port = await server.listen(ssl=server_tls)
    await net.dial(port)
    await net.until(lambda: server.connections == 1)
    await net.dial(port)  # this one's handshake may go on, to say 503
    third = await net.dial(port)
    await third.closed()
    assert server.connections == 1


async def test_connections_leave_no_descriptor_behind(
    net: Harness, server_tls: ssl.SSLContext
) -> None:
    server = HttpServer(ok, Limits(header_timeout=0.2))
    net.servers.append(server)
    plain, secure = await server.listen(), await server.listen(ssl=server_tls)
    before = used()
    for port in (plain, secure):
        for _ in range(3):
            client = await net.dial(port)
            client.send(GET)  # no TLS
            client.leave()
    for _ in range(BATCH + 1):
        (await net.dial(plain)).leave()
    await net.until(lambda: server.connections == 0 and used() <= before)


def test_the_soft_limit_is_raised_to_the_hard_one_and_never_lowered() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with files(256):
        assert descriptors.raise_limit() == min(hard, descriptors.MOST)
    with files(256):
        assert descriptors.raise_limit(most=100) == 256


def test_what_a_launcher_starts_gets_a_limit_that_programs_can_visit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with files(256):
        descriptors.inherit_limit()
        assert descriptors.limit() == min(hard, 65_536)


def test_where_the_hard_limit_is_no_limit_ours_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits[0]))
    descriptors.raise_limit()
    descriptors.inherit_limit()
    assert asked == [1 << 20, 1 << 16]


@pytest.mark.parametrize(("limit", "kept"), [(1024, 256), (400, 100), (20_000, 256)])
def test_a_part_of_the_limit_is_kept_for_our_own_calls(
    monkeypatch: pytest.MonkeyPatch, limit: int, kept: int
) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: limit)
    assert descriptors.ceiling() == limit - kept
    assert descriptors.ceiling() < descriptors.last() < limit
