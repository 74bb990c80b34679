"""`stoker load` as a person uses it, against real servers."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from support.command import run

CHAT = '{"messages": [{"role": "user", "content": "Say {{i}}."}], "max_tokens": 8}'

pytestmark = pytest.mark.real


def load(*arguments, env=None):
    done = run("load", *arguments, env={"STOKER_API_KEY": ""} | (env or {}))
    return done.returncode, done.stdout, done.stderr


def program(*arguments, env=None):
    """The same as a program of its own, for what this process cannot show."""
    return subprocess.Popen(
        [sys.executable, "-m", "stoker.cli", "load", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"STOKER_API_KEY": ""} | (env or {}),
    )


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /ok, refuses everything else but /hold, which it does not answer before its end."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/hold":
            self.server.held.set()
            self.server.over.wait()
            return
        answer = (200, b"{}") if self.path == "/ok" else (500, b'{"error": "boom"}')
        self.send_response(answer[0])
        self.send_header("content-length", str(len(answer[1])))
        self.end_headers()
        self.wfile.write(answer[1])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.url = f"http://127.0.0.1:{serving.server_port}"
        serving.held, serving.over, serving.bodies = threading.Event(), threading.Event(), []
        thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
        thread.start()
        yield serving
        serving.over.set()
        serving.shutdown()
        thread.join()


def test_figures_and_a_picture_are_printed(server):
    code, out, err = load(server.url, "/ok", "{}", "-n", 20, "-c", 4)
    assert code == 0, err
    assert "20 ok, 0 failed" in out
    assert "whole answer" in out
    assert "█" in out
    assert "\x1b" not in out + err


def test_json_is_for_programs(server):
    code, out, _ = load(server.url, "/ok", "{}", "--rate", 500, "-n", 10, "--json")
    results = json.loads(out)
    assert (code, results["ok"], results["total"]["count"]) == (0, 10, 10)


def test_a_worker_gets_an_envelope_and_a_model_server_the_payload_alone(server):
    for options in ((), ("--raw",)):
        assert load(server.url, "/ok", '{"a":1}', "-n", 1, *options)[0] == 0
    envelope, alone = map(json.loads, server.bodies)
    assert "auth_data" in envelope
    assert envelope["payload"] == alone == {"a": 1}


def test_when_every_request_failed_the_exit_code_says_so(server):
    code, out, _ = load(server.url, "/boom", "{}", "-n", 3)
    assert code == 1
    assert "3 x status 500: boom" in out


def test_ctrl_c_ends_it_and_prints_what_is_known(server):
    process = program(server.url, "/hold", "{}", "-n", 5, "--json")
    assert server.held.wait(30)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    results = json.loads(out)
    assert (results["interrupted"], results["cut_off"], results["requests"]) == (True, 1, 0)


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_picture_is_drawn(server, tmp_path, kind):
    file = tmp_path / f"picture.{kind}"
    code, _, err = load(server.url, "/ok", "{}", "-n", 10, "--plot", file)
    assert code == 0, err
    head = file.read_bytes()[:200]
    assert head.startswith(b"\x89PNG") if kind == "png" else b"<?xml" in head


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http://127.0.0.1:9", "ok", "{}"), "ROUTE: must begin with a slash"),
        (("http://user:pw@127.0.0.1:9", "/ok", "{}"), "TARGET: the URL must have no user"),
        (("http://", "/ok", "{}"), "TARGET: is not a URL"),
        (("http://127.0.0.1:9", "/ok", "{"), "PAYLOAD: is not valid JSON"),
        (("http://127.0.0.1:9", "/ok", "@none.json"), "none.json: No such file"),
        (("http://127.0.0.1:9", "/ok", "{}", "--rate", 1, "-c", 2), "--rate: give this or"),
        (("http://127.0.0.1:9", "/ok", "{}", "-n", 0), "--requests: must be 1 or more"),
        (("http://127.0.0.1:9", "/ok", "{}", "--plot", "x.gif"), "--plot: must end in .png"),
        (("http://127.0.0.1:9", "/ok", "{}", "--plot", "no/x.png"), "--plot: there is no direct"),
        (("chat", "/ok", "{}", "--raw"), "--raw: is for the URL"),
        (("chat", "/ok", "{}"), "STOKER_API_KEY: is not set"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_sent(arguments, said):
    done = run("load", *arguments, env={"STOKER_API_KEY": ""})
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert "pw" not in done.stderr
    assert done.stdout == ""


def test_without_matplotlib_the_figures_are_printed_and_it_says_what_to_install(
    server, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # it cannot be imported
    code, out, err = load(server.url, "/ok", "{}", "-n", "2", "--plot", tmp_path / "x.png")
    assert code == 1
    assert "2 ok" in out
    assert "error: matplotlib is missing: no picture was drawn" in err
    assert "-m pip install 'matplotlib>=" in err


def test_a_worker_is_loaded_without_the_client_and_an_endpoint_says_what_it_needs(server, tmp_path):
    """On a rented machine Stoker has its core dependencies alone."""
    (tmp_path / "httpx.py").write_text("raise ModuleNotFoundError('no', name='httpx')")
    bare = {"PYTHONPATH": str(tmp_path), "STOKER_API_KEY": "k" * 20}
    of_worker = program(server.url, "/ok", "{}", "-n", 2, env=bare)
    of_endpoint = program("chat", "/ok", "{}", env=bare)
    out, err = of_worker.communicate(timeout=60)
    assert of_worker.returncode == 0, err
    assert "2 ok" in out
    _, err = of_endpoint.communicate(timeout=60)
    assert of_endpoint.returncode == 1
    assert "-m pip install 'httpx>=" in err


def test_an_endpoint_is_loaded_through_its_router(stoker):
    stoker.wait_for_worker("chat")
    code, out, err = load(
        *("chat", "/v1/chat/completions", CHAT, "-n", 4, "-c", 2, "--stream", "--cost", 8),
        *("--json", "--url", stoker.url),
        env={"STOKER_API_KEY": stoker.key},
    )
    assert code == 0, err
    results = json.loads(out)
    assert (results["ok"], results["failed"]) == (4, 0)
    assert results["first_token"]["count"] == 4
    assert 4 <= results["tokens"] <= 4 * 8
    assert not results["tokens_estimated"]
    # llama.cpp sends a chunk for each token: the times between are one fewer for each answer.
    assert results["between_tokens"]["count"] <= results["tokens"] - 4


def test_an_endpoint_that_is_not_there_is_told(stoker):
    code, out, _ = load(
        *("nowhere", "/x", "{}", "-n", 2, "--url", stoker.url), env={"STOKER_API_KEY": stoker.key}
    )
    assert code == 1
    assert "2 x status 4" in out
