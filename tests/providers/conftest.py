"""A local provider over small real programs in place of model server and worker."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from stoker.launcher import tag
from stoker.launcher.guardian import find
from stoker.providers import Instance, InstanceSpec, LocalProvider

# Without http.server, whose imports take longer than all the rest.
MODEL = r"""
import contextlib, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("model loaded, api_key=hunter2", flush=True)
while True:
    connection, _ = listener.accept()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
"""

WORKER = """
import os, signal, threading
told = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: told.set())
print("mtoken is", os.environ["MASTER_TOKEN"], flush=True)
told.wait()
"""


class Local:
    """Makes providers on one directory, and ends what they leave."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "instances"
        (tmp_path / "model.py").write_text(MODEL)
        (tmp_path / "worker.py").write_text(WORKER)
        self.manifest: dict[str, Any] = {
            "command": [sys.executable, str(tmp_path / "model.py"), "{port}"],
            "worker_command": [sys.executable, str(tmp_path / "worker.py")],
            "health_path": "/health",
            "supervision": {"restart_delay": 0.05, "health_interval": 0.1},
        }
        self.providers: list[LocalProvider] = []

    def provider(self, **settings: Any) -> LocalProvider:
        made = LocalProvider(
            self.root, **{"max_instances": 2, "manifest": self.manifest, **settings}
        )
        self.providers.append(made)
        return made

    @staticmethod
    def spec(worker_id: int = 1, **changes: Any) -> InstanceSpec:
        fields: dict[str, Any] = {
            "worker_id": worker_id,
            "mtoken": "secret-mtoken",
            "endpoint": "chat",
            "backend": "llamacpp",
            "options": {},
            "report_addr": "http://127.0.0.1:9",
        }
        return InstanceSpec(**(fields | changes))

    def processes(self, instance_id: str = "local-1") -> dict[int, psutil.Process]:
        return find(tag(instance_id, self.root / instance_id))

    def launchers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(a.startswith(str(self.root)) for a in process.cmdline()):
                    found.append(process)
        return found

    async def until(
        self, look: Callable[[], Awaitable[Any]], what: str, timeout: float = 60.0
    ) -> Any:
        """Poll: other processes cannot tell us when they get somewhere."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if found := await look():
                return found
            await asyncio.sleep(0.05)
        logs = [p.read_text() for p in self.root.glob("*/launcher.log")]
        raise AssertionError("\n".join([f"not within {timeout} s: {what}", *logs]))

    async def until_status(
        self, provider: LocalProvider, status: str, instance_id: str = "local-1"
    ) -> Instance:
        async def look() -> Instance | None:
            for instance in await provider.list():
                if instance.id == instance_id and instance.status == status:
                    return instance
            return None

        found: Instance = await self.until(look, f"{instance_id} is {status}")
        return found

    async def up(self, provider: LocalProvider, worker_id: int = 1) -> Instance:
        instance = await provider.create("local", self.spec(worker_id))
        return await self.until_status(provider, "running", instance.id)

    async def end(self) -> None:
        for provider in self.providers:
            await provider.close()
        for process in self.launchers():
            with contextlib.suppress(psutil.Error):
                process.terminate()  # the root of the suite looks whether all of it ends


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[Local]:
    made = Local(tmp_path)
    try:
        yield made
    finally:
        await made.end()
