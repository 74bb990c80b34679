"""The first thing that a program of ours does: see to Ctrl-C.

Python would raise `KeyboardInterrupt` in the middle of an import, or print "Exception ignored" as
it winds up. Until this is loaded, Ctrl-C leaves a stack trace; so it imports nothing that is not
built into the interpreter (`signal` makes enumerations, which takes some milliseconds).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended: 128 + SIGINT, as shells have it."""


def end_on_interrupt() -> None:
    """Have Ctrl-C end this process at once, without a stack trace.

    For a program's first and last moments: while it imports, and after it has done everything. A
    signal that is ignored, or that the program handles itself, stays so.
    """
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, end)


def end(_number: int, _frame: object) -> None:
    """The handler."""
    os._exit(INTERRUPTED)
