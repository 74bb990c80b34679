"""Orphans of the instance become children of the launcher, which collects them when they end.

Without it a grandchild whose parent ended would go to the machine's first process, out of sight;
and where the launcher itself is that first process (in a container) it would stay as a zombie.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator

import psutil

from stoker.launcher.guardian import children_of

_PR_SET_PDEATHSIG = 1  # linux/prctl.h, as is the next
_PR_SET_CHILD_SUBREAPER = 36

_PASSED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def adopt_orphans() -> bool:
    """Make this process the parent of its orphaned descendants; False where that is impossible."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, value: int) -> bool:
    # libffi keeps a file open from the import on: that must not get the number of a standard
    # stream that is closed, and that the program is about to open.
    import ctypes

    try:
        return bool(ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def children() -> set[int]:
    """Pids of this process's children."""
    try:
        return set(children_of(os.getpid()))
    except FileNotFoundError:
        return {child.pid for child in psutil.Process().children()}


def run_apart(work: Callable[[], int]) -> int:
    """Do `work` in a process all of whose descendants are its own; returns its exit code.

    That is this process, unless it has children already (a script put jobs in the background and
    then became us by ``exec``), or is the first process of a machine or container, which adopts
    everybody's orphans. Then it is a child in a session of its own, and this process passes
    signals on and collects orphans. The child is told to stop when this process is killed.
    """
    if os.getpid() != 1 and not children():
        return work()
    parent = os.getpid()
    passed = [n for n in _PASSED if signal.getsignal(n) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, [*passed, signal.SIGCHLD])
    child = os.fork()
    if child == 0:
        os.setsid()
        _end_with_parent(parent)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*passed, signal.SIGCHLD])
        return work()
    while True:
        number = signal.sigwait([*passed, signal.SIGCHLD])
        if number != signal.SIGCHLD:
            os.kill(child, number)
            continue
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == child:
                    return _shell_code(os.waitstatus_to_exitcode(ended[1]))


def _shell_code(code: int) -> int:
    """An exit code as a shell gives it: 128 and the signal, where one killed the process."""
    return code if code >= 0 else 128 - code


def _end_with_parent(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # it was killed before the line above
        os.kill(os.getpid(), signal.SIGTERM)


class Reaper:
    """Collects orphans that ended, and no child whose exit code somebody else waits for.

    Whoever waits for a child that was collected here learns nothing of how it ended: it counts as
    failed, or as done.
    """

    def __init__(self) -> None:
        self._held = 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Collect nothing while a child may end that `collect` is not told of."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def collect(self, awaited: Collection[int] = ()) -> int:
        """Collect ended children other than `awaited`; returns how many."""
        count = 0
        for pid in children() if not self._held else ():
            if pid not in awaited:
                with contextlib.suppress(ChildProcessError):
                    count += os.waitpid(pid, os.WNOHANG)[0] == pid
        return count
