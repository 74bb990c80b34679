"""Logs of the children: rotated by size, and never a danger to who writes them.

A child writes into a pipe; the launcher reads it and writes the file. So a full disk cannot block
or kill the model server: what cannot be written is counted and dropped. The worker follows the
model server's log by name, and notices the new file after a rotation.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections import deque
from pathlib import Path

from stoker.launcher.files import open_own

BOOT_BYTES = 256 * 1024
"""Bytes kept of what was written before the model server was healthy; see `RotatingLog.replay`."""

BOOT_END = 4096
"""Bytes at the end of the boot that are written, if need be without the rest; see
`RotatingLog.mend`."""

TAIL_LINES = 40
MAX_LINE = 500
"""Characters kept of a line in the tail."""

PIPE_BYTES = 1 << 20
"""Wanted size of the pipe: what a child can write while the launcher is busy for a moment."""

_CHUNK = 1 << 16


class RotatingLog:
    """One log file and its older ones (``model.log``, ``model.log.1``, ...)."""

    def __init__(self, path: Path, *, max_bytes: int = 16 * 2**20, keep: int = 2) -> None:
        """Open nothing yet.

        Args:
            path: the newest file.
            max_bytes: size from which on a file is rotated, at the end of a line.
            keep: older files kept.
        """
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._descriptor: int | None = None
        self._size = 0
        self._boot = bytearray()
        self._booting = True
        self._boot_rotated = False
        self._boot_lost = False
        self._line = b""
        self._lines: deque[str] = deque(maxlen=TAIL_LINES)
        self.dropped = 0
        """Bytes that could not be written."""

    def begin(self) -> None:
        """Begin a new file, for a new run of the child."""
        self.forget()
        self._boot.clear()
        self._booting, self._boot_rotated, self._boot_lost = True, False, False
        self._rotate()

    def booted(self) -> None:
        """What follows is no part of the boot."""
        self._booting = False

    def mend(self) -> None:
        """Write the boot again, where a full disk has swallowed a part of it; call it now and then.

        A worker waits for the line that says that the model is loaded: without it a healthy model
        would serve nobody, even when there is room again. Where there is none, room is made by
        giving up older files; what counts is the end of the boot.
        """
        if not self._boot_lost:
            return
        boot = bytes(self._boot)
        if not self._rewrite(boot):
            for number in range(1, self._keep + 1):
                with contextlib.suppress(OSError):
                    self._older(number).unlink(missing_ok=True)
            if not (self._rewrite(boot) or self._rewrite(boot[-BOOT_END:])):
                return
        self._boot_lost = False

    def replay(self) -> None:
        """Give a new worker the lines of the boot, if a rotation has taken them away.

        A worker that is started again looks in the log for the line that says that the model is
        loaded; after a rotation by size that line would be in an older file.
        """
        if self._boot_rotated:
            self._rotate()
            self._append(bytes(self._boot))
            self._boot_rotated = False

    def write(self, data: bytes) -> None:
        """Append what a child wrote; what cannot be written is counted in `dropped`."""
        self._remember(data)
        if self._size + len(data) >= self._max_bytes:
            # Rotate between two lines; one endless line is cut at twice the size.
            end = data.rfind(b"\n") + 1
            if end or self._size + len(data) >= 2 * self._max_bytes:
                self._append(data[:end])
                self._rotate()
                self._boot_rotated = True
                data = data[end:]
        self._append(data)

    def forget(self) -> None:
        """Begin a new tail: what was written so far is no reason for what comes."""
        self._lines.clear()
        self._line = b""

    def tail(self) -> list[str]:
        """The last lines, without line ends."""
        last = [self._line[:MAX_LINE].decode(errors="replace")] if self._line else []
        return [*self._lines, *last][-TAIL_LINES:]

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None

    def _remember(self, data: bytes) -> None:
        if self._booting:
            self._boot += data[: BOOT_BYTES - len(self._boot)]
        *whole, rest = data.split(b"\n")
        for line in whole:
            full = (self._line + line)[:MAX_LINE]
            self._lines.append(full.decode(errors="replace").rstrip("\r"))
            self._line = b""
        self._line = (self._line + rest)[:MAX_LINE]

    def _append(self, data: bytes) -> None:
        if not data:
            return
        try:
            if self._descriptor is None:
                self._open()
            assert self._descriptor is not None
            written = os.write(self._descriptor, data)
        except OSError:
            written = 0
        self._size += written
        self.dropped += len(data) - written
        if self._booting and written < len(data):
            self._boot_lost = True

    def _rewrite(self, data: bytes) -> bool:
        """Make `data` all that is in the newest file; whether that worked."""
        self.close()  # the path may name another file by now
        try:
            self._open()
            assert self._descriptor is not None
            os.ftruncate(self._descriptor, 0)
            self._size = os.write(self._descriptor, data)
        except OSError:
            return False
        return self._size == len(data)

    def _older(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _open(self) -> None:
        self._descriptor = open_own(self.path, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            newer = self._older(number - 1) if number > 1 else self.path
            with contextlib.suppress(OSError):
                newer.replace(self._older(number))
        self._size = 0
        with contextlib.suppress(OSError):  # tried again at the next write
            # There from now on: the worker may look for the file before the first line.
            self._open()


class LogPipe:
    """The pipe from a child's standard output and error to a `RotatingLog`."""

    def __init__(self, log: RotatingLog) -> None:
        self._log = log
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        with contextlib.suppress(OSError, AttributeError):
            fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._reader, self._read)

    def started(self) -> None:
        """The child has its end; close ours."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def drain(self) -> None:
        """Read what is there now."""
        while self._reader >= 0 and self._read():
            pass

    def close(self) -> None:
        """Read no more."""
        self.started()
        if self._reader >= 0:
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    def _read(self) -> bool:
        try:
            data = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        self._log.write(data)
        return True
