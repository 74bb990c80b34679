"""What comes back from a model server: whole, or as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from stoker.client.connection import reason_of
from stoker.client.errors import AnswerFailedError, RequestFailedError
from stoker.inference import AnswerReader, Piece, ServerSentEvent, SseParser, is_readable

_LIMIT = 16 * 2**20
"""Bytes of an event, or of a whole answer, that are looked at together."""


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """The whole answer of a model server."""

    status: int
    headers: httpx.Headers
    content: bytes

    def json(self) -> Any:
        """The body, decoded.

        Raises:
            json.JSONDecodeError: when it is not JSON.
        """
        return json.loads(self.content)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode("utf-8", "replace")


class ClientStream:
    """An answer that is still coming; iterate it once: its bytes, its `events`, or its `pieces`.

    Attributes:
        status: of the answer.
        headers: of the answer.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers = response.headers
        self._reader: AnswerReader | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive.

        Raises:
            RequestFailedError: when the answer is cut.
            AnswerFailedError: after the last byte, when the answer tells of an error.
        """
        reader = self._reader
        if reader is None:
            reader = AnswerReader(self._content_type, failures_only=True, limit=_LIMIT)
        try:
            async for chunk in self._response.aiter_bytes():
                reader.feed(chunk)
                yield chunk
        except httpx.HTTPError as error:
            timed_out = isinstance(error, httpx.TimeoutException)
            raise RequestFailedError(
                self.status,
                f"the answer was cut: {reason_of(error)}",
                kind="timed out" if timed_out else "failed inside",
            ) from None
        reader.finish()
        if reader.failure is not None:
            raise AnswerFailedError(self.status, reader.failure.message)

    @property
    def _content_type(self) -> str:
        return str(self.headers.get("content-type", ""))

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events, as they become complete; ``[DONE]`` is one of them."""
        parser = SseParser()
        async for chunk in self:
            for event in parser.feed(chunk):
                yield event

    @property
    def has_pieces(self) -> bool:
        """Whether the answer is of a type in which `pieces` finds a model's words."""
        return is_readable(self._content_type)

    async def pieces(self) -> AsyncIterator[Piece]:
        """What the model says, as it comes, whatever the dialect of its server.

        Text, reasoning and calls of tools are told apart by the `kind` of a piece.
        """
        self._reader = reader = AnswerReader(self._content_type, keep_pieces=True, limit=_LIMIT)
        try:
            async for _ in self:
                for piece in reader.take_pieces():
                    yield piece
        except AnswerFailedError:
            for piece in reader.take_pieces():
                yield piece
            raise
        for piece in reader.take_pieces():
            yield piece
