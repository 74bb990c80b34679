"""A line of a model server's log, known by its form.

A part of a line (a plain text) also matches where a server repeats a client's words in its log. A
`LogLine` says what stands before and after the text, from the beginning of the line on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class LogLine:
    """A text with what stands around it in its line.

    Attributes:
        text: the fixed part.
        before: regular expression of everything in front of it, from the beginning of the line.
        after: regular expression of everything behind it, to the end of the line.
    """

    text: str
    before: str = ""
    after: str = ".*"

    def __str__(self) -> str:
        return self.text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(f"(?:{self.before}){re.escape(self.text)}(?:{self.after})", re.DOTALL)

    def matches(self, line: str) -> bool:
        """Whether `line`, without its end, is such a line."""
        return self._pattern.fullmatch(line) is not None


def uvicorn(text: str, level: str = "INFO") -> LogLine:
    """A line of uvicorn's own logger, also behind vLLM's mark of the process."""
    return LogLine(text, rf"(?:\(\S+ pid=\d+\) )?{level}:\s+", r"\s*")
