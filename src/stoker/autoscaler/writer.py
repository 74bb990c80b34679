"""Writes in the background what the rounds leave to be written: no round waits for the disk.

Rules:

* One writing at a time. Whatever is left to be written meanwhile is written by the next one: a
  worker that changed ten times is one row. So what waits is bounded by what there is.
* What a worker is asked to do goes out after its row is written, in the task of that order (see
  `stoker.autoscaler.acting`), and not from here.
* At the end there is a bound: another process's lock must not keep us from ending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any

from stoker.logs import get_logger

log = get_logger("control")

CLOSE_LIMIT = 3.0
"""Seconds that the last writing may take."""


class Writer:
    """One task that writes, and what is to be written once."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        """Write nothing yet.

        Args:
            work: writes all that is to be written, and never fails.
        """
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self._once: dict[Hashable, asyncio.Task[None]] = {}

    def kick(self) -> None:
        """Something is to be written; returns at once."""
        if self._task is not None and not self._task.done():
            self._again = True
        else:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while True:
            self._again = False
            await self._work()
            if not self._again:
                return

    def once(self, key: Hashable, work: Coroutine[Any, Any, None]) -> None:
        """Do something that writes and never fails; nothing if the same is under way."""
        if key in self._once:
            work.close()
            return
        task = self._once[key] = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(lambda _done: self._once.pop(key, None))

    async def idle(self) -> None:
        """Wait until nothing is being written."""
        while running := [t for t in (self._task, *self._once.values()) if t and not t.done()]:
            await asyncio.gather(*running, return_exceptions=True)

    async def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Write what is left, for at most `CLOSE_LIMIT` seconds.

        Args:
            last: the last writing.
        """
        try:
            async with asyncio.timeout(CLOSE_LIMIT):
                await self.idle()
                await last()
        except TimeoutError:
            log.warning("the database is locked: not everything was written before the end")
        for task in (self._task, *self._once.values()):
            if task is not None:
                task.cancel()
