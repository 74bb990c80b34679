"""Unpacks a copy of a compressed answer, so that it can be read as it passes.

A model server is asked for none (``Accept-Encoding: identity``); one with a middleware of its own
may compress all the same. Gzip and zlib are read, up to `LIMIT` bytes of an answer: what is behind
that, or is packed otherwise (br, zstd), is not read, and its load is as estimated.
"""

from __future__ import annotations

import zlib

LIMIT = 16 * 2**20
"""Unpacked bytes of an answer that are looked at: kilobytes may unpack to gigabytes."""

_KNOWN = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB = 47  # `wbits` of zlib for either, told apart by their heads


class Unpacker:
    """Unpacks one answer, piece by piece."""

    __slots__ = ("_left", "_packed", "failed")

    def __init__(self, limit: int = LIMIT) -> None:
        self._packed = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._left = limit
        self.failed = False
        """It cannot be unpacked, or is larger than the limit."""

    @classmethod
    def of(cls, coding: bytes) -> Unpacker | None:
        """For a Content-Encoding; None where it is one that is not known here, or several."""
        return cls() if coding.strip().lower().decode("latin-1") in _KNOWN else None

    def feed(self, data: bytes) -> bytes:
        """What the next piece holds; empty once it has `failed`."""
        if self.failed:
            return b""
        try:
            found = self._packed.decompress(data, self._left + 1)
        except zlib.error:
            self.failed = True
            return b""
        self._left -= len(found)
        self.failed = self._left < 0
        return b"" if self.failed else found
