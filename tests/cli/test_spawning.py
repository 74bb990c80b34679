"""A child process is not left behind when its starter is cancelled."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import psutil
import pytest

from stoker.cli.spawning import spawn

SLEEPS = (sys.executable, "-c", "import time; time.sleep(600)")


async def test_a_starter_that_is_cancelled_leaves_no_process_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create = asyncio.create_subprocess_exec
    started, go_on = asyncio.Event(), asyncio.Event()
    pids = []

    async def slow(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        process = await create(*argv, **options)
        pids.append(process.pid)
        started.set()
        await go_on.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow)
    task = asyncio.create_task(spawn(*SLEEPS))
    await started.wait()
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    (pid,) = pids
    assert not psutil.pid_exists(pid)


async def test_what_is_started_is_handed_over() -> None:
    process = await spawn(sys.executable, "-c", "raise SystemExit(3)")
    assert await process.wait() == 3


async def test_a_program_that_is_not_there_is_an_error() -> None:
    with pytest.raises(OSError, match="nowhere"):
        await spawn("/nowhere/program")
