"""Reads one answer as it comes: how many tokens, what text, what figures, what failure.

Rules:

* Of an event stream (server-sent events, or one JSON object a line) each event that carries a piece
  of the model's words counts as one token: that is how most servers stream. A server that puts
  several tokens into one event is put right by its own figures.
* The model server's own figures are its last word about them. Events are decoded for that, so
  nothing that a model writes, and no metadata that is echoed, is taken for figures.
* The first failure counts, whatever follows it.
* What is held is bounded by `limit`. Of a longer line, or a longer whole answer, the beginning is
  searched for a failure and the end for figures. Text that a model writes cannot forge them there,
  because inside a JSON string a quote is escaped.

Measured on one core (`python -m benchmarks.reading`): about 1 us for an event of text of the OpenAI
routes, 4 us in other dialects, and less where nothing but failures is looked for.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import msgspec

from stoker.errors import UNREADABLE
from stoker.inference import dialects
from stoker.inference.dialects import Failure, Piece
from stoker.inference.framing import Frame, Held, Lines, SseFrames

LIMIT = 65_536
"""Bytes of an event, or of a whole answer, that are looked at together."""

MAX_PIECES = 65_536
"""Pieces of text that wait to be taken; later ones are dropped."""

_EVENTS = ("text/event-stream",)
_LINES = (
    "application/x-ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/ndjson",
    "application/jsonlines",
    "application/json-lines",
    "application/json-seq",
)
_UNLABELLED = ("", "text/plain", "application/octet-stream", "binary/octet-stream")
_DONE = b"[DONE]"
_BEGINNINGS = (b"data:", b"event:", b"id:", b"retry:", b":")
_MAX_FIRST = 256
_ERROR_EVENTS = (b"error", b"exception")


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: None = None
    error: None = None


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: int
    prompt_tokens: int | None = None
    input_tokens: None = None


class _Chunk(msgspec.Struct, gc=False):
    """The commonest event by far: a piece of a chat's or a completion's text, and no more.

    It is decoded without what else it holds. What may say more has the type None here: where it is
    there, this cannot be decoded, and the event is read by `stoker.inference.dialects`.
    """

    choices: tuple[_Choice]
    usage: _Usage | None = None
    object: Literal["chat.completion.chunk", "text_completion"] | None = None
    timings: None = None
    error: None = None
    error_code: None = None
    type: None = None
    response: None = None
    status: None = None
    success: None = None
    meta_info: None = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode

_FIGURE = re.compile(rb"\s?:\s?(\d{1,12})")
_LONG_ERROR = re.compile(
    rb'\s*(?:data:\s*)?\{\s*(?:"(?:object|type)"\s*:\s*"error"'
    rb'|"error"\s*:\s*(?:\{\s*"(?:message"\s*:\s*")?|")([^"\\]*))'
)


def media_type(content_type: str | bytes) -> str:
    """The type in a header ``Content-Type``, without its parameters."""
    text = content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type
    return text.partition(";")[0].partition(",")[0].strip().lower()  # some send it twice, joined


def is_readable(content_type: str | bytes) -> bool:
    """Whether an answer of this type is one that `AnswerReader` understands."""
    return _is_json(kind := media_type(content_type)) or kind in _EVENTS or kind in _LINES


def is_unlabelled(content_type: str | bytes) -> bool:
    """Whether a type says so little that the first bytes have to tell what an answer is."""
    return media_type(content_type) in _UNLABELLED


def _is_json(kind: str) -> bool:
    return kind in ("application/json", "text/json") or (
        kind.startswith("application/") and kind[-5:] == "+json"
    )


class AnswerReader:
    """Reads one answer with a good status.

    Attributes:
        events: events of a stream so far; ``[DONE]`` is none.
        tokens: events so far that carry a piece of the model's words.
        prompt_tokens: the model server's own count; None: it has not told.
        completion_tokens: likewise.
        failure: the error inside the answer; None: there was none.
        streamed: it is a stream of events.
    """

    __slots__ = (
        "_between",
        "_first",
        "_frames",
        "_held",
        "_keep",
        "_limit",
        "_lines",
        "_pieces",
        "_plain",
        "_read",
        "completion_tokens",
        "events",
        "failure",
        "prompt_tokens",
        "streamed",
        "tokens",
    )

    def __init__(
        self,
        content_type: str | bytes,
        *,
        keep_pieces: bool = False,
        failures_only: bool = False,
        limit: int = LIMIT,
    ) -> None:
        """Begin an answer.

        Args:
            content_type: of its head; one that is not `is_readable` is read as nothing, but of one
                that `is_unlabelled` an event stream is known by its first bytes.
            keep_pieces: the pieces of text wait for `take_pieces`.
            failures_only: count no tokens and read no figures, which costs less.
            limit: bytes that are held at most; see the rules above.
        """
        kind = media_type(content_type)
        self._keep = keep_pieces
        self._limit = limit
        self._between = False  # the next byte begins an event
        self._read = self._failure_of if failures_only else self._event
        self._frames: SseFrames | None = SseFrames(limit) if kind in _EVENTS else None
        self._lines: Lines | None = Lines(limit) if kind in _LINES else None
        self._held: Held | None = Held(limit) if _is_json(kind) else None
        self._first: bytes | None = b"" if kind in _UNLABELLED else None
        self._plain = bool(kind)
        self._pieces: list[Piece] = []
        self.streamed = self._held is None
        self.events = 0
        self.tokens = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self.failure: Failure | None = None

    def feed(self, data: bytes) -> int:
        """Take a part of the body.

        Returns:
            how many events that carry words are complete now.
        """
        frames = self._frames
        if frames is not None:
            if self._between and data.endswith(b"\n\n"):
                found = self._whole_events(data, frames)
            else:
                found = self._framed(frames.feed(data))
                self._between = frames.between
        elif self._lines is not None:
            found = sum(self._line(*line) for line in self._lines.feed(data))
        else:
            if self._held is not None:
                self._held.add(data)
            elif self._first is not None and self._recognise(data):
                data, self._first = self._first, None
                return self.feed(data)
            return 0
        self.tokens += found
        return found

    def _recognise(self, data: bytes) -> bool:
        """Whether the first bytes say what an answer without a telling type is."""
        first = self._first = (self._first or b"") + data
        begins = first.removeprefix(b"\xef\xbb\xbf").lstrip()[:8]
        if begins.startswith(_BEGINNINGS):
            self._frames = SseFrames(self._limit)
        elif begins.startswith(b"{") and not self._plain:  # else a model may have written that
            self._held, self.streamed = Held(self._limit), False
        elif len(begins) >= 8 or len(first) >= _MAX_FIRST:
            self._first = None  # none of these; it is not read
            return False
        return self._frames is not None or self._held is not None

    def _whole_events(self, data: bytes, frames: SseFrames) -> int:
        """As a rule a read is one whole event, or some: they need no framing line by line."""
        lines = data.splitlines()  # where the specification ends lines: at LF, CR and CRLF
        if len(lines) == 2 and data.startswith(b"data:") and len(data) <= self._limit:
            return self._read(lines[0][5:])
        if len(lines) % 2 or any(lines[1::2]):
            return self._framed(frames.feed(data))
        found = 0
        for line in lines[::2]:
            if line.startswith(b"data:") and len(line) <= self._limit:
                found += self._read(line[5:])
            else:
                found += self._framed(frames.feed(line + b"\n\n"))
        return found

    def finish(self) -> int:
        """The answer is over; may be called again.

        Returns:
            as `feed`, for what had no end.
        """
        found = 0
        if self._frames is not None:
            found = self._framed(self._frames.finish())
        elif self._lines is not None:
            found = sum(self._line(*line) for line in self._lines.finish())
        elif self._held is not None and len(self._held):
            found = self._whole(*self._held.take())
        self.tokens += found
        return found

    def take_pieces(self) -> list[Piece]:
        """The pieces of text that came since the last call."""
        taken, self._pieces = self._pieces, []
        return taken

    # --- events

    def _framed(self, frames: list[Frame]) -> int:
        found = 0
        for frame in frames:
            if frame.shortened:
                self.events += 1
                self._long(frame.data)
            else:
                found += self._read(frame.data, frame.event.lower() in _ERROR_EVENTS)
        return found

    def _line(self, line: bytes, shortened: bool) -> int:
        if shortened:
            self.events += 1
            self._long(line)
            return 0
        line = line.strip(b"\x1e \t")  # RFC 7464 begins each with a record separator
        return self._read(line.removeprefix(b"data:")) if line else 0

    def _event(self, data: bytes, named_error: bool = False) -> int:
        """Look at one event; 1 if it carries words."""
        # Of `bytes`, `find` takes half as long as `in`.
        if data.find(b'"choices"') >= 0 and not self._keep and not named_error:
            try:
                chunk = _decode_chunk(data)
            except UNREADABLE:
                pass
            else:
                (choice,) = chunk.choices
                delta = choice.delta
                if choice.text or (
                    delta is not None
                    and (delta.content or delta.reasoning or delta.reasoning_content)
                ):
                    self.events += 1
                    if chunk.usage is not None:
                        self._take(chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                    return 1
        data = data.strip()
        if data == _DONE or (not data and not named_error):
            return 0
        self.events += 1
        return self._message(_decode(data), named_error, data)

    def _failure_of(self, data: bytes, named_error: bool = False) -> int:
        """Look for a failure alone."""
        if self.failure is None and _may_fail(data, named_error):
            data = data.strip()
            self._fail(_decode(data), named_error, data)
        return 0

    def _message(self, message: Any, named_error: bool, data: bytes) -> int:
        if self.failure is None and _may_fail(data, named_error):
            self._fail(message, named_error, data)
        if message is None:
            return 0
        self._take(*dialects.figures(message))
        if self._keep:
            pieces = list(dialects.pieces(message))
            self._pieces += pieces[: max(0, MAX_PIECES - len(self._pieces))]
            return int(bool(pieces))
        return int(next(dialects.pieces(message), None) is not None)

    def _fail(self, message: Any, named_error: bool, data: bytes) -> None:
        if message is None and named_error:
            message = data[: dialects.MAX_SAID].decode("utf-8", "replace")
        self.failure = dialects.failure(message, named_error=named_error)

    def _take(self, prompt: int | None, completion: int | None) -> None:
        if prompt is not None:
            self.prompt_tokens = min(max(0, prompt), dialects.MAX_COUNT)
        if completion is not None:
            self.completion_tokens = min(max(0, completion), dialects.MAX_COUNT)

    # --- whole answers, and what is too long

    def _whole(self, data: bytes, shortened: bool) -> int:
        if shortened:
            self._long(data)
            return 0
        if self._read == self._failure_of and not _may_fail(data, False):
            return 0
        message = _decode(data)
        if message is None:
            return self._mislabelled(data)
        if self._read == self._failure_of:
            self._fail(message, False, data)
        else:
            self._message(message, False, data)
        return 0

    def _mislabelled(self, data: bytes) -> int:
        """A stream whose head says that it is one JSON value: some servers do that."""
        frames = SseFrames(len(data) + 1)
        if data.lstrip()[:1] != b"{":
            return self._framed([*frames.feed(data), *frames.finish()])
        return sum(self._line(line, False) for line in data.splitlines())

    def _long(self, data: bytes) -> None:
        """The beginning and the end of something too long to be decoded."""
        if self.failure is None and (error := _LONG_ERROR.match(data)) is not None:
            said = (error[1] or b"").decode("utf-8", "replace")[: dialects.MAX_SAID]
            self.failure = Failure(said or "an error without a text")
        self._take(
            _last_figure(data, dialects.PROMPT_COUNTS), _last_figure(data, dialects.ANSWER_COUNTS)
        )


def _may_fail(data: bytes, named_error: bool) -> bool:
    """Whether an event is worth a look for a failure: none comes without one of these words."""
    return (
        named_error
        or data.find(b"error") >= 0
        or data.find(b'"failed"') >= 0
        or data.find(b'"abort"') >= 0
        or data.find(b"ERROR") >= 0
        or data.find(b'"success"') >= 0
    )


def _decode(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except UNREADABLE:
        pass
    try:  # NaN, and half a surrogate pair, are not JSON; servers send them all the same
        found = json.loads(data)
        # Text with half a pair in it can be neither printed nor sent on: U+FFFD takes its place.
        text = json.dumps(found, ensure_ascii=False).encode("utf-16", "surrogatepass")
        return json.loads(text.decode("utf-16", "replace"))
    except UNREADABLE:
        return None


def _last_figure(text: bytes, names: tuple[str, ...]) -> int | None:
    """The figure behind the last of the first name that has one."""
    for name in (f'"{name}"'.encode() for name in names):
        at = text.rfind(name)
        while at >= 0:
            figure = _FIGURE.match(text, at + len(name))
            if figure is not None:
                return int(figure[1])
            at = text.rfind(name, 0, at)
    return None
