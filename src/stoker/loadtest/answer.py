"""Times one answer as it comes, and says what became of it. No I/O, no clock: `now` is given.

What an answer says is read by `stoker.inference`. Rules of what is counted:

* A chunk is one event of a stream; ``[DONE]`` is none.
* The first chunk with words of the model (text, reasoning, a call of a tool) is the first token,
  and the time to each further one is a time between tokens.
* Tokens are what the answer itself says, in its last word about it; chunks with words where it says
  nothing.
* An error inside an answer whose status is good is a failure.
"""

from __future__ import annotations

import msgspec

from stoker.errors import UNREADABLE
from stoker.inference import AnswerReader, dialects
from stoker.logs import printable, redact

ERROR_INSIDE = "error inside the answer"
"""Reason of an answer that began well and then told of an error."""

MAX_HELD = 4 * 2**20
"""Bytes of one event, or of a JSON answer, that are looked at together."""

MAX_REFUSAL = 65_536
"""Bytes of a refusal that are kept."""

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


class AnswerTimer:
    """Takes one answer, piece by piece; `outcome` is complete after `finish` or `fail`."""

    def __init__(self, start: float) -> None:
        """Begin, for a request that was sent (or due) at `start`."""
        self.outcome = Outcome(start=start, gaps=[])
        self._reader: AnswerReader | None = None
        self._refusal = bytearray()
        self._last_token = 0.0

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
        if status >= 400:
            outcome.retry_after = _seconds(retry_after)
        else:
            self._reader = AnswerReader(content_type, limit=MAX_HELD)

    def feed(self, data: bytes, now: float) -> None:
        """A part of the body."""
        if not data:
            return
        outcome = self.outcome
        if outcome.first_byte is None:
            outcome.first_byte = now
        outcome.bytes_received += len(data)
        if self._reader is not None:
            self._tokens(self._reader.feed(data), now)
        elif len(self._refusal) < MAX_REFUSAL:
            self._refusal += data

    def _tokens(self, count: int, now: float) -> None:
        outcome = self.outcome
        for _ in range(count):
            if outcome.first_token is None:
                outcome.first_token = now
            elif len(outcome.gaps) < MAX_GAPS:
                outcome.gaps.append(now - self._last_token)
            self._last_token = now

    def finish(self, now: float) -> Outcome:
        """The answer is whole."""
        reader = self._reader
        if reader is None:
            return self._refused(now)
        self._tokens(reader.finish(), now)
        if reader.failure is not None:
            return self._end(now, ERROR_INSIDE, reader.failure.message)
        return self._end(now)

    def fail(self, reason: str, now: float, detail: str = "") -> Outcome:
        """It ends here, or never began.

        Args:
            reason: short; failures are counted by it.
            now: time.
            detail: what else is known.
        """
        if self.outcome.status >= 400:  # the rest of a refusal matters to nobody
            return self._refused(now)
        return self._end(now, reason, detail)

    def _refused(self, now: float) -> Outcome:
        body = bytes(self._refusal)
        said = dialects.failure(_decode(body))
        text = body[: 4 * MAX_DETAIL].decode("utf-8", "replace") if said is None else said.message
        return self._end(now, f"status {self.outcome.status}", text)

    def _end(self, now: float, reason: str = "", detail: str = "") -> Outcome:
        outcome, reader = self.outcome, self._reader
        outcome.end = now
        outcome.reason = reason
        outcome.detail = printable(redact(detail))[:MAX_DETAIL].strip()
        if reader is not None:
            outcome.chunks = reader.events if reader.streamed else 0
            told = reader.completion_tokens
            outcome.tokens_told = told is not None
            outcome.tokens = reader.tokens if told is None else told
        self._refusal.clear()
        return outcome


def _decode(body: bytes) -> object:
    try:
        return msgspec.json.decode(body)
    except UNREADABLE:
        return None


def _seconds(text: str | None) -> float | None:
    if text is not None and text.isascii() and text.isdigit():
        return float(min(int(text[:9]), 86_400))
    return None
