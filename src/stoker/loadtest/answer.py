"""One answer as it comes, and what becomes of it. No I/O and no clock: `now` is passed in.

Rules of what is counted:

* A chunk is one ``data:`` line of an event stream, or one line of NDJSON; ``[DONE]`` is none.
* A chunk has text when it has it where OpenAI's routes put it (``choices[].delta.content``,
  ``.reasoning_content``, ``.text``), llama.cpp's (``content``), TGI's (``token.text``) or Ollama's
  (``message.content``, ``response``). The first such chunk is the first token, and the time to each
  further one is a time between tokens.
* Tokens are what the answer itself says (``usage.completion_tokens``, ``tokens_predicted``,
  ``eval_count``), in its last word about it; chunks with text where it says nothing.
* An error inside a stream that began well (``{"error": …}``) is a failure.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.logs import printable, redact

ERROR_INSIDE = "error inside the stream"
"""Reason of a stream that began well and then told of an error, or cannot be read."""

MAX_LINE = 16 * 2**20
"""Bytes of one line of a stream; more is a failure."""

MAX_JSON = 4 * 2**20
"""Bytes of a JSON answer that are kept to look for its token count."""

MAX_GAPS = 65_536
"""Times between tokens that are kept of one answer."""

MAX_DETAIL = 200
"""Characters of what a refusal says."""


class Outcome(msgspec.Struct, kw_only=True):
    """How one request went. Times are seconds since the start of the test."""

    start: float
    """When it was sent; with a rate: when it was due."""
    end: float = 0.0
    reason: str = ""
    """Why it failed; empty: it succeeded."""
    detail: str = ""
    status: int = 0
    """Of the answer; 0: there was none."""
    retry_after: float | None = None
    """Seconds, as the answer asked."""
    first_byte: float | None = None
    """Of the answer's body."""
    first_token: float | None = None
    gaps: list[float] = []
    """Times between tokens, seconds."""
    chunks: int = 0
    tokens: int = 0
    tokens_told: bool = False
    """The answer itself says how many."""
    bytes_received: int = 0


class _Event(msgspec.Struct):
    """What is looked at; anything else is skipped unread. Lenient: servers differ."""

    choices: Any = None
    usage: Any = None
    content: Any = None
    message: Any = None
    response: Any = None
    token: Any = None
    tokens_predicted: Any = None
    eval_count: Any = None
    error: Any = None


_EVENTS = msgspec.json.Decoder(_Event)


class AnswerReader:
    """Takes one answer, piece by piece; `outcome` is complete after `finish` or `fail`."""

    def __init__(self, start: float) -> None:
        """Begin, for a request that was sent (or due) at `start`."""
        self.outcome = Outcome(start=start, gaps=[])
        self._kind = b""
        self._rest = bytearray()
        self._last_token = 0.0
        self._text_chunks = 0
        self._problem = ""

    @property
    def began(self) -> bool:
        """The head of the answer is in."""
        return self.outcome.status != 0

    def head(self, status: int, content_type: str = "", retry_after: str | None = None) -> None:
        """The head is in.

        Args:
            status: of HTTP.
            content_type: header.
            retry_after: header; only its form in seconds counts.
        """
        outcome = self.outcome
        outcome.status = status
        kind = content_type.partition(";")[0].strip().lower()
        if status >= 400:
            self._kind = b"error"
            outcome.retry_after = _seconds(retry_after)
        elif kind == "text/event-stream":
            self._kind = b"events"
        elif kind in ("application/x-ndjson", "application/jsonl", "application/x-jsonlines"):
            self._kind = b"lines"
        elif kind == "application/json":
            self._kind = b"json"

    def feed(self, data: bytes, now: float) -> None:
        """A part of the body."""
        if not data:
            return
        outcome = self.outcome
        if outcome.first_byte is None:
            outcome.first_byte = now
        outcome.bytes_received += len(data)
        if self._kind in (b"events", b"lines"):
            self._feed_lines(data, now)
        elif self._kind and len(self._rest) < MAX_JSON:
            self._rest += data

    def _feed_lines(self, data: bytes, now: float) -> None:
        rest = self._rest
        rest += data
        if b"\n" in data:
            *lines, last = bytes(rest).split(b"\n")
            self._rest = rest = bytearray(last)
            for line in lines:
                self._line(line.strip(), now)
        if len(rest) > MAX_LINE:
            rest.clear()
            self._problem = self._problem or "a line of the stream is too large"

    def _line(self, line: bytes, now: float) -> None:
        if self._kind == b"events":
            if not line.startswith(b"data:"):
                return
            line = line[5:].strip()
        if not line or line == b"[DONE]":
            return
        outcome = self.outcome
        outcome.chunks += 1
        event = _decode(line)
        if event is None:
            return
        if event.error:
            self._problem = self._problem or _said(event.error)
        self._told(event)
        if not _text(event):
            return
        self._text_chunks += 1
        if outcome.first_token is None:
            outcome.first_token = now
        elif len(outcome.gaps) < MAX_GAPS:
            outcome.gaps.append(now - self._last_token)
        self._last_token = now

    def _told(self, event: _Event) -> None:
        usage = event.usage.get("completion_tokens") if isinstance(event.usage, dict) else None
        for count in (usage, event.tokens_predicted, event.eval_count):
            if isinstance(count, int) and not isinstance(count, bool) and count >= 0:
                self.outcome.tokens = min(count, 2**53)
                self.outcome.tokens_told = True
                return

    def finish(self, now: float) -> Outcome:
        """The answer is whole."""
        outcome = self.outcome
        if self._kind in (b"events", b"lines") and self._rest:
            self._line(bytes(self._rest).strip(), now)
        if outcome.status >= 400:
            return self._end(now, f"status {outcome.status}", _body_says(bytes(self._rest)))
        if self._problem:
            return self._end(now, ERROR_INSIDE, self._problem)
        if self._kind == b"json" and (event := _decode(bytes(self._rest))) is not None:
            self._told(event)
        return self._end(now)

    def fail(self, reason: str, now: float, detail: str = "") -> Outcome:
        """It ends here, or never began.

        Args:
            reason: short; failures are counted by it.
            now: time.
            detail: what else is known.
        """
        if self.outcome.status >= 400:
            # The rest of a refusal matters to nobody.
            return self._end(now, f"status {self.outcome.status}", _body_says(bytes(self._rest)))
        return self._end(now, reason, detail)

    def _end(self, now: float, reason: str = "", detail: str = "") -> Outcome:
        outcome = self.outcome
        outcome.end = now
        outcome.reason = reason
        outcome.detail = printable(redact(detail))[:MAX_DETAIL].strip()
        if not outcome.tokens_told:
            outcome.tokens = self._text_chunks
        self._rest.clear()
        return outcome


def _decode(line: bytes) -> _Event | None:
    try:
        return _EVENTS.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _text(event: _Event) -> bool:
    """Whether it brings text."""
    if isinstance(event.choices, list):
        for choice in event.choices:
            if not isinstance(choice, dict):
                continue
            delta = choice.get("delta")
            if isinstance(delta, dict) and (delta.get("content") or delta.get("reasoning_content")):
                return True
            if choice.get("text"):
                return True
        return False
    for holder, name in ((event.message, "content"), (event.token, "text")):
        if isinstance(holder, dict) and holder.get(name):
            return True
    return bool(
        (isinstance(event.content, str) and event.content)
        or (isinstance(event.response, str) and event.response)
    )


def _said(error: Any) -> str:
    if isinstance(error, dict):
        error = error.get("message") or error
    return error if isinstance(error, str) else msgspec.json.encode(error).decode()


def _body_says(body: bytes) -> str:
    event = _decode(body)
    if event is not None and event.error:
        return _said(event.error)
    return body[: 4 * MAX_DETAIL].decode("utf-8", "replace")


def _seconds(text: str | None) -> float | None:
    if text is not None and text.isascii() and text.isdigit():
        return float(min(int(text[:9]), 86_400))
    return None
