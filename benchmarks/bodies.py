"""``python -m benchmarks.bodies [--mebibytes N] [--streams N] [--json]``: memory, bodies, streams.

A body passes through a relay, then through a whole worker, each a process of its own: from the
client up, then from the upstream down, each to a reader that keeps up and to one that is slow.
Printed are the growth of that process's peak memory and its CPU time. Then streams are opened and
left idle: memory for each.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import resource
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from benchmarks.subjects import BareRelay, Nginx, Subject, Worker, proof, spawn, upstream

PART = bytes(2**20)
SLOW_PAUSE = 0.05
"""Seconds that a slow reader sleeps after a part, 32 times at most."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass(frozen=True)
class Passed:
    """One body that passed.

    Attributes:
        through: what it passed through.
        way: ``up`` or ``down``, and whether its reader was slow.
        mebibytes: its size.
        peak_kib: growth of that process's resident memory at its peak.
        cpu_seconds: of that process, user and system.
        seconds: wall time.
    """

    through: str
    way: str
    mebibytes: int
    peak_kib: int
    cpu_seconds: float
    seconds: float


class StreamingRelay(BareRelay):
    """Our engine alone, with bodies passed on as they arrive."""

    def start(self, upstream_port: int, directory: Path) -> tuple[int, int]:
        """See `Subject`."""
        del directory
        self.process, port = spawn("benchmarks.bare", str(upstream_port), "stream")
        return port, self.process.pid


FRONTS: tuple[type[StreamingRelay | Worker], ...] = (StreamingRelay, Worker)


def memory(pid: int) -> tuple[int, int]:
    """Resident memory of a process in KiB: now, and at its peak since `forget_peak`."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0])


def forget_peak(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def head_of(connection: socket.socket) -> tuple[bytes, int]:
    """The head that comes, and how much of a body came with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError("closed without a head")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, len(rest)


def take(connection: socket.socket, left: int, *, slow: bool) -> None:
    """Read a body of `left` bytes and forget it."""
    buffer = bytearray(2**20)
    pauses = min(32, left >> 23) if slow else 0
    while left:
        size = connection.recv_into(buffer, min(left, len(buffer)))
        if not size:
            raise ConnectionError("the body was cut")
        left -= size
        if pauses:
            pauses -= 1
            time.sleep(SLOW_PAUSE)


def give(connection: socket.socket, mebibytes: int) -> None:
    for _ in range(mebibytes):
        connection.sendall(PART)


@contextmanager
def origin(mebibytes: int, *, up: bool, slow: bool) -> Iterator[int]:
    """An upstream in threads: takes one body, or gives it; answers all else. Gives its port."""

    def serve(connection: socket.socket) -> None:
        with connection, suppress(ConnectionError):
            while True:
                head, had = head_of(connection)
                if not head.startswith(b"POST /body"):
                    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
                    take(connection, int(length[1]) - had if length else 0, slow=False)
                    connection.sendall(ANSWER)
                elif up:
                    take(connection, mebibytes * 2**20 - had, slow=slow)
                    connection.sendall(ANSWER)
                else:
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (mebibytes * 2**20)
                    )
                    give(connection, mebibytes)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


def pass_body(subject: StreamingRelay | Worker, mebibytes: int, *, up: bool, slow: bool) -> Passed:
    """Send one body through a fresh process."""
    with origin(mebibytes, up=up, slow=slow) as upstream_port:
        port, pid = subject.start(upstream_port, Path())
        shown = base64.urlsafe_b64encode(proof(1, subject.boot_id))
        try:
            with socket.create_connection(("127.0.0.1", port), 60) as client:
                forget_peak(pid)
                base, _ = memory(pid)
                spent, begun = cpu_seconds(pid), time.perf_counter()
                length = mebibytes * 2**20 if up else 0
                client.sendall(b"POST /body HTTP/1.1\r\nHost: a\r\nStoker-Auth: %b\r\n" % shown)
                client.sendall(b"Content-Length: %d\r\n\r\n" % length)
                if up:
                    give(client, mebibytes)
                head, had = head_of(client)
                if not head.startswith(b"HTTP/1.1 200"):
                    sys.exit(f"{subject.name} answered {head[:60]!r}")
                if not up:
                    take(client, mebibytes * 2**20 - had, slow=slow)
                seconds = time.perf_counter() - begun
                _, peak = memory(pid)
                spent = cpu_seconds(pid) - spent
        finally:
            subject.stop()
    way = ("up" if up else "down") + (", slow reader" if slow else "")
    return Passed(subject.name, way, mebibytes, peak - base, round(spent, 2), round(seconds, 2))


def open_streams(subject: Subject, streams: int) -> float:
    """KiB of the process in front (and its children) for each open stream that sends nothing."""
    with (
        tempfile.TemporaryDirectory() as directory,
        upstream(chunks=1, tick=3600.0) as upstream_port,
        ExitStack() as held,
    ):
        port, pid = subject.start(upstream_port, Path(directory))
        held.callback(subject.stop)
        requests = subject.requests(streams + 10, stream=True)

        def open_one(number: int) -> None:
            client = held.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            client.sendall(requests[number % len(requests)])
            head, _ = head_of(client)
            if not head.startswith(b"HTTP/1.1 200"):
                sys.exit(f"{subject.name} answered {head[:60]!r}")

        def resident() -> int:
            process = psutil.Process(pid)
            everyone = (process, *process.children(recursive=True))
            return sum(memory(each.pid)[0] for each in everyone)

        for number in range(10):  # what is made once is not of a stream
            open_one(number)
        before = resident()
        for number in range(10, streams + 10):
            open_one(number)
        return (resident() - before) / streams


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bodies", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024, help="of each body; 0: none")
    parser.add_argument("--streams", type=int, default=1000, help="left open; 0: none")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if given.streams > (most - 200) // 2:
        parser.error(f"--streams can be {(most - 200) // 2} at most here: see ulimit -n")

    bodies: list[Passed] = []
    ways = [(front, up, slow) for front in FRONTS for up in (True, False) for slow in (False, True)]
    for front, up, slow in ways if given.mebibytes else ():
        one = pass_body(front(), given.mebibytes, up=up, slow=slow)
        bodies.append(one)
        if not given.json:
            print(
                f"{one.mebibytes} MiB, {one.through}, {one.way + ':':18} "
                f"peak memory +{one.peak_kib / 1024:.1f} MiB, CPU {one.cpu_seconds:.2f} s, "
                f"{one.seconds:.2f} s in all",
                flush=True,
            )
    each: dict[str, float] = {}
    kinds: list[type[Subject]] = [Nginx, BareRelay, Worker]
    for kind in kinds if given.streams else ():
        subject = kind()
        if problem := subject.missing():
            print(problem, file=sys.stderr)
            continue
        each[subject.name] = round(open_streams(subject, given.streams), 2)
        if not given.json:
            print(
                f"{given.streams} idle streams, {subject.name}: {each[subject.name]:.1f} KiB each",
                flush=True,
            )
    if given.json:
        print(json.dumps({"bodies": [asdict(one) for one in bodies], "stream_kib": each}))


if __name__ == "__main__":
    main()
