"""Reads the logs of an instance directory: the last lines, and what comes after them.

Rules:

* However long a log is, `CHUNK` bytes of it are read at once.
* Only whole lines are told while a log is followed, so that a secret is not cut in two and told in
  halves; a line beyond `MAX_LINE` characters is cut, and the rest of it skipped.
* A log that was rotated in between is read on in its older file, then from the beginning of the
  new one. One that was emptied is read from its beginning.
* Whoever writes a log may have put something else in its place: only regular files are read, and
  links are not followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from stoker.errors import ConfigError
from stoker.launcher import LOGS
from stoker.logs import without
from stoker.providers.base import LogLine, LogPart
from stoker.providers.folder import Folder

CHUNK = 1 << 20
"""Bytes of one log that are read at once."""

MAX_LINE = 16_384
"""Characters of a line that are told."""

_FILES = {name.removesuffix(".log"): name for name in LOGS}


class _Place(NamedTuple):
    """Up to where a log was read."""

    inode: int
    offset: int
    inside: int = 0
    """1: in the middle of a line, whose rest is not told."""


def read_logs(folder: Folder, logs: Sequence[str], tail: int, after: str) -> LogPart:
    """Lines of some logs of an instance, and where they end.

    Args:
        folder: the instance's.
        logs: names, as `stoker.providers.base.LOG_NAMES`.
        tail: lines of each, at most, where nothing was read before.
        after: of an earlier answer; what makes no sense in it counts as not read.
    """
    places = _places(after)
    secrets: tuple[str, ...] = ()
    with contextlib.suppress(ConfigError):
        secrets = folder.manifest().secrets
    lines: list[LogLine] = []
    for name in logs:
        if name not in _FILES:
            continue
        path = folder.path / _FILES[name]
        if name in places:
            found, place = _since(path, places[name])
        else:
            found, place = _last(path, tail)
        places[name] = place
        lines += [LogLine(name, _cut(without(line, secrets))) for line in found]
    return LogPart(
        lines, ",".join(f"{n}:{p.inode}:{p.offset}:{p.inside}" for n, p in places.items())
    )


def _last(path: Path, tail: int) -> tuple[list[str], _Place]:
    with _opened(path) as file:
        if file is None:
            return [], _Place(0, 0)
        about = os.fstat(file.fileno())
        start = max(0, about.st_size - CHUNK)
        file.seek(start)
        data = file.read(about.st_size - start)
    if start:
        data = data.partition(b"\n")[2]  # the first line is not whole
    # A last line without its end is told here, and told again, whole, when it has one.
    whole = data.rfind(b"\n") + 1
    place = _Place(about.st_ino, about.st_size - (len(data) - whole))
    return _lines(data)[-tail:] if tail else [], place


def _since(path: Path, place: _Place) -> tuple[list[str], _Place]:
    lines: list[str] = []
    with _opened(path) as file:
        if file is None:
            return lines, place
        about = os.fstat(file.fileno())
        if about.st_ino != place.inode:
            with _opened(path.with_name(f"{path.name}.1")) as older:
                if older is not None and os.fstat(older.fileno()).st_ino == place.inode:
                    lines, former = _read_on(older, place)
                    if former.offset != place.offset and _more(older, former):
                        return lines, former
            place = _Place(about.st_ino, 0)
        elif about.st_size < place.offset:
            place = _Place(about.st_ino, 0)
        newer, place = _read_on(file, place)
        return lines + newer, place


def _read_on(file: BinaryIO, place: _Place) -> tuple[list[str], _Place]:
    """The whole lines from `place` on, of one chunk."""
    file.seek(place.offset)
    data = file.read(CHUNK)
    whole, inside = data.rfind(b"\n") + 1, place.inside
    if not whole and len(data) < CHUNK:
        return [], place
    end = whole or len(data)
    text, skip = data[:end], inside
    if skip:
        text = text.partition(b"\n")[2]
    inside = 0 if whole else 1
    return _lines(text), _Place(place.inode, place.offset + end, inside)


def _more(file: BinaryIO, place: _Place) -> bool:
    return os.fstat(file.fileno()).st_size - place.offset >= CHUNK


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """The file; None where there is none, or something else."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError:
        yield None
        return
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        yield None
        return
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _lines(data: bytes) -> list[str]:
    """Lines as a terminal would leave them: of one that was written over, the last text."""
    lines = data.decode(errors="replace").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [line.rstrip("\r").rpartition("\r")[2] for line in lines]


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + "…"


def _places(after: str) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    for part in after.split(",")[: len(_FILES)]:
        name, *numbers = part.split(":")
        if name in _FILES and len(numbers) == 3 and all(_is_number(one) for one in numbers):
            places[name] = _Place(*map(int, numbers))
    return places


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63
