"""Tokens of an answer, as they pass and as the model server counts them in the end.

Rules:

* Of an event stream (SSE or one JSON object a line) each event that carries a piece of text counts
  as one token: that is how OpenAI-compatible servers stream. A server that puts several tokens into
  one event is put right by its own figures at the end.
* The model server's own figures are the last ones that it gives, at the places where the common
  servers give them (``usage`` of OpenAI's API, llama.cpp's ``timings``, Ollama's and TGI's counts).
  An answer or event is decoded for that, so whatever else it holds, such as metadata that is
  echoed, is not taken for them.
* What is held is bounded: an unfinished line, or a whole answer, up to `MAX_HELD`. Of a larger
  answer the last `TAIL` bytes are searched for the figures' names; text that a model writes cannot
  forge them there, because inside a JSON string a quote is escaped.

Pure: bytes in, numbers out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

MAX_HELD = 65_536
"""Bytes of an event, or of an answer, that are looked at together."""

TAIL = 8_192
"""Bytes at the end of a larger answer that are searched."""

_TEXT = re.compile(
    rb'(?<!\\)"(?:content|text|reasoning_content|reasoning|arguments|response|thinking|token)"'
    rb':\s?(?:"(?!")|\{)'
)


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Timings(msgspec.Struct, gc=False):
    predicted_n: int | None = None


class _Details(msgspec.Struct, gc=False):
    generated_tokens: int | None = None


class _Inner(msgspec.Struct):
    """The response inside of an event of OpenAI's responses route."""

    usage: _Usage | None = None


class _Figures(msgspec.Struct, gc=False):
    """Where the common servers tell what they have counted."""

    usage: _Usage | None = None
    timings: _Timings | None = None
    details: _Details | None = None
    response: Any = None
    eval_count: int | None = None
    prompt_eval_count: int | None = None
    tokens_predicted: int | None = None
    tokens_evaluated: int | None = None

    def read(self) -> tuple[int | None, int | None]:
        """Prompt tokens and completion tokens, as far as told."""
        usage = self.usage
        if usage is None and isinstance(self.response, dict):
            with suppress(msgspec.ValidationError):
                usage = msgspec.convert(self.response, _Inner).usage
        if usage is not None:
            prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
            answer = usage.completion_tokens
            return prompt, answer if answer is not None else usage.output_tokens
        if self.eval_count is not None:
            return self.prompt_eval_count, self.eval_count
        if self.tokens_predicted is not None:
            return self.tokens_evaluated, self.tokens_predicted
        if self.timings is not None:
            return None, self.timings.predicted_n
        return None, None if self.details is None else self.details.generated_tokens


_decode = msgspec.json.Decoder(_Figures).decode
_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
_OUTPUT = (b'"completion_tokens"', b'"output_tokens"', b'"eval_count"', b'"predicted_n"')
_INPUT = (b'"prompt_tokens"', b'"input_tokens"', b'"prompt_eval_count"')
_FIGURE = re.compile(rb"\s?:\s?(\d{1,12})")
_STREAMS = (b"text/event-stream", b"application/x-ndjson", b"application/jsonl")


def counter_for(content_type: bytes) -> TokenCounter | None:
    """A counter for an answer of that type; None: its tokens cannot be told."""
    if content_type.startswith(b"application/json"):
        return TokenCounter(streamed=False)
    if content_type.startswith(_STREAMS):
        return TokenCounter(streamed=True)
    return None


def load_of_answer(
    content_type: bytes, body: bytes, of_usage: Callable[[int, int], float | None]
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

    __slots__ = ("_cut", "_held", "_streamed", "completion_tokens", "prompt_tokens", "tokens")

    def __init__(self, *, streamed: bool) -> None:
        """Begin an answer.

        Args:
            streamed: it is an event stream, or one JSON object a line.
        """
        self._streamed = streamed
        self._held = b""
        self._cut = False  # what is held is not all of the answer
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
            data = held + data if held else data
            if len(data) > TAIL:
                data = self._bounded(data)
            self._held = data
            return 0
        if held:
            data = held + data
        end = data.rfind(b"\n") + 1
        if end != len(data):
            self._held = data[end:] if len(data) - end <= MAX_HELD else b""
            data = data[:end]
        elif held:
            self._held = b""
        # A read is one event, as a rule: then it need not be taken apart.
        single = data.count(b"\n") <= 2 and data.endswith(b"\n\n")
        count = self._event(data) if single else sum(map(self._event, data.split(b"\n")))
        self.tokens += count
        return count

    def _event(self, line: bytes) -> int:
        """Look at one event; 1 if it carries a piece of text."""
        if b"_tokens" in line or b"predicted" in line or b"eval_count" in line:
            self._read(line)
        at = line.find(b'"content":"')  # as most servers write it: 0.1 us instead of 0.6
        if at >= 0 and line[at + 11 : at + 12] != b'"':
            return 1
        return int(_TEXT.search(line) is not None)

    def _bounded(self, data: bytes) -> bytes:
        if len(data) <= MAX_HELD and not self._cut:
            return data
        self._cut = True
        return data[-TAIL:]

    def finish(self) -> None:
        """The answer is over: read the model server's own figures."""
        held, self._held = self._held, b""
        if self._cut:
            self._take(_last_figure(held, _INPUT), _last_figure(held, _OUTPUT))
        elif held:
            self._read(held)

    def _read(self, text: bytes) -> None:
        """Read the figures of an event, or of a whole answer."""
        try:
            figures = _decode(text[5:] if text.startswith(b"data:") else text)
        except _UNREADABLE:
            return
        usage = figures.usage
        if usage is not None and usage.completion_tokens is not None:  # OpenAI's: nearly all
            self._take(usage.prompt_tokens, usage.completion_tokens)
        else:
            self._take(*figures.read())

    def _take(self, prompt: int | None, completion: int | None) -> None:
        if prompt is not None:
            self.prompt_tokens = max(0, prompt)
        if completion is not None:
            self.completion_tokens = max(0, completion)


def _last_figure(text: bytes, names: tuple[bytes, ...]) -> int | None:
    """The figure behind the last of the first name that has one."""
    for name in names:
        at = text.rfind(name)
        while at >= 0:
            figure = _FIGURE.match(text, at + len(name))
            if figure is not None:
                return int(figure[1])
            at = text.rfind(name, 0, at)
    return None
