"""`stoker logs` against a real control plane without machines."""

import asyncio
import json
import os
import signal
import sys

import pytest

from stoker.wire import EndpointParameters

pytestmark = pytest.mark.real

IDLE = EndpointParameters(min_load=0.0, cold_workers=0)


@pytest.fixture
async def chat(server):
    """A control plane that has an endpoint, and the endpoint's id."""
    await server.plane.store.create_endpoint("chat", IDLE)
    await server.plane.changed()
    return server, server.plane.fleet.by_name["chat"].id


async def following(access, *arguments):
    """A program, which can be sent a signal."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "stoker.cli", "logs", "chat", "--follow", *arguments),
        env=os.environ | access,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_a_log_is_followed_until_ctrl_c_and_steers_no_terminal(chat, access):
    server, endpoint = chat
    note = server.plane.journal.note
    note(endpoint, "info0", "the first line")
    process = await following(access)
    async with asyncio.timeout(60):
        assert b"the first line" in await process.stdout.readline()
        note(endpoint, "debug", "a detail that is not asked for")
        note(endpoint, "info1", "worker 1: \x1b[31midle -> error")
        assert (await process.stdout.readline()).endswith(b"idle -> error\n")
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
    assert process.returncode == 130
    assert b"\x1b" not in out + err
    assert b"Traceback" not in err


async def test_a_followed_log_is_an_object_a_line_for_programs(chat, access):
    server, endpoint = chat
    server.plane.journal.note(endpoint, "info0", "the first line")
    process = await following(access, "--json")
    async with asyncio.timeout(60):
        line = json.loads(await process.stdout.readline())
    assert (line["text"], line["level"]) == ("the first line", "info0")
    process.send_signal(signal.SIGTERM)
    await process.wait()


@pytest.mark.usefixtures("chat")
async def test_what_is_not_there_is_named(ask):
    for arguments, code, said in [
        (("chat", "--worker", "99"), 3, "has no worker 99; it has: none"),
        (("chat", "--model"), 2, "--worker: is required"),
        (("nowhere",), 3, "nowhere"),
    ]:
        done = await ask("logs", *arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert said in done.stderr


async def test_an_attached_workers_logs_are_on_its_own_machine(chat, ask):
    server, _ = chat
    worker = (await server.plane.attach("chat"))["CONTAINER_ID"]
    done = await ask("logs", "chat", "--worker", worker)
    assert done.returncode == 3
    assert "its logs are on its own machine" in done.stderr
