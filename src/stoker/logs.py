"""Structured logs, with secrets taken out before anything is written.

Every line has a time, a level, the room it comes from, an event and its fields: as JSON, one object
a line, for programs, or as text for people. ``STOKER_LOG_FORMAT`` chooses; where it is not set, a
terminal gets text and everything else gets JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, get_args

from stoker.errors import ConfigError

_SECRET_KEY = re.compile(r"(api_?key|token|secret|password|authorization|signature|ticket)", re.I)
_SECRET_VARIABLE = re.compile(
    r"(api_?key|access_?key|token|secret|passw(or)?d|credentials?)$", re.I
)
_SECRET_IN_TEXT = re.compile(
    r"((?:api_?key|mtoken|master_token|hf_token|authorization|signature|ticket)[\"']?\s*[=:]\s*[\"']?"
    r"(?:bearer\s+)?)([^\s\"'&,}]+)",
    re.I,
)
_KEY_SHAPE = re.compile(r"\b(st[ke]_)[A-Za-z0-9_-]{16,}")
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@'\"]+@")
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
"""An escape sequence of a terminal (ECMA-48): CSI, OSC and other strings, and the short ones."""

HIDDEN = "***"

LOG_FORMAT = "STOKER_LOG_FORMAT"
"""Environment variable: ``json`` or ``text``."""

MIN_SECRET = 8
"""Characters; shorter values would be found in any text."""

_known_secrets: set[str] = set()

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)

_STYLES = {"debug": "2", "warning": "33", "error": "1;31", "critical": "1;31"}
"""ANSI codes of a line's text; information is plain."""


def redact(text: str) -> str:
    """Hide what looks like a secret in free text (``api_key=…``, ``"mtoken": "…"``)."""
    return _SECRET_IN_TEXT.sub(rf"\g<1>{HIDDEN}", without_shapes(text))


def without_shapes(text: str) -> str:
    """Hide what is a secret by its shape alone: our API keys, and users and passwords in URLs."""
    return _USER_IN_URL.sub(f"{HIDDEN}@", _KEY_SHAPE.sub(rf"\g<1>{HIDDEN}", text))


def printable(text: str, *, keep: str = "") -> str:
    """`text` with blanks for control characters, so that it cannot steer who reads a log.

    Args:
        text: from outside.
        keep: control characters to leave in, for example a line end.
    """
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def plain(text: str) -> str:
    """A line of somebody else's output as it may be shown on a terminal: its words alone.

    Colours and other escape sequences are taken out whole, and other control characters become
    blanks.
    """
    return printable(_ESCAPE.sub("", text), keep="\t")


_UNDISPLAYABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line feed: C0, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # they change the direction of text
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"  # unseen, or no text
)


def displayable(text: str) -> str:
    """`text` for a terminal: nothing in it steers the terminal or hides what is written.

    Escape sequences lose the character that makes them one; so do controls of the direction of
    text, and tags that nobody sees. Everything that people write stays.
    """
    return _UNDISPLAYABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def hide(*values: str) -> None:
    """Keep these values out of every log line of this process from now on."""
    _known_secrets.update(value for value in values if len(value) >= MIN_SECRET)


def without(text: str, secrets: Iterable[str]) -> str:
    """`text` without these values, and without what looks like a secret."""
    # The longest first: one secret may be a part of another.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN) if secret else text
    return redact(text)


def complain(program: str, problem: object) -> None:
    """Say on standard error why a program of ours that is no command cannot go on.

    Args:
        program: its name.
        problem: an error, or words; it may hold what a server, a file or a person said.
    """
    text = displayable(_clean(str(problem)).strip()).replace("\n", "\n  ")
    with contextlib.suppress(OSError, ValueError):  # nobody can be told
        print(f"{program}: error: {text}", file=sys.stderr, flush=True)


def _clean(value: Any) -> Any:
    """A field's value without secrets, however deep they are."""
    if isinstance(value, str):
        return without(value, _known_secrets)
    if isinstance(value, Mapping):
        return {key: _clean_field(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(inner) for inner in value]
    return value


def _clean_field(key: str, value: Any) -> Any:
    if _SECRET_KEY.search(key) and isinstance(value, str | bytes):
        return HIDDEN
    return _clean(value)


def _clean_line(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _clean(value) if key == "event" else _clean_field(key, value)
        for key, value in fields.items()
    }


def _in_json(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, default=lambda value: _clean(repr(value)))


def _on_one_line(value: Any) -> str:
    return displayable(_clean(str(value))).replace("\n", " ")


class _ForPeople:
    """One short line for a terminal: local time, room, text, then what else is known of it."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, line: Mapping[str, Any]) -> str:
        fields = dict(line)
        trace = displayable(fields.pop("exception", ""))
        fields = {name: _on_one_line(value) for name, value in fields.items()}
        at = datetime.fromisoformat(fields.pop("timestamp")).astimezone()
        level, room = fields.pop("level"), fields.pop("room", "")
        text = fields.pop("event")
        if level not in ("info", "debug"):
            text = f"{level}: {text}"
        shown = " ".join(
            [self._paint("2", f"{at:%H:%M:%S} {room:<10}"), self._paint(_STYLES.get(level), text)]
        )
        if fields:
            rest = " ".join(f"{key}={value}" for key, value in fields.items())
            shown += "  " + self._paint("2", rest)
        return f"{shown}\n{trace}" if trace else shown

    def _paint(self, code: str | None, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors and code else text


class _Output:
    """Where the lines of this process go, from which level on, and in which form."""

    def __init__(
        self, level: Level, render: Callable[[Mapping[str, Any]], str], stream: TextIO | None
    ) -> None:
        self._rank = LEVELS.index(level)
        self._render = render
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, level: Level, room: str, event: str, fields: dict[str, Any]) -> None:
        if LEVELS.index(level) < self._rank:
            return
        error = fields.pop("exc_info", None)
        line = {"room": room, **fields, "event": event, "level": level}
        line["timestamp"] = datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        if error is not None:
            line["exception"] = _trace(error)
        text = self._render(_clean_line(line)) + "\n"
        stream = self._stream or sys.stderr
        # A full disk or a reader that has gone must not end what was about to be told.
        with self._lock, contextlib.suppress(OSError, ValueError, AttributeError):
            stream.write(text)
            stream.flush()


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error)).rstrip("\n")


def trace(error: BaseException) -> str:
    """The traceback of an exception for a terminal or a log: its words may be somebody else's."""
    return displayable(_clean(_trace(error)))


_output = _Output("info", _ForPeople(colors=False), None)
"""Until `configure` is called: text to standard error."""


class Logger:
    """Writes lines that say which room of the house they come from; see `get_logger`.

    Every call takes the event, in words, and whatever else is known of it as named fields.
    """

    __slots__ = ("_room",)

    def __init__(self, room: str) -> None:
        self._room = room

    def debug(self, event: str, /, **fields: Any) -> None:
        """Write what only a developer wants to know."""
        _output.write("debug", self._room, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Write what happened."""
        _output.write("info", self._room, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Write what may need attention."""
        _output.write("warning", self._room, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Write what failed; ``exc_info`` is an exception whose traceback follows."""
        _output.write("error", self._room, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """Write what failed, with the traceback of the exception that is handled now."""
        self.error(event, exc_info=sys.exception(), **fields)


def configure(
    *, json: bool | None = None, level: str = "info", stream: TextIO | None = None
) -> None:
    """Set up logging for a process; call it once, at its start.

    What Python itself and other libraries write (an exception that nobody catches, the event loop's
    complaints) passes the same filter from then on, unless the program has set up its own way.

    Args:
        json: one JSON object a line; default: what ``STOKER_LOG_FORMAT`` says, and where it is
            not set, only when `stream` is not a terminal.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: default standard error.

    Raises:
        ConfigError: ``STOKER_LOG_FORMAT`` is neither ``json`` nor ``text``.
    """
    global _output  # noqa: PLW0603  (of the process, as standard error is)
    hide(*(value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)))
    out = stream or sys.stderr
    terminal = out is not None and out.isatty()  # None: it was closed before the start
    as_json = _wants_json(default=not terminal) if json is None else json
    colors = terminal and not os.environ.get("NO_COLOR")
    chosen = LEVELS[LEVELS.index(level.lower())]
    _output = _Output(chosen, _in_json if as_json else _ForPeople(colors=colors), out)
    _filter_what_others_write()


def _filter_what_others_write() -> None:
    import logging

    class OfLibraries(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            level: Level = "error" if record.levelno >= logging.ERROR else "warning"
            _output.write(level, record.name, record.getMessage(), {"exc_info": error})

    logging.lastResort = OfLibraries(logging.WARNING)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _tell_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: _tell_uncaught(None, args.exc_value, None)


def _tell_uncaught(_kind: object, error: BaseException | None, _traceback: object) -> None:
    if error is not None and not isinstance(error, SystemExit):  # one that ends a thread
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(f"{trace(error)}\n")


def _wants_json(*, default: bool) -> bool:
    wanted = os.environ.get(LOG_FORMAT, "").strip().lower()
    if wanted not in ("", "json", "text"):
        raise ConfigError(LOG_FORMAT, f"must be 'json' or 'text', not {wanted!r}")
    return wanted == "json" if wanted else default


def get_logger(room: str) -> Logger:
    """A logger whose lines say which room of the house they come from."""
    return Logger(room)
