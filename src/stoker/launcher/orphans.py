"""What outlived both a launcher and its guardian: found by what the launcher wrote down, and ended.

The kernel (out of memory) or a person (``kill -9``) may end launcher and guardian together. Most
of what they leave carries the instance's tag in its environment. A process that wrote over its
environment (programs that set their title do), left its session and lost its parent carries
nothing. The launcher saw it before, below itself, and keeps all that it sees in ``state.json``.

A file is only a claim: it may be copied, old, or written by somebody else. So a process that it
names is ended only if all of this is true, which the kernel tells and not the file:

1. The file was written here: in this directory (its inode, which no copy has), since this boot of
   the machine and with these process numbers (boot id, PID namespace).
2. The launcher that wrote it is gone.
3. The number belongs to the process that was seen: it began at the same time since the boot (to
   0.02 s), and not before that launcher. So a number that was used again is spared.
4. It is this user's, with all its user ids, is neither we nor an ancestor of ours (so not the
   control plane that started us), and is not of our session (so not another job of the terminal).
5. It was orphaned: its parent is the first process, an ancestor of ours (who adopts orphans is one,
   where it is not the first process), or another process of which 1 to 5 are true. A process that
   somebody else started and still watches has another parent.
6. It shows where it comes from: it has the tag, works in the directory, or has a file of it open or
   as its program; or its output goes into a pipe that nobody reads any more, as that of every child
   of a launcher that was killed does.

What a process of which all this is true started belongs to the instance as well. A process of which
5 or 6 is not true may be the instance's: it is named in the log and left alone.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
from collections.abc import Iterator
from pathlib import Path

import psutil

from stoker.launcher.guardian import TAG, lives, same_process, sweep
from stoker.launcher.state import InstanceState, place_of
from stoker.logs import get_logger

_log = get_logger("launcher")

MAX_FILES = 1024
"""Open files of a process that are looked at."""


def end_orphans(directory: Path, tag: str, state: InstanceState | None) -> int:
    """Kill what is left of an instance whose launcher is gone; returns how many processes.

    Args:
        directory: of the instance.
        tag: value of `TAG` in the environment of the instance's processes.
        state: what that launcher wrote last.
    """
    proven, doubtful = find_orphans(directory, tag, state)

    def family() -> dict[int, psutil.Process]:
        found = dict(proven)
        for process in proven.values():
            with contextlib.suppress(psutil.Error):
                found |= {child.pid: child for child in process.children(recursive=True)}
        return found

    left = sweep(tag, also=family)
    if alive := sorted(pid for pid, process in doubtful.items() if lives(process)):
        _log.warning(
            "processes that an earlier launcher saw below itself still run; nothing but its state "
            "says that they are the instance's, so they are left alone: end them if they are",
            pids=alive,
        )
    return left


def find_orphans(
    directory: Path, tag: str, state: InstanceState | None
) -> tuple[dict[int, psutil.Process], dict[int, psutil.Process]]:
    """What the launcher that wrote `state` left, by pid: what is the instance's, and what may be.

    Args:
        directory: as for `end_orphans`, as are the next.
        tag: see there.
        state: see there.
    """
    seen = _still_there(directory, state)
    ours = {process.pid for process in psutil.Process().parents()} | {1}
    orphaned: dict[int, psutil.Process] = {}
    while new := {
        pid: process
        for pid, process in seen.items()
        if pid not in orphaned and _parent(process) in ours | orphaned.keys()
    }:
        orphaned |= new
    proven = {pid: one for pid, one in orphaned.items() if _shows(one, directory, tag)}
    return proven, {pid: process for pid, process in seen.items() if pid not in proven}


def _still_there(directory: Path, state: InstanceState | None) -> dict[int, psutil.Process]:
    """The living processes of which the file speaks, if it speaks of this place and this user."""
    if state is None or state.descendants is None:
        return {}
    if state.descendants.place != place_of(directory):
        return {}
    if same_process(state.launcher_pid, state.launcher_created):
        return {}
    us = psutil.Process()
    spared = {1, us.pid, *(parent.pid for parent in us.parents())}
    session = os.getsid(0)
    found = {}
    for pid, created in state.descendants.processes:
        if pid in spared or created < state.launcher_created:
            continue
        with contextlib.suppress(psutil.Error, OSError):
            process = same_process(pid, created)
            if process is None or os.getsid(pid) == session:
                continue
            if set(process.uids()) == {os.geteuid()}:
                found[pid] = process
    return found


def _parent(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return 0


def _shows(process: psutil.Process, directory: Path, tag: str) -> bool:
    """Whether a process itself shows that it comes from the instance in `directory`."""
    with contextlib.suppress(psutil.Error, OSError):
        if process.environ().get(TAG) == tag:
            return True
    place = directory.resolve()
    if any(path.is_relative_to(place) for path in _files(process.pid)):
        return True
    return any(_speaks_to_nobody(process.pid, descriptor) for descriptor in (1, 2))


def _files(pid: int) -> Iterator[Path]:
    """Where a process works, its program, and files that it has open."""
    top = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        descriptors = itertools.islice((top / "fd").iterdir(), MAX_FILES)
        for link in itertools.chain([top / "cwd", top / "exe"], descriptors):
            with contextlib.suppress(OSError):
                yield link.readlink()


def _speaks_to_nobody(pid: int, descriptor: int) -> bool:
    """Whether it is a pipe that nobody reads any more (poll(2): POLLERR at the writing end)."""
    path = f"/proc/{pid}/fd/{descriptor}"
    try:
        if not os.readlink(path).startswith("pipe:"):  # noqa: PTH115
            return False
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        poll = select.poll()
        poll.register(pipe, select.POLLOUT)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    finally:
        os.close(pipe)
