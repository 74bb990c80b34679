"""Children start with default signal dispositions, whatever our parent ignores or blocks."""

import signal
import subprocess
import sys

import pytest

from stoker import signals
from stoker.cli import app

STARTED_BADLY = """
import os, signal, subprocess
from stoker import signals

bad = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD)
for number in bad:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, bad)
signals.start_children_with_defaults()
for number in bad:
    os.kill(os.getpid(), number)  # ignored here as before
assert all(signals.ignored(number) for number in bad)
assert not signals.ignored(signal.SIGUSR1)
print(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)
"""


def test_a_child_starts_with_defaults_where_the_parent_was_started_to_ignore_and_block():
    done = subprocess.run([sys.executable, "-c", STARTED_BADLY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    status = dict(line.split(":\t") for line in done.stdout.splitlines() if line.startswith("Sig"))
    assert int(status["SigIgn"], 16) == 0
    assert int(status["SigBlk"], 16) == 0


def test_what_this_process_handles_is_left_alone():
    former = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        ours = signal.getsignal(signal.SIGUSR2)
        signals.start_children_with_defaults()
        assert signal.getsignal(signal.SIGUSR2) is ours
        assert not signals.ignored(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, former)


def test_the_command_line_starts_that_way(monkeypatch):
    calls = []
    monkeypatch.setattr(
        app.signals, "start_children_with_defaults", lambda: calls.append("signals")
    )
    monkeypatch.setattr(app, "app", lambda: calls.append("command"))
    app.main()
    assert calls == ["signals", "command"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_suite_itself_starts_its_programs_with_defaults(number):
    """So that it passes under nohup and in the background of a script."""
    assert signal.getsignal(number) is not signal.SIG_IGN
