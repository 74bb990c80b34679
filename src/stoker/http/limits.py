"""What a stranger may make us hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

MIN_BODY_RATE = 16_384
"""Slowest request body that is waited for beyond `Limits.body_timeout`, bytes per second.

A body of 16 MiB may so take 60 + 1024 seconds, while one byte now and then ends after 60.
"""

PIPELINE_BYTES = 65_536
"""Bytes read ahead of the request being answered before reading is paused."""

HOLD_BYTES = 65_536
"""Bytes of a streamed body held for an application that does not take them, before reading stops.

Also of what comes on a connection that is about to be upgraded.
"""

REST_BYTES = 65_536
"""Rest of a streamed body that is read and dropped after an early answer; for more we close."""

LINGER_SECONDS = 2.0
"""How long input is thrown away after a refusal, so that the refusal arrives before the reset."""

CLOSE_SECONDS = 10.0
"""How long the rest of a tunnel's output is waited for when one of its sides has ended."""

LAST_WORDS_BYTES = 262_144
"""What is read at most of an answer from an upstream that has refused the rest of a body."""

UPSTREAM_HEAD_BYTES = 65_536
UPSTREAM_HEADERS = 256
UPSTREAM_INTERIM = 16
"""Bounds on the answer's head: bytes, header lines, 1xx answers before the real one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a server; sizes in bytes, times in seconds.

    Attributes:
        max_header_bytes: request line and header lines together (431 above it).
        max_headers: header lines (431).
        max_target_bytes: the target of the request line (414).
        max_body_bytes: the decoded body (413, at once where Content-Length tells); of a streamed
            body the application sets the bound.
        header_timeout: from the first byte of a request to the end of its head (408).
        body_timeout: from the head's end to the body's end, plus a second for each
            `MIN_BODY_RATE` bytes that did arrive (408).
        idle_timeout: a connection without a request.
        write_timeout: an answer of which the client takes nothing.
        max_connections: open at once (503 above it).
        max_buffered_bytes: request bodies of all connections together (503 above it); those that
            came whole in one read are not counted, of a streamed one only what is held.
        max_pipelined: requests read ahead of the one being answered on a connection.
        tunnel_idle_timeout: a tunnel (WebSocket) through which no byte goes either way.
    """

    max_header_bytes: int = 32_768
    max_headers: int = 100
    max_target_bytes: int = 8_192
    max_body_bytes: int = 16 * 2**20
    header_timeout: float = 10.0
    body_timeout: float = 60.0
    idle_timeout: float = 75.0
    write_timeout: float = 60.0
    max_connections: int = 10_000
    max_buffered_bytes: int = 2**30
    max_pipelined: int = 16
    tunnel_idle_timeout: float = 300.0
