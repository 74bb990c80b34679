"""A control plane in a process of its own, started again when it dies; for the demo and tests."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import psutil

from stoker.cli.spawning import spawn
from stoker.errors import StokerError
from stoker.launcher import TAG, tag

_LISTENS = re.compile(r"^stoker listens on (\S+)$")

START_LIMIT = 20.0
"""Seconds until a control plane must listen."""

RESTART_PAUSE = 0.5
"""Seconds until the next try, where a control plane could not be started again."""

STOP_TRIES = 3
"""Control planes that may die, one after the other, while they stop their instances."""


MAX_WORKERS = 200
"""Ids of workers that `processes_of` knows; a demo or a test makes far fewer."""


def processes_of(state: Path) -> dict[int, str]:
    """Living processes of the control plane with that state directory, and of its instances.

    A model server and a guardian do not name the directory: they are known by their tags.

    Returns:
        Command lines by pid; the calling process is left out.
    """
    names = [f"local-{worker_id}" for worker_id in range(1, MAX_WORKERS)]
    tags = {tag(name, state / "instances" / name) for name in names}
    found = {}
    for process in psutil.process_iter():
        try:
            command, environment = process.cmdline(), process.environ()
            ended = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        named = any(str(state) in text for text in (*command, *environment.values()))
        if not ended and (named or environment.get(TAG) in tags):
            found[process.pid] = " ".join(command)
    found.pop(os.getpid(), None)
    return found


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
        self._starting = asyncio.Lock()

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
        try:
            await self._spawn(port=0)
        except StokerError:
            # One that ended by itself has said why; one that was killed comes up at the next try.
            if self._process is None or (self._process.returncode or 0) >= 0:
                raise
            self.restarts += 1
            await self._spawn(port=0)
        self._watch = asyncio.create_task(self._keep_up())

    async def stop(self) -> int:
        """Stop it with all its instances; returns its exit code, 0 if all went well.

        One that dies before it has stopped its instances is started once more, to do that.
        """
        async with self._starting:  # cut off in its start, it would leave its instances behind
            if self._watch is not None:
                self._watch.cancel()
                await asyncio.gather(self._watch, return_exceptions=True)
        if self._process is None:
            return 0
        for tries in range(STOP_TRIES):
            if tries:
                try:
                    await self._spawn(self._port)
                except StokerError:
                    break
            if self._process.returncode is None:
                self._process.send_signal(signal.SIGTERM)
            if await self._process.wait() == 0 or not self.url:
                break
        code = self._process.returncode
        return 1 if code is None else code

    @property
    def _port(self) -> int:
        """The same again after a restart, so that its URL stays good."""
        return int(self.url.rpartition(":")[2])

    async def _spawn(self, port: int) -> None:
        log = (self._state / "server.log").open("ab")
        try:
            self._process = await spawn(
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
            self.restarts += 1
            try:
                async with self._starting:
                    await self._spawn(self._port)
            except StokerError:
                await asyncio.sleep(RESTART_PAUSE)
