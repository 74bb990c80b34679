"""Packed answers: read within bounds, or refused with the reason."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from stoker.client import Client, RequestFailedError
from stoker.client.client import MAX_ERROR_BODY, _read_some
from stoker.client.transport import MAX_UNPACKED, PlainTransport

TEXT = b"0123456789" * 100_000


def bare(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def bomb(wbits: int, size: int) -> bytes:
    packer, block = zlib.compressobj(9, zlib.DEFLATED, wbits), bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


class Pieces(httpx.AsyncByteStream):
    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.closed = data, size, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.size):
            yield self.data[start : start + self.size]

    async def aclose(self) -> None:
        self.closed = True


def client_of(data: bytes, coding: str, size: int = 4096) -> httpx.AsyncClient:
    class Upstream(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            headers = {"content-encoding": coding, "content-length": str(len(data))}
            return httpx.Response(200, headers=headers, stream=Pieces(data, size))

    return httpx.AsyncClient(transport=PlainTransport(Upstream()))


@pytest.mark.parametrize("size", [1, 1000, 10_000_000])
@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP ", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", bare),
        ("identity", lambda data: data),
    ],
)
async def test_an_answer_is_unpacked_whatever_its_pieces(
    coding: str, pack: Callable[[bytes], bytes], size: int
) -> None:
    async with client_of(pack(TEXT[:100_000]), coding, size) as client:
        answer = await client.get("http://a/")
    assert answer.content == TEXT[:100_000]


@pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("deflate", 15), ("deflate", -15)])
async def test_kilobytes_that_hold_hundreds_of_megabytes_are_refused(
    coding: str, wbits: int
) -> None:
    data = bomb(wbits, 3 * MAX_UNPACKED)
    tracemalloc.start()
    try:
        async with client_of(data, coding) as client:
            with pytest.raises(httpx.DecodingError, match="hold more than"):
                await client.get("http://a/")
        assert tracemalloc.get_traced_memory()[1] < 1.5 * MAX_UNPACKED
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip,br", "compress"])
async def test_what_is_packed_otherwise_or_twice_is_refused_by_name(coding: str) -> None:
    async with client_of(gzip.compress(gzip.compress(TEXT)), coding) as client:
        with pytest.raises(httpx.DecodingError, match=coding):
            await client.get("http://a/")


@pytest.mark.parametrize("data", [gzip.compress(TEXT)[:-9], b"\x1f\x8bnothing", b"plain text"])
async def test_what_cannot_be_unpacked_or_is_cut_is_an_error(data: bytes) -> None:
    async with client_of(data, "gzip") as client:
        with pytest.raises(httpx.DecodingError, match="the packed answer"):
            await client.get("http://a/")


async def test_a_worker_that_packs_too_much_is_a_failed_request(system: Any) -> None:
    from starlette.responses import Response

    async def packed(_request: Any, _body: Any) -> Response:
        return Response(bomb(31, 2 * MAX_UNPACKED), headers={"content-encoding": "gzip"})

    system.answers = [packed]
    async with Client(system.url, "stk_client-test-key") as client:
        with pytest.raises(RequestFailedError, match="hold more than"):
            await client.request("llm", "/x", {})
    asked = [headers["accept-encoding"] for _, _, _, headers in system.seen]
    assert set(asked) == {"identity"}


async def test_of_a_refusal_without_an_end_only_the_beginning_is_read() -> None:
    body = Pieces(b"x" * 1_000_000, 1000)
    assert len(await _read_some(httpx.Response(503, stream=body), None)) == MAX_ERROR_BODY
    assert MAX_ERROR_BODY < 100_000
