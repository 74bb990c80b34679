"""The phases of a server connection, and how long each may last."""

from __future__ import annotations

from enum import IntEnum

from stoker.http.limits import LINGER_SECONDS, MIN_BODY_RATE, Limits


class Phase(IntEnum):
    """What a connection waits for while no request is being answered."""

    IDLE = 0
    """the first byte of a request"""
    HEAD = 1
    """the rest of a head"""
    BODY = 2
    """the rest of a body"""
    LINGER = 3
    """the client to read a refusal; input is thrown away"""
    CLOSING = 4
    """the rest of the output to go out"""
    CLOSED = 5


def patience(phase: Phase, limits: Limits, body_size: int) -> float:
    """Seconds that a connection may stay in `phase`.

    Args:
        phase: not CLOSED.
        limits: of the server.
        body_size: bytes of the body that have arrived.
    """
    if phase is Phase.IDLE:
        return limits.idle_timeout
    if phase is Phase.HEAD:
        return limits.header_timeout
    if phase is Phase.BODY:
        return limits.body_timeout + body_size / MIN_BODY_RATE
    return LINGER_SECONDS if phase is Phase.LINGER else limits.write_timeout
