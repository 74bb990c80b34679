"""What custom code sees of a request and of the model server's answer, and what it gives back.

The classes are small on purpose, and shaped after aiohttp's where the existing SDK hands out
aiohttp's: ``await response.json()``, ``response.status``, ``async for chunk in response.content``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from stoker.errors import UNREADABLE, InvalidMessageError
from stoker.http import Exchange
from stoker.http.messages import Headers
from stoker.wire import encode

MAX_READ = 64 * 2**20
"""Bytes of an answer that `ModelResponse.read` takes; iterate over larger ones."""

Body = bytes | str | dict[str, Any] | list[Any] | AsyncIterator[bytes | str] | None
"""What an answer may hold; a dict or list is sent as JSON."""


class HeaderMap(Mapping[str, str]):
    """Header lines by name, whatever its case; of a repeated one, the first."""

    def __init__(self, headers: Headers) -> None:
        self._values: dict[str, str] = {}
        for name, value in headers:
            self._values.setdefault(name.decode("latin-1"), value.strip().decode("latin-1"))

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def media_type(headers: Mapping[str, str]) -> str:
    """The type that Content-Type names, without parameters; empty where there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


class Request:
    """A client's request; what authorised it is not in it.

    Attributes:
        method: upper case.
        path: of the route.
        headers: of the client.
        payload: decoded; changing it changes nothing of what the model server got.
        session_id: of the session that it belongs to, if any.
        request_idx: the router's number for it; 0 where there is none.
    """

    def __init__(
        self, exchange: Exchange, payload: dict[str, Any], session_id: str | None, request_idx: int
    ) -> None:
        self.method = exchange.method
        self.path = exchange.path
        self.headers: Mapping[str, str] = HeaderMap(exchange.headers)
        self.payload = payload
        self.session_id = session_id
        self.request_idx = request_idx

    async def json(self) -> dict[str, Any]:
        """The payload."""
        return self.payload

    async def read(self) -> bytes:
        """The payload as JSON text."""
        return encode(self.payload)

    async def text(self) -> str:
        """The payload as JSON text."""
        return encode(self.payload).decode()


class Source(Protocol):
    """An answer that arrives (see `stoker.http.StreamedResponse`)."""

    @property
    def status(self) -> int:
        """Of the answer."""

    @property
    def headers(self) -> Headers:
        """Of the answer."""

    async def read(self, max_bytes: int) -> bytes:
        """All that is left of the body."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its parts, as they come."""


class ModelResponse:
    """The model server's answer, as it arrives.

    Attributes:
        status: HTTP status.
        headers: by name, whatever its case.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._whole: bytes | None = None
        self.status = source.status
        self.headers: Mapping[str, str] = HeaderMap(source.headers)

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status < 400

    @property
    def content_type(self) -> str:
        """Media type without parameters; ``application/octet-stream`` where none is named."""
        return media_type(self.headers) or "application/octet-stream"

    @property
    def content(self) -> Content:
        """The body as aiohttp shows it; iterating over it gives lines."""
        return Content(self)

    async def read(self) -> bytes:
        """The whole body; again the same.

        Raises:
            UpstreamError: it does not come whole, or is larger than `MAX_READ`.
        """
        if self._whole is None:
            self._whole = await self._source.read(MAX_READ)
        return self._whole

    async def text(self, encoding: str = "utf-8") -> str:
        """The whole body as text; bytes that are none are replaced."""
        return (await self.read()).decode(encoding, "replace")

    async def json(self) -> Any:
        """The whole body, decoded.

        Raises:
            InvalidMessageError: it is not JSON.
        """
        try:
            return msgspec.json.decode(await self.read())
        except UNREADABLE as error:
            raise InvalidMessageError({"body": f"not valid JSON: {error}"}) from None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body in parts, as they arrive."""
        if self._whole is not None:
            yield self._whole
            return
        async for part in self._source:
            yield part


class Content:
    """A body by parts, by size or by lines."""

    def __init__(self, response: ModelResponse) -> None:
        self._response = response

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Parts as they arrive."""
        async for part in self._response:
            yield part

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Parts of `size` bytes, the last perhaps shorter."""
        held = bytearray()
        async for part in self._response:
            held += part
            while len(held) >= size:
                yield bytes(held[:size])
                del held[:size]
        if held:
            yield bytes(held)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Lines with their ends; one longer than `MAX_READ` comes in pieces."""
        held = bytearray()
        async for part in self._response:
            held += part
            *lines, rest = bytes(held).split(b"\n")
            held = bytearray(rest)
            for line in lines:
                yield line + b"\n"
            if len(held) > MAX_READ:
                yield bytes(held)
                held.clear()
        if held:
            yield bytes(held)


@dataclass
class Response:
    """An answer to a client.

    Attributes:
        body: bytes, text, a dict or list (JSON), or an async iterator of parts (streamed).
        status: HTTP status, from 200.
        content_type: None: ``application/json`` for a dict or list, ``text/plain`` for text,
            else ``application/octet-stream``.
        headers: more header lines.
    """

    body: Body = None
    status: int = 200
    content_type: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The body in bytes (of one that is not streamed).

        Raises:
            TypeError: it is nothing that can be sent.
        """
        body = self.body
        if body is None:
            return b""
        if isinstance(body, bytes | bytearray | memoryview):
            return bytes(body)
        if isinstance(body, str):
            return body.encode()
        if isinstance(body, dict | list):
            return encode(body)
        raise TypeError(f"a body cannot be a {type(body).__name__}")

    @property
    def media(self) -> str:
        """What Content-Type says."""
        if self.content_type:
            return self.content_type
        if isinstance(self.body, dict | list):
            return "application/json"
        return "text/plain; charset=utf-8" if isinstance(self.body, str) else _BYTES


_BYTES = "application/octet-stream"
