"""``multipart/form-data`` for the model server, out of the JSON that a client sent.

Rules (RFC 7578):

* A file is bounded in size before it is decoded, and its type must be one that the handler allows.
* A name or file name cannot break out of its header line: quotes and line breaks are escaped as
  browsers do.
* Fields keep their order; a list repeats its field; null is left out; an object or a nested list is
  sent as JSON, everything else as text.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from stoker.errors import StokerError
from stoker.wire import encode
from stoker.worker.config import MultipartConfig

MAX_PARTS = 1000
"""Parts of one request."""

_DATA_URL = re.compile(r"data:([A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+)?((?:;[^,;]*)*?);base64,")
_MEDIA = re.compile(r"[A-Za-z0-9.+-]+/[A-Za-z0-9.+-]+(?:; ?[A-Za-z0-9=_.-]+)?")
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A", "\0": "%00"})

Part = tuple[str, str | None, bytes, str]
"""Field, file name (None: no file), content, media type."""


class PayloadError(StokerError):
    """A payload cannot be used.

    Attributes:
        status: of the answer: 413 or 422.
        fields: what is wrong, by field.
    """

    def __init__(self, fields: dict[str, str], *, status: int = 422) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in fields.items()))
        self.fields = fields
        self.status = status


def form(parts: Iterable[Part]) -> tuple[bytes, bytes]:
    """Content-Type and body of a form.

    Raises:
        PayloadError: more than `MAX_PARTS`.
    """
    boundary = secrets.token_hex(16).encode()  # 128 random bits are in no file
    pieces: list[bytes] = []
    for number, (name, filename, content, media) in enumerate(parts):
        if number >= MAX_PARTS:
            raise PayloadError({name: f"is one part too many: at most {MAX_PARTS}"})
        disposition = f'form-data; name="{name.translate(_ESCAPES)}"'
        if filename is not None:
            disposition += f'; filename="{filename.translate(_ESCAPES)}"'
        head = f"content-disposition: {disposition}\r\ncontent-type: {media}\r\n\r\n"
        pieces += (b"--", boundary, b"\r\n", head.encode(), content, b"\r\n")
    pieces += (b"--", boundary, b"--\r\n")
    return b"multipart/form-data; boundary=" + boundary, b"".join(pieces)


def parts_of(fields: dict[str, Any]) -> Iterator[Part]:
    """Parts out of `ApiPayload.generate_payload_multipart`.

    Raises:
        TypeError: bytes that are no ``(filename, bytes, content_type)`` tuple.
    """
    for name, value in fields.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, tuple):
                filename, content, media = one
                yield name, str(filename), bytes(content), _media(name, media)
            elif isinstance(one, bytes | bytearray):
                raise TypeError(f"{name}: bytes must be a (filename, bytes, content_type) tuple")
            else:
                yield from _field(name, one)


def parts_of_payload(payload: dict[str, Any], config: MultipartConfig) -> Iterator[Part]:
    """Parts out of a client's payload.

    Raises:
        PayloadError: names the field of a file that is too large, of a wrong type, or no base64.
    """
    for name, value in payload.items():
        for one in value if isinstance(value, list) else [value]:
            if name in config.files and one is not None:
                yield _file(name, one, config)
            else:
                yield from _field(name, one)


def _field(name: str, value: Any) -> Iterator[Part]:
    if value is None:
        return
    if isinstance(value, dict | list):
        yield name, None, encode(value), "application/json"
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        yield name, None, text.encode(), "text/plain; charset=utf-8"


def _file(name: str, value: Any, config: MultipartConfig) -> Part:
    filename, media, data = name, "", value
    if isinstance(value, dict):
        data = value.get("data")
        filename, media = value.get("filename") or name, value.get("content_type") or ""
        if not isinstance(filename, str) or not isinstance(media, str):
            raise PayloadError({name: "filename and content_type must be text"})
    if not isinstance(data, str):
        raise PayloadError(
            {name: "must be base64 text, a data: URL, or {filename, content_type, data}"}
        )
    start = 0
    if data.startswith("data:"):
        # The head alone is looked at: what follows may be megabytes.
        found = _DATA_URL.match(data[:1024])
        if found is None:
            raise PayloadError({name: "must be a data: URL with ;base64,"})
        media, start = media or found[1] or "", found.end()
    media = _media(name, media or config.default_content_type)
    if not _allowed(media, config.content_types):
        allowed = ", ".join(config.content_types)
        raise PayloadError({name: f"must be of type {allowed}, not {media}"})
    # Four characters are three bytes; padding makes it at most two less.
    if (len(data) - start) // 4 * 3 - 2 > config.max_file_bytes:
        raise _too_large(name, config)
    try:
        content = base64.b64decode(data[start:] if start else data, validate=True)
    except (binascii.Error, ValueError):
        raise PayloadError({name: "is not valid base64"}) from None
    if len(content) > config.max_file_bytes:
        raise _too_large(name, config)
    return name, filename, content, media


def _too_large(name: str, config: MultipartConfig) -> PayloadError:
    return PayloadError({name: f"is larger than {config.max_file_bytes} bytes"}, status=413)


def _media(name: str, media: Any) -> str:
    if not isinstance(media, str) or not _MEDIA.fullmatch(media):
        raise PayloadError({name: "its content_type must be such as 'audio/wav'"})
    return media


def _allowed(media: str, patterns: Iterable[str]) -> bool:
    kind, _, rest = media.partition(";")[0].strip().lower().partition("/")
    for pattern in patterns:
        wanted, _, sub = pattern.partition("/")
        if wanted in ("*", kind) and sub in ("*", rest):
            return True
    return False
