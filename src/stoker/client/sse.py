"""Server-sent events out of bytes, in whatever pieces these come (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import msgspec

from stoker.errors import StokerError

MAX_EVENT = 16 * 2**20
"""Bytes of one event; a stream without an end of an event must not fill the memory."""

_TOO_LARGE = f"an event of the stream is larger than {MAX_EVENT} bytes"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One event; language models send only `data`, and ``[DONE]`` as their last."""

    data: str
    event: str = "message"
    id: str = ""


class SseParser:
    """Feed it bytes, take the events that are complete."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._event = b""
        self._id = b""
        self._size = 0
        self._begun = False

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes.

        Raises:
            StokerError: when one event is larger than `MAX_EVENT`.
        """
        # A piece of a long line is put aside without a look at what is there already.
        ends = b"\n" in chunk or b"\r" in chunk or self._rest.endswith(b"\r")
        self._rest += chunk
        if len(self._rest) + self._size > MAX_EVENT and not ends:
            raise StokerError(_TOO_LARGE)
        if not ends:
            return []
        if not self._begun:
            self._begun = True
            if self._rest.startswith(_BYTE_ORDER_MARK):
                del self._rest[: len(_BYTE_ORDER_MARK)]
        # "\r" at the very end may be half of "\r\n": it waits for the next byte.
        held = b"\r" if self._rest.endswith(b"\r") else b""
        text = bytes(self._rest[: len(self._rest) - len(held)])
        *whole, last = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = bytearray(last + held)
        return [event for line in whole if (event := self._line(line)) is not None]

    def _line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        self._size += len(line)
        if self._size > MAX_EVENT:
            raise StokerError(_TOO_LARGE)
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._event = value
        elif name == b"id" and b"\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], b"", 0
        if not data:
            return None
        return ServerSentEvent(
            b"\n".join(data).decode("utf-8", "replace"),
            event.decode("utf-8", "replace") or "message",
            self._id.decode("utf-8", "replace"),
        )
