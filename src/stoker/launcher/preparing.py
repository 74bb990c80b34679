"""What happens before the model server starts: directories, steps, and the worker's certificate.

Rules:

* Directories are made first, each time.
* A step whose success is remembered (a file in ``setup/``, named by its key) is left out, as long
  as what it made is there.
* A step that fails, or takes longer than its timeout, is a fault of the instance. Its processes are
  killed, and it is run again when the instance is.
* The certificate comes last: a control plane that is away costs no step its retry.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from stoker.errors import StokerError
from stoker.launcher.certificates import CertificateKeeper
from stoker.launcher.files import write_atomic
from stoker.launcher.manifest import InstanceManifest
from stoker.launcher.parts import Parts
from stoker.launcher.steps import AnyStep, Directory, keys, mode_of, place
from stoker.logs import get_logger

_log = get_logger("launcher")

DONE = "setup"
"""Directory in the instance's, with one small file for each step that succeeded."""


class SetupError(StokerError):
    """A step failed; the text says which, and why."""


class StepDone(msgspec.Struct, frozen=True, kw_only=True):
    """Content of such a file."""

    step: str
    at: float
    """Unix seconds."""
    seconds: float


def is_done(directory: Path, step: AnyStep, key: str) -> bool:
    """Whether a step has succeeded, and what it made is still there."""
    result = step.result(directory)
    # os.path, as it takes what cannot be looked at for missing.
    return os.path.exists(directory / DONE / key) and (  # noqa: PTH110
        result is None or os.path.exists(result)  # noqa: PTH110
    )


def make_directories(directory: Path, wanted: list[str | Directory]) -> None:
    """Make the directories of a manifest that are missing.

    Raises:
        OSError: that is impossible; the error names which.
    """
    for one in wanted:
        path = place(directory, one if isinstance(one, str) else one.path)
        path.mkdir(parents=True, exist_ok=True)
        if isinstance(one, Directory):
            path.chmod(mode_of(one.mode, "mode"))


class Preparation:
    """Brings one instance to where its model server can start."""

    def __init__(
        self,
        directory: Path,
        manifest: InstanceManifest,
        parts: Parts,
        certificates: CertificateKeeper,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._parts = parts
        self._certificates = certificates
        self._wall = wall
        self._keys = keys(manifest.steps)
        self._doing = ""

    @property
    def doing(self) -> str:
        """What it is at, for people."""
        return self._doing or self._certificates.waiting_for

    def needed(self, *, model_runs: bool) -> bool:
        """Whether there is anything to do that takes time.

        Args:
            model_runs: the model server is running, so the steps are of the past.
        """
        steps = not model_runs and bool(self._pending())
        return steps or self._certificates.missing()

    def _pending(self) -> list[int]:
        steps = enumerate(zip(self._manifest.steps, self._keys, strict=True))
        return [n for n, (step, key) in steps if not is_done(self._directory, step, key)]

    async def run(self) -> None:
        """Do what is not done yet.

        Raises:
            SetupError: a step failed.
            CertificateRefusedError: no control plane will sign the worker's certificate.
            OSError: something cannot be written.
        """
        if pending := self._pending():
            self._parts.begin_setup()
            try:
                for number in pending:
                    await self._run(number)
            finally:
                self._doing = ""
            self._forget_former()
            importlib.invalidate_caches()  # a package may be there now that was not
        await self._certificates.obtain()

    async def _run(self, number: int) -> None:
        step = self._manifest.steps[number]
        title = f"step {number + 1} of {len(self._keys)} ({step.title})"
        self._doing = title
        _log.info("setting up", step=title)
        began = self._wall()
        try:
            async with asyncio.timeout(step.timeout):
                await self._carry_out(step, title)
        except TimeoutError:
            raise SetupError(f"{title} took longer than {step.timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise SetupError(f"{title} cannot be done: {error}") from None
        result = step.result(self._directory)
        if result is not None and not result.exists():
            raise SetupError(f"{title} ended without an error, but there is no {result}")
        seconds = round(self._wall() - began, 3)
        done = StepDone(step=title, at=self._wall(), seconds=seconds)
        folder = self._directory / DONE
        folder.mkdir(exist_ok=True)
        write_atomic(folder / self._keys[number], msgspec.json.encode(done))
        _log.info("set up", step=title, seconds=seconds)

    async def _carry_out(self, step: AnyStep, title: str) -> None:
        directory = self._directory
        self._parts.note_setup(f"== {title}")
        step.apply(directory)
        for argv in step.commands(directory):
            self._parts.note_setup(f"$ {shlex.join(argv)}")
            problem = await self._parts.run_setup(
                title, argv, step.environment(directory), step.working_directory(directory)
            )
            if problem:
                raise SetupError(problem)

    def _forget_former(self) -> None:
        """Remove what is remembered of steps that the manifest has no more."""
        with contextlib.suppress(OSError):
            for file in (self._directory / DONE).iterdir():
                if file.name not in self._keys:
                    file.unlink()
