"""A child of the launcher: the model server, the worker or the guardian."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from stoker.launcher.guardian import created_at
from stoker.launcher.logfiles import LogPipe, RotatingLog


class Child:
    """A process in a session of its own, whose output goes to a log.

    Its own session keeps a Ctrl-C in the launcher's terminal away from it: the launcher decides
    what ends when.
    """

    def __init__(self, process: asyncio.subprocess.Process, pipe: LogPipe, name: str) -> None:
        self._process = process
        self._pipe = pipe
        self.name = name
        self.pid = process.pid
        try:
            self.created = created_at(process.pid)
        except psutil.Error:  # ended already; 0.0 is the creation time of no process
            self.created = 0.0
        self._waiter = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(
        cls,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        *,
        directory: Path,
        log: RotatingLog,
        on_exit: Callable[[], None],
    ) -> Child:
        """Start it.

        Args:
            name: what to call it in errors ("the model server").
            argv: program and arguments.
            environment: all of it.
            directory: working directory.
            log: gets standard output and standard error.
            on_exit: called once when it has ended.

        Raises:
            OSError: when the program cannot be started.
            ValueError: when an argument holds a zero byte.
        """
        pipe = LogPipe(log)
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe.writer,
                stderr=pipe.writer,
                env=dict(environment),
                cwd=directory,
                start_new_session=True,
            )
        except BaseException:
            pipe.close()
            raise
        pipe.started()
        child = cls(process, pipe, name)
        child._waiter.add_done_callback(lambda _done: on_exit())
        return child

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._waiter.done()

    @property
    def root(self) -> tuple[int, float]:
        """Its pid and creation time."""
        return self.pid, self.created

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    def ending(self) -> str:
        """How it ended, in words."""
        self._pipe.drain()
        code = self._process.returncode
        if code is None:
            return f"{self.name} is running"
        if code < 0:
            try:
                return f"{self.name} was killed by {signal.Signals(-code).name}"
            except ValueError:
                return f"{self.name} was killed by signal {-code}"
        return f"{self.name} ended with exit code {code}"

    def send(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal, to all of its process group if asked; nothing happens once it ended."""
        if not self.alive:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if group:
                os.killpg(self.pid, number)
            else:
                self._process.send_signal(number)

    async def wait(self, timeout: float) -> bool:
        """Wait for its end, at most `timeout` seconds; returns whether it ended."""
        await asyncio.wait([self._waiter], timeout=timeout)
        return not self.alive

    def close(self) -> None:
        """Read what it wrote last, and let go of its pipe."""
        self._pipe.drain()
        self._pipe.close()
