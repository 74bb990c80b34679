"""Tokens of an answer, as they pass and as the model server counts them in the end.

Rules:

* Of an event stream (SSE or one JSON object a line) each event that carries a piece of text counts
  as one token: that is how OpenAI-compatible servers stream. A server that puts several tokens into
  one event is put right by its own figures at the end.
* The model server's own figures are the last ones found in the answer, under the names that the
  common servers give them (``usage`` of OpenAI's API, llama.cpp's ``timings``, Ollama's and TGI's
  counts).
* Text that a model writes cannot forge them: inside a JSON string a quote is escaped, so the names
  looked for never match there.
* What is held is bounded: an unfinished line up to `MAX_LINE`, of other answers the last `TAIL`
  bytes.

Pure: bytes in, numbers out.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_LINE = 65_536
"""Bytes of an event that are looked at together."""

TAIL = 8_192
"""Bytes at the end of an answer in which the model server's own figures are looked for."""

_TEXT = re.compile(
    rb'(?<!\\)"(?:content|text|reasoning_content|reasoning|arguments|response|thinking|token)"'
    rb':\s?(?:"(?!")|\{)'
)
_OUTPUT = re.compile(
    rb'(?<!\\)"(?:completion_tokens|output_tokens|predicted_n|eval_count|generated_tokens'
    rb'|tokens_predicted)":\s?(\d{1,12})'
)
_INPUT = re.compile(
    rb'(?<!\\)"(?:prompt_tokens|input_tokens|prompt_eval_count|tokens_evaluated)":\s?(\d{1,12})'
)


_STREAMS = (b"text/event-stream", b"application/x-ndjson", b"application/jsonl")


def counter_for(content_type: bytes) -> TokenCounter | None:
    """A counter for an answer of that type; None: its tokens cannot be told."""
    if content_type.startswith(_STREAMS):
        return TokenCounter(streamed=True)
    if content_type.startswith(b"application/json"):
        return TokenCounter(streamed=False)
    return None


def load_of_answer(
    content_type: bytes, body: bytes, of_usage: Callable[[int, int], float]
) -> float | None:
    """Load of a whole answer by the model server's own count; None where it has none."""
    counter = counter_for(content_type)
    if counter is None:
        return None
    counter.feed(body)
    counter.finish()
    if counter.completion_tokens is None:
        return None
    return of_usage(counter.prompt_tokens or 0, counter.completion_tokens)


class TokenCounter:
    """Counts the tokens of one answer.

    Attributes:
        tokens: pieces of text that have passed so far.
        prompt_tokens: the model server's own count; None: it has not told.
        completion_tokens: likewise.
    """

    __slots__ = ("_held", "_streamed", "completion_tokens", "prompt_tokens", "tokens")

    def __init__(self, *, streamed: bool) -> None:
        """Begin an answer.

        Args:
            streamed: it is an event stream, or one JSON object a line.
        """
        self._streamed = streamed
        self._held = b""
        self.tokens = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    def feed(self, data: bytes) -> int:
        """Take a part of the body.

        Returns:
            pieces of text in the events that are complete now.
        """
        held = self._held
        if not self._streamed:
            # Joined only when needed: an answer of megabytes comes in large parts.
            self._held = data[-TAIL:] if len(data) >= TAIL else (held + data)[-TAIL:]
            return 0
        if held:
            data = held + data
        end = data.rfind(b"\n") + 1
        if end != len(data):
            self._held = data[end:] if len(data) - end <= MAX_LINE else b""
            data = data[:end]
        elif held:
            self._held = b""
        count = 0
        for line in data.split(b"\n"):
            if not line:
                continue
            if _TEXT.search(line) is not None:
                count += 1
            if b"_tokens" in line or b"predicted" in line or b"eval_count" in line:
                self._read_figures(line)
        self.tokens += count
        return count

    def finish(self) -> None:
        """The answer is over: read the model server's own figures."""
        if self._held:
            self._read_figures(self._held)
            self._held = b""

    def _read_figures(self, text: bytes) -> None:
        for found in _OUTPUT.finditer(text):
            self.completion_tokens = int(found[1])
        for found in _INPUT.finditer(text):
            self.prompt_tokens = int(found[1])
