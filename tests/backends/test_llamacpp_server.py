from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.backends.llamacpp import default_weights

pytestmark = pytest.mark.real

SERVER = [sys.executable, "-m", "stoker.backends.llamacpp_server"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVER, *arguments], capture_output=True, text=True, timeout=60)


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    errors = [
        line for line in done.stderr.splitlines() if line.startswith("llamacpp_server: error")
    ]
    assert len(errors) == 1
    assert "Traceback" not in done.stderr
    return errors[0]


def test_a_missing_model_is_one_clear_line(tmp_path: Path) -> None:
    assert "gone.gguf: No such file" in one_error(run("--model", str(tmp_path / "gone.gguf")))


def test_a_file_that_is_no_model_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("hello")
    assert "is not a GGUF file" in one_error(run("--model", str(tmp_path / "x.gguf")))


def test_a_broken_model_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(default_weights().read_bytes()[:100_000])
    assert "its own lines above say why" in one_error(run("--model", str(tmp_path / "x.gguf")))


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = one_error(run("--model", str(default_weights()), "--port", port))
    assert f"cannot listen on 127.0.0.1:{port}" in line


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [*SERVER, "--model", str(default_weights()), "--alias", "smol"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "listening on http" in line:
                break
        assert any("model loaded" in line for line in lines)
        yield process, lines[-1].split()[-1]
    finally:
        process.kill()
        process.communicate()


def test_it_serves_a_chat_completion(server: tuple[subprocess.Popen[str], str]) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    request = urllib.request.Request(server[1] + "/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        reply = json.loads(answer.read())
    assert reply["model"] == "smol"
    assert reply["usage"]["completion_tokens"] <= 4


def test_it_ends_cleanly_on_sigterm(server: tuple[subprocess.Popen[str], str]) -> None:
    process, _ = server
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0


def test_it_embeds_when_asked_to() -> None:
    process = subprocess.Popen(
        [*SERVER, "--model", str(default_weights()), "--embeddings"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        told = next(line for line in process.stderr if "listening on http" in line)
        request = urllib.request.Request(
            told.split()[-1] + "/v1/embeddings", json.dumps({"input": ["a", "b"]}).encode()
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            reply = json.loads(answer.read())
        assert len(reply["data"]) == 2
    finally:
        process.kill()
        process.communicate()
