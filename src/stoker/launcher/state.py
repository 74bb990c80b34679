"""What an instance is doing: the file ``state.json`` in its directory, written by the launcher."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import msgspec
import psutil

from stoker.errors import UNREADABLE
from stoker.launcher.files import is_locked, read_small, write_atomic
from stoker.launcher.guardian import created_at, same_process
from stoker.launcher.lifecycle import Phase
from stoker.launcher.machine import Reading

STATE = "state.json"
LOCK = "lock"
MAX_STATE = 1 << 20
"""Bytes of a state or lock file that are read."""


MAX_DESCENDANTS = 256
"""Processes that are written down: the oldest, as those that hold a GPU live as long as a model."""

Pid = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a state was written: a copy of the file is somewhere else, or of another time."""

    boot: str
    """Of the machine: the kernel makes a new id at each."""
    pids: str
    """The PID namespace, in which the process numbers are meant."""
    device: int
    inode: int
    """Of the instance's directory, on that device."""


class Descendants(msgspec.Struct, frozen=True, kw_only=True):
    """The processes seen below a launcher; see `stoker.launcher.orphans`."""

    place: Place
    processes: Annotated[list[tuple[Pid, float]], msgspec.Meta(max_length=MAX_DESCENDANTS)]
    """Pid and creation time, as `launcher_created`; at most `MAX_DESCENDANTS`."""


class InstanceState(msgspec.Struct, frozen=True, kw_only=True):
    """One look at an instance. Times are Unix seconds; a pid is 0 where there is no process."""

    phase: Phase
    launcher_pid: Pid
    launcher_created: float
    """Creation time of that process, in seconds since the machine booted: tells it from a later one
    with the same pid."""
    guardian_pid: int = 0
    model_pid: int = 0
    worker_pid: int = 0
    model_port: int = 0
    worker_port: int = 0
    doing: str = ""
    """What a long phase is at: the step before the start, or what is waited for."""
    restarts: int = 0
    """In all."""
    failures: int = 0
    """Faults in a row."""
    error: str = ""
    """The last fault, with the last lines of the log, without secrets."""
    unheard: str = ""
    """Why the control plane cannot be reached, though the instance may run well."""
    log_dropped: int = 0
    """Bytes of log that could not be written."""
    since: float = 0.0
    """When this phase began."""
    descendants: Descendants | None = None
    """What lived below the launcher at its last look; None where that cannot be told."""
    machine: Reading | None = None
    """The machine at the last look, which is at most some ten seconds ago while it runs."""


class LauncherIdentity(msgspec.Struct, frozen=True):
    """Content of the lock file: who holds it, and when it was created (`created_at`)."""

    pid: int
    created: float


def read_state(directory: Path) -> InstanceState | None:
    """The state last written; None when there is none that can be read."""
    try:
        return msgspec.json.decode(read_small(directory / STATE, MAX_STATE), type=InstanceState)
    except (OSError, *UNREADABLE):
        return None


def write_state(directory: Path, state: InstanceState) -> None:
    """Replace the state.

    Raises:
        OSError: when it cannot be written; the former one is still there then.
    """
    write_atomic(directory / STATE, msgspec.json.encode(state))


def myself() -> LauncherIdentity:
    """The identity of this process."""
    return LauncherIdentity(os.getpid(), created_at(os.getpid()))


def place_of(directory: Path) -> Place | None:
    """Where a state of `directory` is written; None where the machine does not tell.

    Sources: random(4) for the boot id, namespaces(7) for what identifies a PID namespace.
    """
    try:
        status = directory.stat()
        return Place(
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            pids=str(Path("/proc/self/ns/pid").readlink()),
            device=status.st_dev,
            inode=status.st_ino,
        )
    except OSError:
        return None


def launcher_of(directory: Path) -> psutil.Process | None:
    """The living launcher of an instance directory, if there is one.

    It holds the lock on this very file. A copy of the directory names the same process, and nobody
    holds the copy's lock.
    """
    path = directory / LOCK
    if not is_locked(path):
        return None
    try:
        raw, names = read_small(path, MAX_STATE), path.stat().st_nlink
        identity = msgspec.json.decode(raw, type=LauncherIdentity)
    except (OSError, *UNREADABLE):
        return None
    process = same_process(identity.pid, identity.created)
    # In a copy made with hard links it is the same file; the process opened it by another name.
    if process is not None and names > 1 and not _has_open(process.pid, path):
        return None
    return process


def _has_open(pid: int, path: Path) -> bool:
    name = str(path.resolve())
    try:
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) == name:
                return True
    return False
