"""Heads of HTTP/1.1 messages: built in one join, and cleared of what is meant for one hop only."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

Headers = list[tuple[bytes, bytes]]
"""Header lines in their order, names in lower case."""

REASONS: dict[int, bytes] = {s.value: s.phrase.encode() for s in HTTPStatus}
STATUS_LINES: dict[int, bytes] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, reason) for status, reason in REASONS.items()
}

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Headers between two neighbours (RFC 9110, 7.6.1); we frame each side ourselves."""

NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
"""Of a request: these are set anew for the upstream."""

NOT_RETURNED = HOP_BY_HOP | {b"content-length"}
"""Of an answer: these are set anew for the client."""

PLAIN_CONNECTION = frozenset({b"keep-alive", b"close", b"Keep-Alive", b"Close"})
"""Values of a Connection header that name no header, so that it needs no reading."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CLOSE = b"connection: close\r\n"
KEEP_ALIVE = b"connection: keep-alive\r\n"
LAST_CHUNK = b"0\r\n\r\n"
UPGRADE = b"connection: upgrade\r\nupgrade: websocket\r\n"


def named_by_connection(value: bytes) -> frozenset[bytes]:
    """The headers that a Connection header declares to be for this hop only."""
    return frozenset(token.strip().lower() for token in value.split(b","))


def status_line(status: int, reason: bytes = b"") -> bytes:
    """The first line of an answer, with the status's own phrase unless `reason` is given."""
    if not reason:
        line = STATUS_LINES.get(status)
        if line is not None:
            return line
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def end_to_end(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> Headers:
    """The headers that go on to the next hop.

    Args:
        headers: names in lower case.
        dropped: `NOT_FORWARDED` or `NOT_RETURNED`; what a Connection header names goes as well.
    """
    kept: Headers = []
    named: frozenset[bytes] | None = None
    for header in headers:
        name = header[0]
        if name not in dropped:
            kept.append(header)
        elif name == b"connection" and header[1] not in PLAIN_CONNECTION:
            named = (named or frozenset()) | named_by_connection(header[1])
    if named:
        return [header for header in kept if header[0] not in named]
    return kept


def join_head(first: bytes, headers: Headers, dropped: frozenset[bytes], last: bytes) -> bytes:
    """A whole head out of parsed headers, which cannot have a line break in them.

    Args:
        first: the first line, with its break.
        headers: as a parser gave them.
        dropped: names that are left out.
        last: our own lines, each with its break.
    """
    # Joining each pair and then all of them is the fastest of five ways: 0.6 us for 5 headers.
    lines = [b": ".join(header) for header in headers if header[0] not in dropped]
    if not lines:
        return b"%b%b\r\n" % (first, last)
    return b"%b%b\r\n%b\r\n" % (first, b"\r\n".join(lines), last)


def build_head(first: bytes, headers: Iterable[tuple[bytes, bytes]], last: bytes) -> bytes:
    r"""A whole head: `first` line, header lines, then `last` (our own lines), then the empty line.

    Raises:
        ValueError: a name or value has a line break in it, so that it would be another line.
    """
    parts = [first]
    count = 2 + last.count(b"\n")
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
        count += 1
    parts += (last, b"\r\n")
    head = b"".join(parts)
    # First line, header lines, own lines and the empty line: any other break is an injection.
    if head.count(b"\n") != count or head.count(b"\r") != count or b"\0" in head:
        raise ValueError("a header has a line break in it")
    return head
