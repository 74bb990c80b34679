"""Follows the model server's log: whole lines, as they are written, whatever happens to the file.

Rules (everything that knows about log files lives in this file):

* The log is read from its beginning: the model server may have loaded before the worker started.
* A file that is not there yet is waited for. What is not a regular file is never opened: to open a
  FIFO and close it again would end the model server that writes into it.
* Rotation by renaming: when the path names another file, what is left of the old one is read first.
* Rotation by truncation: when the file is shorter than what was read, or begins with other bytes,
  it is read from its beginning.
* A line ends with a newline. Carriage returns (progress bars) cut it into parts: each part is a
  line, and so is the whole without them, because a program may write over the middle of a text.
* Of a line that is longer than `MAX_LINE` each piece is a line; all but the first begin with
  `CONTINUED`, and repeat the last `OVERLAP` bytes before them, so that a text is found wherever it
  stands.
* An unfinished line is looked at when nothing was added to it for `SETTLED` seconds; once it is
  finished, it is looked at again.
* Escape sequences (colours) are taken out. Bytes that are not UTF-8 are replaced. Zero bytes are
  dropped: a program that writes on after its log was emptied leaves a gap of them, and UTF-16 has
  one beside every letter of ASCII.

`poll` does blocking reads of a local file, at most `MAX_READ` bytes a call, and fewer where many
lines may count: a client can make a server write those. `behind` says that there is more. A large
log is searched for the texts that count before it is cut into lines.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from stoker.logline import LogLine

MAX_LINE = 16_384
"""Bytes of a line that are looked at together."""

OVERLAP = 1_024
"""Bytes that a piece of a long line repeats of the piece before it."""

CONTINUED = "\N{HORIZONTAL ELLIPSIS}"
"""What a piece of a line begins with that is not its first."""

MAX_READ = 1_048_576
"""Bytes read by one `LogTail.poll`."""

SETTLED = 1.0
"""Seconds without news after which an unfinished line is looked at."""

MAX_LINES = 1_000
"""Lines after which `LogTail.poll` reads no more, though it gives out all that it has read."""

_CHUNK = 65_536
_MARK = 64  # bytes at the beginning by which a file is known again
# Of ECMA-48: control sequences (colours), commands to the terminal, and two-byte escapes.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|\Z)|[ -/]*[0-~])", re.DOTALL
)

_ESCAPES_BYTES = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
)

LogText = str | LogLine
"""What to look for: a part of a line, or a line by its form."""


class LineSplitter:
    """Cuts bytes into lines; holds back the last, unfinished one."""

    def __init__(self, max_line: int = MAX_LINE, overlap: int = OVERLAP) -> None:
        self._max_line = max_line
        self._overlap = overlap
        self._partial = b""  # since the last line end, carriage return or cut
        self._continued = False  # it is not the beginning of its part
        self._whole = bytearray()  # the parts before it, of the same line; their end at least
        self._parts = 0

    def feed(self, data: bytes) -> list[str]:
        """The lines that `data` completes, without their ends; empty ones are left out."""
        found: list[str] = []
        *ended, rest = data.split(b"\n")
        for line in ended:
            self._parts_of(line, found)
            self._end_part(found)
            if self._parts > 1:
                whole = self._end_of_whole()
                found.append(self._text(whole, continued=len(whole) >= self._max_line))
            self._whole.clear()
            self._parts = 0
        self._parts_of(rest, found)
        return found

    def peek(self) -> list[str]:
        """The unfinished line as it is now, if there is one."""
        if not self._partial:
            return []
        found = [self._text(self._partial, continued=self._continued)]
        if self._parts:
            found.append(self._text(self._end_of_whole() + self._partial, continued=False))
        return found

    def flush(self) -> list[str]:
        """The unfinished line, if there is one: nothing will be added to it."""
        return self.feed(b"\n")

    def _parts_of(self, data: bytes, found: list[str]) -> None:
        if b"\r" not in data:
            self._add(data, found)
            return
        *ended, rest = data.split(b"\r")
        for part in ended:
            self._add(part, found)
            self._end_part(found)
        self._add(rest, found)

    def _add(self, data: bytes, found: list[str]) -> None:
        self._partial += data
        while len(self._partial) > self._max_line:
            found.append(self._text(self._partial[: self._max_line], continued=self._continued))
            self._partial = self._partial[self._max_line - self._overlap :]
            self._continued = True

    def _end_part(self, found: list[str]) -> None:
        part, continued = self._partial, self._continued
        self._partial, self._continued = b"", False
        if not part:
            return
        found.append(self._text(part, continued=continued))
        self._whole += part
        self._parts += 1
        self._trim()

    def pass_over(self, parts: bytes) -> None:
        """Take parts of a line, each with its carriage return, that are not to be given out."""
        self._whole += parts.replace(b"\r", b"")
        self._parts += parts.count(b"\r")
        self._trim()

    def _trim(self) -> None:
        if len(self._whole) > 8 * self._max_line:  # not each time: progress bars have many parts
            del self._whole[: -self._max_line]

    def _end_of_whole(self) -> bytes:
        return bytes(self._whole[-self._max_line :])

    def _text(self, line: bytes, *, continued: bool) -> str:
        text = line.decode("utf-8", "replace")
        if "\x1b" in text:
            text = _ESCAPES.sub("", text)
        return CONTINUED + text if continued else text


class LogTail:
    """Reads a log file that grows and is rotated.

    Attributes:
        behind: the last `poll` did not come to the end of the file.
        problem: why the log cannot be read; empty: it can, or is not there yet.
    """

    def __init__(
        self, path: str | Path, *, wanted: Callable[[bytes], bool] = lambda _data: True
    ) -> None:
        """Open nothing yet.

        Args:
            path: of the log.
            wanted: whether whole lines may hold anything that counts; where not, they are not cut
                apart and not given out.
        """
        self.behind = False
        self.problem = ""
        self._path = Path(path)
        self._wanted = wanted
        self._file: int | None = None
        self._offset = 0
        self._mark = b""
        self._splitter = LineSplitter()
        self._since = 0.0  # when something was last read
        self._peeked = True

    def poll(self, now: float = 0.0) -> list[str]:
        """The lines written since the last call.

        A file that cannot be read counts as not there; `problem` says why.

        Args:
            now: seconds, on a clock that does not go backwards.
        """
        lines: list[str] = []
        self.behind = False
        if self._file is None and not self._open():
            return lines
        try:
            self._poll(lines, now)
        except OSError as error:  # of a failing disk, or a network file system that went away
            self.problem = error.strerror or str(error)
            lines += self._splitter.flush()
            self.close()
        return lines

    def _poll(self, lines: list[str], now: float) -> None:
        assert self._file is not None
        if self._truncated(self._file):
            lines += self._splitter.flush()
            self._offset, self._mark = 0, b""
        before = self._offset
        at_end = self._read(self._file, lines)
        moved = at_end and self._moved(self._file)
        if moved:
            self._read(self._file, lines)  # written between the read above and the move
            lines += self._splitter.flush()
            self.close()
            if self._open():
                at_end = self._read(self._file, lines)
        self.behind = not at_end
        if moved or self._offset != before:
            self._since, self._peeked = now, False
        elif not self._peeked and now - self._since >= SETTLED:
            self._peeked = True
            lines += self._splitter.peek()

    def close(self) -> None:
        """Let go of the file; a later `poll` starts at the beginning of what is there then."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._offset, self._mark = 0, b""

    def _open(self) -> bool:
        try:
            if not stat.S_ISREG(self._path.stat().st_mode):
                self.problem = "it is not a regular file"
                return False
            # Not blocking: somebody may have put a FIFO there in this moment.
            file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            self.problem = ""
            return False
        except OSError as error:
            self.problem = error.strerror or str(error)
            return False
        self._file = file
        return True

    def _read(self, file: int, lines: list[str]) -> bool:
        left = MAX_READ
        if not self._offset:
            self._pass_gap(file)
        while left > 0 and len(lines) < MAX_LINES:
            data = os.pread(file, min(_CHUNK, left), self._offset)
            self.problem = ""
            if not data:
                return True
            if len(self._mark) < _MARK:
                self._mark += data[: _MARK - len(self._mark)]
            self._offset += len(data)
            left -= len(data)
            lines += self._lines_of(data.replace(b"\0", b""))
        return False

    def _pass_gap(self, file: int) -> None:
        """Pass over a gap at the beginning, which may be as large as the log once was."""
        try:
            begins = os.lseek(file, 0, os.SEEK_DATA)
        except OSError:  # it is empty, or its file system does not tell
            return
        if begins:
            self._offset, self._mark = begins, os.pread(file, _MARK, 0)

    def _lines_of(self, data: bytes) -> list[str]:
        first, last = data.find(b"\n") + 1, data.rfind(b"\n") + 1
        if first >= last or self._wanted(data[first:last]):
            return self._parts_of(data) if not last else self._splitter.feed(data)
        return self._splitter.feed(data[:first]) + self._parts_of(data[last:])

    def _parts_of(self, data: bytes) -> list[str]:
        """The same for what has no line end: a progress bar may write megabytes without one."""
        first, last = data.find(b"\r") + 1, data.rfind(b"\r") + 1
        if first >= last or self._wanted(data[first:last]):
            return self._splitter.feed(data)
        lines = self._splitter.feed(data[:first])
        self._splitter.pass_over(data[first:last])
        return lines + self._splitter.feed(data[last:])

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
    """Tells what a line means; plain texts are looked for anywhere in it, errors first."""

    def __init__(
        self, on_load: Sequence[LogText], on_error: Sequence[LogText], on_info: Sequence[LogText]
    ) -> None:
        self._texts = (
            (Meaning.ERROR, tuple(on_error)),
            (Meaning.LOADED, tuple(on_load)),
            (Meaning.INFO, tuple(on_info)),
        )
        self._needles = [str(text).encode() for _, texts in self._texts for text in texts]

    def wanted(self, data: bytes) -> bool:
        """Whether any of the lines in `data` may mean something."""
        if any(needle in data for needle in self._needles):
            return True
        # Escape sequences and carriage returns may stand in the middle of a text.
        plain = _ESCAPES_BYTES.sub(b"", data) if b"\x1b" in data else data
        plain = plain.replace(b"\r", b"")
        return len(plain) < len(data) and any(needle in plain for needle in self._needles)

    def meaning(self, line: str) -> Meaning | None:
        """What `line` means; None for most."""
        for meaning, texts in self._texts:
            for text in texts:
                if text in line if isinstance(text, str) else text.matches(line):
                    return meaning
        return None
