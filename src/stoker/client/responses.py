"""What comes back from a model server: whole, or as it comes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from stoker.client.connection import reason_of
from stoker.client.errors import RequestFailedError
from stoker.client.sse import ServerSentEvent, SseParser


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
    """An answer that is still coming; iterate it once, over bytes or over `events`."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self.status = response.status_code
        self.headers = response.headers

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes as they arrive.

        Raises:
            RequestFailedError: when the answer is cut.
        """
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except httpx.HTTPError as error:
            raise RequestFailedError(
                self.status, f"the answer was cut: {reason_of(error)}"
            ) from None

    async def events(self) -> AsyncIterator[ServerSentEvent]:
        """Server-sent events, as they become complete; ``[DONE]`` is one of them."""
        parser = SseParser()
        async for chunk in self:
            for event in parser.feed(chunk):
                yield event
