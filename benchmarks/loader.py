"""Our own load generator: a fixed number of requests over keep-alive connections, in one process.

Reads raw requests from a file (each after its length, see `write_requests`) and sends them in turn,
starting over at the end: with as many as `--count`, no body is sent twice, as single-use tickets
need. Prints JSON: ``requests, bad, chunks, seconds``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import struct
import time
from collections.abc import Iterable
from pathlib import Path

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.I)


def write_requests(path: Path, requests: Iterable[bytes]) -> None:
    """Keep raw requests in a file: each 4 bytes of length (big-endian), then the bytes."""
    with path.open("wb") as file:
        for request in requests:
            file.write(struct.pack(">I", len(request)) + request)


def read_requests(path: Path) -> list[bytes]:
    data = path.read_bytes()
    requests, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from(">I", data, at)
        requests.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return requests


class Run:
    """What all connections share."""

    def __init__(self, requests: list[bytes], count: int) -> None:
        self.requests = requests
        self.count = count
        self.sent = self.done = self.bad = self.chunks = 0
        self.finished = asyncio.Event()

    def next(self) -> bytes | None:
        """The next request to send; None when all are sent."""
        if self.sent >= self.count:
            return None
        self.sent += 1
        return self.requests[(self.sent - 1) % len(self.requests)]

    def answered(self, *, good: bool) -> None:
        """An answer is in."""
        self.done += 1
        self.bad += not good
        if self.done >= self.count:
            self.finished.set()


class Client(asyncio.Protocol):
    """One connection; the next request goes out when the answer is in."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.buffer = b""
        self.size = -1  # of the answer; -1: head not in, 0: chunked
        self.good = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the first request."""
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.send()

    def send(self) -> None:
        """Send the next request, or close."""
        request = self.run.next()
        if request is None:
            self.transport.close()
        else:
            self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Wait for the end of the answer."""
        self.buffer = self.buffer + data if self.buffer else data
        if self.size < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.good = self.buffer[9:12] == b"200"
            found = _LENGTH.search(self.buffer, 0, end)
            self.size = end + 4 + int(found[1]) if found else 0
        if self.size:
            if len(self.buffer) < self.size:
                return
        else:
            self.run.chunks += data.count(b"data: ")
            if not self.buffer.endswith(b"0\r\n\r\n"):
                self.buffer = self.buffer[-8:]
                return
        self.buffer = b""
        self.size = -1
        self.run.answered(good=self.good)
        self.send()


async def drive(host: str, port: int, connections: int, run: Run) -> float:
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    for _ in range(min(connections, run.count)):
        await loop.create_connection(lambda: Client(run), host, port)
    async with asyncio.timeout(300):
        await run.finished.wait()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--requests", type=Path, required=True)
    given = parser.parse_args()
    requests = read_requests(given.requests)

    async def measure() -> None:
        run = Run(requests, given.count)
        seconds = await drive("127.0.0.1", given.port, given.connections, run)
        result = {
            "requests": run.done,
            "bad": run.bad,
            "chunks": run.chunks,
            "seconds": seconds,
        }
        print(json.dumps(result))

    uvloop.run(measure())


if __name__ == "__main__":
    main()
