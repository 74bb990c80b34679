"""The launcher's own log: standard error, kept from growing, and never a danger to who writes it.

Whoever starts a launcher may send its output to ``launcher.log`` in the instance's directory. The
launcher finds out, and begins a new file when that one is full; one older file is kept. Where its
output goes anywhere else (a terminal, a journal) that place looks after itself.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TextIO

from stoker.launcher.files import open_own

LAUNCHER_LOG = "launcher.log"
MAX_BYTES = 4 * 2**20

_STREAMS = (1, 2)


class OwnLog:
    """Standard error that never fails: a full disk must not end the launcher."""

    def __init__(self, stream: TextIO, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        """Write to `stream`.

        Args:
            stream: standard error.
            path: the file that is looked after, if standard error is that file.
            max_bytes: size from which on a new one is begun.
        """
        self._stream = stream
        self._path = path
        self._max_bytes = max_bytes

    def write(self, text: str) -> int:
        """Write what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Hand over what was written, and begin a new file when it is time."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()
        with contextlib.suppress(OSError):
            self._rotate()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream."""
        return self._stream.fileno()

    def _rotate(self) -> None:
        # The descriptors, not the stream: what Python itself prints at a crash goes there too.
        status = os.fstat(2)
        if not stat.S_ISREG(status.st_mode) or status.st_size < self._max_bytes:
            return
        if not os.path.samestat(status, self._path.stat()):
            return
        same = [fd for fd in _STREAMS if os.path.samestat(os.fstat(fd), status)]
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        descriptor = open_own(self._path, os.O_WRONLY | os.O_APPEND)
        try:
            for fd in same:
                os.dup2(descriptor, fd)
        finally:
            os.close(descriptor)
