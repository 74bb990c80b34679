"""What is sent: payloads out of the command line or a file, each request's its own.

``{{i}}`` in any text of a payload becomes the number of the request (from 0), ``{{random}}``
sixteen hexadecimal digits: so prompts differ, and no cache of the model server makes them look
cheap.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path
from typing import Any

import msgspec

from stoker.config import expanded
from stoker.errors import UNREADABLE, ConfigError
from stoker.wire import encode_any

_PLACE = re.compile(rb"\{\{(i|random)\}\}")

_COMPLETIONS = "/completions"
"""How OpenAI's routes end whose streams can tell their usage."""


class PayloadTemplate:
    """One payload as JSON text, with places that differ from request to request."""

    def __init__(self, payload: Any) -> None:
        # In JSON "{{" can only be inside a string: what takes its place needs no escape there.
        self._parts = _PLACE.split(encode_any(payload))

    def render(self, number: int, rng: random.Random) -> bytes:
        """The JSON text for request `number`."""
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        made = list(parts)
        for place in range(1, len(parts), 2):
            if parts[place] == b"i":
                made[place] = b"%d" % number
            else:
                made[place] = b"%016x" % rng.getrandbits(64)
        return b"".join(made)


def read_payloads(text: str, route: str, *, stream: bool = False) -> list[PayloadTemplate]:
    """The payloads that an argument names; they are taken in turn.

    Args:
        text: JSON; ``@FILE`` for a file with one JSON document, ``@FILE.jsonl`` for one a line;
            ``-`` or ``@-``: standard input.
        route: where they go.
        stream: ask for a stream, where a payload does not say itself: adds ``"stream": true`` and,
            on OpenAI's completion routes, ``"stream_options": {"include_usage": true}``.

    Raises:
        ConfigError: names the file, and the line, that cannot be used.
    """
    documents = read_documents(text)
    if stream:
        documents = [_streaming(document, route) for document in documents]
    return [PayloadTemplate(document) for document in documents]


def read_documents(text: str) -> list[Any]:
    """The payloads that an argument names: itself, a file's (``@FILE``), standard input's (``-``).

    Raises:
        ConfigError: it cannot be read, or is not JSON.
    """
    if text in ("-", "@-"):
        documents = [_decode(sys.stdin.buffer.read(), "PAYLOAD")]
    elif text.startswith("@"):
        documents = _read_file(expanded(text[1:]))
    else:
        documents = [_decode(text.encode("utf-8", "surrogateescape"), "PAYLOAD")]
    return documents


def _read_file(path: Path) -> list[Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error)) from None
    if path.suffix not in (".jsonl", ".ndjson"):
        return [_decode(data, str(path))]
    lines = [(n, line) for n, line in enumerate(data.splitlines(), 1) if line.strip()]
    if not lines:
        raise ConfigError(str(path), "has no line with a payload")
    return [_decode(line, f"{path}, line {number}") for number, line in lines]


def _decode(data: bytes, where: str) -> Any:
    try:
        return msgspec.json.decode(data)
    except UNREADABLE as error:
        hint = "" if data.strip() else " (it is empty)"
        raise ConfigError(where, f"is not valid JSON: {error}{hint}") from None


def _streaming(document: Any, route: str) -> Any:
    if not isinstance(document, dict):
        raise ConfigError("--stream", "needs payloads that are JSON objects")
    added: dict[str, Any] = {"stream": True}
    if route.partition("?")[0].endswith(_COMPLETIONS):
        added["stream_options"] = {"include_usage": True}
    return added | document
