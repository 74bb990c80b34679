"""Events out of bytes, in whatever pieces these come: server-sent events and JSON lines.

Server-sent events follow WHATWG HTML, section 9.2: lines end in LF, CR or CRLF, a byte order mark
at the beginning is skipped, several ``data`` lines are one text, a blank line ends an event.

What is held is bounded: of a line longer than the limit only its beginning and its end are kept
(`LONG_HEAD` and `LONG_TAIL` bytes), which is enough to find figures and errors in it. What comes
out depends on the bytes alone, never on how they were cut.
"""

from __future__ import annotations

import msgspec

from stoker.errors import StokerError

MAX_EVENT = 16 * 2**20
"""Bytes of one event that `SseParser` takes; more is an error."""

LONG_HEAD = 512
"""Bytes kept from the beginning of a line that is too long."""

LONG_TAIL = 8_192
"""Bytes kept from its end."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event as it was framed."""

    data: bytes
    event: bytes = b""
    id: bytes = b""
    shortened: bool = False
    """It was too long: the middle of `data` is missing."""
    stray: bool = False
    """An error that the specification would skip."""


class ServerSentEvent(msgspec.Struct, frozen=True):
    """One event; language models send only `data`, and ``[DONE]`` as their last."""

    data: str
    event: str = "message"
    id: str = ""


class Held:
    """Collects bytes up to a limit, and beyond it only their beginning and their end."""

    __slots__ = ("_head", "_limit", "_rest")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = bytearray()
        self._head: bytes | None = None

    def __len__(self) -> int:
        return len(self._rest)

    @property
    def shortened(self) -> bool:
        """The middle of what was added is gone."""
        return self._head is not None

    def add(self, data: bytes) -> None:
        """Add bytes."""
        rest = self._rest
        rest += data
        if self._head is not None:
            if len(rest) > 2 * LONG_TAIL:
                del rest[:-LONG_TAIL]
        elif len(rest) > self._limit:
            self._head = bytes(rest[:LONG_HEAD])
            del rest[:-LONG_TAIL]

    def take(self) -> tuple[bytes, bool]:
        """What was collected, and whether its middle is missing; begin anew."""
        rest, head = bytes(self._rest), self._head
        self._rest.clear()
        self._head = None
        return (rest, False) if head is None else (head + rest[-LONG_TAIL:], True)


class Lines:
    """Cuts bytes into lines."""

    __slots__ = ("_after_cr", "_begun", "_held", "_limit")

    def __init__(self, limit: int) -> None:
        """Begin.

        Args:
            limit: bytes of one line; of a longer one the middle is left out. At least
                `LONG_HEAD` + `LONG_TAIL`.
        """
        self._limit = limit
        self._held = Held(limit)
        self._after_cr = False
        self._begun = False

    @property
    def between(self) -> bool:
        """The next byte begins a line, which is not the first."""
        return self._begun and not self._after_cr and not len(self._held)

    @property
    def overlong(self) -> bool:
        """The line that has begun is too long already."""
        return self._held.shortened

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """The lines that `data` completes, each with whether it was shortened."""
        if not data:
            return []
        if self._after_cr:
            self._after_cr = False
            if data[0] == 0x0A:
                data = data[1:]
        if 0x0D in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *whole, last = data.split(b"\n")
        lines: list[tuple[bytes, bool]] = []
        for line in whole:
            if len(self._held) or len(line) > self._limit or not self._begun:
                self._held.add(line)
                lines.append(self._take())
            else:
                lines.append((line, False))
        if last:
            self._held.add(last)
        return lines

    def finish(self) -> list[tuple[bytes, bool]]:
        """The last line, if it has no end."""
        return [self._take()] if len(self._held) else []

    def _take(self) -> tuple[bytes, bool]:
        line, shortened = self._held.take()
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BYTE_ORDER_MARK)
        return line, shortened


class SseFrames:
    """Frames of a stream of server-sent events."""

    __slots__ = ("_data", "_event", "_id", "_limit", "_lines", "_shortened", "_size")

    def __init__(self, limit: int) -> None:
        """Begin; `limit` is in bytes, of a line and of an event."""
        self._limit = limit
        self._lines = Lines(limit)
        self._data: list[bytes] = []
        self._event = b""
        self._id = b""
        self._size = 0
        self._shortened = False

    @property
    def between(self) -> bool:
        """No event has begun: the next byte begins one."""
        return not self._data and not self._event and self._lines.between

    @property
    def overlong(self) -> bool:
        """The event that has begun is too long already."""
        return self._shortened or self._lines.overlong

    def feed(self, data: bytes) -> list[Frame]:
        """The events that `data` completes."""
        return self._frames(self._lines.feed(data))

    def finish(self) -> list[Frame]:
        """What is left of a stream that ended without a blank line.

        The specification drops it; who meters an answer does not, because servers that fail, or
        are careless, end like this.
        """
        frames = self._frames(self._lines.finish())
        if (last := self._dispatch()) is not None:
            frames.append(last)
        return frames

    def _frames(self, lines: list[tuple[bytes, bool]]) -> list[Frame]:
        frames = []
        for line, shortened in lines:
            frame = self._line(line, shortened) if line else self._dispatch()
            if frame is not None:
                frames.append(frame)
        return frames

    def _line(self, line: bytes, shortened: bool) -> Frame | None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._shortened = self._shortened or shortened
            self._size += len(line)
            if self._size <= self._limit or not self._data:
                self._data.append(value)
            else:
                self._shortened = True
        elif name == b"event":
            self._event = value if not shortened else b""
        elif name == b"id" and b"\0" not in value and not shortened:
            self._id = value
        elif name == b"error" or line.startswith(b"{"):
            # llama.cpp before 2025 tells an error as `error: {...}`; others break off a stream with
            # a bare JSON body. No such field exists, so nothing else can be meant.
            said = value if name == b"error" else line
            return Frame(said, b"error", shortened=shortened, stray=True)
        return None

    def _dispatch(self) -> Frame | None:
        data, event, shortened = self._data, self._event, self._shortened
        if not data:
            self._event = b""
            return Frame(b"", event, stray=True) if event == b"error" else None
        self._data, self._event, self._size, self._shortened = [], b"", 0, False
        return Frame(b"\n".join(data) if len(data) > 1 else data[0], event, self._id, shortened)


class SseParser:
    """Feed it bytes, take the server-sent events that are complete, as the specification says."""

    def __init__(self) -> None:
        self._frames = SseFrames(MAX_EVENT)
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that `chunk` completes.

        Raises:
            StokerError: when one event is larger than `MAX_EVENT`.
        """
        frames = self._frames.feed(chunk)
        if any(frame.shortened for frame in frames) or self._frames.overlong:
            raise StokerError(f"an event of the stream is larger than {MAX_EVENT} bytes")
        return [
            ServerSentEvent(
                frame.data.decode("utf-8", "replace"),
                frame.event.decode("utf-8", "replace") or "message",
                frame.id.decode("utf-8", "replace"),
            )
            for frame in frames
            if not frame.stray
        ]
