"""Structured logs, with secrets taken out before anything is written."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

_SECRET_KEY = re.compile(r"(api_?key|token|secret|password|authorization|signature|ticket)", re.I)
_SECRET_IN_TEXT = re.compile(
    r"((?:api_?key|mtoken|master_token|hf_token|authorization|signature|ticket)[\"']?\s*[=:]\s*[\"']?"
    r"(?:bearer\s+)?)([^\s\"'&,}]+)",
    re.I,
)
HIDDEN = "***"


def redact(text: str) -> str:
    """Hide what looks like a secret in free text (``api_key=…``, ``"mtoken": "…"``)."""
    return _SECRET_IN_TEXT.sub(rf"\g<1>{HIDDEN}", text)


def printable(text: str, *, keep: str = "") -> str:
    """`text` with blanks for control characters, so that it cannot steer who reads a log.

    Args:
        text: from outside.
        keep: control characters to leave in, for example a line end.
    """
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def _hide_secrets(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key != "event" and _SECRET_KEY.search(key) and isinstance(value, str | bytes):
            event[key] = HIDDEN
        elif isinstance(value, str):
            event[key] = redact(value)
    return event


def configure(
    *, json: bool | None = None, level: str = "info", stream: TextIO | None = None
) -> None:
    """Set up logging for a process; call it once, at its start.

    Args:
        json: one JSON object a line; default: only when `stream` is not a terminal.
        level: ``debug``, ``info``, ``warning`` or ``error``.
        stream: default standard error.
    """
    out = stream or sys.stderr
    terminal = out.isatty()
    as_json = (not terminal) if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=terminal)
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


def get_logger(room: str) -> Any:
    """A logger whose lines say which room of the house they come from."""
    return structlog.get_logger(room=room)
