"""`stoker logs` against a real control plane without machines."""

import asyncio
import json
import os
import signal
import sys

import pytest

from stoker.cli.settings import LocalSettings
from stoker.console.serve import Server
from stoker.wire import EndpointParameters

pytestmark = pytest.mark.real

IDLE = EndpointParameters(min_load=0.0, cold_workers=0)
KEY = "an-account-key-of-the-tests"


@pytest.fixture
async def server(tmp_path):
    server = await Server.start(
        tmp_path / "state",
        host="127.0.0.1",
        port=0,
        local=LocalSettings(enabled=False),
        api_key=KEY,
    )
    await server.plane.store.create_endpoint("chat", IDLE)
    await server.plane.changed()
    yield server
    await server.stop(keep_instances=True, hurry=asyncio.Event())


async def started(server, *arguments):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stoker.cli", "logs", *arguments),
        env=os.environ | {"STOKER_URL": server.url, "STOKER_API_KEY": KEY},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process):
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode()


async def test_a_log_is_followed_until_ctrl_c_and_steers_no_terminal(server):
    note, endpoint = server.plane.journal.note, server.plane.fleet.by_name["chat"].id
    note(endpoint, "info0", "the first line")
    process = await started(server, "chat", "--follow")
    async with asyncio.timeout(60):
        assert b"the first line" in await process.stdout.readline()
        note(endpoint, "debug", "a detail that is not asked for")
        note(endpoint, "info1", "worker 1: \x1b[31midle -> error")
        assert (await process.stdout.readline()).endswith(b"idle -> error\n")
    process.send_signal(signal.SIGINT)
    code, rest, err = await ended(process)
    assert (code, "\x1b" in rest + err) == (130, False)


async def test_a_followed_log_is_an_object_a_line_for_programs(server):
    endpoint = server.plane.fleet.by_name["chat"].id
    server.plane.journal.note(endpoint, "info0", "the first line")
    process = await started(server, "chat", "-f", "--json")
    async with asyncio.timeout(60):
        line = json.loads(await process.stdout.readline())
    assert (line["text"], line["level"]) == ("the first line", "info0")
    process.send_signal(signal.SIGTERM)
    await process.wait()


@pytest.mark.parametrize(
    ("arguments", "wanted", "said"),
    [
        (("chat", "--worker", "99"), 3, "has no worker 99; it has: none"),
        (("chat", "--model"), 2, "--worker: is required"),
        (("nowhere",), 3, "nowhere"),
    ],
)
async def test_what_is_not_there_is_named(server, arguments, wanted, said):
    code, out, err = await ended(await started(server, *arguments))
    assert (code, out) == (wanted, "")
    assert said in err


async def test_an_attached_workers_logs_are_on_its_own_machine(server):
    environment = await server.plane.attach("chat")
    worker = environment["CONTAINER_ID"]
    code, _, err = await ended(await started(server, "chat", "--worker", worker))
    assert code == 3
    assert "its logs are on its own machine" in err
