"""aiohttp's responses in a handler's own code, for files written for the existing SDK.

There a ``response_generator`` may return aiohttp's ``web.Response``, or prepare and write a
``web.StreamResponse``. Both ask the request for the few things below (seen with aiohttp 3.14), and
so need no server of aiohttp's. aiohttp itself is not imported here: a file that uses it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stoker.http import Exchange, RelayObserver
from stoker.worker.handling import Request

_OURS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server"})


class AiohttpRequest(Request):
    """A `Request` that aiohttp's responses can be prepared for."""

    version = (1, 1)
    keep_alive = True

    def __init__(
        self,
        exchange: Exchange,
        payload: dict[str, Any],
        session_id: str | None,
        request_idx: int,
        observer: RelayObserver,
    ) -> None:
        super().__init__(exchange, payload, session_id, request_idx)
        self._payload_writer = _Writer(exchange, observer)

    async def _prepare_hook(self, response: Any) -> None:
        """Signals of an aiohttp application, which there is none of."""


class _Writer:
    """Takes what a response of aiohttp's writes."""

    output_size = 0
    transport = None

    def __init__(self, exchange: Exchange, observer: RelayObserver) -> None:
        self._exchange = exchange
        self._observer = observer

    def enable_chunking(self) -> None:
        """The exchange frames the body itself."""

    def enable_compression(self, *_: Any, **__: Any) -> None:
        """Not supported.

        Raises:
            TypeError: always.
        """
        raise TypeError("a StreamResponse cannot compress here")

    async def write_headers(self, status_line: str, headers: Mapping[str, str]) -> None:
        """Begin the answer."""
        status = int(status_line.split(" ", 2)[1])
        lines = [
            (name.lower().encode(), value.encode())
            for name, value in headers.items()
            if name.lower() not in _OURS
        ]
        self._observer.on_head(status, lines)
        length = headers.get("Content-Length")
        self._exchange.start(status, lines, content_length=None if length is None else int(length))

    def send_headers(self) -> None:
        """They are sent already."""

    async def write(self, data: Any) -> None:
        """Send a part."""
        self._observer.on_data(bytes(data))
        self._exchange.write(bytes(data))
        await self._exchange.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        """End the answer."""
        if not self._exchange.finished:
            self._observer.on_data(bytes(data))
            self._exchange.write(bytes(data))
            self._exchange.finish()

    async def drain(self) -> None:
        """Wait until the client has caught up."""
        await self._exchange.drain()


def is_aiohttp_response(answer: Any) -> bool:
    """Whether `answer` is aiohttp's ``web.StreamResponse`` or a class derived from it."""
    return hasattr(answer, "prepare") and hasattr(answer, "write_eof")


async def send(answer: Any, request: AiohttpRequest) -> None:
    """Send what is not sent yet of a response of aiohttp's."""
    await answer.prepare(request)  # nothing, where it was prepared already
    await answer.write_eof()
