"""What a simulated model server reads and writes: OpenAI's requests and answers.

Every answer says that it is simulated. Its words come from a list, in an order that the seed gives,
a word for each token.
"""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import msgspec

from stoker.errors import UNREADABLE, InvalidMessageError

MAX_TOKENS = 131_072
"""Most tokens of a request's answers together."""

MAX_ANSWERS = 128
BENCHMARK_USER = "benchmark"
"""In a request's ``user``: spared by every fault, as its capacity would not be found otherwise."""

MAX_TEXTS = 2_048
PREFACE = ("This", "answer", "is", "simulated.")
DONE = b"data: [DONE]\n\n"
_TEXT = """
a all an and are as at be but by can do down each far for from go have here in is it its kind long
made many more much new no not now of old on one only or other out over part place round sea small
so some still such than that the then there they this through time to under up very was water way
were what when where which while who will with world year
"""
_WORDS = _TEXT.split()


class _Usage(msgspec.Struct):
    include_usage: bool = False


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class GenerationRequest(msgspec.Struct):
    """A chat or a completion; other fields are ignored."""

    messages: list[_Message] | None = None
    prompt: str | list[str | int] | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    n: int = 1
    stream: bool = False
    stream_options: _Usage | None = None
    ignore_eos: bool = False
    user: str | None = None

    @property
    def limit(self) -> int | None:
        """Most new tokens of an answer; None: the model ends by itself."""
        given = self.max_completion_tokens
        return self.max_tokens if given is None else given

    @property
    def prompt_tokens(self) -> int:
        """Estimated: 4 characters a token."""
        size = 0
        if isinstance(self.prompt, str):
            size = len(self.prompt)
        elif self.prompt is not None:
            size = sum(4 if isinstance(one, int) else len(one) for one in self.prompt)
        for message in self.messages or ():
            content = message.content or ""
            parts = [content] if isinstance(content, str) else [part.text for part in content]
            size += sum(map(len, parts))
        return max(1, size // 4)


class EmbeddingRequest(msgspec.Struct):
    """Texts to embed."""

    input: str | list[str]

    @property
    def texts(self) -> list[str]:
        """All of them."""
        return [self.input] if isinstance(self.input, str) else self.input


_GENERATION = msgspec.json.Decoder(GenerationRequest)
_EMBEDDING = msgspec.json.Decoder(EmbeddingRequest)


def read_generation(body: bytes, *, chat: bool) -> GenerationRequest:
    """The request in `body`.

    Raises:
        InvalidMessageError: names what is wrong.
    """
    asked: GenerationRequest = _read(_GENERATION, body)
    field, given = ("messages", asked.messages) if chat else ("prompt", asked.prompt)
    if not given:
        raise InvalidMessageError({field: "is required"})
    if asked.limit is not None and not 1 <= asked.limit <= MAX_TOKENS:
        raise InvalidMessageError({"max_tokens": f"must be from 1 to {MAX_TOKENS}"})
    if not 1 <= asked.n <= MAX_ANSWERS:
        raise InvalidMessageError({"n": f"must be from 1 to {MAX_ANSWERS}"})
    if (asked.limit or 1) * asked.n > MAX_TOKENS:
        raise InvalidMessageError({"n": f"asks for more than {MAX_TOKENS} tokens in all"})
    return asked


def read_embedding(body: bytes) -> EmbeddingRequest:
    """The request in `body`.

    Raises:
        InvalidMessageError: names what is wrong.
    """
    asked: EmbeddingRequest = _read(_EMBEDDING, body)
    if not 1 <= len(asked.texts) <= MAX_TEXTS:
        raise InvalidMessageError({"input": f"must be from 1 to {MAX_TEXTS} texts"})
    return asked


def _read(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except UNREADABLE as error:
        raise InvalidMessageError({"body": str(error)}) from None


class Answer:
    """The words of one request's answers, and their form.

    Attributes:
        tokens: of all its answers together.
    """

    def __init__(
        self,
        number: int,
        asked: GenerationRequest,
        *,
        model: str,
        length: int,
        chat: bool,
        now: int,
    ) -> None:
        """Prepare.

        Args:
            number: makes its id and its words; the same number gives the same words.
            asked: the request.
            model: name of the model in the answer.
            length: tokens of each answer where the request's limit allows them.
            chat: a chat, not a completion.
            now: Unix seconds.
        """
        limit = asked.limit
        self._cut = limit is not None and (asked.ignore_eos or length >= limit)
        self._each = limit if self._cut and limit is not None else length
        self.tokens = self._each * asked.n
        # Not `asked` itself: a long prompt would be held for as long as its answer takes.
        self._prompt = asked.prompt_tokens
        self._count = asked.n
        self._tells_usage = asked.stream_options is not None and asked.stream_options.include_usage
        self._chat = chat
        self._random = random.Random(number)
        kind = "chat.completion" if chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-simulated-{number}",
            "object": kind + (".chunk" if chat and asked.stream else ""),
            "created": now,
            "model": model,
        }

    @property
    def usage(self) -> dict[str, int]:
        """What the tokens were, as OpenAI's ``usage``."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self.tokens,
            "total_tokens": self._prompt + self.tokens,
        }

    @property
    def _reason(self) -> str:
        return "length" if self._cut else "stop"

    def _word(self, position: int) -> str:
        word = PREFACE[position] if position < len(PREFACE) else self._random.choice(_WORDS)
        return word if position == 0 else f" {word}"

    def whole(self) -> bytes:
        """The body of an answer that is not streamed."""
        choices: list[dict[str, Any]] = []
        for index in range(self._count):
            text = "".join(self._word(position) for position in range(self._each))
            content = {"message": {"role": "assistant", "content": text}}
            choices.append(
                {"index": index, "finish_reason": self._reason}
                | (content if self._chat else {"text": text})
            )
        return msgspec.json.encode(self._head | {"choices": choices, "usage": self.usage})

    def events(self, first: int, last: int) -> bytes:
        """The events of tokens `first` up to `last`, of all answers one after the other."""
        return b"".join(self._event(token) for token in range(first, last))

    def _event(self, token: int) -> bytes:
        index, position = divmod(token, self._each)
        word = self._word(position)
        delta: dict[str, Any] = {"content": word}
        if position == 0:
            delta["role"] = "assistant"
        choice = {
            "index": index,
            "finish_reason": self._reason if position == self._each - 1 else None,
        } | ({"delta": delta} if self._chat else {"text": word})
        return b"data: %b\n\n" % msgspec.json.encode(self._head | {"choices": [choice]})

    def end(self) -> bytes:
        """What follows the last token of a stream."""
        if not self._tells_usage:
            return DONE
        last = self._head | {"choices": [], "usage": self.usage}
        return b"data: %b\n\n%b" % (msgspec.json.encode(last), DONE)


class Embeddings:
    """Vectors of length 1, each of which depends on its text alone.

    Attributes:
        tokens: of all texts.
    """

    def __init__(self, texts: list[str], *, model: str, size: int) -> None:
        """Prepare.

        Args:
            texts: what to embed; only a digest of each is kept.
            model: name of the model in the answer.
            size: dimensions.
        """
        self.tokens = sum(max(1, len(text) // 4) for text in texts)
        self._seeds = [sha256(text.encode("utf-8", "surrogatepass")).digest()[:8] for text in texts]
        self._model = model
        self._size = size

    def whole(self) -> bytes:
        """The body of the answer."""
        data = [
            {"object": "embedding", "index": index, "embedding": self._vector(seed)}
            for index, seed in enumerate(self._seeds)
        ]
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        return msgspec.json.encode(
            {"object": "list", "model": self._model, "data": data, "usage": usage}
        )

    def _vector(self, seed: bytes) -> list[float]:
        numbers = random.Random(seed)
        vector = [numbers.gauss(0.0, 1.0) for _ in range(self._size)]
        length = sum(x * x for x in vector) ** 0.5
        return [x / length for x in vector]
