"""The launcher's side of the guardian: start it, tell it whom to watch, start it again."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from stoker.launcher import guardian
from stoker.launcher.environment import guardian_environment
from stoker.launcher.manifest import InstanceManifest, tag
from stoker.logs import get_logger

_log = get_logger("launcher")

RESPAWN_INTERVAL = 0.5
"""Seconds between two attempts to have a guardian."""


class Guard:
    """Keeps one guardian process alive; it kills the instance when this process dies."""

    def __init__(
        self,
        manifest: InstanceManifest,
        directory: Path,
        on_exit: Callable[[], None],
        *,
        exclusive: bool = True,
    ) -> None:
        """Guard nothing yet.

        Args:
            manifest: of the instance.
            directory: of the instance.
            on_exit: called when the guardian has ended.
            exclusive: everything below this process is the instance's.
        """
        program = str(Path(guardian.__file__).resolve())
        self._argv = [sys.executable, "-I", program, tag(manifest.instance_id, directory)]
        if exclusive:
            self._argv.append("all")
        self._environment = guardian_environment(manifest, directory)
        self._on_exit = on_exit
        self._process: asyncio.subprocess.Process | None = None
        self._waiter: asyncio.Future[int] | None = None
        self._roots: dict[int, float] = {}
        self._next_try = 0.0

    def pids(self) -> set[int]:
        """The guardian's pid, if there is one."""
        return {self._process.pid} if self._process is not None else set()

    def watch(self, root: tuple[int, float]) -> None:
        """Have the process and all below it killed when the launcher dies."""
        self._roots[root[0]] = root[1]
        self._tell(f"watch {root[0]} {root[1]!r}\n")

    def forget(self, pid: int) -> None:
        """The process is gone."""
        if self._roots.pop(pid, None) is not None:
            self._tell(f"forget {pid}\n")

    async def start(self) -> None:
        """Start the guardian.

        Raises:
            OSError: when that is impossible.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            cwd="/",
            start_new_session=True,
        )
        self._waiter = asyncio.ensure_future(self._process.wait())
        self._waiter.add_done_callback(lambda _done: self._on_exit())
        for root in list(self._roots.items()):
            self._tell(f"watch {root[0]} {root[1]!r}\n")

    async def keep(self, now: float) -> None:
        """Start the guardian again if it has died."""
        if self._waiter is not None and not self._waiter.done():
            return
        self._process = self._waiter = None
        if now < self._next_try:
            return
        self._next_try = now + RESPAWN_INTERVAL
        try:
            await self.start()
        except OSError as error:
            _log.error("no guardian can be started", error=error.strerror)
        else:
            _log.warning("the guardian had died: started another")

    async def stop(self) -> None:
        """Let the guardian end: it finds nothing left to kill."""
        if self._process is None or self._waiter is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        await asyncio.wait([self._waiter], timeout=3.0)
        if not self._waiter.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await asyncio.wait([self._waiter], timeout=1.0)
        self._process = self._waiter = None

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._process.stdin.write(line.encode())
