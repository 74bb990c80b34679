"""`stoker load` as a person uses it: a process of its own against real servers."""

import asyncio
import json
import os
import signal
import subprocess
import sys

import pytest

from stoker.http import HttpServer
from support.command import run

CHAT = '{"messages": [{"role": "user", "content": "Say {{i}}."}], "max_tokens": 8}'


def command(*arguments):
    return [sys.executable, "-m", "stoker.cli", "load", *map(str, arguments)]


async def load(*arguments, env=None):
    process = await asyncio.create_subprocess_exec(
        *command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"STOKER_API_KEY": ""} | (env or {}),
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def server():
    """Answers /ok, refuses everything else but /hold, which it never answers."""
    held = asyncio.Event()

    def handle(exchange):
        if exchange.path == "/hold":
            held.set()
        else:
            answer = (200, b"{}") if exchange.path == "/ok" else (500, b'{"error": "boom"}')
            exchange.respond(*answer)

    http = HttpServer(handle)
    http.url = f"http://127.0.0.1:{await http.listen('127.0.0.1', 0)}"
    http.held = held
    yield http
    await http.drain(0.0)


@pytest.mark.real
async def test_figures_and_a_picture_are_printed(server):
    code, out, err = await load(server.url, "/ok", "{}", "-n", 20, "-c", 4)
    assert code == 0, err
    assert "20 ok, 0 failed" in out
    assert "whole answer" in out
    assert "█" in out
    assert "\x1b" not in out + err


@pytest.mark.real
async def test_json_is_for_programs(server):
    code, out, _ = await load(server.url, "/ok", "{}", "--rate", 500, "-n", 10, "--json")
    results = json.loads(out)
    assert (code, results["ok"], results["total"]["count"]) == (0, 10, 10)


@pytest.mark.real
async def test_when_every_request_failed_the_exit_code_says_so(server):
    code, out, _ = await load(server.url, "/boom", "{}", "-n", 3)
    assert code == 1
    assert "3 x status 500: boom" in out


@pytest.mark.real
async def test_ctrl_c_ends_it_and_prints_what_is_known(server):
    process = await asyncio.create_subprocess_exec(
        *command(server.url, "/hold", "{}", "-n", 5, "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        await server.held.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 130, err
    results = json.loads(out)
    assert (results["interrupted"], results["cut_off"], results["requests"]) == (True, 1, 0)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["png", "svg"])
async def test_a_picture_is_drawn(server, tmp_path, kind):
    file = tmp_path / f"picture.{kind}"
    code, _, err = await load(server.url, "/ok", "{}", "-n", 10, "--plot", file)
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


@pytest.mark.real
async def test_without_matplotlib_the_figures_are_printed_and_it_says_what_to_install(
    server, tmp_path
):
    (tmp_path / "matplotlib.py").write_text("raise ModuleNotFoundError('no', name='matplotlib')")
    code, out, err = await load(
        *(server.url, "/ok", "{}", "-n", "2", "--plot", "x.png"), env={"PYTHONPATH": str(tmp_path)}
    )
    assert code == 1
    assert "2 ok" in out
    assert "error: matplotlib is missing: no picture was drawn" in err
    assert "-m pip install 'matplotlib>=" in err


@pytest.mark.real
async def test_a_worker_is_loaded_without_the_client_and_an_endpoint_says_what_it_needs(
    server, tmp_path
):
    """On a rented machine Stoker has its core dependencies alone."""
    (tmp_path / "httpx.py").write_text("raise ModuleNotFoundError('no', name='httpx')")
    bare = {"PYTHONPATH": str(tmp_path), "STOKER_API_KEY": "k" * 20}
    code, out, err = await load(server.url, "/ok", "{}", "-n", 2, env=bare)
    assert code == 0, err
    assert "2 ok" in out
    code, _, err = await load("chat", "/ok", "{}", env=bare)
    assert code == 1
    assert "-m pip install 'httpx>=" in err


@pytest.mark.real
async def test_an_endpoint_is_loaded_through_its_router(stoker):
    await asyncio.to_thread(stoker.wait_for_worker, "chat")
    code, out, err = await load(
        *("chat", "/v1/chat/completions", CHAT, "-n", 4, "-c", 2, "--stream", "--cost", 8),
        *("--json", "--url", stoker.url),
        env={"STOKER_API_KEY": stoker.key},
    )
    assert code == 0, err
    results = json.loads(out)
    assert (results["ok"], results["failed"]) == (4, 0)
    assert results["first_token"]["count"] == 4
    assert 0 < results["tokens"] <= 4 * 8
    assert not results["tokens_estimated"]


@pytest.mark.real
async def test_an_endpoint_that_is_not_there_is_told(stoker):
    code, out, _ = await load(
        *("nowhere", "/x", "{}", "-n", 2, "--url", stoker.url), env={"STOKER_API_KEY": stoker.key}
    )
    assert code == 1
    assert "2 x status 4" in out


@pytest.mark.real
async def test_the_tokens_of_a_real_model_are_what_it_says_itself(model_server):
    port, log = model_server
    async with asyncio.timeout(30):
        while b"listening on http" not in log.read_bytes():  # noqa: ASYNC110 - a process
            await asyncio.sleep(0.05)
    url = f"http://127.0.0.1:{port}"
    code, out, err = await load(
        *(url, "/v1/chat/completions", CHAT, "--raw", "--stream", "-n", 4, "-c", 2, "--json")
    )
    assert code == 0, err
    results = json.loads(out)
    assert 4 <= results["tokens"] <= 32
    assert not results["tokens_estimated"]
    # llama.cpp sends a chunk for each token: the times between are one fewer for each answer.
    assert results["between_tokens"]["count"] <= results["tokens"] - 4
