"""An instance directory with something wrong in it, and what the doctor says of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stoker.launcher import InstanceManifest, write_manifest
from stoker.launcher.doctor import CHECKS, Finding, examine
from stoker.launcher.files import FileLock

Check = Callable[..., Any]


class Case:
    """One directory; `look` examines it with some of the checks."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environ = dict(os.environ)
        self.now: float | None = None
        self.lock: FileLock | None = None  # of the launcher, where it lives
        self.manifest = InstanceManifest(
            instance_id="local-7",
            worker_id=7,
            mtoken="secret-mtoken",
            report_addr="http://127.0.0.1:9",
            command=["/bin/true"],
            worker_command=["/bin/true"],
        )

    def change(self, **changes: Any) -> None:
        self.manifest = msgspec.structs.replace(self.manifest, **changes)

    async def look(self, *checks: Check, write: bool = True) -> list[Finding]:
        if write:
            write_manifest(self.directory, self.manifest)
        found = await examine(
            self.directory, environ=self.environ, now=self.now, checks=checks or CHECKS
        )
        for finding in found:
            assert finding.status == "ok" or finding.text
            assert "secret-mtoken" not in finding.text + finding.remedy
        return found

    async def one(self, check: Check, **more: Any) -> Finding:
        (finding,) = await self.look(check, **more)
        return finding

    async def bad(self, *checks: Check, **more: Any) -> Finding:
        """The only finding that is not "ok"."""
        (finding,) = [f for f in await self.look(*checks, **more) if f.status != "ok"]
        return finding


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    directory = tmp_path / "case"
    directory.mkdir(mode=0o700)
    made = Case(directory)
    yield made
    if made.lock is not None:
        made.lock.release()


@pytest.fixture
def examined() -> Callable[[Path, Iterable[Check]], list[Finding]]:
    """Examines a directory from a test that is not asynchronous."""

    def look(directory: Path, checks: Iterable[Check]) -> list[Finding]:
        work: Awaitable[list[Finding]] = examine(directory, checks=checks)
        return asyncio.run(work)  # type: ignore[arg-type]

    return look
