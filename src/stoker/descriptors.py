"""Open files: how many this process may have, and how many are kept for its own calls.

The usual soft limit of 1024 is for programs that use ``select``. Connections of strangers could use
it up, and then a health check, a report or the database would find no descriptor left.

The kernel gives the lowest free number to a new descriptor. So the number of a new connection tells
how many descriptors are in use, without counting: from `ceiling` on a connection is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys

MOST = 1 << 20
"""Descriptors that one of our servers asks for at most; some hard limits are a billion."""

INHERITED = 1 << 16
"""Soft limit of a launcher and of what it starts: some programs visit every possible descriptor."""

RESERVE = 256
"""Descriptors kept for our own calls, where the limit allows it; otherwise a quarter of them."""

LAST = 64
"""Those of the reserve that no request of a client may take, not even on the upstream side."""


closed: set[str] = set()
"""Standard streams that this process was started without: ``stdin``, ``stdout``, ``stderr``."""


def open_standard() -> None:
    """Open standard input, output and error on ``/dev/null`` where they were closed.

    Some services start programs so. The event loop, a database or a pipe would get their numbers,
    and whatever is written to standard error would be written there.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free: this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:  # as Python has it where the descriptor was closed
            closed.add(name)
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, closefd=False, errors="replace"))  # noqa: SIM115


def check_stdout() -> None:
    """See that this process has a standard output; for what must not be lost, such as a key.

    Raises:
        OSError: it was closed when the process started, and what is printed goes nowhere.
    """
    if "stdout" in closed:
        raise OSError(errno.EBADF, "it is closed")


def raise_limit(most: int = MOST) -> int:
    """Raise this process's soft limit of open files to the hard one; returns what it is now.

    Args:
        most: it is raised to no more than this, and never lowered.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(hard, most)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limit()
    with contextlib.suppress(OSError, ValueError):  # not allowed: it stays as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return limit()


def inherit_limit() -> None:
    """Give this process, and what it starts, the soft limit `INHERITED`, or the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = INHERITED if hard == resource.RLIM_INFINITY else min(hard, INHERITED)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """Descriptors that this process may have."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST if soft == resource.RLIM_INFINITY else soft


def ceiling() -> int:
    """The number from which on a descriptor belongs to the reserve; no new connection gets it."""
    most = limit()
    return most - min(RESERVE, most // 4)


def last() -> int:
    """The number from which on a descriptor is for our own calls alone."""
    most = limit()
    return most - min(LAST, most // 16)
