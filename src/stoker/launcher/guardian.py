"""Kills what is left of an instance when its launcher is gone. A program of its own.

The launcher starts it as ``python -I guardian.py TAG [all]`` and writes the root processes of the
instance to its standard input, one a line: ``watch PID CREATED`` and ``forget PID``. End of file
means that the launcher is gone, by whatever way: everything below the roots, in their sessions,
with TAG in its environment, or (with ``all``) ever seen below the launcher is killed.

The tag finds processes that left the session and lost their parent. Descent and session find those
that wrote over their environment, as programs do that set their title. One that did all of it was
seen below the launcher before (`Kin`), because the launcher adopts the orphans of its instance.

It needs the standard library and psutil only, so that it starts fast and works whatever happens to
the rest of the installation.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping

import psutil

TAG = "STOKER_INSTANCE"
"""Environment variable that every process of an instance carries."""

ROLE = "STOKER_ROLE"
"""Environment variable: which part of the instance a process belongs to."""

LOOK_INTERVAL = 1.0
"""Seconds between two looks at what is below the launcher."""

_ROUNDS = 20
_TOLERANCE = 0.02
"""Seconds; a creation time is exact to a clock tick of 0.01 s."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

_NO_UPTIME = 1e9
"""Seconds: no machine is up for thirty years, so a larger time of creation is Unix time."""


def created_at(pid: int) -> float:
    """When a process was created, in seconds since the machine booted.

    `psutil.Process.create_time` has Unix seconds, which move when the machine's clock is set: then
    no process would be the one that was written down.

    Raises:
        psutil.NoSuchProcess: it is gone.
    """
    try:
        # proc_pid_stat(5): starttime is field 22; the name, field 2, may hold blanks and brackets.
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  (starts fast)
            ticks = int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        raise psutil.NoSuchProcess(pid) from None
    return ticks / _TICKS_PER_SECOND


def same_process(pid: int, created: float) -> psutil.Process | None:
    """The living process `pid`, if it is the one created at `created`.

    Args:
        pid: its number.
        created: as `created_at` has it; or Unix seconds, as earlier versions wrote it.
    """
    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        same = _is_when(process, created)
    except (psutil.Error, ValueError):
        return None
    return process if alive and same else None


def _has(pid: int, marks: Iterable[str]) -> bool:
    """Whether the environment of a process has all of these, ``NAME=value`` each.

    psutil makes a dictionary of it and looks what else is known of the process: ten times the time,
    for every process of the machine.
    """
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123  (starts fast)
            found = b"\0" + file.read() + b"\0"
    except OSError:  # ended just now, or another user's
        return False
    return all(b"\0" + os.fsencode(mark) + b"\0" in found for mark in marks)


def _those(wanted: Callable[[int], bool]) -> Iterator[psutil.Process]:
    """The processes of this machine whose pids are wanted."""
    for pid in psutil.pids():
        if wanted(pid):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                # Its time of creation is known now. Before, the pid may have gone to another.
                if wanted(pid):
                    yield process


def find(
    tag: str, roots: Iterable[tuple[int, float]] = (), *, role: str = ""
) -> dict[int, psutil.Process]:
    """Living processes of an instance, by pid.

    Args:
        tag: value of `TAG` in their environment; what they started belongs to the instance too.
        roots: (pid, creation time); their descendants and sessions belong to the instance as well.
        role: only those with this value of `ROLE`, and the roots, with all below them.
    """
    own = psutil.Process()
    spared = {own.pid, *(p.pid for p in own.parents())}
    found: dict[int, psutil.Process] = {}
    marks = [f"{TAG}={tag}", *([f"{ROLE}={role}"] if role else [])]
    for process in _those(lambda pid: pid not in spared and _has(pid, marks)):
        found[process.pid] = process
    for pid in list(found):  # what they started may have another environment
        for below in _parents(pid):
            with contextlib.suppress(psutil.Error):
                found.setdefault(below, psutil.Process(below))
    sessions = set()
    for pid, created in roots:
        root = same_process(pid, created)
        if pid in spared:
            continue
        if root is None:
            # The session of a process that ended keeps its number, which is given to no new process
            # for as long as one of the session lives.
            if _is_free(pid, created):
                sessions.add(pid)
            continue
        found[pid] = root
        for below in _parents(pid):
            with contextlib.suppress(psutil.Error):
                found.setdefault(below, psutil.Process(below))
        if _session(pid) == pid:
            sessions.add(pid)
    if sessions:
        found |= {p.pid: p for p in _those(lambda pid: _session(pid) in sessions)}
    return {pid: process for pid, process in found.items() if pid not in spared and lives(process)}


def _session(pid: int) -> int:
    """The session of a process; 0 of one that is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _is_when(process: psutil.Process, created: float) -> bool:
    unix = created > _NO_UPTIME
    began = process.create_time() if unix else created_at(process.pid)
    return abs(began - created) <= _TOLERANCE


def _is_free(pid: int, created: float) -> bool:
    """Whether no process has `pid`, other than what is left of the one created at `created`."""
    try:
        return _is_when(psutil.Process(pid), created)
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _parents(top: int) -> dict[int, int]:
    """The parent of every process below `top`, parents first."""
    found: dict[int, int] = {}
    todo = [top]
    try:
        for pid in todo:
            for child in children_of(pid):
                if child not in found:
                    found[child] = pid
                    todo.append(child)
    except FileNotFoundError:  # the kernel was built without these files
        found.clear()
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(top).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    found[process.pid] = process.ppid()
    return found


def children_of(pid: int) -> list[int]:
    """Pids of a process's children, those that ended and were not collected included.

    Raises:
        FileNotFoundError: the kernel was built without the files that name them.
    """
    children = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208
    except OSError:  # ended just now
        return []
    for thread in threads:
        path = f"/proc/{pid}/task/{thread}/children"
        try:
            with open(path) as file:  # noqa: PTH123
                children += [int(child) for child in file.read().split()]
        except FileNotFoundError:
            if thread == str(pid) and os.path.exists(f"/proc/{pid}/stat"):  # noqa: PTH110
                raise
        except OSError:
            continue
    return children


class Kin:
    """Every process that was seen below a launcher and lives, with the part that it came from.

    A process keeps its part whatever it does later: when it leaves its session, wipes its
    environment, or loses its parent and is adopted by the launcher.
    """

    def __init__(
        self, top: int, tag: str, *, foreign: Iterable[int] = (), exclusive: bool = True
    ) -> None:
        """Know nobody yet.

        Args:
            top: pid of the launcher.
            tag: value of `TAG` in the environment of the instance's processes.
            foreign: children of the launcher that are not the instance's.
            exclusive: whoever is adopted by the launcher is the instance's. Otherwise an orphan of
                which nothing is known may be a foreign child's, and is left alone.
        """
        self._top = top
        self._tag = tag
        self._foreign = set(foreign)
        self._exclusive = exclusive
        self._lock = threading.Lock()
        self._known: dict[int, tuple[psutil.Process, str]] = {}
        self._sessions: dict[int, str] = {}

    def look(self, roots: Mapping[int, str] = {}, spare: Container[int] = ()) -> None:
        """See who is there now.

        Args:
            roots: part by the pid of its first process.
            spare: children of the launcher that are of no part.
        """
        with self._lock:
            self._look(roots, spare)

    def _look(self, roots: Mapping[int, str], spare: Container[int]) -> None:
        known = {pid: seen for pid, seen in self._known.items() if lives(seen[0])}
        self._sessions |= roots
        # A process is in `parts` if it is the instance's; what descends from another is not.
        parts: dict[int, str] = {}
        for pid, parent in _parents(self._top).items():
            if pid in spare or pid in self._foreign:
                continue
            if parent != self._top and parent not in parts:
                continue
            if pid in roots:
                parts[pid] = roots[pid]
            elif pid in known:
                parts[pid] = known[pid][1] or parts.get(parent, "")
            elif parent in parts:
                parts[pid] = parts[parent]
            else:
                part = self._part_of_orphan(pid)
                if part is None:
                    continue
                parts[pid] = part
            with contextlib.suppress(psutil.Error):
                process = known[pid][0] if pid in known else psutil.Process(pid)
                if lives(process):
                    known[pid] = process, parts[pid]
        self._known = known
        live = set(roots)
        for pid in known:
            with contextlib.suppress(OSError):
                live.add(os.getsid(pid))
        self._sessions = {sid: part for sid, part in self._sessions.items() if sid in live}

    def _part_of_orphan(self, pid: int) -> str | None:
        """Of a child that the launcher did not start; "" where nothing tells, None: nobody's."""
        with contextlib.suppress(psutil.Error, OSError):
            environment = psutil.Process(pid).environ()
            if environment.get(TAG) == self._tag:
                return environment.get(ROLE, "")
        with contextlib.suppress(OSError):
            if (sid := os.getsid(pid)) in self._sessions:
                return self._sessions[sid]
        return "" if self._exclusive else None

    def of(self, part: str, *, alone: bool) -> dict[int, psutil.Process]:
        """The living processes of a part, by pid; of all where it is empty.

        Args:
            part: which.
            alone: no other part runs, so what is of no known part is of this one.
        """
        return {
            pid: process
            for pid, (process, of) in self._known.items()
            if (not part or of == part or (alone and not of)) and lives(process)
        }

    def seen(self) -> list[tuple[int, float]]:
        """Who was there at the last look: (pid, `created_at`), the oldest first."""
        found = []
        for pid in list(self._known):
            with contextlib.suppress(psutil.Error):
                found.append((pid, created_at(pid)))
        return sorted(found, key=lambda one: (one[1], one[0]))


def lives(process: psutil.Process) -> bool:
    """Whether a process runs: it is the one that it was, and not a zombie."""
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
    also: Callable[[], dict[int, psutil.Process]] = dict,
) -> int:
    """Kill all processes of an instance; returns how many there were.

    They are stopped first, round after round until no new one turns up, because a process that runs
    can start another between the look and the kill.

    Args:
        tag: as for `find`.
        roots: as for `find`.
        role: as for `find`.
        spare: pids that stay.
        also: more of the instance's processes, by pid; asked in every round.
    """
    spared = {*spare, os.getpid()}
    roots = list(roots)
    known: dict[int, psutil.Process] = {}
    for _ in range(_ROUNDS):
        found = find(tag, roots, role=role) | also()
        new = {p: q for p, q in found.items() if p not in known and p not in spared}
        if not new:
            break
        _signal(new.values(), signal.SIGSTOP)
        known |= new
    _signal(known.values(), signal.SIGKILL)
    # Not psutil.wait_procs: it would collect the exit status of our own children, for which the
    # event loop waits.
    deadline = time.monotonic() + 2.0
    while any(lives(p) for p in known.values()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return len(known)


def _signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            process.send_signal(number)  # psutil looks first whether the pid was used again


def main() -> int:
    """Wait for the launcher's end, then sweep."""
    tag, launcher = sys.argv[1], os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kin = Kin(launcher, tag) if sys.argv[2:] == ["all"] else None
    roots: dict[int, float] = {}
    rest = b""
    while True:
        if not select.select([0], [], [], LOOK_INTERVAL)[0]:
            if kin is not None and os.getppid() == launcher:
                kin.look(spare={os.getpid()})
            continue
        data = os.read(0, 1 << 16)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            _note(line.decode(errors="replace"), roots)
    seen = kin.of("", alone=True) if kin is not None else {}

    def family() -> dict[int, psutil.Process]:
        found = {pid: process for pid, process in seen.items() if lives(process)}
        for process in list(found.values()):
            with contextlib.suppress(psutil.Error):
                found |= {child.pid: child for child in process.children(recursive=True)}
        return found

    sweep(tag, roots.items(), also=family)
    return 0


def _note(line: str, roots: dict[int, float]) -> None:
    with contextlib.suppress(ValueError, IndexError):
        word, pid, *rest = line.split()
        if word == "watch":
            roots[int(pid)] = float(rest[0])
        elif word == "forget":
            roots.pop(int(pid), None)


if __name__ == "__main__":
    sys.exit(main())
