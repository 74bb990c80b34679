from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import stoker
from stoker.backends import llamacpp_server
from stoker.backends.llamacpp import default_weights

pytestmark = pytest.mark.real

SERVER = [sys.executable, "-m", "stoker.backends.llamacpp_server"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SERVER, *arguments], capture_output=True, text=True, timeout=60)


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "llamacpp_server: error" in line]
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
        [*SERVER, "--model", str(default_weights()), "--alias", "smol", "--threads", "1"],
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
        [*SERVER, "--model", str(default_weights()), "--embeddings", "--threads", "1"],
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


PACKAGE_THAT_NEEDS_OPENMP = """
import os, pathlib
folder = pathlib.Path(os.environ.get("LD_LIBRARY_PATH", "").partition(":")[0] or "/nowhere")
print(folder, flush=True)
if not (folder / "libgomp.so.1").exists():
    raise ImportError("libgomp.so.1: cannot open shared object file: No such file or directory")
"""


@pytest.fixture
def without_openmp(tmp_path: Path) -> Path:
    """A folder with a stand-in for xllamacpp, which imports as on a machine without OpenMP."""
    (tmp_path / "xllamacpp.py").write_text(PACKAGE_THAT_NEEDS_OPENMP)
    return tmp_path


def test_the_openmp_library_of_another_wheel_is_taken_where_the_system_has_none(
    without_openmp: Path,
) -> None:
    (without_openmp / "some.libs").mkdir()
    (without_openmp / "some.libs" / "libgomp-0123.so.1.0.0").touch()
    path = f"{without_openmp}:{Path(stoker.__file__).parents[1]}"
    done = subprocess.run(
        [*SERVER, "--check", "--model", str(default_weights())],
        env=os.environ | {"PYTHONPATH": path, "LD_LIBRARY_PATH": "/opt/other"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second = done.stdout.split()
    assert first == "/opt/other"
    assert not Path(second).exists()  # the folder was only for the start


def test_without_any_openmp_library_the_error_says_what_to_install(
    without_openmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [str(without_openmp)])
    monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
    weights = without_openmp / "tiny.gguf"
    weights.write_bytes(b"GGUF")
    assert llamacpp_server.main(["--check", "--model", str(weights)]) == 1
    assert "install the system's libgomp1" in capsys.readouterr().err


def test_a_check_says_that_the_server_could_start() -> None:
    done = run("--check", "--model", str(default_weights()))
    assert (done.returncode, done.stderr) == (0, "")
