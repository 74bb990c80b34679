"""Kills what is left of an instance when its launcher is gone. A program of its own.

The launcher starts it as ``python -I guardian.py TAG`` and writes the root processes of the
instance to its standard input, one a line: ``watch PID CREATED`` and ``forget PID``. End of file
means that the launcher is gone, by whatever way: everything below the roots, in their sessions, or
with TAG in its environment is killed.

The tag finds processes that left the session and lost their parent; the other two find those that
wrote over their environment (as programs do that set their title). It needs the standard library
and psutil only, so that it starts fast and works whatever happens to the rest of the installation.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

import psutil

TAG = "STOKER_INSTANCE"
"""Environment variable that every process of an instance carries."""

ROLE = "STOKER_ROLE"
"""Environment variable: which part of the instance a process belongs to."""

_ROUNDS = 20
_TOLERANCE = 0.02
"""Seconds; a creation time is exact to a clock tick of 0.01 s."""


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The living process `pid`, if it is the one created at `created` (Unix seconds)."""
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        same = abs(process.create_time() - created) <= _TOLERANCE
    except (psutil.Error, ValueError):
        return None
    return process if alive and same else None


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.Error, OSError):  # ended just now, a zombie, or another user's
        return {}


def find(
    tag: str, roots: Iterable[tuple[int, float]] = (), *, role: str = ""
) -> dict[int, psutil.Process]:
    """Living processes of an instance, by pid.

    Args:
        tag: value of `TAG` in their environment.
        roots: (pid, creation time); their descendants and sessions belong to the instance as well.
        role: only those with this value of `ROLE`, and the roots with all below them.
    """
    own = psutil.Process()
    spared = {own.pid, *(p.pid for p in own.parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        environment = _environment(process) if process.pid not in spared else {}
        if environment.get(TAG) == tag and role in ("", environment.get(ROLE)):
            found[process.pid] = process
    sessions = set()
    for pid, created in roots:
        root = same_process(pid, created)
        if root is None or pid in spared:
            continue
        found[pid] = root
        with contextlib.suppress(psutil.Error):
            found.update({p.pid: p for p in root.children(recursive=True)})
        with contextlib.suppress(OSError):
            if os.getsid(pid) == pid:
                sessions.add(pid)
    if sessions:
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if os.getsid(process.pid) in sessions:
                    found[process.pid] = process
    return {pid: process for pid, process in found.items() if pid not in spared and _lives(process)}


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def sweep(
    tag: str,
    roots: Iterable[tuple[int, float]] = (),
    *,
    role: str = "",
    spare: Iterable[int] = (),
) -> int:
    """Kill all processes of an instance; returns how many there were.

    They are stopped first, round after round until no new one turns up, because a process that runs
    can start another between the look and the kill.

    Args:
        tag: as for `find`.
        roots: as for `find`.
        role: as for `find`.
        spare: pids that stay.
    """
    spared = set(spare)
    roots = list(roots)
    known: dict[int, psutil.Process] = {}
    for _ in range(_ROUNDS):
        found = find(tag, roots, role=role)
        new = {p: q for p, q in found.items() if p not in known and p not in spared}
        if not new:
            break
        _signal(new.values(), signal.SIGSTOP)
        known |= new
    _signal(known.values(), signal.SIGKILL)
    # Not psutil.wait_procs: it would collect the exit status of our own children, for which the
    # event loop waits.
    deadline = time.monotonic() + 2.0
    while any(_lives(p) for p in known.values()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(known)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)  # psutil looks first whether the pid was used again


def main() -> int:
    """Wait for the launcher's end, then sweep."""
    tag = sys.argv[1]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    roots: dict[int, float] = {}
    for line in sys.stdin:
        with contextlib.suppress(ValueError, IndexError):
            word, pid, *rest = line.split()
            if word == "watch":
                roots[int(pid)] = float(rest[0])
            elif word == "forget":
                roots.pop(int(pid), None)
    sweep(tag, roots.items())
    return 0


if __name__ == "__main__":
    sys.exit(main())
