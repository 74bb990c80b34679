"""Structured logs, with secrets taken out before anything is written.

Every line has a time, a level, the room it comes from, an event and its fields: as JSON, one object
a line, for programs, or as text for people. ``STOKER_LOG_FORMAT`` chooses; where it is not set, a
terminal gets text and everything else gets JSON.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from datetime import datetime
from typing import Any, Literal, TextIO, get_args

import structlog

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


def _hide_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        event[key] = _clean(value) if key == "event" else _clean_field(key, value)
    return event


def _on_one_line(value: Any) -> str:
    return displayable(str(value)).replace("\n", " ")


class PeopleRenderer:
    """One short line for a terminal: local time, room, text, then what else is known of it."""

    def __init__(self, *, colors: bool) -> None:
        self._colors = colors

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        """Called by structlog as the last of its processors."""
        fields = dict(event)
        trace = displayable(fields.pop("exception", ""))
        fields = {name: _on_one_line(value) for name, value in fields.items()}
        at = datetime.fromisoformat(fields.pop("timestamp")).astimezone()
        level, room = fields.pop("level"), fields.pop("room", "")
        text = fields.pop("event")
        if level not in ("info", "debug"):
            text = f"{level}: {text}"
        line = " ".join(
            [self._paint("2", f"{at:%H:%M:%S} {room:<10}"), self._paint(_STYLES.get(level), text)]
        )
        if fields:
            rest = " ".join(f"{key}={value}" for key, value in fields.items())
            line += "  " + self._paint("2", rest)
        return f"{line}\n{trace}" if trace else line

    def _paint(self, code: str | None, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colors and code else text


def configure(
    *, json: bool | None = None, level: str = "info", stream: TextIO | None = None
) -> None:
    """Set up logging for a process; call it once, at its start.

    Args:
        json: one JSON object a line; default: what ``STOKER_LOG_FORMAT`` says, and where it is
            not set, only when `stream` is not a terminal.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: default standard error.

    Raises:
        ConfigError: ``STOKER_LOG_FORMAT`` is neither ``json`` nor ``text``.
    """
    hide(*(value for name, value in os.environ.items() if _SECRET_VARIABLE.search(name)))
    out = stream or sys.stderr
    terminal = out.isatty()
    as_json = _wants_json(default=not terminal) if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else PeopleRenderer(colors=terminal and not os.environ.get("NO_COLOR"))
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _hide_secrets,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )


def _wants_json(*, default: bool) -> bool:
    wanted = os.environ.get(LOG_FORMAT, "").strip().lower()
    if wanted not in ("", "json", "text"):
        raise ConfigError(LOG_FORMAT, f"must be 'json' or 'text', not {wanted!r}")
    return wanted == "json" if wanted else default


def get_logger(room: str) -> Any:
    """A logger whose lines say which room of the house they come from."""
    return structlog.get_logger(room=room)
