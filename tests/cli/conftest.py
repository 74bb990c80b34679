"""A control plane without machines in this process, and commands that ask it."""

import asyncio
import contextlib

import pytest

from stoker import logs
from stoker.cli.settings import LocalSettings
from stoker.console.serve import Server
from support import command

KEY = "an-account-key-of-the-tests"


@pytest.fixture
async def start_server(tmp_path, monkeypatch):
    """Starts a control plane; its log goes into a file, not into what a command says."""
    monkeypatch.setattr(logs, "_output", logs._output)  # and is as it was afterwards
    with (tmp_path / "server.log").open("w") as log:
        async with contextlib.AsyncExitStack() as stack:

            async def start(api_key=KEY):
                server = await Server.start(
                    tmp_path / "state",
                    host="127.0.0.1",
                    port=0,
                    local=LocalSettings(enabled=False),
                    api_key=api_key,
                )
                stack.push_async_callback(server.stop, keep_instances=True, hurry=asyncio.Event())
                return server

            logs.configure(stream=log)
            yield start


@pytest.fixture
async def server(start_server):
    """One that takes KEY."""
    return await start_server()


@pytest.fixture
def access(server):
    """Environment of a command that asks `server`."""
    return {"STOKER_URL": server.url, "STOKER_API_KEY": KEY}


@pytest.fixture
def ask(access):
    """Runs a command that asks `server`, in a thread beside it."""

    async def run(*arguments):
        done = await asyncio.to_thread(command.run, *arguments, env=access)
        assert "Traceback" not in done.stderr
        return done

    return run
