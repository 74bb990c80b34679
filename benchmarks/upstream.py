"""A trivial model server: one process, answers from memory, parses as little as it can.

``POST /sse`` streams `--chunks` events, one each `--tick` seconds; anything else gets one small
JSON completion. Prints its port.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)

COMPLETION = json.dumps(
    {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "trivial",
        "choices": [{"index": 0, "text": " a small answer" * 10, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 40, "total_tokens": 52},
    }
).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: trivial\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(COMPLETION), COMPLETION)
)
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_EVENT = b'data: {"id":"cmpl-1","choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)


class Upstream(asyncio.Protocol):
    """Waits for head and body by their lengths, then answers."""

    streams: set[Upstream] = set()  # noqa: RUF012
    chunks = 100

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is due yet."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.buffer = b""
        self.left = 0

    def data_received(self, data: bytes) -> None:
        """Answer each request that is whole."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(self.buffer, 0, end)
            size = end + 4 + (int(found[1]) if found else 0)
            if len(self.buffer) < size:
                return
            request, self.buffer = self.buffer[:size], self.buffer[size:]
            if request.startswith(b"POST /sse"):
                self.left = Upstream.chunks
                self.transport.write(STREAM_HEAD)
                Upstream.streams.add(self)
            else:
                self.transport.write(ANSWER)

    def tick(self) -> None:
        """Send the next event, or the end."""
        self.left -= 1
        if self.left < 0:
            Upstream.streams.discard(self)
            self.transport.write(b"0\r\n\r\n")
        else:
            self.transport.write(CHUNK)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the stream."""
        Upstream.streams.discard(self)


async def _serve(tick: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await asyncio.sleep(tick)
        for stream in tuple(Upstream.streams):
            stream.tick()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--tick", type=float, default=0.01)
    given = parser.parse_args()
    Upstream.chunks = given.chunks
    uvloop.run(_serve(given.tick))


if __name__ == "__main__":
    main()
