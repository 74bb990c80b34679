import asyncio
import os
import signal
import sys

import pytest

from stoker.cli.supervised import SupervisedServer, processes_of
from stoker.launcher import TAG, tag

KEY = "stk_the_key_of_the_supervisor_tests"
NOBODY = "[provider.local]\nenabled = false\n"

pytestmark = pytest.mark.real


async def test_a_process_that_carries_only_the_tag_of_an_instance_is_found(tmp_path):
    environment = {TAG: tag("local-3", tmp_path / "instances" / "local-3")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "print(flush=True); input()"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    await process.stdout.readline()
    assert set(processes_of(tmp_path)) == {process.pid}
    process.kill()
    await process.wait()
    assert processes_of(tmp_path) == {}


async def test_one_that_was_killed_before_it_could_stop_is_started_once_more_to_do_so(tmp_path):
    settings = tmp_path / "stoker.toml"
    settings.write_text(NOBODY)
    server = SupervisedServer(settings, tmp_path, KEY)
    await server.start()
    os.kill(server.pid, signal.SIGKILL)
    assert await server.stop() == 0
    assert processes_of(tmp_path) == {}


async def test_one_that_is_killed_while_it_starts_is_started_again_and_is_stopped_then_in_order(
    tmp_path,
):
    settings = tmp_path / "stoker.toml"
    settings.write_text(NOBODY)
    server = SupervisedServer(settings, tmp_path, KEY)
    starting = asyncio.create_task(server.start())
    async with asyncio.timeout(10):
        while server._process is None:  # noqa: ASYNC110  (the supervisor does it)
            await asyncio.sleep(0)
    os.kill(server.pid, signal.SIGKILL)
    await starting
    assert server.restarts == 1

    first = server.pid
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(10):
        while server.pid == first:  # noqa: ASYNC110  (the supervisor does it)
            await asyncio.sleep(0)
    assert await server.stop() == 0
    assert processes_of(tmp_path) == {}
