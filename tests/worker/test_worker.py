"""A worker as a program: a real process, started as ``python worker.py``."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stoker.http import fetch
from stoker.wire import encode

pytestmark = pytest.mark.real

Model = Any
Control = Any

SCRIPT = """
import sys
from stoker.worker import *

print("imported", flush=True)
Worker(WorkerConfig(
    model_server_url="http://127.0.0.1",
    model_server_port=int(sys.argv[1]),
    model_healthcheck_url="/health",
    handlers=[
        HandlerConfig(
            route="/echo",
            allow_parallel_requests=True,
            max_queue_time=30.0,
            workload_calculator=lambda payload: 1.0,
            benchmark_config=BenchmarkConfig(dataset=[{"prompt": "hello"}], runs=1, concurrency=2),
        ),
        HandlerConfig(route="/wait"),
    ],
)).run(backlog=64)
"""


class Program:
    """A worker's process and what it wrote."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def end(self) -> tuple[int, str]:
        """Exit status, and everything that it wrote."""
        async with asyncio.timeout(20):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, (out + err).decode()


@pytest.fixture
async def start(tmp_path: Path, model: Model, control: Control) -> AsyncIterator[Any]:
    script = tmp_path / "worker.py"
    script.write_text(SCRIPT)
    started: list[Program] = []

    async def run(**changes: str | None) -> Program:
        environ: dict[str, str | None] = {
            "CONTAINER_ID": "7",
            "MASTER_TOKEN": "secret-of-this-worker",
            "REPORT_ADDR": control.url,
            "PUBLIC_IPADDR": "127.0.0.1",
            "WORKER_PORT": "0",
            "STOKER_HOST": "127.0.0.1",
            "WORKSPACE_DIR": str(tmp_path),
            "STOKER_DRAIN_TIMEOUT": "10",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(script), str(model.port)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={k: v for k, v in (environ | changes).items() if v is not None},
            cwd=tmp_path,
        )
        started.append(Program(process))
        return started[-1]

    yield run
    for program in started:
        if program.process.returncode is None:
            program.process.kill()
            await program.process.wait()


async def connect(control: Control, path: str) -> asyncio.StreamReader:
    port = int(control.last.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = encode({"auth_data": control.auth(), "payload": {"a": 1}})
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\n" % path.encode())
    writer.write(b"content-length: %d\r\n\r\n%b" % (len(body), body))
    await writer.drain()
    reader.keep = writer  # type: ignore[attr-defined]  # a writer that nobody holds is closed
    return reader


async def test_a_worker_serves_and_drains_on_sigterm(
    start: Any, model: Model, control: Control
) -> None:
    program = await start()
    await control.until(lambda: control.reports and control.last.loadtime)
    reader = await connect(control, "/wait")
    await model.until(lambda: model.waiting)
    program.process.send_signal(signal.SIGTERM)
    await control.until(lambda: control.last.draining)
    late = await connect(control, "/echo")
    async with asyncio.timeout(10):
        assert (await late.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 503")
    model.waiting.pop().respond(200, b"the whole answer")
    async with asyncio.timeout(10):
        await reader.readuntil(b"the whole answer")
    status, text = await program.end()
    assert status == 0
    assert "Traceback" not in text
    assert "secret-of-this-worker" not in text
    assert [r.status for r in control.finished] == ["Success"]
    assert control.last.draining


async def test_a_worker_that_is_killed_is_as_good_as_new_when_started_again(
    start: Any, model: Model, control: Control
) -> None:
    program = await start()
    await control.until(lambda: control.reports and control.last.loadtime)
    first = control.last.boot_id
    program.process.kill()
    await program.end()
    benchmarked = len(model.seen)
    await start()
    await control.until(lambda: control.last.boot_id != first and control.last.loadtime)
    assert len(model.seen) == benchmarked
    reader = await connect(control, "/echo")
    async with asyncio.timeout(10):
        await reader.readuntil(b'{"a":1}')


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"CONTAINER_ID": None}, "CONTAINER_ID"),
        ({"MASTER_TOKEN": None}, "MASTER_TOKEN"),
        ({"REPORT_ADDR": None}, "REPORT_ADDR"),
        ({"UNSECURED": "true", "STOKER_HOST": None}, "STOKER_HOST=127.0.0.1"),
        ({"USE_SSL": "true"}, "USE_SSL"),
        ({"USE_SSL": "true", "SSL_CERT": "worker.py", "SSL_KEY": "worker.py"}, "USE_SSL"),
        ({"STOKER_HOST": "192.0.2.1"}, "STOKER_HOST"),
    ],
)
async def test_a_mistake_in_the_environment_is_one_clear_line_and_status_2(
    start: Any, changes: dict[str, str | None], names: str
) -> None:
    status, text = await (await start(**changes)).end()
    assert status == 2
    errors = [line for line in text.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert names in errors[0]
    assert "Traceback" not in text


async def test_a_port_that_is_taken_is_a_clear_error(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        status, text = await (await start(WORKER_PORT=port)).end()
    assert status == 2
    assert f"WORKER_PORT: port {port} on 127.0.0.1 is taken" in text
    assert "Traceback" not in text


async def test_a_worker_speaks_tls_with_the_certificate_that_it_is_given(
    start: Any, control: Control, certificate: tuple[Path, Path]
) -> None:
    await start(USE_SSL="true", SSL_CERT=str(certificate[0]), SSL_KEY=str(certificate[1]))
    await control.until(lambda: control.reports and control.last.loadtime)
    assert control.last.url.startswith("https://127.0.0.1:")
    body = encode({"auth_data": control.auth(), "payload": {"a": 1}})
    trust = ssl.create_default_context(cafile=str(certificate[0]))
    answer = await fetch(control.last.url + "/echo", method="POST", body=body, ssl=trust)
    assert (answer.status, answer.body) == (200, b'{"a":1}')


LIMITED = """
import resource
from stoker.worker import Worker, WorkerConfig

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
try:
    Worker(WorkerConfig(model_server_url="http://127.0.0.1", model_server_port=1)).run()
except SystemExit as end:  # it has no handlers
    print(end.code, resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(hard, 1 << 20))
"""


def test_a_worker_raises_its_soft_limit_of_open_files() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "2 True\n", done.stderr
