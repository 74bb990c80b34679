"""The line of each key in a TOML file; the parser of the standard library does not tell them.

Only the outline is read: table headers, keys, and where values end. What a value holds is the
parser's matter, so a file is to be parsed by it first. A key inside a value that is written on one
line (an inline table) has the line of the key that holds it.
"""

from __future__ import annotations

import re
import tomllib

KeyPath = tuple[str | int, ...]

_PART = re.compile(r"""\s*("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+)\s*""")
_STRINGS = ('"""', "'''", '"', "'")


class Lines:
    """Where keys are."""

    def __init__(self, text: str) -> None:
        """Read the outline of a TOML file that was parsed without an error."""
        self._found: dict[KeyPath, int] = {}
        self._counts: dict[KeyPath, int] = {}
        """Elements of each array of tables so far."""
        self._read(text)

    def of(self, path: KeyPath) -> int:
        """The line of a key, or of the nearest that holds it; the first line where there is none.

        Args:
            path: names and indices: ``("endpoint", 0, "name")``.
        """
        while path and path not in self._found:
            path = path[:-1]
        return self._found.get(path, 1)

    def _read(self, text: str) -> None:
        table: KeyPath = ()
        at = 0
        while at < len(text):
            if text[at] in " \t\r\n":
                at += 1
            elif text[at] == "#":
                at = _end_of_line(text, at)
            elif text[at] == "[":
                line = text.count("\n", 0, at) + 1
                array = text.startswith("[[", at)
                names, _ = _names(text, at + (2 if array else 1))
                table = self._enter(names, array=array)
                self._found.setdefault(table, line)
                if array:
                    self._found.setdefault(table[:-1], line)
                at = _end_of_line(text, at)
            else:
                line = text.count("\n", 0, at) + 1
                names, at = _names(text, at)
                for length in range(1, len(names) + 1):
                    self._found.setdefault((*table, *names[:length]), line)
                at = _end_of_value(text, at + 1)

    def _enter(self, names: list[str], *, array: bool) -> KeyPath:
        """The path of a table; in an array of tables, of its newest element."""
        path: KeyPath = ()
        for name in names[:-1]:
            path = (*path, name)
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        path = (*path, names[-1])
        if not array:
            return path
        number = self._counts.get(path, 0)
        self._counts[path] = number + 1
        return (*path, number)


def _names(text: str, at: int) -> tuple[list[str], int]:
    """The parts of a key that begins there, and where it ends."""
    names = []
    while match := _PART.match(text, at):
        part, at = match[1], match.end()
        quoted = part[0] in "\"'"
        names.append(str(tomllib.loads(f"x = {part}")["x"]) if quoted else part)
        if not text.startswith(".", at):
            break
        at += 1
    return names or [""], at


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end + 1


def _end_of_value(text: str, at: int) -> int:
    """Where the line after a value begins: brackets and strings may go over several lines."""
    depth = 0
    while at < len(text):
        char = text[at]
        if char == "#":
            at = _end_of_line(text, at) - 1
        elif char == "\n" and depth == 0:
            return at + 1
        elif char in "\"'":
            at = _end_of_string(text, at)
            continue
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        at += 1
    return at


def _end_of_string(text: str, at: int) -> int:
    quote = next(quote for quote in _STRINGS if text.startswith(quote, at))
    at += len(quote)
    while at < len(text) and not text.startswith(quote, at):
        at += 2 if text[at] == "\\" and quote[0] == '"' else 1
    at += len(quote)
    while len(quote) == 3 and text.startswith(quote[0], at):  # """a""""" ends in quotes
        at += 1
    return at
