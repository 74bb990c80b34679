"""The directory of one local instance: what is in it, and how it comes and goes whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from stoker.errors import UNREADABLE, ConfigError
from stoker.launcher import (
    LOCK,
    LOGS,
    MANIFEST,
    FileLock,
    InstanceManifest,
    InstanceState,
    created_at,
    end_orphans,
    launcher_of,
    open_own,
    read_manifest,
    read_small,
    read_state,
    same_process,
    tag,
    write_atomic,
    write_manifest,
)
from stoker.logs import without
from stoker.providers.desire import Desire

DESIRED = "desired.json"
MAX_FILE = 1 << 20
"""Bytes of a manifest or of what is desired that are read."""

_TAIL_BYTES = 1 << 20


class Folder:
    """One instance directory, as the provider handles it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name
        self.told = 0
        """Pid of the launcher that was told to stop: a second time would mean "hurry"."""
        self._spawned: tuple[int, float] | None = None
        self._running: tuple[int, float] | None = None
        self._unwritten: Desire | None = None

    def seen_running(self, launcher: int | None, now: float) -> float | None:
        """Since when it has been seen to run, by the clock of `now`.

        Args:
            launcher: pid of the launcher whose instance runs; None: it does not run.
            now: seconds.
        """
        if launcher is None:
            self._running = None
        elif self._running is None or self._running[0] != launcher:
            self._running = (launcher, now)
        return None if self._running is None else self._running[1]

    # -- coming and going ----------------------------------------------------------------------

    @classmethod
    def make(cls, path: Path, manifest: InstanceManifest, desire: Desire) -> Folder:
        """Make the directory, whole or not at all.

        Raises:
            OSError: no space or no right to write; nothing is left then.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        half = Path(tempfile.mkdtemp(prefix=".new-", dir=path.parent))
        try:
            write_manifest(half, manifest)
            write_atomic(half / DESIRED, msgspec.json.encode(desire))
            half.rename(path)
        except BaseException:
            shutil.rmtree(half, ignore_errors=True)
            raise
        return cls(path)

    def remove(self) -> bool:
        """Kill what is left of the instance and remove it; False: a launcher has just come."""
        lock = FileLock(self.path / LOCK, with_directory=True)
        # Whoever runs the instance holds the lock; a launcher that comes while we do goes away.
        with contextlib.suppress(OSError):
            if (self.path / LOCK).stat().st_nlink > 1 and self.launcher() is None:
                (self.path / LOCK).unlink()  # of a copy with hard links: the other's is held
        with contextlib.suppress(OSError):
            if not lock.acquire():
                return False
        try:
            self.end_orphans()
            # First out of sight in one step: a removal cut short leaves nothing that looks alive.
            old = Path(tempfile.mkdtemp(prefix=".old-", dir=self.path.parent))
            self.path.rename(old / self.id)
            shutil.rmtree(old, ignore_errors=True)
        except OSError:  # a full disk has no room for `old`: remove it where it is
            shutil.rmtree(self.path, ignore_errors=True)
        finally:
            lock.release()
        return not self.path.exists()

    @staticmethod
    def clean(root: Path) -> None:
        """Finish directories in `root` whose making or removal was cut short."""
        with contextlib.suppress(OSError):
            for half in [*root.glob(".new-*"), *root.glob(".old-*")]:
                shutil.rmtree(half, ignore_errors=True)

    # -- content -------------------------------------------------------------------------------

    @property
    def tag(self) -> str:
        """What all processes of the instance carry."""
        return tag(self.id, self.path)

    def manifest(self) -> InstanceManifest:
        """The manifest.

        Raises:
            ConfigError: when it is missing or damaged.
        """
        return read_manifest(self.path)

    def belongs_to(self, owner_lock: str | None) -> bool:
        """Whether it was made by the control plane that holds `owner_lock`; False in a copy.

        One whose launcher lives is ours however it came here: the lock that the launcher holds is
        the file in this directory, which no copy is.
        """
        try:
            written = self.manifest().owner_lock
        except ConfigError:
            return True  # it is damaged, and nothing is started from it
        if written == owner_lock or written is None or owner_lock is None:
            return True
        with contextlib.suppress(OSError):
            if Path(written).samefile(owner_lock):
                return True
        return self.launcher() is not None

    def has(self, manifest: InstanceManifest) -> bool:
        """Whether `manifest` is what it has."""
        written = msgspec.json.format(msgspec.json.encode(manifest))
        with contextlib.suppress(OSError):
            return read_small(self.path / MANIFEST, MAX_FILE) == written
        return False

    def replace_manifest(self, manifest: InstanceManifest) -> OSError | None:
        """Give it another manifest; where that is impossible, say why."""
        try:
            write_manifest(self.path, manifest)
        except OSError as error:
            return error
        return None

    def state(self) -> InstanceState | None:
        """What the launcher wrote last."""
        return read_state(self.path)

    def desire(self) -> Desire | None:
        """What is wanted; None where that is missing or damaged."""
        if self._unwritten is not None:
            return self._unwritten
        try:
            return msgspec.json.decode(read_small(self.path / DESIRED, MAX_FILE), type=Desire)
        except (OSError, *UNREADABLE):
            return None

    def note(self, desire: Desire) -> OSError | None:
        """Write down what is wanted; where that is impossible, remember it and say why.

        A full disk must not keep an instance alive, nor have a launcher started without end.
        """
        try:
            write_atomic(self.path / DESIRED, msgspec.json.encode(desire))
        except OSError as error:
            self._unwritten = desire
            return error
        self._unwritten = None
        return None

    def log_tail(self, name: str, lines: int) -> list[str]:
        """The last lines of one of its logs, without secrets."""
        try:
            with (self.path / name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return []
        secrets: tuple[str, ...] = ()
        with contextlib.suppress(ConfigError):
            secrets = self.manifest().secrets
        last = text.splitlines()[-lines:] if lines > 0 else []
        return [without(line, secrets) for line in last]

    def end_orphans(self) -> None:
        """Kill what is left of the instance; its launcher is gone, or is just being killed."""
        end_orphans(self.path, self.tag, self.state())

    # -- the launcher --------------------------------------------------------------------------

    def launcher(self) -> psutil.Process | None:
        """Its living launcher."""
        # One that we started a moment ago has not written yet who it is.
        if self._spawned is not None and (process := same_process(*self._spawned)):
            return process
        return launcher_of(self.path)

    def spawn(self, environment: Mapping[str, str]) -> None:
        """Start a launcher in a session of its own; one too many goes away by itself.

        Raises:
            OSError: when that is impossible.
        """
        log = self.path / LOGS[0]  # the launcher itself keeps it from growing
        descriptor = open_own(log, os.O_WRONLY | os.O_APPEND)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stoker.launcher", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                env=dict(environment),
                cwd=self.path,
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        with contextlib.suppress(psutil.Error):
            self._spawned = process.pid, created_at(process.pid)
        # Collects it when it ends, so that no zombie stays however long nobody looks.
        threading.Thread(target=process.wait, name=f"reap-{self.id}", daemon=True).start()
