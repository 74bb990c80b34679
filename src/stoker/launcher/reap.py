"""Orphans of the instance become children of the launcher, which collects them when they end.

Without it a grandchild whose parent ended would go to the machine's first process, out of sight;
and where the launcher itself is that first process (in a container) it would stay as a zombie.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

import psutil

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> bool:
    """Make this process the parent of its orphaned descendants; False where that is impossible."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False


def reap_orphans(own: set[int]) -> int:
    """Collect ended children other than `own`, for which the event loop waits; returns how many."""
    count = 0
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.pid not in own and child.status() == psutil.STATUS_ZOMBIE:
                count += os.waitpid(child.pid, os.WNOHANG)[0] == child.pid
    return count
