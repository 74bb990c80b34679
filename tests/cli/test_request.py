"""`stoker request` against a control plane and a worker that say what a test tells them to."""

from __future__ import annotations

import http.server
import io
import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from stoker.cli import app, completion, output
from stoker.cli.exits import Exit
from stoker.cli.terminal import SafeConsole

KEY = "stk_request-test-key"
SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"


class Peer(http.server.ThreadingHTTPServer):
    """A control plane and a worker on one port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoints = ["chat", "other"]
        self.answer: tuple[int, str, bytes] = (200, JSON, b"{}")
        self.payloads: list[Any] = []
        self.has_worker = True
        self.environment = {"REPORT_ADDR": "https://stoker.example.com"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Peer

    def do_GET(self) -> None:
        if not self.path.startswith("/api/v0/"):
            self.reply(404, JSON, b'{"error": "not_found", "msg": "there is nothing here"}')
            return
        records = [{"id": n, "endpoint_name": name} for n, name in enumerate(self.server.endpoints)]
        self.reply(200, JSON, json.dumps({"success": True, "results": records}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/v0/attached/":
            self.reply(200, JSON, json.dumps({"environment": self.server.environment}).encode())
        elif self.path != "/route/":
            self.server.payloads.append(body["payload"])
            self.reply(*self.server.answer)
        elif body["endpoint"] not in self.server.endpoints:
            self.reply(404, JSON, b'{"error": "there is no such endpoint for this key"}')
        else:
            reply = {"endpoint": "chat", "request_idx": 1, "status": "1 loading"}
            if self.server.has_worker:
                reply |= {"cost": 1.0, "url": self.server.url}
            self.reply(200, JSON, json.dumps(reply).encode())

    def reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    serving = Peer()
    thread = threading.Thread(target=serving.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("STOKER_URL", serving.url)
    monkeypatch.setenv("STOKER_API_KEY", KEY)
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


class Screen:
    """Runs a command in this process, and has what it printed."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capture = capfd

    def run(self, *arguments: str) -> tuple[int, str, str]:
        code = app.run(list(arguments))
        printed = self._capture.readouterr()
        return code, printed.out, printed.err

    def request(self, *options: str, payload: str = "{}") -> tuple[int, str, str]:
        return self.run("request", "chat", "/v1/x", payload, *options)


@pytest.fixture
def screen(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Screen:
    monkeypatch.setattr(output, "err", SafeConsole(stderr=True, highlight=False))
    monkeypatch.setattr(output, "out", SafeConsole(highlight=False))
    return Screen(capfd)


def event(**data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def delta(**data: Any) -> bytes:
    return event(choices=[{"index": 0, "delta": data}])


ANSWER = delta(reasoning="hm") + delta(content="Hel") + delta(content="lo") + b"data: [DONE]\n\n"


def test_text_mode_shows_what_the_model_says_and_ends_the_line(peer: Peer, screen: Screen) -> None:
    peer.answer = (200, SSE, ANSWER)
    assert screen.request("--text") == (Exit.OK, "hm\nHello\n", "")


def test_raw_mode_gives_the_bytes_as_they_are(peer: Peer, screen: Screen) -> None:
    peer.answer = (200, SSE, ANSWER)
    for options in (["--raw"], []):  # the output is no terminal
        assert screen.request(*options) == (Exit.OK, ANSWER.decode(), "")


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        (NDJSON, b'{"response":"Hi"}\n{"response":"!","done":true}\n', "Hi!\n"),
        (JSON, b'{"choices":[{"message":{"content":"Hi"}}]}', "Hi\n"),
        (JSON, b'{"data":[{"embedding":[1]}]}', '{"data":[{"embedding":[1]}]}\n'),
        ("text/plain", b"Hi", "Hi\n"),
        (SSE, b'data: {"progress": 1}\n\n', 'data: {"progress": 1}\n\n'),
        (JSON, b'{"choices":[{"text":"a"},{"text":"b","index":1}]}', "a\n[choice 1]\nb\n"),
    ],
)
def test_text_mode_knows_each_form_of_an_answer(
    peer: Peer, screen: Screen, kind: str, body: bytes, shown: str
) -> None:
    peer.answer = (200, kind, body)
    assert screen.request("--text") == (Exit.OK, shown, "")


def test_an_answer_that_is_no_text_is_not_written_to_a_terminal(peer: Peer, screen: Screen) -> None:
    peer.answer = (200, "image/png", b"\x89PNG")
    code, out, err = screen.request("--text")
    assert (code, out) == (Exit.FAILED, "")
    assert "image/png" in err
    assert "--raw > FILE" in err


def test_a_payload_comes_from_an_argument_a_file_or_standard_input(
    peer: Peer, screen: Screen, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"from": "file"}')
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"from": "stdin"}')))
    for payload in ('{"from": "argument"}', f"@{file}", "-"):
        assert screen.request(payload=payload)[0] == Exit.OK
    assert [p["from"] for p in peer.payloads] == ["argument", "file", "stdin"]


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((400, JSON, b'{"error": "too long"}'), Exit.REFUSED, "error: too long (status 400)"),
        ((500, JSON, b'{"error": "dead"}'), Exit.FAILED_INSIDE, "error: dead (status 500)"),
        ((200, JSON, b'{"error": "dead"}'), Exit.FAILED_INSIDE, "failed inside its answer: dead"),
        ((200, SSE, event(error="dead")), Exit.FAILED_INSIDE, "failed inside its answer: dead"),
        ((200, NDJSON, b'{"error":"dead"}'), Exit.FAILED_INSIDE, "failed inside its answer: dead"),
    ],
)
@pytest.mark.parametrize("mode", ["--raw", "--text"])
def test_the_exit_code_says_how_a_request_failed(
    peer: Peer, screen: Screen, answer: Any, code: Exit, said: str, mode: str
) -> None:
    peer.answer = answer
    got, _, err = screen.request(mode)
    assert got == code
    assert err.splitlines()[-1].startswith("error: ")
    assert said in err


def test_what_came_before_a_failure_is_shown_and_its_line_ended(peer: Peer, screen: Screen) -> None:
    peer.answer = (200, SSE, delta(content="Hel") + event(error="dead"))
    code, out, _ = screen.request("--text")
    assert (code, out) == (Exit.FAILED_INSIDE, "Hel\n")


def test_no_worker_in_time_is_a_time_out(peer: Peer, screen: Screen) -> None:
    peer.answer = (503, JSON, b'{"error": "draining"}')
    assert screen.request("--timeout", "0.3")[0] in (Exit.TIMED_OUT, Exit.REFUSED)


def test_without_a_worker_in_time_it_says_so_and_what_was_last_known(
    peer: Peer, screen: Screen
) -> None:
    peer.has_worker = False
    code, _, err = screen.request("--timeout", "0.3")
    assert code == Exit.TIMED_OUT
    assert err.splitlines()[-1].startswith("error: no worker of endpoint 'chat' was free within")
    assert err.endswith("1 loading\n")


@pytest.mark.parametrize(
    "variable", ["PATH", "PROMPT_COMMAND", "STOKER_BACKEND_OPTIONS", "UNSECURED", "a=b;x"]
)
def test_a_control_plane_cannot_set_what_is_no_part_of_a_workers_identity(
    peer: Peer, screen: Screen, variable: str
) -> None:
    assert screen.run("attach", "chat")[:2] == (
        Exit.OK,
        "export REPORT_ADDR=https://stoker.example.com\n",
    )
    peer.environment[variable] = "true"
    code, out, err = screen.run("attach", "chat")
    assert (code, out) == (Exit.FAILED, "")
    assert variable in err


def test_an_unknown_endpoint_names_those_that_there_are(peer: Peer, screen: Screen) -> None:
    code, _, err = screen.run("request", "chta", "/v1/x", "{}")
    assert code == Exit.REFUSED
    assert "hint: the endpoints are: chat, other" in err
    peer.endpoints.clear()
    assert "hint: there is no endpoint yet" in screen.run("request", "chat", "/v1/x", "{}")[2]
    code, _, err = screen.run("workers", "chat")
    assert (code, "stoker endpoint create" in err) == (Exit.REFUSED, True)


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("http://127.0.0.1:9", Exit.UNREACHABLE, "hint: is `stoker up` running on this machine?"),
        ("https:", Exit.UNREACHABLE, "hint: it speaks plain HTTP there: try http://127.0.0.1:"),
        ("/api", Exit.USAGE, "without /api: http://127.0.0.1:"),
        ("/api/v0/", Exit.USAGE, "without /api/v0: http://127.0.0.1:"),
        ("ftp://x", Exit.USAGE, "is not a URL such as"),
        ("http://127.0.0.1:99999", Exit.USAGE, "a port is a number from 1 to 65535"),
        ("http://127.0.0.1:0", Exit.USAGE, "a port is a number from 1 to 65535"),
        (f"http://{'a' * 70}.example", Exit.UNREACHABLE, "cannot be reached"),
        ("/foo", Exit.REFUSED, "hint: the address has a path"),
    ],
)
def test_a_wrong_address_says_what_to_do(
    peer: Peer, screen: Screen, url: str, code: Exit, said: str
) -> None:
    if url.startswith("/"):
        url = peer.url + url
    elif url == "https:":
        url = peer.url.replace("http:", "https:")
    got, _, err = screen.run("endpoint", "list", "--url", url)
    assert got == code
    assert said in err


def test_an_answer_of_another_form_is_one_line(
    peer: Peer, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = screen.run("key", "list")  # the peer answers with a list of endpoints
    assert (code, out) == (Exit.FAILED, "")
    assert err.startswith("error: unforeseen: ")
    assert "Traceback" not in err
    monkeypatch.setenv("STOKER_TRACEBACK", "1")
    code, _, err = screen.run("key", "list")
    assert code == Exit.FAILED
    assert "Traceback" in err
    assert "KeyError" in err


def test_a_full_disk_and_a_name_that_is_no_text_are_one_line(
    peer: Peer, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = screen.run("endpoint", "create", "caf\udce9")
    assert (code, "cannot be sent as JSON" in err) == (Exit.USAGE, True)
    full = io.TextIOWrapper(io.FileIO("/dev/full", "w"))  # every write fails
    monkeypatch.setattr(sys, "stdout", full)
    code, _, err = screen.run("endpoint", "list", "--json")
    monkeypatch.undo()
    assert (code, err) == (Exit.FAILED, "error: No space left on device\n")


@pytest.mark.parametrize(
    "given",
    ["http://user:pass-word-1@[::1", "stk_pass-word-1-and-what-a-key-has", "stk_pass-word-1 x"],
)
@pytest.mark.usefixtures("peer")
def test_no_error_repeats_a_key_or_a_password(screen: Screen, given: str) -> None:
    code, out, err = screen.run("login", *given.split(" "), "stk_pass-word-1-and-what-a-key-has")
    assert (code, out) == (Exit.USAGE, "")
    for arguments in (["endpoint", "list", "--url", given], ["login", "--use", given]):
        _, out, more = screen.run(*arguments)
        err += out + more
    assert "pass-word-1-and" not in err
    assert "user:" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        ["requst"],
        ["request", "chat"],
        ["request", "chat", "/x", "{}", "--cost", "much"],
        ["request", "chat", "/x", "{"],
        ["request", "chat", "x", "{}"],
        ["request", "chat", "/x y", "{}"],
        ["request", "chat", "/x\ny", "{}"],
        ["request", "chat", "/x#y", "{}"],
        ["request", "chat", "/x", "@none.json"],
        ["up", "--port", "70000"],
    ],
)
@pytest.mark.usefixtures("peer")
def test_a_mistake_in_the_arguments_is_one_line_and_code_2(
    screen: Screen, arguments: list[str]
) -> None:
    code, out, err = screen.run(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert err.startswith("error: ")


HOSTILE = "\x1b]0;PWNED\x07 \x1b[2J \x9b31m \x90q\x9c \u202egnp\u2066 \r\b\x7f \U000e0041 \u2028"
FORBIDDEN = [*"\x1b\x07\x9b\x90\x9c\u202e\u2066\r\b\x7f\u2028", "\U000e0041"]


@pytest.mark.parametrize("mode", ["--text", "error", "endpoint", "json", "logs"])
def test_nothing_that_a_server_or_model_says_steers_the_terminal(
    peer: Peer, screen: Screen, mode: str
) -> None:
    peer.answer = (200, SSE, delta(content=HOSTILE, reasoning=HOSTILE))
    arguments = ["request", "chat", "/v1/x", "{}", "--text"]
    if mode == "error":
        peer.answer = (400, JSON, json.dumps({"error": HOSTILE}).encode())
    elif mode in ("endpoint", "json"):
        peer.endpoints = [HOSTILE]
        arguments = ["endpoint", "list", *(["--json"] if mode == "json" else [])]
    elif mode == "logs":
        peer.endpoints = [HOSTILE]
        arguments = ["logs", "none"]
    _, out, err = screen.run(*arguments)
    assert "PWNED" in out + err
    for character in FORBIDDEN:
        if mode == "json" and character == "\U000e0041":
            continue
        assert character not in out + err
    if mode == "json":
        assert json.loads(out)[0]["endpoint_name"] == HOSTILE


@pytest.mark.usefixtures("screen")
def test_a_shell_completes_names_that_cannot_steer_the_terminal(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.endpoints = ["chat", "c\x1b]0;PWNED\x07", "other"]
    assert completion.endpoints("c") == ["chat"]
    monkeypatch.setenv("STOKER_URL", "http://127.0.0.1:9")
    assert completion.endpoints("c") == []
