"""Paths that a client names, as a model server might take them."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SEPARATORS = re.compile(r"[/\\]")


def climbs(path: str) -> bool:
    """Whether a model server, which may decode `path`, might take it for one above it."""
    return ".." in _SEPARATORS.split(unquote(path))
