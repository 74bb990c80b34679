"""A model server to learn with: it greets. Plain Python, nothing to install.

``python -m stoker.backends.hello_world_server --port N`` serves until SIGTERM:

- ``POST /greet`` with ``{"name": "Ada"}`` answers ``{"greeting": "Hello, Ada!"}``.
- ``POST /greet/stream`` sends the same word by word, as server-sent events.
- ``GET /health`` answers 200 once the "model" is loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from stoker.logs import complain

MAX_BODY = 65_536
MAX_NAME = 1_000


class Greeter(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    # Head and body are two writes: the second would wait 40 ms for the client's delayed ACK.
    disable_nagle_algorithm = True
    timeout = 60
    word_pause = 0.0

    def do_GET(self) -> None:
        """The health check."""
        self._answer(200 if self.path == "/health" else 404, {"status": "ok"})

    def do_POST(self) -> None:
        """A greeting, whole or word by word."""
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self.close_connection = True
            self._answer(413, {"error": f"send a body of at most {MAX_BODY} bytes"})
            return
        body = self.rfile.read(int(length))
        if self.path not in ("/greet", "/greet/stream"):
            self._answer(404, {"error": "no such route"})
            return
        try:
            name = json.loads(body)["name"]
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME:
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            self._answer(422, {"error": 'send {"name": "..."}'})
            return
        greeting = f"Hello, {name}!"
        if self.path == "/greet":
            self._answer(200, {"greeting": greeting})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for word in greeting.split(" "):
            self._chunk(f"data: {json.dumps({'word': word})}\n\n".encode())
            time.sleep(self.word_pause)
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, *_args: Any) -> None:
        """Say nothing: names of callers are nobody's business."""


class GreetingServer(ThreadingHTTPServer):
    """A server whose queue of new connections is longer than the library's 5."""

    request_queue_size = 128


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="hello_world_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--load-seconds", type=float, default=0.0, help="pretend to load so long")
    parser.add_argument("--word-pause", type=float, default=0.0, help="seconds between two words")
    args = parser.parse_args(argv)
    Greeter.word_pause = args.word_pause
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: os._exit(0))
    print("hello_world_server: loading", flush=True)
    time.sleep(args.load_seconds)
    try:
        server = GreetingServer((args.host, args.port), Greeter)
    except OSError as error:
        problem = f"cannot listen on {args.host}:{args.port}: {error.strerror}"
        complain("hello_world_server", problem)
        return 1
    print(f"hello_world_server: ready on http://{args.host}:{server.server_port}", flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
