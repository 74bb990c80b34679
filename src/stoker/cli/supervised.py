"""A control plane in a process of its own, started again when it dies; for the demo and tests."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

from stoker.errors import StokerError

_LISTENS = re.compile(r"^stoker listens on (\S+)$")

START_LIMIT = 20.0
"""Seconds until a control plane must listen."""


class SupervisedServer:
    """`stoker up` as a child process that ends with us, however we end.

    The child watches its standard input: when our end of that pipe closes, it stops its instances
    and ends. So even a SIGKILL of this process leaves nothing behind.
    """

    def __init__(self, settings: Path, state: Path, api_key: str) -> None:
        self._settings, self._state, self._api_key = settings, state, api_key
        self.url = ""
        self.restarts = 0
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """Of the control plane that runs now."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it listens.

        Raises:
            StokerError: it did not come up; the message has what it said.
        """
        await self._spawn(port=0)
        self._watch = asyncio.create_task(self._keep_up())

    async def stop(self) -> int:
        """Stop it with all its instances; returns its exit code."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        return await self._process.wait()

    async def _spawn(self, port: int) -> None:
        log = (self._state / "server.log").open("ab")
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "stoker.cli", "up", str(self._settings)),
                *("--state", str(self._state), "--port", str(port), "--stop-on-stdin-eof"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=os.environ | {"STOKER_API_KEY": self._api_key},
                # Ctrl-C is for us alone: we stop it in order.
                start_new_session=True,
            )
        finally:
            log.close()
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(START_LIMIT):
                while line := await self._process.stdout.readline():
                    if found := _LISTENS.match(line.decode().rstrip()):
                        self.url = found[1]
                        return
        except TimeoutError:
            self._process.kill()
        await self._process.wait()
        said = (self._state / "server.log").read_text(errors="replace")[-2000:]
        raise StokerError(f"the control plane did not come up; it said:\n{said.strip()}")

    async def _keep_up(self) -> None:
        while True:
            assert self._process is not None
            await self._process.wait()
            if self._stopping:
                return
            self.restarts += 1
            await self._spawn(port=int(self.url.rpartition(":")[2]))
