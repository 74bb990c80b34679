"""Bounds how fast lines of one kind are written into a log: the others are counted. Pure.

Rules:

* Lines about one worker are a kind, whatever they say, because their text may come from the worker.
  Of all other lines, those that differ in their numbers alone are one kind.
* Of a kind, `WORKER_LINES` or `OTHER_LINES` are written in `WINDOW` seconds. Later ones are
  counted, and one line at the window's end says how many they were and what the last one said.

E.g. a worker that flaps 350 times a second for 10 s leaves 20 lines and one that counts 6,980.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WINDOW = 10.0
"""Seconds."""

WORKER_LINES = 20
OTHER_LINES = 100

MAX_KINDS = 10_000
"""Remembered within a window; lines of any further kind are dropped."""

_WORKER = re.compile(r"worker \d+:")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(slots=True)
class _Kind:
    since: float
    written: int = 0
    left_out: int = 0
    last: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Lines of one kind that were not written."""

    key: tuple[int, int | None, str]
    """Endpoint, workergroup and level of the last of them."""
    count: int
    last: str

    @property
    def text(self) -> str:
        """The line that stands for them."""
        return (
            f"{self.count} more such lines within {WINDOW:g} s are left out; the last: {self.last}"
        )


class LogRate:
    """Decides about each line."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[int, str], _Kind] = {}
        self._keys: dict[tuple[int, str], tuple[int, int | None, str]] = {}
        self.dropped = 0
        """Lines of kinds beyond `MAX_KINDS`."""

    def admit(
        self, endpoint_id: int, group_id: int | None, level: str, text: str, now: float
    ) -> bool:
        """Whether to write a line; `now` is in seconds of any clock that does not go back."""
        about = _WORKER.match(text)
        name = about[0] if about else _NUMBER.sub("#", text)
        kind = self._kinds.get((endpoint_id, name))
        if kind is None:
            if len(self._kinds) >= MAX_KINDS:
                self.dropped += 1
                return False
            kind = self._kinds[endpoint_id, name] = _Kind(now)
        if kind.written < (WORKER_LINES if about else OTHER_LINES):
            kind.written += 1
            return True
        kind.left_out += 1
        kind.last = text
        self._keys[endpoint_id, name] = (endpoint_id, group_id, level)
        return False

    def due(self, now: float) -> list[LeftOut]:
        """What was left out in windows that are over by `now`; they begin anew."""
        found = []
        for key, kind in list(self._kinds.items()):
            if now - kind.since < WINDOW:
                continue
            del self._kinds[key]
            about = self._keys.pop(key, None)
            if kind.left_out and about is not None:
                found.append(LeftOut(about, kind.left_out, kind.last))
        return found
