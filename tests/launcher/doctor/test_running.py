"""Instances that run, and what the doctor says when something of them does not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from stoker.launcher.doctor import Finding, running, written
from stoker.launcher.files import FileLock
from stoker.launcher.guardian import created_at
from stoker.launcher.lifecycle import Phase
from stoker.launcher.state import LOCK, InstanceState, LauncherIdentity, write_state
from stoker.launcher.steps import RunStep

Case = Any  # the classes in conftest.py, which cannot be imported
Launched = Any
Examined = Callable[[Path, Iterable[Any]], list[Finding]]

real = pytest.mark.real

HERE = psutil.Process()


def put_state(case: Case, *, lives: bool = True, **fields: Any) -> None:
    """The state of an instance whose launcher is this process."""
    state = InstanceState(
        phase=Phase.RUNNING,
        launcher_pid=HERE.pid,
        launcher_created=created_at(HERE.pid),
        since=1000.0,
    )
    case.now = 1060.0
    write_state(case.directory, msgspec.structs.replace(state, **fields))
    if lives:
        identity = LauncherIdentity(HERE.pid, created_at(HERE.pid))
        case.lock = FileLock(case.directory / LOCK)
        assert case.lock.acquire(msgspec.json.encode(identity))


# -- phases ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status", "said", "remedy"),
    [
        ({}, "ok", "running for 60 s", ""),
        ({"phase": Phase.STARTING}, "ok", "the model server is loading", ""),
        ({"phase": Phase.STARTING, "since": 0.0}, "warning", "starting for 18 min", "model.log"),
        ({"phase": Phase.PREPARING, "doing": "step 1 of 2 (x)"}, "ok", "is at step 1 of 2", ""),
        (
            {"phase": Phase.PREPARING, "doing": "a certificate: nobody answers"},
            "warning",
            "waits for a certificate: nobody answers",
            "",
        ),
        (
            {"phase": Phase.BACKOFF, "error": "No module named 'vllm'"},
            "problem",
            "it will start again; a Python package is missing: No module named 'vllm'",
            "pip step",
        ),
        (
            {"phase": Phase.FAILED, "failures": 6, "error": "it ended"},
            "problem",
            "it gave up after 6 faults; it ended",
            "then stop this launcher",
        ),
    ],
)
async def test_a_phase_is_told_in_words(
    case: Case, fields: dict[str, Any], status: str, said: str, remedy: str
) -> None:
    put_state(case, **fields)
    finding = await case.one(running.phase)
    assert finding.status == status
    assert said in finding.text
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("phase", "status", "said"),
    [
        (None, "warning", "it was never started"),
        (Phase.STOPPED, "warning", "it is stopped"),
        (Phase.RUNNING, "problem", "no launcher runs, though it was running last"),
    ],
)
async def test_an_instance_without_a_launcher_is_told_from_one_that_was_stopped(
    case: Case, phase: Phase | None, status: str, said: str
) -> None:
    if phase is not None:
        put_state(case, phase=phase, lives=False)
    finding = await case.one(running.phase)
    assert (finding.status, finding.remedy) == (status, f"run: stoker launch {case.directory}")
    assert said in finding.text


async def test_restarts_are_told(case: Case) -> None:
    put_state(case, restarts=3)
    finding = await case.bad(running.phase)
    assert "it was started again 3 times" in finding.text


async def test_an_owner_that_is_gone_is_told(case: Case) -> None:
    path = case.directory / "owner"
    case.change(owner_lock=str(path), owner_timeout=300.0)
    put_state(case)
    finding = await case.one(running.owner)
    assert "the instance stops by itself after 300 s without one" in finding.text
    lock = FileLock(path)
    assert lock.acquire()
    assert await case.look(running.owner) == []
    lock.release()


# -- model server and worker -------------------------------------------------------------------


class Answers(BaseHTTPRequestHandler):
    status = 200
    body = b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[int, bytes], int]]:
    """Starts a server that gives one answer; returns its port."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(status: int, body: bytes) -> int:
        handler = type("Answer", (Answers,), {"status": status, "body": body})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return int(server.server_port)

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


Serve = Callable[[int, bytes], int]


@pytest.mark.parametrize(
    ("status", "phase", "verdict", "said"),
    [
        (200, Phase.RUNNING, "ok", "the model server answers at"),
        (500, Phase.RUNNING, "problem", "the model server answers 500 at"),
        (503, Phase.STARTING, "ok", "it is still loading"),
        (0, Phase.RUNNING, "problem", "the model server does not answer at"),
    ],
)
async def test_the_health_of_the_model_server_is_asked_for(
    case: Case, serve: Serve, free_port: Any, status: int, phase: Phase, verdict: str, said: str
) -> None:
    case.change(health_path="/health")
    port = serve(status, b"{}") if status else free_port()
    put_state(case, phase=phase, model_port=port, model_pid=HERE.pid)
    finding = await case.one(running.health)
    assert finding.status == verdict
    assert said in finding.text


@pytest.mark.parametrize(
    ("status", "body", "verdict", "said"),
    [
        (200, b'{"queued": 1, "working": 2}', "ok", "it takes requests (queued 1, working 2)"),
        (503, b'{"state": "waiting"}', "warning", "it answers 503: waiting"),
        (503, b'{"state": "errored", "error": "x"}', "problem", "it answers 503: errored, x"),
        (404, b"not JSON", "warning", "it answers 404: no state"),
        (0, b"", "problem", "the worker does not answer at"),
    ],
)
async def test_the_worker_is_asked_what_it_does(
    case: Case, serve: Serve, free_port: Any, status: int, body: bytes, verdict: str, said: str
) -> None:
    port = serve(status, body) if status else free_port()
    put_state(case, worker_port=port, worker_pid=HERE.pid)
    finding = await case.one(running.worker)
    assert finding.status == verdict
    assert said in finding.text


async def test_an_address_that_only_this_machine_reaches_is_told(case: Case) -> None:
    case.change(report_addr="https://stoker.example.org")
    finding = await case.one(running.address)
    assert "its public address is this machine's own" in finding.text
    assert "PUBLIC_IPADDR" in finding.remedy


async def test_an_address_that_cannot_be_reached_is_told(case: Case, free_port: Any) -> None:
    put_state(case, worker_port=free_port(), worker_pid=HERE.pid)
    finding = await case.one(running.address)
    assert finding.status == "warning"
    assert "cannot be reached from this machine" in finding.text


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that does nothing; its pid."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process.pid
    process.kill()
    process.wait()


async def test_a_port_of_the_instance_that_a_stranger_has_is_told(case: Case, sleeper: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        put_state(case, worker_port=taken.getsockname()[1], worker_pid=sleeper)
        finding = await case.one(written.ports)
    assert finding.status == "problem"
    assert f"(pid {HERE.pid})" in finding.text


# -- with real launchers -----------------------------------------------------------------------


@real
def test_an_instance_that_runs_is_told_with_its_processes(
    instance: Launched, examined: Examined
) -> None:
    instance.up()
    state = instance.state
    found = examined(instance.directory, [running.processes, running.health, written.ports])
    assert {f.status for f in found} == {"ok"}
    assert found[0].text == (
        f"alive: launcher {state.launcher_pid}, model server {state.model_pid}, "
        f"worker {state.worker_pid}, guardian {state.guardian_pid}"
    )
    assert f"model_port: {state.model_port}, in use by this instance" in found[2].text


def bad(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.status != "ok"]


@real
def test_processes_that_died_are_told(instance: Launched, examined: Examined) -> None:
    launcher = instance.up()
    state = instance.state
    os.kill(launcher.pid, signal.SIGSTOP)  # so that it cannot start them again
    instance.until(lambda: psutil.Process(launcher.pid).status() == "stopped", "it is stopped")
    for pid in (state.worker_pid, state.guardian_pid):
        os.kill(pid, signal.SIGKILL)
    both = [psutil.Process(pid) for pid in (state.worker_pid, state.guardian_pid)]
    instance.until(lambda: all(one.status() == "zombie" for one in both), "both are dead")
    found = bad(examined(instance.directory, [running.processes]))
    assert found[0] == f"the worker (pid {state.worker_pid}) has ended"
    assert "the guardian, which ends the instance" in found[1]
    os.kill(launcher.pid, signal.SIGCONT)


@real
def test_processes_without_a_launcher_are_told(instance: Launched, examined: Examined) -> None:
    launcher = instance.up()
    state = instance.state
    os.kill(state.guardian_pid, signal.SIGSTOP)  # so that it cannot do its work
    guardian = psutil.Process(state.guardian_pid)
    instance.until(lambda: guardian.status() == "stopped", "it is stopped")
    launcher.kill()
    launcher.wait()
    found = bad(examined(instance.directory, [running.phase, running.processes]))
    assert "no launcher runs, though it was running last" in found[0]
    pids = sorted((state.model_pid, state.worker_pid, state.guardian_pid))
    assert found[1] == (
        f"processes of the instance live without a launcher: {', '.join(map(str, pids))}"
    )
    os.kill(state.guardian_pid, signal.SIGCONT)


@real
def test_a_failed_instance_is_told_with_reason_and_remedy(
    instance: Launched, examined: Examined
) -> None:
    code = "raise SystemExit(\"ModuleNotFoundError: No module named 'vllm'\")"
    instance.change(steps=[RunStep(command=["{python}", "-c", code])], max_restarts=0)
    instance.launch()
    instance.until_phase("failed")
    (finding,) = examined(instance.directory, [running.phase])
    assert finding.status == "problem"
    assert "a Python package is missing: step 1 of 1 (run) ended with exit code 1" in finding.text
    assert f"stoker launch {instance.directory}" in finding.remedy
