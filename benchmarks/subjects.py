"""What is measured: a process between the load and the upstream server."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.worker import MTOKEN, WORKER_ID
from stoker.tickets import Claims, mint
from stoker.wire import encode

PROMPT = b'{"model": "trivial", "max_tokens": 40, "prompt": "%b"}' % (b"a few words more " * 26)
"""A request body of about 500 bytes."""


def post(path: bytes, body: bytes) -> bytes:
    """A raw request as a usual client sends it."""
    return (
        b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: load/1\r\nAccept: */*\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (path, len(body), body)
    )


def proof(number: int, boot_id: str) -> bytes:
    """What ``/route/`` answers, with a ticket."""
    expires = int(time.time() * 1000) + 600_000
    claims = Claims(WORKER_ID, boot_id, "chat", number, number, 40.0, expires)
    return encode(
        {
            "url": "http://127.0.0.1:1",
            "signature": "c" * 344,
            "endpoint": "chat",
            "cost": 40.0,
            "reqnum": number,
            "request_idx": number,
            "ticket": mint(MTOKEN.encode(), claims),
        }
    )


def ticketed(path: bytes, count: int, boot_id: str) -> list[bytes]:
    """Requests as a client sends them to a worker, each with a ticket of its own.

    All subjects get them, so that all carry the same bytes; only the worker looks inside.
    """
    made = []
    for number in range(count):
        auth = proof(number, boot_id)
        envelope = b'{"auth_data": %b, "session_id": null, "payload": %b}' % (auth, PROMPT)
        made.append(post(path, envelope))
    return made


class Subject(Protocol):
    """A process in front of the upstream server.

    Attributes:
        name: for the table.
        single_use: every request must be different, `requests` gives as many as asked for; then
            our own loader drives every subject.
    """

    name: str
    single_use: bool

    def missing(self) -> str:
        """Why it cannot be measured here, in a line; empty when it can."""

    def start(self, upstream_port: int, directory: Path) -> tuple[int, int]:
        """Start it; returns the port it serves and the id of its process."""

    def requests(self, count: int, *, stream: bool) -> Sequence[bytes]:
        """Raw requests: `count` different ones if `single_use`, else one is enough."""

    def stop(self) -> None:
        """End its process."""


class _Process:
    """A subject that is one child process."""

    single_use = False
    boot_id = "none"
    process: subprocess.Popen[str]

    def missing(self) -> str:
        return ""

    def requests(self, count: int, *, stream: bool) -> Sequence[bytes]:
        """See `Subject`."""
        return ticketed(b"/sse" if stream else b"/v1/completions", count, self.boot_id)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_NGINX = """
daemon off; user root; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 16384; }}
http {{
  access_log off;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  keepalive_requests 100000000;
  upstream model {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    proxy_http_version 1.1; proxy_set_header Connection "";
    location / {{ proxy_pass http://model; }}
    location /sse {{ proxy_pass http://model; proxy_buffering off; }}
  }}
}}
"""


class Nginx(_Process):
    """nginx as a plain reverse proxy: one worker, keep-alive on both sides, no access log."""

    name = "nginx proxy_pass"

    def missing(self) -> str:
        """See `Subject`."""
        return "" if _nginx() else "nginx is not installed: skipped"

    def start(self, upstream_port: int, directory: Path) -> tuple[int, int]:
        """See `Subject`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        config = directory / "nginx.conf"
        text = _NGINX.format(dir=directory, port=port, upstream=upstream_port)
        config.write_text(text)
        self.process = subprocess.Popen(
            [_nginx(), "-c", str(config), "-e", str(directory / "nginx.log")], text=True
        )
        wait_for(port)
        return port, self.process.pid


class BareRelay(_Process):
    """Our engine alone: `HttpServer`, `relay`, `UpstreamPool`."""

    name = "stoker relay"

    def start(self, upstream_port: int, directory: Path) -> tuple[int, int]:
        """See `Subject`."""
        del directory
        self.process, port = spawn("benchmarks.bare", str(upstream_port))
        return port, self.process.pid


class Worker(_Process):
    """A worker that demands a ticket for each request, counts it, and tells its control plane."""

    name = "stoker worker"
    single_use = True

    def start(self, upstream_port: int, directory: Path) -> tuple[int, int]:
        """See `Subject`."""
        del directory
        self.process, port = spawn("benchmarks.worker", str(upstream_port))
        assert self.process.stdout is not None
        self.boot_id = self.process.stdout.readline().strip()
        return port, self.process.pid


def _nginx() -> str:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or ""


def spawn(module: str, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Start one of our modules, which prints its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def wait_for(port: int) -> None:
    """Until somebody listens on a local port."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


@contextlib.contextmanager
def upstream(chunks: int, tick: float) -> Iterator[int]:
    """A running trivial upstream server; gives its port."""
    process, port = spawn("benchmarks.upstream", "--chunks", str(chunks), "--tick", str(tick))
    try:
        yield port
    finally:
        process.terminate()
        process.wait()
