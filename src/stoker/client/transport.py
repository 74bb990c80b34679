"""Answers as they are: none is asked for packed, and one that is packed is unpacked within bounds.

A few hundred kilobytes of gzip may hold a gigabyte. httpx unpacks each piece whole, in every coding
for which a package is installed, one inside the other. So it gets no packed answer to see.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

import httpx

PLAIN = {"accept-encoding": "identity"}
"""Headers of our requests: what models say is short, and packing it costs both sides time."""

MAX_UNPACKED = 64 * 2**20
"""Bytes that any packed answer may hold."""

MAX_RATIO = 20
"""A larger one may hold so many times what was sent."""

_PIECE = 256 * 2**10
_HEAD = 2  # bytes that tell gzip, zlib and neither apart
_GZIP_OR_ZLIB = 47  # `wbits` of zlib for either, told apart by their heads
_BARE_DEFLATE = -15
_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})


class PlainTransport(httpx.AsyncBaseTransport):
    """Gives every answer without a Content-Encoding."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """See httpx.

        Raises:
            httpx.ConnectError: there can be no connection to such a host or port.
            httpx.DecodingError: the answer is packed in a way that is not known here, or twice.
        """
        try:
            response = await self._transport.handle_async_request(request)
        except (ValueError, OverflowError, ExceptionGroup):
            # Names that cannot be looked up and ports above 65535 fail outside of httpx's errors.
            problem = f"{request.url.netloc.decode()!r} is no address that can be connected to"
            raise httpx.ConnectError(problem, request=request) from None
        coding = response.headers.get("content-encoding", "").strip().lower()
        if coding in ("", "identity"):
            return response
        if coding not in _KNOWN:
            await response.aclose()
            problem = f"the answer is packed as {coding[:40]!r}, which was not asked for"
            raise httpx.DecodingError(problem, request=request)
        left_out = ("content-encoding", "content-length")
        headers = [(k, v) for k, v in response.headers.multi_items() if k not in left_out]
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return httpx.Response(
            response.status_code,
            headers=headers,
            stream=_Unpacked(response.stream, request),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """See httpx."""
        await self._transport.aclose()


class _Unpacked(httpx.AsyncByteStream):
    def __init__(self, packed: httpx.AsyncByteStream, request: httpx.Request) -> None:
        self._packed = packed
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        decoder, sent, found, rest = None, 0, 0, b""
        async for data in self._packed:
            sent += len(data)
            rest, full = rest + data, False
            if decoder is None:
                if len(rest) < _HEAD:
                    continue
                decoder = _decoder(rest)
            # A full piece may not be all that zlib has of the input it took.
            while (rest or full) and not decoder.eof:
                try:
                    piece = decoder.decompress(rest, _PIECE)
                except zlib.error as error:
                    raise self._wrong(f"it cannot be unpacked ({error})") from None
                rest, full = decoder.unconsumed_tail, len(piece) == _PIECE
                found += len(piece)
                if found > max(MAX_UNPACKED, MAX_RATIO * sent):
                    raise self._wrong(f"{sent} bytes of it hold more than {found - len(piece)}")
                if piece:
                    yield piece
        if sent and (decoder is None or not decoder.eof):
            raise self._wrong("its end is missing")

    def _wrong(self, problem: str) -> httpx.DecodingError:
        return httpx.DecodingError(f"the packed answer: {problem}", request=self._request)

    async def aclose(self) -> None:
        await self._packed.aclose()


def _decoder(beginning: bytes) -> zlib._Decompress:
    """Some servers send ``deflate`` bare, without the head of zlib that it must have."""
    try:
        zlib.decompressobj(_GZIP_OR_ZLIB).decompress(beginning, 1)
    except zlib.error:
        return zlib.decompressobj(_BARE_DEFLATE)
    return zlib.decompressobj(_GZIP_OR_ZLIB)
