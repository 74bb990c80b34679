"""Any one process is killed with SIGKILL; the system heals within 15 s and orphans nothing."""

import asyncio
import os
import re
import signal
import sys
import time

import psutil
import pytest
import pytest_asyncio

from stoker import Client, StokerError
from stoker.cli.supervised import SupervisedServer, processes_of
from stoker.launcher import read_state

pytestmark = pytest.mark.real

HEALS_WITHIN = 15.0
KEY = "stk_the_key_of_the_fault_tests"
PAYLOAD = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
SETTINGS = """
[provider.local]
max_instances = 1
owner_timeout = 8.0

[[endpoint]]
name = "chat"
min_load = 1
cold_workers = 1
cold_mult = 1
max_workers = 1

[[endpoint.workergroup]]
backend = "llamacpp"
options = { parallel = 1, threads = 1 }
"""

# Where it does not matter what the model server is.
SIMULATED = re.sub(
    r'"llamacpp"\noptions = .*', '"simulated"\noptions = { slot_speed = 1000.0 }', SETTINGS
)


async def until(condition, limit, what):
    try:
        async with asyncio.timeout(limit):
            while not condition():  # noqa: ASYNC110  (other processes do it)
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"{what} did not happen within {limit} s") from None


async def answered(client, limit=HEALS_WITHIN):
    """Ask until a request is served; the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            answer = await client.request("chat", "/v1/chat/completions", PAYLOAD, timeout=limit)
            assert answer.json()["usage"]["completion_tokens"] > 0
            return time.monotonic() - began
        except StokerError as error:
            took = time.monotonic() - began
            assert took < limit, f"not healed after {took:.1f} s: {error}"
            await asyncio.sleep(0.1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    settings = directory / "stoker.toml"
    settings.write_text(SETTINGS)
    server = SupervisedServer(settings, directory, KEY)
    await server.start()
    async with Client(server.url, KEY) as client:
        await answered(client, 60.0)
        yield server, client, directory
    await server.stop()
    assert processes_of(directory) == {}


def state_of(directory):
    (instance,) = [p for p in (directory / "instances").iterdir() if (p / "state.json").exists()]
    return read_state(instance)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("victim", ["model", "worker", "guardian", "launcher", "control plane"])
async def test_it_heals_when_one_process_is_killed(system, victim):
    server, client, directory = system
    await until(lambda: read_pid(directory, server, victim), 15.0, "a running system")
    before = processes_of(directory)
    pid = read_pid(directory, server, victim)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not psutil.pid_exists(pid) or zombie(pid), 5.0, "its end")
    assert await answered(client) < HEALS_WITHIN
    # As many as before: whoever was killed is back, and nobody is there twice.
    await until(
        lambda: len(processes_of(directory)) == len(before), HEALS_WITHIN, "the full number"
    )


def zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_pid(directory, server, victim):
    state = state_of(directory)
    pids = {
        "model": state.model_pid,
        "worker": state.worker_pid,
        "guardian": state.guardian_pid,
        "launcher": state.launcher_pid,
        "control plane": server.pid,
    }
    pid = pids[victim]
    return pid if pid and psutil.pid_exists(pid) and not zombie(pid) else 0


@pytest.mark.parametrize("after", ["zero workers", "asking for a chat", "load rises"])
async def test_a_demo_that_is_killed_leaves_nothing(tmp_path, after):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stoker.cli", "demo"),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        async with asyncio.timeout(120):
            while after not in (line := (await process.stdout.readline()).decode()):
                assert line, "the demo ended"
    finally:
        process.kill()
        await process.wait()
    (state,) = tmp_path.glob("stoker-demo-*")
    await until(lambda: not processes_of(state), HEALS_WITHIN, "the end of all processes")


async def test_a_request_that_never_comes_to_its_worker_delays_no_end(tmp_path):
    settings = tmp_path / "stoker.toml"
    settings.write_text(SIMULATED)
    server = SupervisedServer(settings, tmp_path, KEY)
    await server.start()
    async with Client(server.url, KEY) as client:
        await answered(client, 60.0)
        await client.route("chat", 10.0)
    # What the kernel does when we are killed.
    server._watch.cancel()
    server._process.stdin.close()
    await until(lambda: not processes_of(tmp_path), HEALS_WITHIN, "the end of all processes")
    await server.stop()
