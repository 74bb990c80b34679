"""How this process and its children treat signals, whatever their parent did.

`nohup`, a shell's background job (``command &`` in a script) and many CI runners start a program
with SIGINT, SIGQUIT or SIGHUP ignored, or even blocked. Both are inherited through ``exec`` (POSIX,
*exec*: "signals set to be ignored by the calling process image shall be set to be ignored"). A
model server that ends on SIGINT would then never end, and `stoker simulate` would not hear Ctrl-C.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from stoker import interrupts

# Without SIGPIPE and SIGXFSZ, which Python ignores itself and resets in its children, and without
# SIGTTIN and SIGTTOU: a handler for them makes a background job wait for its terminal.
_INHERITED = (
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGCHLD,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

_ignored: set[signal.Signals] = set()


def start_children_with_defaults() -> None:
    """Have all later children start with default signal dispositions and nothing blocked.

    A signal that this process was started to ignore does nothing here still (see `ignored`), but
    by a handler: ``exec`` resets handlers to the default, and keeps what is ignored. So no child
    needs code between fork and exec. Call it at the entry of a program, in the main thread;
    elsewhere it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _INHERITED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _do_nothing)
            _ignored.add(number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INHERITED)


def ignored(number: signal.Signals) -> bool:
    """Whether this process was started with the signal ignored."""
    return number in _ignored or signal.getsignal(number) is signal.SIG_IGN


def hear_no_more(*numbers: signal.Signals) -> None:
    """Ignore signals from now on: the program has done what they ask for, and is about to exit.

    An event loop that closes gives its signals back to the default. One that came then (a second
    SIGTERM, while Python winds up) would make an orderly end look like a kill.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    for number in numbers:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


_PAUSE = 0.01
"""Seconds until an interrupt that Python dropped is sent again."""


def end_interrupted() -> NoReturn:
    """End this process as one that Ctrl-C ended, now.

    Python's own end would wait for every thread, such as one that looks up a name, and a second
    Ctrl-C would find it without a handler.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(interrupts.INTERRUPTED)


def raise_on_interrupt() -> None:
    """Have Ctrl-C raise `KeyboardInterrupt` again, and see that it is never lost.

    Python drops an exception that is raised in a finalizer or in a callback of a weak reference,
    where a signal may well be handled: each import has such a callback. It says so to
    `sys.unraisablehook`, and here the interrupt is sent again.
    """
    if signal.getsignal(signal.SIGINT) is interrupts.end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    former, main = sys.unraisablehook, threading.main_thread().ident or 0

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            former(dropped)
            return

        # Not from here: it would be raised in this hook, and dropped again.
        def again() -> None:
            time.sleep(_PAUSE)
            signal.pthread_kill(main, signal.SIGINT)  # cuts a wait short, too

        threading.Thread(target=again, daemon=True).start()

    sys.unraisablehook = hook


@contextlib.contextmanager
def later(number: signal.Signals) -> Iterator[None]:
    """Handle a signal that comes while the block runs after it, in the main thread.

    For steps that must not end halfway by a Ctrl-C. A blocked signal would not do: the kernel gives
    it to any other thread that has it unblocked, and Python then interrupts the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[FrameType | None] = []
    former = signal.signal(number, lambda _number, frame: came.append(frame))
    try:
        yield
    finally:
        signal.signal(number, former)
        if came and callable(former):
            former(number, came[0])


def _do_nothing(_number: int, _frame: object) -> None:
    pass
