"""Children start with default signal dispositions, whatever our parent ignores or blocks."""

import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
    # The C library keeps some numbers for itself (32 and 33), which no program can set.
    ours = sum(1 << number - 1 for number in signal.valid_signals())
    assert int(status["SigIgn"], 16) & ours == 0
    assert int(status["SigBlk"], 16) & ours == 0


def test_what_this_process_handles_is_left_alone():
    former = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        ours = signal.getsignal(signal.SIGUSR2)
        signals.start_children_with_defaults()
        assert signal.getsignal(signal.SIGUSR2) is ours
        assert not signals.ignored(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, former)


def test_a_signal_that_another_thread_gets_waits_for_the_end_of_a_step_that_must_not_be_cut():
    steps, done = [], threading.Event()
    other = threading.Thread(target=done.wait)  # has the signal unblocked, whatever we block
    other.start()
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    former = signal.set_wakeup_fd(writing.fileno())
    handler = signal.signal(signal.SIGUSR1, lambda *_: steps.append("handled"))
    try:
        with signals.later(signal.SIGUSR1):
            signal.pthread_kill(other.ident, signal.SIGUSR1)
            reading.recv(1)  # until it has come
            steps.append("ended")
    finally:
        signal.signal(signal.SIGUSR1, handler)
        signal.set_wakeup_fd(former)
        done.set()
        other.join()
        reading.close()
        writing.close()
    assert steps == ["ended", "handled"]


def test_elsewhere_than_in_the_main_thread_nothing_is_put_off():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: signals.later(signal.SIGINT).__enter__()).result() is None


ENDS = """
import asyncio, os, signal
from stoker import signals

async def work():
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    os.kill(os.getpid(), signal.SIGTERM)
    await told.wait()
    signals.hear_no_more(signal.SIGTERM, signal.SIGINT)

asyncio.run(work())
for number in (signal.SIGTERM, signal.SIGINT):
    os.kill(os.getpid(), number)  # once more, while Python winds up
"""


def test_a_program_that_is_told_to_stop_again_while_it_exits_has_ended_in_order():
    assert subprocess.run([sys.executable, "-c", ENDS]).returncode == 0


def test_the_command_line_starts_that_way(monkeypatch):
    calls = []
    monkeypatch.setattr(
        app.signals, "start_children_with_defaults", lambda: calls.append("signals")
    )
    monkeypatch.setattr(app, "run", lambda _: calls.append("command"))
    with pytest.raises(SystemExit):
        app.main()
    assert calls == ["signals", "command"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_the_suite_itself_starts_its_programs_with_defaults(number):
    """So that it passes under nohup and in the background of a script."""
    assert signal.getsignal(number) is not signal.SIG_IGN


ENDS_AT_ONCE = """
import os, signal, threading, time
from stoker import interrupts

interrupts.end_on_interrupt()
threading.Thread(target=time.sleep, args=(60,)).start()
os.kill(os.getpid(), signal.SIGINT)
time.sleep(60)
"""

NOT_LOST = """
import os, signal, threading, time
from stoker import interrupts, signals

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)  # raised here, where Python drops it
        time.sleep(0)

interrupts.end_on_interrupt()
signals.raise_on_interrupt()
threading.Thread(target=time.sleep, args=(60,)).start()
try:
    Finalized()
    time.sleep(60)
except KeyboardInterrupt:
    signals.end_interrupted()
"""

IMPORTING = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "stoker.cli.output":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["stoker", "--version"]
from stoker.cli import main
main()
"""

LATE = """
import os, signal, sys, weakref

class Late:
    pass

late = sys.late = Late()
weakref.finalize(late, os.kill, os.getpid(), signal.SIGINT)  # as Python winds up
sys.argv = ["stoker", "--version"]
from stoker.cli import main
main()
"""


@pytest.mark.parametrize(
    "program",
    [ENDS_AT_ONCE, NOT_LOST, IMPORTING, LATE],
    ids=["at_once", "in_a_finalizer", "while_it_imports", "as_it_winds_up"],
)
def test_ctrl_c_ends_a_program_with_130_and_without_a_word_at_any_moment(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, b"")


IGNORES = """
import os, signal
from stoker import interrupts, signals

signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupts.end_on_interrupt()
signals.raise_on_interrupt()
os.kill(os.getpid(), signal.SIGINT)
"""


def test_a_program_that_was_started_to_ignore_ctrl_c_goes_on_ignoring_it():
    done = subprocess.run([sys.executable, "-c", IGNORES], capture_output=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, b"")


FIRST = """
import sys
before = set(sys.modules)
from stoker import cli, interrupts
found = {name for name in set(sys.modules) - before if not name.startswith("stoker")}
assert found <= {"__future__"}, found
"""


def test_nothing_but_ours_is_imported_before_ctrl_c_is_seen_to():
    assert subprocess.run([sys.executable, "-c", FIRST]).returncode == 0
