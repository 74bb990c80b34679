"""What a model server's answer says: text, tokens, usage, and errors inside a status 200.

Everybody who looks into an answer uses this package: the worker that meters it, the client and the
command line that show it, the load test that times it. Pure: bytes in, facts out; no I/O, no clock.
"""

from __future__ import annotations

from stoker.inference.coding import Unpacker
from stoker.inference.dialects import Failure, Kind, Piece
from stoker.inference.framing import ServerSentEvent, SseParser
from stoker.inference.reader import AnswerReader, is_readable, is_unlabelled

__all__ = [
    "AnswerReader",
    "Failure",
    "Kind",
    "Piece",
    "ServerSentEvent",
    "SseParser",
    "Unpacker",
    "is_readable",
    "is_unlabelled",
]
