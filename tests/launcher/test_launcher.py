"""The launcher with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker.http import Exchange, HttpServer
from stoker.launcher import FileLock, write_manifest
from stoker.launcher.steps import RunStep

pytestmark = pytest.mark.real

Launched = Any  # the class in conftest.py, which cannot be imported


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_an_instance_comes_up_and_drains_worker_first(instance: Launched) -> None:
    launcher = instance.up()
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0
    assert instance.lines("order") == ["worker", "model"]
    assert instance.state.phase == "stopped"
    assert instance.processes() == {}


def test_only_the_worker_gets_the_secret(running: Launched) -> None:
    model, worker = running.environment_of("model"), running.environment_of("worker")
    assert "secret-mtoken" not in model.values()
    assert worker["MASTER_TOKEN"] == "secret-mtoken"
    assert model["HF_TOKEN"] == worker["HF_TOKEN"] == "hf-secret"
    assert "the-api-key" not in {*model.values(), *worker.values()}


def test_the_worker_gets_the_environment_of_the_protocol(running: Launched) -> None:
    worker, port = running.environment_of("worker"), str(running.state.worker_port)
    assert worker["CONTAINER_ID"] == "7"
    assert worker["REPORT_ADDR"] == "http://127.0.0.1:9"
    assert worker["WORKER_PORT"] == port
    assert worker[f"VAST_TCP_PORT_{port}"] == "4711"
    assert worker["PUBLIC_IPADDR"] == "10.1.2.3"
    assert worker["MODEL_LOG"] == str(running.directory / "model.log")
    assert worker["MODEL_PORT"] == str(running.state.model_port)
    assert worker["STOKER_TICKETS"] == "required"


def test_a_model_log_can_be_kept_where_a_worker_file_looks_for_it(
    instance: Launched, environment_of: Callable[[str], dict[str, str]]
) -> None:
    path = instance.directory.parent / "elsewhere.log"
    instance.change(model_log=str(path))
    instance.up()
    assert environment_of("worker")["MODEL_LOG"] == str(path)
    assert "model loaded" in path.read_text()


def test_the_directory_and_its_files_are_private(running: Launched) -> None:
    assert stat.S_IMODE(running.directory.stat().st_mode) == 0o700
    for name in ("manifest.json", "state.json", "model.log", "worker.log"):
        assert stat.S_IMODE((running.directory / name).stat().st_mode) == 0o600


def test_a_launcher_that_is_killed_leaves_no_process(instance: Launched) -> None:
    instance.change(env={"GRANDCHILD": "1"})
    launcher = instance.up()
    assert len(instance.processes()) == 4  # model server, its grandchild, worker, guardian
    kill(launcher.pid)
    instance.until(lambda: not instance.processes(), "nothing is left", timeout=3.0)


def escaped(instance: Launched) -> psutil.Process:
    """A process of the model server that wiped its environment and left session and parent."""
    path = instance.directory / "escaped"
    pid = instance.until(lambda: path.exists() and path.read_text(), "a process escaped")
    path.unlink()
    process = psutil.Process(int(pid))
    instance.until(lambda: process.name() == "sleep", "it wiped its environment")
    return process


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_what_a_killed_model_server_leaves_is_ended_before_the_next_start(
    instance: Launched,
) -> None:
    instance.change(env={"ESCAPES": "1"})
    launcher = instance.up()
    first = escaped(instance)
    kill(instance.state.model_pid)
    instance.until(lambda: instance.state.restarts == 1, "restarted")
    assert gone(first)
    instance.until_phase("running")
    second = escaped(instance)
    kill(instance.state.worker_pid)
    instance.until(lambda: instance.state.restarts == 2, "the worker was restarted")
    assert not gone(second)  # the model server still runs, and it is that one's
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0
    assert gone(second)


def test_a_launcher_that_is_killed_leaves_no_process_that_escaped(instance: Launched) -> None:
    instance.change(env={"ESCAPES": "1"})
    launcher = instance.up()
    process = escaped(instance)
    # The guardian looks once a second.
    instance.until(lambda: time.time() - process.create_time() > 2.5, "the guardian has seen it")
    kill(launcher.pid)
    instance.until(lambda: gone(process), "it was ended", timeout=5.0)


def test_children_that_the_launcher_did_not_start_are_left_alone(instance: Launched) -> None:
    write_manifest(instance.directory, instance.manifest)
    path = instance.directory / "foreign"
    # As an on-start script does it: a job in the background, one that goes on without its parent,
    # then the launcher in place of the shell.
    script = f"""
(env -i sleep 601 & echo $! >> {path})
env -i sleep 602 & echo $! >> {path}
exec {sys.executable} -m stoker.launcher {instance.directory}
"""
    launcher = subprocess.Popen(
        ["/bin/sh", "-c", script], stderr=subprocess.DEVNULL, start_new_session=True
    )
    foreign = []
    try:
        instance.until(lambda: instance.directory.joinpath("state.json").exists(), "it runs")
        instance.until(lambda: instance.state.phase == "running", "it runs")
        foreign = [psutil.Process(int(pid)) for pid in path.read_text().split()]
        launcher.send_signal(signal.SIGTERM)
        assert launcher.wait(20) == 0
        assert instance.lines("order") == ["worker", "model"]
        assert [gone(process) for process in foreign] == [False, False]
    finally:
        launcher.kill()
        for process in foreign:
            process.kill()


def test_a_guardian_that_is_killed_is_replaced_and_does_its_work(instance: Launched) -> None:
    launcher = instance.up()
    first, model = instance.state.guardian_pid, instance.state.model_pid
    kill(first)
    instance.until(lambda: instance.state.guardian_pid not in (0, first), "a new guardian")
    assert instance.state.model_pid == model
    kill(launcher.pid)
    instance.until(lambda: not instance.processes(), "nothing is left", timeout=3.0)


def test_a_model_server_that_dies_is_started_again_with_its_worker(instance: Launched) -> None:
    instance.up()
    before = instance.state
    kill(before.model_pid)
    instance.until(lambda: instance.state.restarts == 1, "restarted")
    instance.until_phase("running")
    assert instance.state.model_pid != before.model_pid
    assert instance.state.worker_pid != before.worker_pid
    assert instance.state.worker_port == before.worker_port


def test_a_worker_that_dies_is_started_again_without_reloading_the_model(
    instance: Launched,
) -> None:
    instance.up()
    before = instance.state
    kill(before.worker_pid)
    instance.until(lambda: instance.state.restarts == 1, "restarted")
    instance.until_phase("running")
    assert instance.state.worker_pid != before.worker_pid
    assert instance.state.model_pid == before.model_pid


def test_a_model_server_that_falls_ill_is_started_again(instance: Launched) -> None:
    instance.up()
    before = instance.state
    (instance.directory / "ill").touch()
    instance.until(lambda: instance.state.restarts >= 1, "restarted")
    (instance.directory / "ill").unlink()
    instance.until_phase("running")
    assert instance.state.model_pid != before.model_pid
    assert "failed 2 health checks in a row" in instance.log()


def test_a_model_server_that_is_ill_but_at_work_is_not_ended(instance: Launched) -> None:
    instance.up()
    (instance.directory / "busy").touch()
    (instance.directory / "ill").touch()
    asked = instance.directory / "asked"
    # Two bad checks are enough for one that is not.
    instance.until(lambda: asked.exists() and asked.read_text().count("True") > 5, "asked")
    assert instance.state.restarts == 0
    (instance.directory / "busy").unlink()
    instance.until(lambda: instance.state.restarts >= 1, "restarted")


def test_a_model_server_that_cannot_start_is_given_up_with_the_reason(
    instance: Launched,
) -> None:
    instance.change(env={"CANNOT_START": "1"}, max_restarts=2)
    launcher = instance.launch()
    instance.until_phase("failed")
    assert len(instance.lines("model.starts")) == 3
    assert "ended with exit code 1" in instance.state.error
    assert "no weights here" in instance.state.error
    assert "hunter2" not in instance.state.error
    assert instance.state.model_pid == instance.state.worker_pid == 0
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0


async def test_an_instance_that_failed_tells_the_control_plane_why(instance: Launched) -> None:
    told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def answer(exchange: Exchange) -> None:
        body = json.loads(exchange.body)
        if body["error_msg"] and not told.done():
            told.set_result(body)
        exchange.respond(200, b"{}")

    plane = HttpServer(answer)
    port = await plane.listen()
    instance.change(
        env={"CANNOT_START": "1"}, max_restarts=0, report_addr=f"http://127.0.0.1:{port}"
    )
    instance.launch()
    body = await asyncio.wait_for(told, 20)
    assert (body["id"], body["mtoken"], body["draining"]) == (7, "secret-mtoken", True)
    assert "no weights here" in body["error_msg"]
    assert "hunter2" not in body["error_msg"]
    await plane.drain(0.0)


def test_a_launcher_without_a_control_plane_ends_when_it_gave_up(instance: Launched) -> None:
    instance.change(env={"CANNOT_START": "1"}, max_restarts=0, unsecured=True, report_addr="")
    launcher = instance.launch()
    assert launcher.wait(20) == 1
    assert "ending, because it gave up" in instance.log()
    assert "no weights here" in instance.state.error
    assert instance.processes() == {}


async def test_a_launcher_that_nobody_owns_ends_once_its_control_plane_knows_why(
    instance: Launched,
) -> None:
    told = []

    def answer(exchange: Exchange) -> None:
        told.append(json.loads(exchange.body).get("error_msg"))
        exchange.respond(200, b"{}")

    plane = HttpServer(answer)
    port = await plane.listen()
    instance.change(
        env={"CANNOT_START": "1"}, max_restarts=0, report_addr=f"http://127.0.0.1:{port}"
    )
    launcher = instance.launch()
    assert await asyncio.to_thread(launcher.wait, 20) == 1
    assert "no weights here" in told[-1]
    await plane.drain(0.0)


def test_a_launcher_that_somebody_owns_stays_when_it_gave_up(instance: Launched) -> None:
    lock = FileLock(instance.directory.parent / "owner.lock")
    lock.acquire()
    instance.change(
        env={"CANNOT_START": "1"},
        max_restarts=0,
        report_addr="",
        unsecured=True,
        owner_lock=str(instance.directory.parent / "owner.lock"),
    )
    launcher = instance.launch()
    instance.until_phase("failed")
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.wait(1.5)  # more than one look
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0
    lock.release()


def test_an_unknown_backend_is_given_up_at_once(instance: Launched) -> None:
    instance.change(command=[], backend="lamacpp")
    instance.launch()
    instance.until_phase("failed")
    assert "did you mean 'llamacpp'" in instance.state.error
    assert instance.state.restarts == 0


def test_a_fixed_port_that_is_taken_is_named(instance: Launched) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        instance.change(worker_port=port, max_restarts=1)
        instance.launch()
        instance.until_phase("failed")
    assert f"worker_port: {port} cannot be used" in instance.state.error


def test_a_second_launcher_refuses(instance: Launched) -> None:
    first = instance.up()
    second = instance.launch()
    assert second.wait(20) == 75
    assert f"is run by another launcher (pid {first.pid})" in instance.log()
    assert instance.state.launcher_pid == first.pid
    assert len(instance.processes()) == 3


def test_a_new_launcher_kills_what_an_earlier_one_left(instance: Launched) -> None:
    instance.change(env={"ESCAPES": "1"})
    launcher = instance.up()
    process = escaped(instance)

    def seen() -> list[int]:
        descendants = instance.state.descendants
        return [pid for pid, _ in descendants.processes] if descendants else []

    instance.until(lambda: process.pid in seen(), "the launcher has written it down")
    before = instance.state
    os.kill(before.guardian_pid, signal.SIGSTOP)  # so that it cannot do its work
    kill(launcher.pid)
    launcher.wait()
    assert psutil.pid_exists(before.model_pid)
    assert not gone(process)
    instance.up()
    assert gone(process)
    assert instance.state.model_pid != before.model_pid
    assert before.model_pid not in instance.processes()
    assert before.guardian_pid not in instance.processes()
    assert len(instance.processes()) == 3


def test_a_stubborn_model_server_is_killed_after_its_grace(instance: Launched) -> None:
    supervision = instance.manifest.supervision
    instance.change(
        env={"STUBBORN": "1"},
        supervision=type(supervision)(**{**_fields(supervision), "stop_grace": 0.2}),
    )
    launcher = instance.up()
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0
    assert instance.processes() == {}


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_a_second_sigterm_ends_the_wait(instance: Launched) -> None:
    instance.change(env={"SLOW_DRAIN": "1"})
    launcher = instance.up()
    launcher.send_signal(signal.SIGTERM)
    instance.until_phase("draining")
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(8) == 0  # drain_grace is 10 s
    assert instance.processes() == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_that_mean_stop_drain_as_well(
    instance: Launched, number: signal.Signals
) -> None:
    launcher = instance.up()
    launcher.send_signal(number)
    assert launcher.wait(20) == 0
    assert instance.lines("order") == ["worker", "model"]


IGNORING = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_under_nohup_the_launcher_stays_and_what_it_starts_ends_on_signals(
    instance: Launched,
) -> None:
    instance.change(steps=[RunStep(command=["cat", "/proc/self/status"])])
    launcher = instance.up([sys.executable, "-c", IGNORING])
    state = instance.state
    step = instance.lines("setup.log")
    children = [psutil.Process(pid) for pid in (state.model_pid, state.worker_pid) if pid]
    assert len(children) == 2
    model, worker = (Path(f"/proc/{p.pid}/status").read_text().splitlines() for p in children)
    for lines in (step, model, worker):
        ignored = next(int(line.split()[1], 16) for line in lines if line.startswith("SigIgn"))
        ours = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)
        assert [n for n in ours if ignored >> (n - 1) & 1] == []
    launcher.send_signal(signal.SIGHUP)
    launcher.send_signal(signal.SIGINT)
    kill(children[1].pid)
    # It goes on watching, which a launcher that drains does not.
    instance.until(lambda: instance.state.worker_pid not in {0, children[1].pid}, "a new worker")
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(20) == 0


def test_an_instance_without_an_owner_stops_by_itself(instance: Launched) -> None:
    lock = instance.directory.parent / "owner.lock"
    instance.change(owner_lock=str(lock), owner_timeout=0.2)
    launcher = instance.launch()
    assert launcher.wait(20) == 0
    assert "no control plane wants this instance" in instance.log()
    assert instance.state.phase == "stopped"


def test_a_directory_without_a_manifest_is_a_mistake(instance: Launched) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stoker.launcher", str(instance.directory)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "manifest.json: No such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_that_cannot_be_written_harms_nothing_and_is_told(instance: Launched) -> None:
    for name in ("model.log", "model.log.1", "model.log.2"):
        # A directory cannot be opened for writing, nor replaced while something is in it.
        (instance.directory / name / "inside").mkdir(parents=True)
    instance.up()
    instance.until(lambda: instance.state.log_dropped > 0, "lines are dropped")
    assert "a log cannot be written" in instance.log()
    assert instance.state.restarts == 0


def test_the_logs_of_the_launcher_and_of_its_steps_do_not_grow(instance: Launched) -> None:
    (instance.directory / "launcher.log").write_bytes(b"x" * (4 * 2**20))
    lines = "for n in range(50_000): print(f'line {n:05} of a talkative step')"
    supervision = _fields(instance.manifest.supervision) | {"log_bytes": 100_000}
    instance.change(
        steps=[RunStep(command=["{python}", "-c", lines])],
        supervision=type(instance.manifest.supervision)(**supervision),
    )
    instance.up()
    assert (instance.directory / "launcher.log.1").stat().st_size >= 4 * 2**20
    assert 0 < (instance.directory / "launcher.log").stat().st_size < 10_000
    sizes = [file.stat().st_size for file in instance.directory.glob("setup.log*")]
    assert len(sizes) == 3
    assert max(sizes) < 100_000 + 65_536  # what is read at once
    # The newest file is empty where the last of it filled the one before.
    lines_kept = instance.lines("setup.log.1") + instance.lines("setup.log")
    assert lines_kept[-1] == "line 49999 of a talkative step"


@pytest.mark.parametrize("wanted", ["text", "json"])
def test_the_environment_chooses_the_format_of_launcher_and_children(
    instance: Launched,
    environment_of: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
) -> None:
    monkeypatch.setenv("STOKER_LOG_FORMAT", wanted)
    instance.up()
    assert all(line.startswith("{") is (wanted == "json") for line in instance.log().splitlines())
    assert environment_of("worker")["STOKER_LOG_FORMAT"] == wanted


def test_a_format_that_does_not_exist_is_a_mistake(
    instance: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STOKER_LOG_FORMAT", "xml")
    assert instance.launch().wait(20) == 2
    assert "launcher: error: STOKER_LOG_FORMAT: must be 'json' or 'text'" in instance.log()
