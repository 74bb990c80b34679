"""Our wrapper around Ollama, with a small program in its place that speaks its protocol."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

OLLAMA = r"""#!PYTHON
import json, os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

assert sys.argv[1] == "serve"
folder = os.path.dirname(os.path.abspath(__file__))
have = {"there:1b"}

class Ollama(BaseHTTPRequestHandler):
    def answer(self, status, *lines):
        self.send_response(status)
        self.end_headers()
        for line in lines:
            self.wfile.write(json.dumps(line).encode() + b"\n")
    def do_GET(self):
        self.answer(200, "Ollama is running")
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with open(folder + "/calls", "a") as calls:
            calls.write(f"{self.path} {json.dumps(body)}\n")
        model = body["model"]
        if self.path == "/api/pull":
            if model.startswith("unknown"):
                return self.answer(200, {"status": "pulling manifest"}, {"error": "no such model"})
            have.add(model)
            return self.answer(200, {"status": "pulling", "total": 8, "completed": 2},
                               {"status": "success"})
        if model not in have:
            return self.answer(404, {"error": "model not found"})
        if self.path == "/api/generate" and model.startswith("embed"):
            return self.answer(400, {"error": "does not support generate"})
        if self.path == "/api/generate" and model.startswith("huge"):
            return self.answer(500, {"error": "needs more memory"})
        self.answer(200, {"done": True})
    def log_message(self, *args):
        pass

host, port = os.environ["OLLAMA_HOST"].split(":")
print("ollama itself started", flush=True)
HTTPServer((host, int(port)), Ollama).serve_forever()
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    program = tmp_path / "ollama"
    program.write_text(OLLAMA.replace("PYTHON", sys.executable))
    program.chmod(0o755)
    started: list[subprocess.Popen[str]] = []

    def begin(model: str) -> subprocess.Popen[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "stoker.backends.ollama_server", "--port", port),
                *("--program", str(program), "--model", model),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


def until(process: subprocess.Popen[str], part: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if part in line:
            return lines
    raise AssertionError(lines)


def calls(folder: Path) -> list[tuple[str, dict[str, object]]]:
    lines = (folder / "calls").read_text().splitlines()
    return [(line.split(" ", 1)[0], json.loads(line.split(" ", 1)[1])) for line in lines]


def test_a_model_that_is_there_is_loaded_for_ever(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start("there:1b")
    assert "ollama itself started\n" in until(process, "ollama_server: model loaded")
    assert calls(tmp_path)[1:] == [("/api/generate", {"model": "there:1b", "keep_alive": -1})]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_a_model_that_is_not_there_is_pulled_first(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    lines = until(start("new:1b"), "ollama_server: model loaded")
    assert "ollama_server: pulling new:1b: pulling 25%\n" in lines
    assert [path for path, _ in calls(tmp_path)] == [
        "/api/show",
        "/api/pull",
        "/api/show",
        "/api/generate",
    ]


@pytest.mark.parametrize(
    ("model", "why"), [("unknown", "no such model"), ("huge:400b", "needs more memory")]
)
def test_a_model_that_cannot_be_had_ends_it_with_one_clear_line(
    start: Callable[[str], subprocess.Popen[str]], tmp_path: Path, model: str, why: str
) -> None:
    if model.startswith("huge"):
        (tmp_path / "ollama").write_text(
            (tmp_path / "ollama").read_text().replace('{"there:1b"}', '{"huge:400b"}')
        )
    process = start(model)
    line = until(process, "ollama_server: error:")[-1]
    assert why in line
    assert process.wait(timeout=20) == 1


def test_a_model_that_only_embeds_is_ready_without_a_load(
    start: Callable[[str], subprocess.Popen[str]],
) -> None:
    lines = until(start("embed:1b"), "ollama_server: model loaded")
    assert any("not loaded beforehand" in line for line in lines)


def test_an_ollama_that_does_not_start_is_one_clear_line() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "stoker.backends.ollama_server", "--port", "1"),
            *("--program", "/bin/false", "--model", "x"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ollama_server: error: ollama does not answer")
