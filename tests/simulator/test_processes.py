"""Processes that run one item after the other, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from stoker.errors import StokerError
from stoker.simulator.processes import run_in_processes


def half(number: int) -> float:
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 14:
        raise ValueError("fourteen")
    return number / 2


class Unreadable:
    """Cannot be unpickled in another process."""

    def __reduce__(self) -> tuple[object, ...]:
        return (int, ("none",))


@pytest.mark.real
def test_each_outcome_stands_at_the_place_of_its_item() -> None:
    told: list[tuple[int, float]] = []
    done = run_in_processes(half, range(9), 2, lambda place, found: told.append((place, found)))
    assert done == [number / 2 for number in range(9)]
    assert sorted(told) == list(enumerate(done))


@pytest.mark.real
@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        (13, StokerError, "killed by signal 9; where memory was short, run fewer at a time"),
        (14, ValueError, "fourteen"),
        (Unreadable(), ValueError, "invalid literal"),
    ],
    ids=["killed", "failed", "unreadable"],
)
def test_a_call_that_fails_ends_the_others(item: int, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run_in_processes(half, [1, item, 2, 3], 2)


INTERRUPTED = """
import os, signal, sys, threading, time
from stoker.simulator import processes

def slow(item):
    time.sleep(60)

def interrupt():
    sys.stdout.flush()
    os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    found = processes._give
    def give(*arguments):
        # The process is still starting, so that nobody reads what is written yet.
        threading.Timer(0.02, interrupt).start()
        found(*arguments)
    processes._give = give
    try:
        processes.run_in_processes(slow, [bytes(5_000_000)] * 2, 2)
    except KeyboardInterrupt:
        os._exit(130)
"""


@pytest.mark.real
def test_an_interrupt_while_a_large_item_is_written_ends_all_without_a_word(tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    done = subprocess.run(
        [sys.executable, program], capture_output=True, timeout=30, start_new_session=True
    )
    # Whoever is left running would hold the pipes, and `run` would wait for it.
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


ORPHANING = """
import os, signal, time
from stoker.simulator.processes import run_in_processes

def slow(item):
    print("at work", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    run_in_processes(slow, [1, 2], 2)
"""


@pytest.mark.real
def test_processes_that_lose_their_parent_end(tmp_path) -> None:
    program = tmp_path / "program.py"
    program.write_text(ORPHANING)
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"at work\n"] * 2
        process.kill()
        begun = time.monotonic()
        # All that hold the other end of the pipe have ended.
        assert process.stdout.read() == b""
    assert time.monotonic() - begun < 30
