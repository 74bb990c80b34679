"""Which processes a test, or the whole run, has left behind.

A process inherits the environment of whoever started it, so one variable leads to what a test
started, in any session and below any parent. Some processes have an environment of their own (a
guardian, a worker without the control plane's variables, a program that wipes its own): they are
known by the test's directory, in which they work or which their arguments name, or by the tag of an
instance that has its directory there.
"""

import contextlib
import hashlib
import re
import signal
import time

import psutil

from stoker.launcher import TAG

MARK = "TEST_THAT_STARTED_IT"
"""Environment variable that says which test a process is of."""


def nothing_runs(mark, directory=None, patience=10.0):
    """What was started has ended, or does so now; else it is killed, and the test fails.

    Args:
        mark: value of `MARK`.
        directory: of the test; None: it has none.
        patience: seconds.
    """
    deadline = time.monotonic() + patience
    while (left := find(mark, directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    commands = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            commands.append(f"{process.pid}: {' '.join(process.cmdline())}")
            process.send_signal(signal.SIGKILL)
    assert not commands, "still running:\n" + "\n".join(commands)


def find(mark, directory=None):
    """The living processes of a test, other than this one and those that started it."""
    us = psutil.Process()
    spared = {us.pid, *(parent.pid for parent in us.parents())}
    is_theirs = _of(directory) if directory is not None else lambda *_: False
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid in spared or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
            if environment.get(MARK) == mark or is_theirs(process, environment):
                found.append(process)
    return found


def _of(directory):
    # Not pytest-12 where it is to be pytest-1: that is another run's.
    place = re.compile(re.escape(str(directory.resolve())) + r"(?![\w.-])")
    tags = _tags(directory)

    def is_theirs(process, environment):
        return (
            environment.get(TAG, "").rpartition("@")[2] in tags
            or place.match(process.cwd())
            or any(place.search(word) for word in process.cmdline())
        )

    return is_theirs


def _tags(directory):
    """What ends the tags of the instances that have their directories below this one."""
    found = {path.parent for path in directory.rglob("manifest.*")}
    return {hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16] for path in found}
