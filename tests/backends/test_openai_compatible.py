from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from stoker.backends import get
from stoker.errors import ConfigError
from stoker.http import Exchange, HttpServer, fetch

COMPATIBLE = get("openai-compatible")
LOG = Path("model.log")


def parse(**options: Any) -> Any:
    return COMPATIBLE.parse({"model": "m"} | options)


@pytest.mark.parametrize("url", ["http://10.0.0.5:8000", "http://10.0.0.5:8000/v1/"])
def test_a_server_that_runs_already_is_spoken_to_itself(url: str) -> None:
    options = parse(base_url=url)
    config = COMPATIBLE.worker_config(options, 4711, LOG)
    config.check()
    assert config.model_origin() == "http://10.0.0.5:8000"
    assert config.healthcheck_url() == "http://10.0.0.5:8000/v1/models"
    command = COMPATIBLE.command(options, "127.0.0.1", 4711)
    assert command[2:] == [
        *("-m", "stoker.backends.attached_server", "--url", "http://10.0.0.5:8000"),
        *("--health", "/v1/models", "--host", "127.0.0.1", "--port", "4711"),
    ]


def test_a_command_of_ones_own_gets_host_and_port() -> None:
    options = parse(command=[sys.executable, "--at={host}:{port}", "{not ours}"])
    assert COMPATIBLE.command(options, "127.0.0.1", 4711) == [
        *(sys.executable, "--at=127.0.0.1:4711", "{not ours}")
    ]
    config = COMPATIBLE.worker_config(options, 4711, LOG)
    assert config.model_origin() == "http://127.0.0.1:4711"
    assert config.log_action_config.on_load == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({}, "base_url"),
        ({"base_url": "http://x", "command": ["y"]}, "base_url"),
        ({"base_url": "ftp://x"}, "base_url"),
        ({"base_url": "http://user:pass@x"}, "base_url"),
        ({"base_url": "http://x/other"}, "base_url"),
        ({"base_url": "http://x:99999"}, "base_url"),
        ({"command": ["no-such-program"]}, "command"),
    ],
)
def test_what_cannot_work_is_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"options.{field}") as caught:
        COMPATIBLE.command(parse(**options), "127.0.0.1", 1)
    assert "pass" not in str(caught.value)


def test_the_capacity_is_measured_with_a_prompt_where_there_are_no_chats() -> None:
    options = parse(command=["x"], routes=["/v1/completions"], embedding_routes=["/v1/embeddings"])
    config = COMPATIBLE.worker_config(options, 1, LOG)
    config.check()
    handler = config.benchmark_handler
    assert handler.route == "/v1/completions"
    assert handler.benchmark_config is not None
    assert "prompt" in (handler.benchmark_config.dataset or [{}])[0]


@pytest.mark.real
async def test_who_watches_over_another_server_is_as_healthy_as_it() -> None:
    healthy = True

    def other(exchange: Exchange) -> None:
        exchange.respond(200 if healthy and exchange.path == "/v1/models" else 503)

    server, free = HttpServer(other), HttpServer(other)
    port = await server.listen("127.0.0.1")
    own = await free.listen("127.0.0.1")
    await free.drain(0.0)
    command = COMPATIBLE.command(parse(base_url=f"http://127.0.0.1:{port}"), "127.0.0.1", own)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        assert line == f"attached_server: reached http://127.0.0.1:{port}\n"
        assert (await fetch(f"http://127.0.0.1:{own}/v1/models", timeout=10.0)).status == 200
        healthy = False
        assert (await fetch(f"http://127.0.0.1:{own}/v1/models", timeout=10.0)).status == 503
        await server.drain(0.0)
        assert (await fetch(f"http://127.0.0.1:{own}/v1/models", timeout=10.0)).status == 503
    finally:
        process.kill()
        await process.wait()
