from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from stoker.http import strict

if TYPE_CHECKING:
    from tests.http.conftest import Harness

    from stoker.http import Exchange

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

AMBIGUOUS = {
    "both lengths": HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, reversed": HEAD
    + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n",
    "differing lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "repeated length": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "list of lengths": HEAD + b"Content-Length: 2, 2\r\n\r\nab",
    "signed length": HEAD + b"Content-Length: +2\r\n\r\nab",
    "negative length": HEAD + b"Content-Length: -2\r\n\r\nab",
    "empty length": HEAD + b"Content-Length: \r\n\r\n",
    "hexadecimal length": HEAD + b"Content-Length: 0x2\r\n\r\nab",
    "overflowing length": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "obs-fold": HEAD + b"X: a\r\n b\r\n\r\n",
    "bare LF between header lines": HEAD + b"X: a\nY: b\r\n\r\n",
    "bare LF after the request line": b"GET / HTTP/1.1\nHost: a\r\n\r\n",
    "bare LF at the head's end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR in a value": HEAD + b"X: a\rY: b\r\n\r\n",
    "doubled CR": HEAD + b"X: a\r\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\x00b\r\n\r\n",
    "control character in a value": HEAD + b"X: a\x01b\r\n\r\n",
    "blank in a name": HEAD + b"X y: a\r\n\r\n",
    "blank before the colon": HEAD + b"X : a\r\n\r\n",
    "empty name": HEAD + b": a\r\n\r\n",
    "no colon": HEAD + b"X\r\n\r\n",
    "delimiter in a name": HEAD + b"X(: a\r\n\r\n",
    "blank before the first header": b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
    "gzip": HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, gzip": HEAD + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
    "chunked twice": HEAD
    + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked with a tab": HEAD + b"Transfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
    "Transfer_Encoding": HEAD + b"Transfer_Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Content_Length": HEAD + b"Content_Length: 5\r\n\r\n",
    "two expectations, one empty": HEAD
    + b"Expect: \r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    "two expectations": HEAD
    + b"Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    "empty transfer encoding": HEAD + b"Transfer-Encoding:\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunk size with bare LF": CHUNKED + b"2\nab\r\n0\r\n\r\n",
    "chunk data with bare LF": CHUNKED + b"2\r\nab\n0\r\n\r\n",
    "chunk size with blank": CHUNKED + b"2 \r\nab\r\n0\r\n\r\n",
    "chunk size with prefix": CHUNKED + b"0x2\r\nab\r\n0\r\n\r\n",
    "signed chunk size": CHUNKED + b"+2\r\nab\r\n0\r\n\r\n",
    "overflowing chunk size": CHUNKED + b"ffffffffffffffffff\r\n",
    "chunk longer than it says": CHUNKED + b"2\r\nabX\r\n0\r\n\r\n",
    "extension with bare LF": CHUNKED + b"2;x\nab\r\n0\r\n\r\n",
    "length in the trailer": CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n",
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two Hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
    "invalid Host": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "list of Hosts": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
    "relative target": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk with GET": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "control character in the target": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_ambiguous_input_is_refused_and_the_connection_closed(
    net: Harness, name: str
) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(AMBIGUOUS[name] + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    answer = await client.answer()
    assert answer.status in (400, 501)
    assert answer.body.startswith(b'{"error":')
    assert answer.headers[b"connection"] == b"close"
    assert await client.rest() == b""
    assert desk.seen == 0
    assert net.refused in (["bad_request"], ["unsupported"])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\nbytes", 501),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 501),
        (HEAD + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nab", 501),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
        (b"GET /\r\n\r\n", 505),
        (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 505),
        (b"POST / RTSP/1.1\r\nHost: a\r\n\r\n", 505),
        (HEAD + b"Expect: a-miracle\r\nContent-Length: 2\r\n\r\nab", 417),
    ],
)
async def test_what_is_not_spoken_here_is_refused_politely(
    net: Harness, request_bytes: bytes, status: int
) -> None:
    _, port = await net.serve(lambda exchange: exchange.respond(200))
    client = await net.dial(port)
    client.send(request_bytes)
    answer = await client.answer()
    assert (answer.status, answer.headers[b"connection"]) == (status, b"close")
    assert await client.rest() == b""
    assert net.refused == ["unsupported"]


async def test_an_offer_of_http2_is_ignored(net: Harness) -> None:
    _, port = await net.serve(lambda exchange: exchange.respond(200, b"plain"))
    answer = await net.ask(
        port,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQ\r\n\r\n",
    )
    assert (answer.status, answer.body) == (200, b"plain")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b", "/a/b", b""),
        (b"/a?b=c?d", "/a", b"b=c?d"),
        (b"/a%20b", "/a%20b", b""),
        (b"http://host:1/a?b", "/a", b"b"),
        (b"HTTPS://host", "/", b""),
        (b"http://host?q", "/", b"q"),
    ],
)
async def test_a_target_is_split_into_path_and_query(
    net: Harness, target: bytes, path: str, query: bytes
) -> None:
    seen: list[tuple[str, bytes]] = []

    def handler(exchange: Exchange) -> None:
        seen.append((exchange.path, exchange.query))
        exchange.respond(200)

    _, port = await net.serve(handler)
    assert (await net.ask(port, b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)).status == 200
    assert seen == [(path, query)]


async def test_a_refusal_waits_for_the_answers_before_it(net: Harness) -> None:
    desk, _, port = await net.desk()
    client = await net.dial(port)
    client.send(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\n")
    (await desk.next()).respond(200, b"first")
    assert (await client.answer()).body == b"first"
    assert (await client.answer()).status == 400
    assert await client.rest() == b""


def test_names_of_headers_are_remembered_within_a_bound() -> None:
    for number in range(5000):
        strict._check_name(b"x-made-up-%d" % number)
    assert len(strict._PLAIN_NAMES) <= 1024
