"""What the README and the pages under docs/ show is tried as it stands there."""

import asyncio
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stoker import backends
from stoker.cli.app import command_line
from stoker.cli.settings import load
from stoker.http import HttpServer, Limits, fetch

ROOT = Path(__file__).parents[1]
SAVED = re.compile(r"[Ss]ave this as `(\w+\.py)`:\n\n```python\n(.*?)```", re.DOTALL)
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def all_blocks(language):
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, language))
    ]


@pytest.mark.parametrize("block", all_blocks("toml"))
def test_settings_that_are_shown_can_be_loaded(block, tmp_path):
    file = tmp_path / "stoker.toml"
    file.write_text(block)
    for page in PAGES:  # a backend in a file of its own
        for name, text in re.findall(
            r"[Ss]ave this as `(\w+\.py)`:\n\n```python\n(.*?)```", page.read_text(), re.DOTALL
        ):
            (tmp_path / name).write_text(text)
    if "ocr.py" in block and not importlib.util.find_spec("cv2"):
        pytest.skip("the model of the guide is missing: pip install rapidocr onnxruntime")
    for endpoint in load(file).endpoint:
        for group in endpoint.workergroup:
            backends.get(group.backend).parse(group.options)


@pytest.mark.parametrize("block", all_blocks("sh"))
def test_commands_that_are_shown_exist_with_their_options(block):
    root = command_line()
    for line in re.findall(r"stoker ([^)\n#]*)", block):
        name, *rest = line.replace('"', "").split()
        known = {
            option
            for one in root.commands[name].params
            for option in (*one.opts, *one.secondary_opts)
        }
        assert {word for word in rest if word.startswith("--")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    commands = set(command_line().commands)
    assert set(re.findall(r"`stoker ([a-z]+)", text)) <= commands
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", text)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.real
def test_the_client_of_the_readme_gets_an_answer(stoker):
    program = next(b for b in blocks(ROOT / "README.md", "python") if "Client(" in b)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"STOKER_URL": stoker.url, "STOKER_API_KEY": stoker.key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_worker_of_the_readme_has_a_valid_configuration(monkeypatch):
    program = next(b for b in blocks(ROOT / "README.md", "python") if "Worker(" in b)
    ran = []
    monkeypatch.setattr("stoker.worker.Worker.run", lambda _worker: ran.append("it"))
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    assert ran == ["it"]


async def test_the_relay_of_the_http_page_relays(monkeypatch):
    large = Limits(max_body_bytes=2**25)
    upstream = HttpServer(lambda exchange: exchange.respond(200, b"%d" % len(exchange.body)), large)
    (program,) = blocks(ROOT / "docs" / "http.md", "python")
    program = program.replace("8080", str(await upstream.listen()))
    started, port = [], asyncio.get_running_loop().create_future()
    monkeypatch.setattr(asyncio, "run", started.append)
    exec(compile(program, "http.md", "exec"), {"print": port.set_result})
    relaying = asyncio.create_task(started[0])
    url = f"http://127.0.0.1:{await asyncio.wait_for(port, 5.0)}"
    assert (await fetch(f"{url}/", method="POST", body=b"12345")).body == b"5"
    beyond = bytes(2**24 + 1)
    assert (await fetch(f"{url}/", method="POST", body=beyond)).status == 413
    assert (await fetch(f"{url}/upload", method="POST", body=beyond)).body == b"%d" % len(beyond)
    relaying.cancel()
    await upstream.drain(0.0)
