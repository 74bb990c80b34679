"""The processes of an instance: how they start, how they end, and what they last said."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import psutil

from stoker.launcher import environment, guardian
from stoker.launcher.guard import Guard
from stoker.launcher.logfiles import RotatingLog
from stoker.launcher.manifest import InstanceManifest, tag
from stoker.launcher.process import Child
from stoker.launcher.reap import Reaper
from stoker.logs import get_logger, without

_log = get_logger("launcher")

Role = Literal["setup", "model", "worker"]

SETUP_LOOK = 60.0
"""Seconds; only how long one wait for a program's end takes."""

ERROR_LINES = 8
MAX_ERROR = 2000
"""Characters of an error in the state and in reports."""


class Parts:
    """Model server and worker, what runs before them, their ports and logs. It decides nothing."""

    def __init__(
        self,
        directory: Path,
        manifest: InstanceManifest,
        guard: Guard,
        kin: guardian.Kin,
        reaper: Reaper,
        on_exit: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._guard = guard
        self._kin = kin
        self._reaper = reaper
        self._on_exit = on_exit
        self._tag = tag(manifest.instance_id, directory)
        size = manifest.supervision.log_bytes
        self._logs: dict[Role, RotatingLog] = {
            "setup": RotatingLog(directory / environment.SETUP_LOG, max_bytes=size),
            "model": RotatingLog(environment.model_log(manifest, directory), max_bytes=size),
            "worker": RotatingLog(directory / environment.WORKER_LOG, max_bytes=size),
        }
        self._children: dict[Role, Child] = {}
        self.model_port = 0
        self.worker_port = 0
        self._http_port = 0
        self.hurry = asyncio.Event()
        """Set: no more waiting for anything to end by itself."""

    def pid(self, role: Role) -> int:
        """Pid of a part; 0 when it was not started."""
        return self._children[role].pid if role in self._children else 0

    def pids(self) -> set[int]:
        """All processes for whose end the event loop waits."""
        return {child.pid for child in self._children.values()} | self._guard.pids()

    def has(self, role: Role) -> bool:
        """Whether the part was started and not cleared since."""
        return role in self._children

    def ended(self, role: Role) -> bool:
        """Whether the part was started and ended by itself."""
        return role in self._children and not self._children[role].alive

    @property
    def dropped(self) -> int:
        """Bytes of log that could not be written."""
        return sum(log.dropped for log in self._logs.values())

    @property
    def public_url(self) -> str:
        """The worker as clients see it."""
        manifest, host = self._manifest, self._manifest.public_host
        scheme = "https" if manifest.use_ssl else "http"
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{scheme}://{host}:{manifest.public_port or self.worker_port}"

    @property
    def local_url(self) -> str:
        """The worker's port for this machine; empty while there is no worker."""
        return f"http://127.0.0.1:{self._http_port}" if self.has("worker") else ""

    @property
    def health_url(self) -> str:
        """The model server's health check; empty where it has none.

        Raises:
            ConfigError: when the backend is unknown.
        """
        return environment.health_url(self._manifest, self.model_port)

    async def start_model(self) -> None:
        """Start the model server, with a new log.

        Raises:
            ConfigError: a setting is wrong, or the port is taken.
            OSError: the program cannot be started.
        """
        manifest, directory = self._manifest, self._directory
        self.model_port = environment.choose_port(
            environment.MODEL_HOST,
            manifest.model_port,
            self.model_port,
            name="model_port",
            promised={self.worker_port, self._http_port},
        )
        argv = environment.model_command(manifest, directory, self.model_port)
        env = environment.model_environment(manifest, directory, self.model_port, os.environ)
        await self._start("model", "the model server", argv, env)
        _log.info("model server started", pid=self.pid("model"), port=self.model_port)

    async def start_worker(self) -> None:
        """Start the worker; the line that tells it that the model is loaded is in the log.

        Raises:
            ConfigError: the port is taken.
            OSError: the program cannot be started.
        """
        manifest = self._manifest
        self.worker_port = environment.choose_port(
            manifest.host,
            manifest.worker_port,
            self.worker_port,
            name="worker_port",
            promised={self.model_port, self._http_port},
        )
        self._http_port = environment.choose_port(
            "127.0.0.1",
            0,
            self._http_port,
            name="host",
            promised={self.model_port, self.worker_port},
        )
        env = environment.worker_environment(
            manifest,
            self._directory,
            os.environ,
            worker_port=self.worker_port,
            http_port=self._http_port,
            model_port=self.model_port,
        )
        self._logs["model"].replay()
        await self._start("worker", "the worker", environment.worker_command(manifest), env)
        _log.info("worker started", pid=self.pid("worker"), port=self.worker_port)

    def begin_setup(self) -> None:
        """Begin a new log for what runs before the start."""
        self._logs["setup"].begin()
        self._logs["setup"].booted()

    def note_setup(self, line: str) -> None:
        """Write a line of our own into that log; what is said after it belongs to it."""
        log = self._logs["setup"]
        log.write(without(line, self._manifest.secrets).encode(errors="replace") + b"\n")
        log.forget()

    async def run_setup(
        self, name: str, argv: list[str], environ: Mapping[str, str], directory: Path
    ) -> str:
        """Run a program before the start, to its end; nothing is left of it, also when cancelled.

        Args:
            name: what to call it.
            argv: program and arguments.
            environ: added to the environment that all of them have.
            directory: working directory.

        Returns:
            why it failed, with its last lines; empty when it did not.

        Raises:
            OSError: it cannot be started.
            ValueError: an argument holds a zero byte.
        """
        common = environment.setup_environment(self._manifest, self._directory, os.environ)
        await self._launch("setup", name, argv, {**common, **environ}, directory)
        try:
            child = self._children["setup"]
            while not await child.wait(SETUP_LOOK):
                pass
            return "" if child.code == 0 else self.blame("setup")
        finally:
            await self.clear("setup")

    async def _start(self, role: Role, name: str, argv: list[str], env: dict[str, str]) -> None:
        self._logs[role].begin()
        await self._launch(role, name, argv, env, self._directory)

    async def _launch(
        self, role: Role, name: str, argv: list[str], env: dict[str, str], directory: Path
    ) -> None:
        with self._reaper.held():
            child = await Child.start(
                name,
                argv,
                env,
                directory=directory,
                log=self._logs[role],
                on_exit=self._on_exit,
            )
            self._children[role] = child
        self._guard.watch(child.root)

    def booted(self) -> None:
        """The model server is healthy: what it wrote so far is its boot."""
        self._logs["model"].booted()

    def mend(self) -> None:
        """Repair the model server's log after a full disk, as the worker reads it."""
        self._logs["model"].mend()

    def blame(self, role: Role) -> str:
        """How a part ended, and its last lines."""
        ending = self._children[role].ending()
        lines = [line for line in self._logs[role].tail() if line.strip()][-ERROR_LINES:]
        return "\n".join([f"{ending}; its last lines:", *lines]) if lines else ending

    def without_secrets(self, text: str) -> str:
        """`text` fit for a log, a report and a page; not too long."""
        return without(text, self._manifest.secrets)[:MAX_ERROR]

    async def end(self, role: Role, grace: float) -> None:
        """Ask a part to end, wait for at most `grace` seconds, and kill what is left of it."""
        child = self._children.get(role)
        if child is None:
            return
        # All of the model server's group: a shell script in front would not pass the signal on.
        model = role == "model"
        child.send(signal.Signals[self._manifest.stop_signal if model else "SIGTERM"], group=model)
        waits = [
            asyncio.ensure_future(child.wait(grace)),
            asyncio.ensure_future(self.hurry.wait()),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await self.clear(role)

    async def clear(self, role: Role) -> None:
        """Kill what is left of a part, and forget it."""
        child = self._children.pop(role, None)
        if child is None:
            return
        with self._reaper.held():
            await self._sweep(role, [child.root], alone=not self._children)
            await child.wait(2.0)
        child.close()
        self._guard.forget(child.pid)

    def ask(self, role: Role) -> None:
        """Ask a part to end, and wait for nothing."""
        if child := self._children.get(role):
            child.send(signal.SIGTERM)

    async def clear_all(self) -> None:
        """Kill whatever is left of the instance but the guardian."""
        await self.clear("setup")
        await self.clear("worker")
        await self.clear("model")
        await self._sweep("", [], alone=True)

    async def look(self) -> None:
        """See which processes there are, so that each is known when it loses its parent."""
        await asyncio.to_thread(self._kin.look, self._roots(), self._guard.pids())

    def seen(self) -> list[tuple[int, float]]:
        """Pids and creation times of what lived below this process at the last look."""
        return self._kin.seen()

    def _roots(self) -> dict[int, str]:
        return {child.pid: role for role, child in self._children.items()}

    async def _sweep(
        self, part: Role | Literal[""], roots: list[tuple[int, float]], *, alone: bool
    ) -> None:
        first = self._roots() | {pid: part for pid, _ in roots}
        guards = self._guard.pids()

        def family() -> dict[int, psutil.Process]:
            self._kin.look(first, guards)
            return self._kin.of(part, alone=alone)

        await asyncio.to_thread(
            guardian.sweep, self._tag, roots, role=part, spare=guards, also=family
        )

    def close(self) -> None:
        """Close the logs."""
        for log in self._logs.values():
            log.close()
