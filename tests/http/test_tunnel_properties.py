from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.http.test_properties import Memory, cut

from stoker.http import HttpServer, Origin, Outcome, TunnelObserver, UpstreamPool, tunnel
from stoker.http.connection import ServerConnection
from stoker.http.upstream import UpstreamConnection

HIGH_WATER = 100
HEAD = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Peer(Memory):
    """A transport whose peer takes what is written only when it is told to."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol: asyncio.BaseProtocol = protocol
        self.taken = b""
        self.reading = True
        self.full = False
        protocol.connection_made(self)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        super().write(data)
        if len(self.written) > HIGH_WATER and not self.full:
            self.full = True
            self.protocol.pause_writing()

    def take(self, size: int) -> None:
        self.taken += self.written[:size]
        self.written = self.written[size:]
        if self.full and len(self.written) <= HIGH_WATER // 4:
            self.full = False
            self.protocol.resume_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def bring(self, data: bytes) -> None:
        assert self.reading
        assert isinstance(self.protocol, asyncio.Protocol)
        self.protocol.data_received(data)


class Counted(TunnelObserver):
    def __init__(self) -> None:
        self.up = self.down = 0
        self.ends: list[Outcome] = []

    def on_data(self, up: int, down: int) -> None:
        self.up += up
        self.down += down

    def on_done(self, outcome: Outcome, status: int, detail: str) -> None:
        self.ends.append(outcome)


@given(
    up=st.binary(max_size=1000),
    down=st.binary(max_size=1000),
    up_places=st.lists(st.integers(0, 1200), max_size=10),
    down_places=st.lists(st.integers(0, 1200), max_size=10),
    steps=st.lists(st.tuples(st.sampled_from("ud<>"), st.integers(1, 400)), max_size=60),
    client_ends=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_a_tunnel_passes_the_very_bytes_both_ways(
    up: bytes,
    down: bytes,
    up_places: list[int],
    down_places: list[int],
    steps: list[tuple[str, int]],
    client_ends: bool,
) -> None:
    observer = Counted()
    pool = UpstreamPool(Origin.tcp("127.0.0.1", 1))
    above = UpstreamConnection(pool)
    upstream = Peer(above)
    above.expires = 1000.0
    pool._open.add(above)
    pool._idle.append(above)
    server = HttpServer(
        lambda exchange: tunnel(exchange, pool, observer=observer), accept_upgrade=lambda _: True
    )
    client = Peer(ServerConnection(server))

    # The client sends what it has at any time, the upstream only after it was asked.
    going_up = cut(HEAD + up, up_places)
    going_down = cut(SWITCHED + down, down_places)
    longest = max(map(len, going_down))

    def step(kind: str, size: int) -> None:
        if kind == "u" and going_up and client.reading:
            client.bring(going_up.pop(0))
        elif kind == "d" and going_down and upstream.reading and b"\r\n\r\n" in upstream.taken:
            upstream.bring(going_down.pop(0))
        elif kind == "<":
            client.take(size)
        elif kind == ">":
            upstream.take(size)

    for kind, size in steps:
        step(kind, size)
        assert len(client.written) <= HIGH_WATER + longest
    while going_up or going_down or client.written or upstream.written:
        for kind in "ud<>":
            step(kind, 1 << 20)

    head, _, got = client.taken.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert got == down
    assert upstream.taken.partition(b"\r\n\r\n")[2] == up
    assert (observer.up, observer.down, observer.ends) == (len(up), len(down), [])
    assert server.buffered == 0

    ending, other = (client, upstream) if client_ends else (upstream, client)
    assert isinstance(ending.protocol, asyncio.Protocol)
    assert not ending.protocol.eof_received()
    assert other.ended
    for peer in (ending, other):
        peer.protocol.connection_lost(None)
    assert observer.ends == [Outcome.COMPLETE]
    assert (server.connections, pool.connections) == (0, 0)
