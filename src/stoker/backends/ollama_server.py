"""``ollama serve`` with a model: started, pulled where it is missing, and loaded.

``python -m stoker.backends.ollama_server --program ollama --port N --model NAME`` serves until
SIGTERM. Ollama's log goes through; ours are the lines that begin ``ollama_server:``, of which
"model loaded" is the last. Protocol: docs.ollama.com, "API" (/api/pull, /api/generate).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from stoker.logs import complain, displayable

START_TIMEOUT = 86_400.0
"""Seconds for Ollama to listen: whoever started us gives up sooner, by its own `start_timeout`."""

LOAD_TIMEOUT = 3600.0
"""Seconds for an answer of Ollama, which may load a large model from a slow disk, and between two
signs of life while it pulls."""

REPORT_EVERY = 10.0
"""Seconds between two lines about a pull."""


def _say(text: str) -> None:
    print(f"ollama_server: {displayable(text)}", flush=True)  # words of Ollama and its registry


def _wait(child: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while child.poll() is None and time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection(host, port, timeout=5)
            connection.request("GET", "/")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("ollama does not answer; its own lines above say why")


def _post(host: str, port: int, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(host, port, timeout=LOAD_TIMEOUT)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    answer = connection.getresponse()
    if answer.status == 404:
        raise FileNotFoundError(path)
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {_text(answer)}")
    return answer


def _text(answer: http.client.HTTPResponse) -> str:
    return answer.read(500).decode("utf-8", "replace").strip()


def _pull(host: str, port: int, model: str) -> None:
    """Pull the model; Ollama tells how far it is, a JSON object a line."""
    answer = _post(host, port, "/api/pull", {"model": model})
    said = 0.0
    while line := answer.readline(65_536):
        told = json.loads(line)
        if error := told.get("error"):
            raise RuntimeError(f"cannot pull {model}: {error}")
        now = time.monotonic()
        if now - said >= REPORT_EVERY:
            said = now
            total = told.get("total")
            share = f" {100 * told.get('completed', 0) / total:.0f}%" if total else ""
            _say(f"pulling {model}: {told.get('status', '')}{share}")


def prepare(host: str, port: int, model: str) -> None:
    """Load the model into memory; pull it first where Ollama does not have it.

    Raises:
        RuntimeError: Ollama refuses.
        OSError: it cannot be reached.
        ValueError: its answer is no JSON.
    """
    show = {"model": model}
    try:
        _post(host, port, "/api/show", show).read()
    except FileNotFoundError:
        _pull(host, port, model)
        _post(host, port, "/api/show", show).read()
    # A model that only embeds answers 400 here; its first request loads it.
    try:
        _post(host, port, "/api/generate", {"model": model, "keep_alive": -1}).read()
    except RuntimeError as error:
        if " 400: " not in str(error):
            raise
        _say(f"not loaded beforehand: {error}")


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; returns the exit code, Ollama's or 1 when the model cannot be had."""
    parser = argparse.ArgumentParser(prog="ollama_server", description=__doc__)
    parser.add_argument("--program", default="ollama")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("more", nargs="*", help="arguments of ollama serve")
    args = parser.parse_args(argv)
    environment = os.environ | {"OLLAMA_HOST": f"{args.host}:{args.port}"}
    child = subprocess.Popen([args.program, "serve", *args.more], env=environment)
    told: list[int] = []

    def end(number: int, _frame: object) -> None:
        told.append(number)
        child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        _wait(child, args.host, args.port)
        prepare(args.host, args.port, args.model)
    except (RuntimeError, OSError, ValueError, http.client.HTTPException) as error:
        complain("ollama_server", error)
        if child.poll() is None:
            child.terminate()
        child.wait()
        return 1
    _say("model loaded")
    code = child.wait()
    if told:
        return 0
    return code if code >= 0 else 128 - code  # as a shell tells of a signal


if __name__ == "__main__":
    sys.exit(main())
