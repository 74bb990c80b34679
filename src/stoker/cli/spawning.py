"""Starting a child process that is not left behind when its starter is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def spawn(*argv: str, **options: Any) -> asyncio.subprocess.Process:
    """Start a process as `asyncio.create_subprocess_exec` does, with its arguments.

    Cancelled on the way, it kills what it has started. uvloop does not: the process is there and
    runs before anybody has a handle to it, and would go on.

    Raises:
        OSError: when the program cannot be started.
        ValueError: when an argument holds a zero byte.
    """
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*argv, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError, ValueError):
            process = await starting
            process.kill()
            await process.wait()
        raise
