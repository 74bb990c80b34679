"""The launcher as a program: ``python -m stoker.launcher DIR``."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import TextIO

import msgspec

from stoker import descriptors, logs, signals
from stoker.errors import ConfigError
from stoker.launcher.environment import LOG_LEVEL
from stoker.launcher.files import FileLock, secure_directory
from stoker.launcher.manifest import InstanceManifest
from stoker.launcher.ownlog import LAUNCHER_LOG, OwnLog
from stoker.launcher.reading import manifest_path, read_manifest
from stoker.launcher.reap import run_apart
from stoker.launcher.state import LOCK, launcher_of, myself
from stoker.launcher.supervisor import Supervisor

EXIT_MISTAKE = 2
"""The directory or its manifest cannot be used."""

EXIT_TAKEN = 75
"""Another launcher runs this instance (EX_TEMPFAIL of sysexits.h)."""

_LOCK_TRIES = 20
_LOCK_PAUSE = 0.05


def launch(directory: Path) -> int:
    """Run the instance in `directory` until it is told to stop; returns the exit code.

    Raises:
        ConfigError: when the directory or its manifest cannot be used.
    """
    directory = directory.resolve()
    try:
        # Nobody else may read the secrets in it, nor have put a manifest there.
        if directory.is_dir():
            secure_directory(directory)
    except OSError as error:
        raise ConfigError(str(directory), error.strerror or str(error)) from None
    manifest = read_manifest(directory, os.environ)
    logs.hide(*manifest.secrets)
    # The manifest has it now; the launcher gives it to the worker alone.
    os.environ.pop("MASTER_TOKEN", None)
    lock = FileLock(directory / LOCK, with_directory=True)
    try:
        manifest_path(directory).chmod(0o600)
        note = msgspec.json.encode(myself())
        # Tried again for a second: a look at the lock takes it for a moment.
        for _ in range(_LOCK_TRIES):
            if lock.acquire(note):
                break
            time.sleep(_LOCK_PAUSE)
        else:
            other = launcher_of(directory)
            who = f" (pid {other.pid})" if other else ""
            logs.complain("launcher", f"{directory} is run by another launcher{who}")
            return EXIT_TAKEN
    except OSError as error:
        raise ConfigError(str(directory), error.strerror or str(error)) from None
    # The lock is held to the very end of this process: whoever finds it free may start another.
    return asyncio.run(_supervise(directory, manifest, lock))


async def _supervise(directory: Path, manifest: InstanceManifest, lock: FileLock) -> int:
    return await Supervisor(directory, manifest, lock=lock).run()


def main(argv: list[str] | None = None) -> int:
    """The command; returns the exit code: 0 stopped, 1 gave up, 2 a mistake, 75 run by another."""
    descriptors.open_standard()
    signals.start_children_with_defaults()
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1 or arguments[0].startswith("-"):
        logs.complain("launcher", "usage: python -m stoker.launcher DIR")
        return EXIT_MISTAKE
    log = Path(arguments[0]).resolve() / LAUNCHER_LOG
    descriptors.inherit_limit()
    stream: TextIO = OwnLog(sys.stderr, log)  # type: ignore[assignment]
    sys.stderr = stream
    level = os.environ.get(LOG_LEVEL, "").lower()
    try:
        logs.configure(stream=stream, level=level if level in logs.LEVELS else "info")
        return run_apart(lambda: launch(Path(arguments[0])))
    except ConfigError as error:
        logs.complain("launcher", error)
        return EXIT_MISTAKE
