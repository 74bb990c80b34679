"""What a check gets and what it finds."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import psutil

from stoker.errors import ConfigError
from stoker.launcher.lifecycle import Phase
from stoker.launcher.manifest import InstanceManifest
from stoker.launcher.reading import IDENTITY, read_manifest
from stoker.launcher.state import InstanceState, launcher_of, read_state

T = TypeVar("T")

Status = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One sentence about one thing."""

    check: str
    """What was looked at."""
    status: Status
    text: str
    """What was seen, in plain words."""
    remedy: str = ""
    """What to do about it."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """A machine, or an instance on it, at one moment.

    Attributes:
        directory: of the instance; None: the machine alone.
        environ: the environment of the command.
        now: Unix seconds.
        manifest: None where it cannot be read.
        manifest_problem: why.
        anonymous: the identity is neither in the manifest nor in `environ`.
        state: what the launcher wrote last.
        launcher: the living launcher.
    """

    directory: Path | None
    environ: Mapping[str, str]
    now: float
    manifest: InstanceManifest | None = None
    manifest_problem: str = ""
    anonymous: bool = False
    state: InstanceState | None = None
    launcher: psutil.Process | None = None

    @classmethod
    def look_at(cls, directory: Path | None, environ: Mapping[str, str], now: float) -> Patient:
        """Read what is written in a directory; whatever is wrong with it is noted, not raised."""
        if directory is None:
            return cls(directory=None, environ=environ, now=now)
        directory = directory.absolute()
        manifest, problem, anonymous = None, "", False
        try:
            manifest = read_manifest(directory, environ)
        except ConfigError as error:
            problem = str(error)
            if error.field in IDENTITY.values():
                problem = f"{error.field} is not set"
                # All else can be looked at without it.
                nobody = {
                    "CONTAINER_ID": "0",
                    "MASTER_TOKEN": "",
                    "REPORT_ADDR": "http://127.0.0.1",
                }
                stand_in = {name: environ.get(name) or value for name, value in nobody.items()}
                try:
                    stand_in["MASTER_TOKEN"] = stand_in["MASTER_TOKEN"] or "unknown"
                    manifest = read_manifest(directory, {**environ, **stand_in})
                    anonymous = True
                except ConfigError as other:
                    problem = str(other)
        return cls(
            directory=directory,
            environ=environ,
            now=now,
            manifest=manifest,
            manifest_problem=problem,
            anonymous=anonymous,
            state=read_state(directory),
            launcher=launcher_of(directory),
        )

    @property
    def lives(self) -> bool:
        """Whether its launcher runs, and has written a state."""
        return self.phase is not None

    @property
    def phase(self) -> Phase | None:
        """The phase that its living launcher is in; None where there is none."""
        state, launcher = self.state, self.launcher
        if state is None or launcher is None or state.launcher_pid != launcher.pid:
            return None
        return state.phase


async def in_thread(function: Callable[[], T]) -> T:
    """Call what may block, for example on a network file system that is gone.

    The thread is a daemon: one that never comes back does not keep the command from ending, as one
    of the event loop's own pool would.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            set_it(value)

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_exception, error)
        else:
            outcome = (future.set_result, result)
        with contextlib.suppress(RuntimeError):  # the command may have ended meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True, name="doctor").start()
    return await future
