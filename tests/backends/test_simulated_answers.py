from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.backends.simulated_answers import (
    MAX_TOKENS,
    Answer,
    Embeddings,
    read_embedding,
    read_generation,
)
from stoker.errors import InvalidMessageError

HELLO = [{"role": "user", "content": "Hello"}]


def answer(length: int = 20, number: int = 1, *, chat: bool = True, **fields: Any) -> Answer:
    payload = ({"messages": HELLO} if chat else {"prompt": "Hello"}) | fields
    asked = read_generation(json.dumps(payload).encode(), chat=chat)
    return Answer(number, asked, model="sim", length=length, chat=chat, now=1)


def text(found: Answer) -> str:
    content: str = json.loads(found.whole())["choices"][0]["message"]["content"]
    return content


def chunks(found: Answer) -> list[dict[str, Any]]:
    lines = (found.events(0, found.tokens) + found.end()).decode().split("\n\n")[:-1]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_an_answer_says_that_it_is_simulated() -> None:
    assert text(answer()).startswith("This answer is simulated.")


def test_a_word_is_a_token() -> None:
    found = answer(max_tokens=7)
    assert len(text(found).split()) == 7
    assert found.usage["completion_tokens"] == 7


def test_an_answer_ends_by_itself_below_the_limit() -> None:
    reply = json.loads(answer(length=5, max_tokens=50).whole())
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 5


def test_an_answer_is_cut_at_the_limit() -> None:
    assert json.loads(answer(length=50, max_tokens=5).whole())["choices"][0]["finish_reason"] == (
        "length"
    )


def test_an_answer_that_must_not_end_reaches_the_limit() -> None:
    assert answer(length=5, max_tokens=50, ignore_eos=True).tokens == 50


def test_the_same_number_gives_the_same_words_and_another_gives_others() -> None:
    assert text(answer(number=3)) == text(answer(number=3)) != text(answer(number=4))


def test_a_stream_has_the_same_words_as_the_whole() -> None:
    streamed = "".join(c["choices"][0]["delta"]["content"] for c in chunks(answer(stream=True)))
    assert streamed == text(answer())


def test_a_stream_tells_its_usage_when_asked_to() -> None:
    asked = answer(stream=True, stream_options={"include_usage": True})
    *others, last = chunks(asked)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 20 == len(others)
    assert others[-1]["choices"][0]["finish_reason"] == "stop"


def test_several_answers_are_all_there() -> None:
    found = answer(length=6, n=3)
    assert found.tokens == 18
    assert [c["index"] for c in json.loads(found.whole())["choices"]] == [0, 1, 2]
    assert {c["choices"][0]["index"] for c in chunks(answer(length=6, n=3, stream=True))} == {
        0,
        1,
        2,
    }


def test_a_completion_has_a_text() -> None:
    reply = json.loads(answer(chat=False).whole())
    assert reply["object"] == "text_completion"
    assert reply["choices"][0]["text"].startswith("This answer")


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"nonsense", "body"),
        (b"{}", "messages"),
        (b'{"messages": [{}], "max_tokens": 0}', "max_tokens"),
        (b'{"messages": [{}], "max_tokens": 99999999}', "max_tokens"),
        (b'{"messages": [{}], "n": 0}', "n"),
        (b'{"messages": [{}], "n": 128, "max_tokens": 100000}', "n"),
        (b"[" * 100_000, "body"),
    ],
)
def test_a_wrong_request_is_named(payload: bytes, field: str) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        read_generation(payload, chat=True)
    assert field in caught.value.fields


@given(limit=st.integers(1, 200), length=st.integers(1, 200), n=st.integers(1, 4))
def test_usage_is_what_is_sent(limit: int, length: int, n: int) -> None:
    found = answer(length=length, max_tokens=limit, n=n, stream=True)
    assert len(chunks(found)) == found.usage["completion_tokens"] <= min(limit, length) * n
    assert found.tokens <= MAX_TOKENS


def test_a_vector_depends_on_its_text_alone_and_has_length_1() -> None:
    body = json.loads(Embeddings(["a", "b", "a"], model="sim", size=16).whole())
    one, two, again = (item["embedding"] for item in body["data"])
    assert one == again != two
    assert sum(x * x for x in one) == pytest.approx(1.0)


def test_texts_to_embed_are_bounded() -> None:
    with pytest.raises(InvalidMessageError, match="input"):
        read_embedding(b'{"input": []}')
    assert read_embedding(b'{"input": "a"}').texts == ["a"]
