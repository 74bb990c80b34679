from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

pytestmark = pytest.mark.real

SERVER = [sys.executable, "-m", "stoker.backends.hello_world_server"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    process = subprocess.Popen(SERVER, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if "ready on http" in line)
        yield int(line.rsplit(":", 1)[1])
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def ask(port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_it_greets(port: int) -> None:
    status, body = ask(port, "POST", "/greet", b'{"name": "Ada"}')
    assert (status, json.loads(body)) == (200, {"greeting": "Hello, Ada!"})


def test_it_greets_word_by_word(port: int) -> None:
    status, body = ask(port, "POST", "/greet/stream", b'{"name": "Ada"}')
    assert status == 200
    assert body == b'data: {"word": "Hello,"}\n\ndata: {"word": "Ada!"}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"name": 5}', b'{"name": ""}', b"[" * 9999])
def test_a_wrong_request_is_told_what_to_send(port: int, body: bytes) -> None:
    status, answer = ask(port, "POST", "/greet", body)
    assert status == 422
    assert "send" in json.loads(answer)["error"]


def test_a_large_body_is_refused_unread(port: int) -> None:
    assert ask(port, "POST", "/greet", b"x" * 70_000)[0] == 413


def test_it_is_healthy(port: int) -> None:
    assert ask(port, "GET", "/health")[0] == 200
    assert ask(port, "GET", "/nowhere")[0] == 404
    assert ask(port, "POST", "/nowhere", b"{}")[0] == 404


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*SERVER, "--port", port], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"error: cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
