"""Stands in for a model server that runs elsewhere, so that the launcher can watch over it.

``python -m stoker.backends.attached_server --url http://10.0.0.5:8000 --health /health --port N``
answers each GET with 200 while that server's health check does, else with 503. No request of a
client passes through it: the worker speaks with that server itself.
"""

from __future__ import annotations

import argparse
import http.client
import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from stoker.logs import complain

CHECK_TIMEOUT = 4.0
"""Seconds for the other server to answer: less than what a launcher waits for us."""

RETRY = 1.0
REPORT_EVERY = 30.0
"""Seconds between two tries, and between two lines about them, until it is reached first."""


def healthy(url: str, path: str) -> bool:
    """Whether the server at `url` answers its health check with 2xx."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, port, timeout=CHECK_TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=CHECK_TIMEOUT)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main(argv: list[str] | None = None) -> int:
    """Watch until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="attached_server", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--health", default="/health")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args(argv)

    class Watcher(BaseHTTPRequestHandler):
        timeout = 60

        def do_GET(self) -> None:
            self.send_response(200 if healthy(args.url, args.health) else 503)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    try:
        server = ThreadingHTTPServer((args.host, args.port), Watcher)
    except OSError as error:
        complain("attached_server", f"cannot listen on {args.host}:{args.port}: {error.strerror}")
        return 1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    said = 0.0
    while not healthy(args.url, args.health):
        if time.monotonic() - said >= REPORT_EVERY:
            said = time.monotonic()
            print(f"attached_server: waiting for {args.url}{args.health}", flush=True)
        time.sleep(RETRY)
    print(f"attached_server: reached {args.url}", flush=True)
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
