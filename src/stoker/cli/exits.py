"""How a command ends: one table of exit codes for all of them, and what to do next.

| code | meaning |
|---|---|
| 0 | it did what it was asked |
| 1 | it ran, and what it found is not good: problems, failed requests, a demo that did not work |
| 2 | usage: an argument, a setting or a file cannot be used |
| 3 | refused: a key, an endpoint, a route or a payload was not taken |
| 4 | unreachable: nobody answers at the address, or the connection was cut before an answer |
| 5 | timed out: no worker was free, or the answer was not complete in time |
| 6 | failed inside: the model server failed, cut its answer, or told of an error inside it |
| 130 | interrupted by Ctrl-C |

Every command writes one line ``error: ...`` for a failure, and where it knows what to do next a
line ``hint: ...``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from stoker.errors import (
    ConfigError,
    ConflictError,
    InvalidMessageError,
    NotFoundError,
    StokerError,
)

if TYPE_CHECKING:
    from stoker.client import RequestFailedError


class Exit(IntEnum):
    """Exit codes; see the table above."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    UNREACHABLE = 4
    TIMED_OUT = 5
    FAILED_INSIDE = 6
    INTERRUPTED = 130


def exit_of(error: StokerError) -> Exit:
    """The code for an error that ends a command."""
    if isinstance(error, ConfigError | InvalidMessageError):
        return Exit.USAGE
    if isinstance(error, NotFoundError | ConflictError):
        return Exit.REFUSED
    try:
        from stoker.client import RequestFailedError, RouteTimeoutError
    except ModuleNotFoundError:  # without httpx nobody can have raised them
        return Exit.FAILED
    if isinstance(error, RouteTimeoutError):
        return Exit.TIMED_OUT
    if isinstance(error, RequestFailedError):
        return _exit_of_failed(error)
    return Exit.FAILED


def _exit_of_failed(error: RequestFailedError) -> Exit:
    by_kind = {
        "unreachable": Exit.UNREACHABLE,
        "timed out": Exit.TIMED_OUT,
        "failed inside": Exit.FAILED_INSIDE,
    }
    return by_kind.get(error.kind, Exit.REFUSED)
