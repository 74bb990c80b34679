"""One request whose answer is awaited part by part: for code off the hot path, such as handlers.

Rules:
- What was read and not yet taken is bounded: beyond `BUFFER_BYTES` (and the read that passed it)
  the upstream is paused, and read again when all of it has been taken.
- Every failure is an `UpstreamError`, raised when all that came before it has been taken.
- Leaving the ``async with`` closes the connection of an answer that is not whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator, Iterable

from stoker.http.messages import NOT_FORWARDED, Headers, build_head, end_to_end
from stoker.http.pool import UpstreamPool, request_line
from stoker.http.request import UpstreamError, UpstreamRequest

BUFFER_BYTES = 65_536
"""Bytes of an answer that wait to be taken before the upstream is paused."""


class StreamedResponse:
    """An answer that arrives; made by `open_stream`. One task at a time may wait for it.

    Iterating gives the parts of the body as they came, and raises `UpstreamError` where the answer
    is cut.

    Attributes:
        status: from 200.
        headers: names in lower case; those that the Connection header names are left out.
    """

    def __init__(self, deadline: float | None) -> None:
        self.status = 0
        self.headers: Headers = []
        self._deadline = deadline
        self._request: UpstreamRequest | None = None
        self._parts: deque[bytes] = deque()
        self._held = 0
        self._paused = False
        self._ended = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """First value of the header `name` (lower case), without surrounding blanks."""
        return next((value.strip() for key, value in self.headers if key == name), None)

    async def read(self, max_bytes: int) -> bytes:
        """The rest of the body, whole.

        Args:
            max_bytes: more of it is an error of kind ``malformed``, and the answer is aborted.

        Raises:
            UpstreamError: the answer is cut, too slow or too large.
        """
        body = bytearray()
        async for part in self:
            body += part
            if len(body) > max_bytes:
                self.abort()
                raise UpstreamError("malformed", f"the answer is larger than {max_bytes} bytes")
        return bytes(body)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._error is not None:
                raise self._error
            if self._ended:
                raise StopAsyncIteration
            await self._news()
        part = self._parts.popleft()
        self._held -= len(part)
        if self._paused and not self._held:
            self._paused = False
            if self._request is not None:
                self._request.resume()
        return part

    def abort(self) -> None:
        """Close the connection at once, unless the answer is whole; what waits is forgotten.

        A task that waits for the answer gets an `UpstreamError` of kind ``closed``.
        """
        request, self._request = self._request, None
        if request is not None:
            request.abort()
        self._parts.clear()
        self._held = 0
        self._end(UpstreamError("closed", "the answer was given up"))

    async def _begun(self, request: UpstreamRequest) -> None:
        """Until the head is in."""
        self._request = request
        while not self.status and self._error is None:
            await self._news()
        if not self.status:
            assert self._error is not None
            raise self._error

    async def _news(self) -> None:
        """Until something came, or the deadline passed."""
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout_at(self._deadline):
                await waiter
        except TimeoutError:
            self.abort()
            raise UpstreamError("timeout", "the upstream did not answer in time") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, error: UpstreamError | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._request = None
            self._wake()

    # --- the upstream's answer (a ResponseSink)

    def on_head(
        self, status: int, reason: bytes, headers: Headers, content_length: int | None
    ) -> None:
        """See `stoker.http.request.ResponseSink`."""
        del reason, content_length
        self.status = status
        self.headers = headers
        self._wake()

    def on_data(self, data: bytes) -> None:
        """See `stoker.http.request.ResponseSink`."""
        self._parts.append(data)
        self._held += len(data)
        if self._held > BUFFER_BYTES and not self._paused and self._request is not None:
            self._paused = True
            self._request.pause()
        self._wake()

    def on_complete(self) -> None:
        """See `stoker.http.request.ResponseSink`."""
        self._end(None)

    def on_error(self, error: UpstreamError) -> None:
        """See `stoker.http.request.ResponseSink`."""
        self._end(error)


@contextlib.asynccontextmanager
async def open_stream(
    pool: UpstreamPool,
    method: str,
    target: bytes,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes,
    *,
    timeout: float | None = None,
    patience: float | None = None,
) -> AsyncIterator[StreamedResponse]:
    """Send a request; gives its answer once the head is in, and closes it at the end.

    Args:
        pool: of the upstream server.
        method: upper case.
        target: in origin form.
        headers: names in lower case; those for one hop only, Host and framing are left out.
        body: sent with its Content-Length.
        timeout: seconds from here to the end of the answer; then nothing else cuts it. None: no
            such limit.
        patience: without `timeout`, seconds for which the upstream may be silent; None: the
            time-outs of the pool.

    Raises:
        UpstreamError: no answer came; later, from the answer, that it is cut or too slow.
        ValueError: the method, the target or a header would break the request apart.
    """
    deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
    response = StreamedResponse(deadline)
    head = build_head(
        request_line(method, target),
        end_to_end(headers, NOT_FORWARDED),
        pool.own_lines(method, body),
    )
    request = UpstreamRequest(pool, method, head, body, response)
    request.patience = patience if timeout is None else math.inf
    pool.send(request)
    try:
        await response._begun(request)
        yield response
    finally:
        response.abort()
        request.abort()
