"""Run a function on many items in processes of our own, which a Ctrl-C ends at any moment.

Not `concurrent.futures.ProcessPoolExecutor`: it hands items over by a thread, and where its
processes are killed while that thread writes, its end waits for the thread for ever (CPython issue
94777, mended in 3.11.5; Debian 12 has 3.11.2). A trace is some megabytes, and a pipe holds 64 KiB,
so that was not rare. Here one thread does everything, and each process has a pipe of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

from stoker.errors import StokerError
from stoker.signals import later

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

_END_TIMEOUT = 5.0
"""Seconds that the end of a killed process may take."""


def run_in_processes(
    function: Callable[[Item], Outcome],
    items: Sequence[Item],
    count: int,
    on_done: Callable[[int, Outcome], None] | None = None,
) -> list[Outcome]:
    """Call `function` with each item, in `count` processes; the outcomes are in the items' order.

    However this ends, no process is left running. One that loses its parent ends by itself.

    Args:
        function: of a module, so that it can be pickled.
        items: what it is called with; they are pickled too.
        count: processes, at least 1.
        on_done: told the place of an item and its outcome when there is one.

    Raises:
        StokerError: a process was killed.
        Exception: what the first call that failed has raised.
    """
    # Not fork: a process with threads (a progress bar's) is not safe to fork.
    context = multiprocessing.get_context("spawn")
    # Started first, because its start unblocks SIGINT.
    resource_tracker.ensure_running()
    waiting = deque(enumerate(items))
    outcomes: dict[int, Outcome] = {}
    at_work: dict[Connection, tuple[SpawnProcess, int]] = {}
    processes: list[SpawnProcess] = []
    try:
        for _ in range(count):
            # A Ctrl-C waits until the process is known, so that it can be ended.
            with later(signal.SIGINT), _blocked(signal.SIGINT):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, function), daemon=True)
                processes.append(process)
                process.start()
                theirs.close()
            _give(ours, process, waiting, at_work)
        while at_work:
            for ready in connection.wait(list(at_work)):
                assert isinstance(ready, Connection)
                process, place = at_work.pop(ready)
                outcomes[place] = _take(ready, process)
                if waiting:
                    _give(ready, process, waiting, at_work)
                if on_done is not None:
                    on_done(place, outcomes[place])
    finally:
        # One call may take minutes, and nobody waits for it any more.
        with later(signal.SIGINT):
            _end(processes)
    return [outcomes[place] for place in range(len(items))]


def _give(
    ours: Connection,
    process: SpawnProcess,
    waiting: deque[tuple[int, Item]],
    at_work: dict[Connection, tuple[SpawnProcess, int]],
) -> None:
    place, item = waiting.popleft()
    try:
        ours.send(item)
    except OSError:
        raise _killed(process) from None
    at_work[ours] = process, place


def _take(ours: Connection, process: SpawnProcess) -> Any:
    try:
        failed, outcome = ours.recv()
    except (EOFError, OSError):
        raise _killed(process) from None
    if failed:
        raise outcome
    return outcome


def _killed(process: SpawnProcess) -> StokerError:
    process.join(_END_TIMEOUT)
    code = process.exitcode
    how = f"killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
    return StokerError(
        f"a process that ran one of several was {how}; where memory was short, run fewer at a time"
    )


def _end(processes: Sequence[SpawnProcess]) -> None:
    started = [process for process in processes if process.pid is not None]
    for process in started:
        process.kill()
    for process in started:
        process.join(_END_TIMEOUT)


@contextlib.contextmanager
def _blocked(number: signal.Signals) -> Iterator[None]:
    """Have processes that are started in the block inherit the signal blocked.

    Ctrl-C reaches all processes of a terminal. Theirs would each print a stack trace; they are
    ended by their parent. What comes for us meanwhile comes after the block.
    """
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _serve(theirs: Connection, function: Callable[[Item], Outcome]) -> None:
    """What one of the processes does: call the function with what comes, until it is ended."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            item = theirs.recv()
        except (EOFError, OSError):
            return
        except Exception as error:
            theirs.send((True, error))  # it cannot be unpickled here
            continue
        answer: tuple[bool, object]
        try:
            answer = (False, function(item))
        except Exception as error:
            error.add_note("in another process:\n" + "".join(traceback.format_exception(error)))
            answer = (True, error)
        try:
            theirs.send(answer)
        except OSError:
            return
        except Exception as error:
            theirs.send((True, RuntimeError(f"{type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
