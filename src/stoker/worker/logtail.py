"""Follows the model server's log: whole lines, as they are written, whatever happens to the file.

Rules (everything that knows about log files lives in this file):

* The log is read from its beginning: the model server may have loaded before the worker started.
* A file that is not there yet is waited for.
* Rotation by renaming: when the path names another file, what is left of the old one is read first.
* Rotation by truncation: when the file is shorter than what was read, or begins with other bytes,
  it is read from its beginning.
* A line ends with a newline or a carriage return (progress bars). Of a line that is longer than
  `MAX_LINE` the beginning is kept. Bytes that are not UTF-8 are replaced.

`poll` does blocking reads of a local file, at most `MAX_READ` bytes a call.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

MAX_LINE = 16_384
"""Bytes of a line that are looked at."""

MAX_READ = 1_048_576
"""Bytes read by one `LogTail.poll`."""

_CHUNK = 65_536
_MARK = 64  # bytes at the beginning by which a file is known again
_END = re.compile(rb"[\r\n]+")


class LineSplitter:
    """Cuts bytes into lines; holds back the last, unfinished one."""

    def __init__(self, max_line: int = MAX_LINE) -> None:
        self._max_line = max_line
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their ends; empty ones are left out."""
        *whole, rest = _END.split(data)
        if whole:
            whole[0] = self._partial + whole[0]
            self._partial = b""
        self._partial = (self._partial + rest)[: self._max_line]
        return [self._text(line) for line in whole if line]

    def flush(self) -> list[str]:
        """The unfinished line, if there is one: nothing will be added to it."""
        line, self._partial = self._partial, b""
        return [self._text(line)] if line else []

    def _text(self, line: bytes) -> str:
        return line[: self._max_line].decode("utf-8", "replace")


class LogTail:
    """Reads a log file that grows and is rotated."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._file: int | None = None
        self._offset = 0
        self._mark = b""
        self._splitter = LineSplitter()

    def poll(self) -> list[str]:
        """The lines written since the last call.

        A file that cannot be read counts as not there.
        """
        lines: list[str] = []
        if self._file is None and not self._open():
            return lines
        assert self._file is not None
        if self._truncated(self._file):
            lines += self._splitter.flush()
            self._offset, self._mark = 0, b""
        at_end = self._read(self._file, lines)
        if at_end and self._moved(self._file):
            self._read(self._file, lines)  # written between the read above and the move
            lines += self._splitter.flush()
            self.close()
            if self._open():
                self._read(self._file, lines)
        return lines

    def close(self) -> None:
        """Let go of the file; a later `poll` starts at the beginning of what is there then."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._offset, self._mark = 0, b""

    def _open(self) -> bool:
        try:
            # Not blocking: somebody may have put a FIFO there.
            file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            return False
        self._file = file
        return True

    def _read(self, file: int, lines: list[str]) -> bool:
        left = MAX_READ
        while left > 0:
            data = os.pread(file, min(_CHUNK, left), self._offset)
            if not data:
                return True
            if len(self._mark) < _MARK:
                self._mark += data[: _MARK - len(self._mark)]
            self._offset += len(data)
            left -= len(data)
            lines += self._splitter.feed(data)
        return False

    def _truncated(self, file: int) -> bool:
        if os.fstat(file).st_size < self._offset:
            return True
        return os.pread(file, len(self._mark), 0) != self._mark

    def _moved(self, file: int) -> bool:
        """Whether the path names another file now (False where it names none: one may follow)."""
        try:
            there = self._path.stat()
        except OSError:
            return False
        here = os.fstat(file)
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)


class Meaning(Enum):
    """What a line of the log says."""

    LOADED = "loaded"
    ERROR = "error"
    INFO = "info"


class LineMatcher:
    """Tells what a line means; texts are looked for anywhere in it, errors first."""

    def __init__(
        self, on_load: Sequence[str], on_error: Sequence[str], on_info: Sequence[str]
    ) -> None:
        self._texts = (
            (Meaning.ERROR, tuple(on_error)),
            (Meaning.LOADED, tuple(on_load)),
            (Meaning.INFO, tuple(on_info)),
        )

    def meaning(self, line: str) -> Meaning | None:
        """What `line` means; None for most."""
        for meaning, texts in self._texts:
            for text in texts:
                if text in line:
                    return meaning
        return None
