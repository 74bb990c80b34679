"""The guide to extending Stoker is followed as a stranger would: its own files and commands."""

import asyncio
import base64
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from stoker.cli import tryout
from stoker.http import HttpServer
from stoker.launcher import read_state, tag
from stoker.launcher.guardian import find
from support.process import Process

GUIDE = Path(__file__).parents[1] / "docs" / "extending.md"
SAVED = re.compile(r"[Ss]ave this as `(\S+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
API_KEY = "stk_the_key_of_the_guide"

OPTIONS = '{"parallel": 1, "threads": 1}'

pytestmark = pytest.mark.real
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not on this machine")


def save(folder):
    """Save every file that the guide has one save."""
    for name, text in SAVED.findall(GUIDE.read_text()):
        (folder / name).write_text(text)


@pytest.fixture
def folder(tmp_path):
    """A folder with the guide's files."""
    save(tmp_path)
    return tmp_path


@pytest.fixture
def picture():
    """A picture with words in it; where the model that reads it is missing, the test is skipped."""
    if not importlib.util.find_spec("rapidocr"):
        missing = "the model of the guide is missing: pip install rapidocr onnxruntime"
        if os.environ.get("STOKER_TEST_NEVER_SKIP"):
            pytest.fail(missing)
        pytest.skip(missing)
    import cv2
    import numpy

    # The model enlarges the shorter side to 736 pixels: a square is read soonest.
    image = numpy.full((200, 200, 3), 255, numpy.uint8)
    for y, word in [(70, "Hello"), (140, "Stoker")]:
        cv2.putText(image, word, (20, y), cv2.FONT_HERSHEY_SIMPLEX, 1.4, (0, 0, 0), 3)
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()


def stoker(*arguments):
    return [sys.executable, "-m", "stoker.cli", *arguments]


def test_the_whole_file_is_under_forty_lines():
    (text,) = (text for name, text in SAVED.findall(GUIDE.read_text()) if name == "ocr.py")
    assert len([line for line in text.splitlines() if line.strip()]) < 40


def test_a_backend_in_a_file_is_served_from_zero_workers(folder, start, picture):
    up = start(
        stoker("up", "--port", "0", "--state", "state", "--stop-on-stdin-eof"),
        "up",
        env=os.environ | {"STOKER_API_KEY": API_KEY},
        cwd=folder,
    )
    url = up.wait_for(r"stoker listens on (\S+)")[1]
    done = subprocess.run(
        stoker("request", "ocr", "/ocr", json.dumps({"picture": picture})),
        env=os.environ | {"STOKER_URL": url, "STOKER_API_KEY": API_KEY},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + up.said
    assert "".join(json.loads(done.stdout)["text"]).replace(" ", "") == "HelloStoker"
    assert up.end() == 0


def test_it_is_tried_and_loaded_without_a_control_plane(folder, start, picture):
    launched = start(
        stoker("launch", "--backend", "./ocr.py", "--unsecured", "ocr-instance"),
        "launch",
        cwd=folder,
    )
    url = launched.wait_for(r"(http://127\.0\.0\.1:\d+)/ocr", timeout=90)[1]
    (folder / "payload.json").write_text(json.dumps({"picture": picture}))
    done = subprocess.run(
        stoker(
            *("load", url, "/ocr", "@payload.json", "--json"),
            *("--requests", "2", "--concurrency", "2"),
        ),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr + launched.said
    assert json.loads(done.stdout)["ok"] == 2, done.stdout + launched.said


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """An instance of `llamacpp_props.py`, as a stranger launches it; it ends without a rest."""
    folder = tmp_path_factory.mktemp("llama")
    save(folder)
    launcher = Process(
        stoker(
            *("launch", "--backend", "./llamacpp_props.py", "--unsecured"),
            *("--options", OPTIONS, "llama-instance"),
        ),
        folder / "launch.log",
        cwd=folder,
        env=bare(),
    )
    try:
        curl = printed_call(launcher)
        yield folder / "llama-instance", curl
    finally:
        code = launcher.end()
    assert code == 0
    assert not find(tag("unsecured", folder / "llama-instance"))


def test_a_backend_gets_one_route_more(launched):
    instance, _ = launched
    url = f"http://127.0.0.1:{read_state(instance).worker_port}"
    assert "model_path" in httpx.get(f"{url}/props").json()


@needs_curl
def test_the_line_that_a_launch_prints_calls_the_model(launched):
    _, curl = launched
    assert tokens_of(curl) == 32


@needs_curl
def test_a_worker_is_tried_before_a_model_server_that_runs_already(launched, start):
    instance, _ = launched
    port = str(read_state(instance).model_port)
    worker = start(
        stoker(
            *("worker", "--backend", "./llamacpp_props.py", "--unsecured", "--port", "0"),
            *("--model-port", port, "--options", OPTIONS),
        ),
        "worker",
        cwd=instance.parent,
        env=bare(),
    )
    assert tokens_of(printed_call(worker)) == 32
    assert worker.end() == 0


def bare():
    """An environment without the identity of another worker."""
    return {k: v for k, v in os.environ.items() if k not in tryout._IDENTITY}


def printed_call(process):
    """The line that calls the worker, once it is printed."""
    return process.wait_for(r"(?m)^  (curl .*)\n", timeout=90)[1]


def tokens_of(curl):
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, timeout=60).stdout
    return json.loads(answer)["usage"]["completion_tokens"]


def test_a_worker_with_its_model_inside_answers(folder, start):
    worker = start(
        stoker("worker", "worker.py", "--unsecured", "--port", "0"), "worker", cwd=folder
    )
    url = worker.wait_for(r"(http://127\.0\.0\.1:\d+)/generate")[1]
    body = {"payload": {"prompt": "I see", "max_tokens": 2}}
    answer = httpx.post(f"{url}/generate", json=body)
    assert answer.json() == {"result": {"text": "I see the quick"}}


SHOUTING = """
from stoker import BenchmarkConfig, HandlerConfig, Worker, WorkerConfig

benchmark = BenchmarkConfig(dataset=[{}], runs=1)
routes = [HandlerConfig(f"/{name}", response_generator=shout) for name in ("text", "events", "bad")]
routes.append(HandlerConfig("/measured", benchmark_config=benchmark))
Worker(WorkerConfig(model_server_port=PORT, model_healthcheck_url="/health", handlers=routes)).run()
"""


async def test_code_that_makes_the_answer_does_as_the_guide_says(start, tmp_path):
    def model_server(exchange):
        kind = b"text/event-stream" if exchange.path == "/events" else b"text/plain"
        status = 500 if exchange.path == "/bad" else 200
        exchange.respond(status, b"data: one\n\ndata: two\n\n", content_type=kind)

    server = HttpServer(model_server)
    port = await server.listen()
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    shout = next(block for block in blocks if "def shout" in block)
    file = tmp_path / "shouting.py"
    file.write_text(shout + SHOUTING.replace("PORT", str(port)))
    worker = start(
        stoker("worker", str(file), "--unsecured", "--port", "0"), "worker", cwd=tmp_path
    )
    found = await asyncio.to_thread(worker.wait_for, r"(http://127\.0\.0\.1:\d+)/measured")
    async with httpx.AsyncClient(base_url=found[1]) as client:
        text, events, bad = [
            await client.post(path, json={"payload": {}}) for path in ("/text", "/events", "/bad")
        ]
    await server.drain(0.0)
    assert text.json() == {"loud": "DATA: ONE\n\nDATA: TWO\n\n"}
    assert (events.text, events.headers["content-type"]) == (
        *("DATA: ONE\n\nDATA: TWO\n\n", "text/event-stream"),
    )
    assert (bad.status_code, bad.json()) == (502, {"error": "the model is unwell"})
