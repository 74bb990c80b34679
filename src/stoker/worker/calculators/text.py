"""Load of requests about text: what is generated, embedded, ranked."""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.errors import UNREADABLE
from stoker.wire import DEFAULT_LOAD, MAX_COST
from stoker.worker.calculators.common import (
    ABSENT,
    BYTES_PER_TOKEN,
    Number,
    bounded,
    first,
    positive,
    tokens_of,
)
from stoker.worker.config import RawCalculator

IMAGE_TOKENS = 576.0
"""Prompt tokens of an image part: 336 x 336 pixels in patches of 14 x 14, as in LLaVA 1.5."""

MAX_CONTEXT = 2**20
"""Tokens that a prompt, or an answer, counts for at most where the context is not known."""

MAX_ANSWERS = 128
"""Most answers of one request that are counted."""

PROMPT_WEIGHT = 0.1
"""Load of a prompt token, where a generated token is 1.0, for a model server on a GPU.

There a prompt is computed hundreds of tokens at once while generation waits for memory at each
token; the figure is a choice, not measured here: set your own where prompts are long. On a CPU the
gap is narrow: see `stoker.backends.llamacpp.PROMPT_WEIGHT`, which is measured.
"""


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class _Message(msgspec.Struct):
    content: str | list[_Part | str] | None = None


class _Nested(msgspec.Struct):
    """Where TGI (``parameters``), SGLang (``sampling_params``) and Ollama (``options``) keep it."""

    max_new_tokens: Number = None
    num_predict: Number = None
    n: Number = None
    best_of: Number = None


_Texts = str | list[str | int | list[int]] | None


class _Limits(msgspec.Struct, gc=False):
    """What says how much is generated."""

    max_completion_tokens: Number = None
    max_tokens: Number = None
    max_output_tokens: Number = None
    max_new_tokens: Number = None
    n_predict: Number = None
    n: Number = None
    best_of: Number = None


class _Generation(_Limits, gc=False):
    """And what says how much is read."""

    messages: list[_Message] | None = None
    prompt: _Texts = None
    inputs: _Texts = None
    text: _Texts = None
    text_input: _Texts = None
    input: str | list[_Message | str] | None = None
    instructions: str | None = None
    system: str | None = None
    tools: msgspec.Raw = ABSENT
    parameters: _Nested | None = None
    sampling_params: _Nested | list[_Nested] | None = None
    options: _Nested | None = None


_GENERATION = msgspec.json.Decoder(_Generation)
_LIMITS = msgspec.json.Decoder(_Limits)
_decode = _GENERATION.decode
_NOTHING = _Nested()


class LlmTokens(RawCalculator):
    """Load of text generation: the tokens it may produce, and a share for its prompt.

    load = `prompt_weight` x prompt tokens + limit of new tokens x answers. Understands the
    completion, chat and responses routes of OpenAI, and the own routes of llama.cpp, TGI, SGLang,
    Ollama and Triton.

    - Prompt tokens are estimated as bytes / `BYTES_PER_TOKEN` of the texts in ``messages``,
      ``prompt``, ``inputs``, ``text``, ``text_input`` or ``input``, plus ``tools``; token ids count
      exactly; an image part is `IMAGE_TOKENS`. Each prompt of a list counts.
    - The limit is the first that is set of ``max_completion_tokens``, ``max_tokens``,
      ``max_output_tokens``, ``max_new_tokens``, ``n_predict``, ``num_predict``; a negative one
      means "until the context is full".
    - Answers are the greater of ``n`` and ``best_of``, one set for each prompt of a list, at most
      `MAX_ANSWERS`.
    - Where the prompt has another shape than these (a field of the same name means something else
      on some route), limit and answers count alone.

    Attributes:
        prompt_weight: load of a prompt token.
        max_tokens: limit where the request sets none.
        context: tokens of one prompt, and of one answer, that count at most.
    """

    __slots__ = ("context", "max_tokens", "prompt_weight")

    def __init__(
        self,
        prompt_weight: float = PROMPT_WEIGHT,
        max_tokens: float = DEFAULT_LOAD,
        context: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            prompt_weight: load of a prompt token, where a generated token is 1.0; from 0 to 1.
            max_tokens: new tokens of a request that sets no limit.
            context: tokens that fit into the model; None: not known.

        Raises:
            ConfigError: names the argument that is out of its range.
        """
        if prompt_weight != 0:
            prompt_weight = positive("LlmTokens.prompt_weight", prompt_weight, 1.0)
        self.prompt_weight = prompt_weight
        self.max_tokens = positive("LlmTokens.max_tokens", max_tokens)
        self.context = MAX_CONTEXT
        if context is not None:
            self.context = int(positive("LlmTokens.context", context))
        super().__init__(lambda payload: sum(self.parts(payload)))

    def of_usage(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Load of a request whose tokens the model server has counted itself.

        Args:
            prompt_tokens: as in the ``usage`` of an answer.
            completion_tokens: of all its answers together.
        """
        return self.prompt_weight * max(0, prompt_tokens) + max(0, completion_tokens)

    def parts(self, payload: msgspec.Raw) -> tuple[float, float]:
        """Load of the prompt, and of the answers; their sum is the load of the request."""
        try:
            asked = _decode(payload)
            usual = self._usual(asked)
            if usual is not None:
                return usual
            prompt, prompts = self._prompt(asked)
        except UNREADABLE:
            return 0.0, self._of_limits(payload)
        nested = asked.parameters or asked.sampling_params or asked.options
        new, answers = self._generated(asked, nested)
        return self.prompt_weight * prompt, new * min(answers * prompts, MAX_ANSWERS)

    def _usual(self, asked: _Generation) -> tuple[float, float] | None:
        """The parts of a plain completion or chat; None: it is no such request.

        The same as what follows in `parts`, in one function: each call into code that is not in
        the processor's cache costs a microsecond, seven of them a fifth of a request.
        """
        new = asked.max_tokens
        if (
            new is None
            or new < 0
            or asked.max_completion_tokens is not None
            or asked.n is not None
            or asked.best_of is not None
            or asked.input is not None
            or asked.instructions
            or asked.system
            or asked.tools
            or asked.parameters is not None
            or asked.sampling_params is not None
            or asked.options is not None
        ):
            return None
        context, messages = self.context, asked.messages
        size = 0
        if messages is not None:
            for message in messages:
                content = message.content
                if type(content) is not str or not content.isascii():
                    return None
                size += len(content)
        else:
            prompt = asked.prompt
            if type(prompt) is not str or not prompt.isascii():
                return None
            size = len(prompt)
        tokens = min(size / BYTES_PER_TOKEN, context)
        return self.prompt_weight * tokens, max(1.0, min(new, context))

    def _of_limits(self, payload: msgspec.Raw) -> float:
        """Load where something else has a shape of its own: a new field, say, of an old name."""
        try:
            new, answers = self._generated(_LIMITS.decode(payload), None)
        except UNREADABLE:
            return DEFAULT_LOAD
        return new * answers

    def _generated(
        self, asked: _Limits, nested: _Nested | list[_Nested] | None
    ) -> tuple[float, float]:
        """New tokens of an answer at most, and answers to each prompt."""
        limit = first(
            asked.max_completion_tokens,
            asked.max_tokens,
            asked.max_output_tokens,
            asked.max_new_tokens,
            asked.n_predict,
        )
        n, best_of = asked.n, asked.best_of
        if nested is not None:
            if isinstance(nested, list):
                nested = nested[0] if nested else _NOTHING
            limit = first(limit, nested.max_new_tokens, nested.num_predict)
            n, best_of = first(n, nested.n), first(best_of, nested.best_of)
        if limit is None:
            limit = self.max_tokens
        # llama.cpp: -1 is "no limit", -2 "until the context is full".
        new = self.context if limit < 0 else max(1.0, min(limit, self.context))
        if n is None and best_of is None:
            return new, 1.0
        return new, max(bounded(n, 1, 1, MAX_ANSWERS), bounded(best_of, 1, 1, MAX_ANSWERS))

    def _prompt(self, asked: _Generation) -> tuple[float, int]:
        """Estimated tokens of all prompts, and how many prompts there are."""
        prompts = 1
        if asked.messages is not None:
            total = min(sum(map(_message_tokens, asked.messages)), self.context)
        elif asked.input is not None:
            total = min(_content_tokens(asked.input), self.context)
        else:
            texts: Any = first(asked.prompt, asked.inputs, asked.text, asked.text_input)
            if isinstance(texts, list) and texts and not isinstance(texts[0], int):
                prompts = len(texts)
                each = (min(_prompt_tokens(one), self.context) for one in texts)
                total = min(sum(each), self.context * MAX_ANSWERS)
            else:
                total = min(_prompt_tokens(texts), self.context)
        for more in (asked.instructions, asked.system):
            if more:
                total += min(tokens_of(more), self.context)
        if asked.tools:
            total += min(len(memoryview(asked.tools)) / BYTES_PER_TOKEN, self.context)
        return total, prompts


def _prompt_tokens(prompt: _Texts | int) -> float:
    if isinstance(prompt, str):
        return tokens_of(prompt)
    return float(len(prompt)) if isinstance(prompt, list) else 0.0


def _message_tokens(message: _Message) -> float:
    content = message.content
    return tokens_of(content) if isinstance(content, str) else _content_tokens(content)


def _content_tokens(content: str | list[Any] | None) -> float:
    if isinstance(content, str):
        return tokens_of(content)
    total = 0.0
    for part in content or ():
        if isinstance(part, str):
            total += tokens_of(part)
        elif isinstance(part, _Message):
            total += _message_tokens(part)
        elif part.text is not None:
            total += tokens_of(part.text)
        elif "image" in part.type:
            total += IMAGE_TOKENS
    return total


_Pair = list[str | int]


class _Texted(msgspec.Struct):
    input: str | list[str | int | _Pair] | None = None
    inputs: str | list[str | int | _Pair] | None = None
    query: str | None = None
    texts: list[str] | None = None
    documents: list[str] | None = None


_TEXTED = msgspec.json.Decoder(_Texted)


class EmbeddingCharacters(RawCalculator):
    """Load of embeddings and of reranking, in tokens: bytes of text / `BYTES_PER_TOKEN`.

    Tokens and not characters, so that a request that sends token ids costs what it would cost as
    text, and so that the figures compare with those of a tokenizer. Understands ``input`` (OpenAI,
    Ollama), ``inputs`` (TEI: texts, pairs, token ids) and ``query`` with ``texts`` or
    ``documents`` (each read together with the query).

    Attributes:
        context: tokens of one text that count at most; the model server cuts or refuses it there.
        weight: load of a token.
    """

    __slots__ = ("context", "weight")

    def __init__(self, context: int | None = None, weight: float = 1.0) -> None:
        """Prepare.

        Args:
            context: tokens that fit into the model; None: not known.
            weight: load of a token; where a worker generates as well, `LlmTokens.prompt_weight`.

        Raises:
            ConfigError: names the argument that is out of its range.
        """
        self.context = MAX_CONTEXT
        if context is not None:
            self.context = int(positive("EmbeddingCharacters.context", context))
        self.weight = positive("EmbeddingCharacters.weight", weight)
        super().__init__(self._of)

    def _of(self, payload: msgspec.Raw) -> float:
        try:
            asked = _TEXTED.decode(payload)
            texts: Any = first(asked.input, asked.inputs, asked.texts, asked.documents)
            if texts is None:
                return DEFAULT_LOAD
            total = self._total(texts, tokens_of(asked.query) if asked.query else 0.0)
        except UNREADABLE:
            return DEFAULT_LOAD
        return self.weight * min(total, MAX_COST)

    def _total(self, texts: str | list[Any], query: float) -> float:
        if isinstance(texts, str):
            return max(1.0, min(tokens_of(texts) + query, self.context))
        ids = sum(1 for text in texts if isinstance(text, int))
        total = float(min(ids, self.context))
        for text in texts:
            if isinstance(text, str):
                total += max(1.0, min(tokens_of(text) + query, self.context))
            elif isinstance(text, list):
                own = sum(tokens_of(t) if isinstance(t, str) else 1.0 for t in text)
                total += max(1.0, min(own, self.context))
        return max(1.0, total)
