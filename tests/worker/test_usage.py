from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker.usage import MAX_HELD, TAIL, TokenCounter, load_of_answer


def event(**data: Any) -> bytes:
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


def piece(text: str | None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


STREAM = [
    event(choices=[{"delta": {"role": "assistant", "content": None}}]),
    *(piece(text) for text in ("Hel", "lo", ' "you"', "\\", "!")),
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
]
USAGE = event(choices=[], usage={"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})
DONE = b"data: [DONE]\n\n"


def fed(*parts: bytes, streamed: bool = True) -> TokenCounter:
    counter = TokenCounter(streamed=streamed)
    for part in parts:
        counter.feed(part)
    counter.finish()
    return counter


def test_events_with_text_count_as_tokens() -> None:
    assert fed(*STREAM, DONE).tokens == 5


def test_the_figures_of_the_model_server_come_from_the_end_of_the_stream() -> None:
    counter = fed(*STREAM, USAGE, DONE)
    assert (counter.prompt_tokens, counter.completion_tokens) == (11, 7)


def test_without_figures_there_are_none() -> None:
    counter = fed(*STREAM, DONE)
    assert (counter.prompt_tokens, counter.completion_tokens) == (None, None)


@given(st.lists(st.integers(1, 40), max_size=200))
def test_it_does_not_matter_how_the_stream_is_cut(sizes: list[int]) -> None:
    whole, parts, at = b"".join([*STREAM, USAGE, DONE]), [], 0
    for size in sizes:
        parts.append(whole[at : at + size])
        at += size
    counter = fed(*parts, whole[at:])
    assert (counter.tokens, counter.prompt_tokens, counter.completion_tokens) == (5, 11, 7)


@given(st.text(min_size=1), st.integers(0, 10**9))
def test_what_a_model_writes_forges_no_figures(text: str, number: int) -> None:
    forged = f'{text}","usage":{{"completion_tokens":{number},"prompt_tokens": {number}}}'
    for escaped in (forged, json.dumps(forged), json.dumps({"completion_tokens": number})):
        counter = fed(piece(escaped), event(text=escaped))
        assert (counter.prompt_tokens, counter.completion_tokens) == (None, None)
        assert counter.tokens == 2


def test_what_else_an_answer_holds_is_not_taken_for_figures() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    echoed = {"completion_tokens": 10**12, "prompt_tokens": 10**12}
    answer = {"usage": usage, "metadata": echoed, "tools": [{"eval_count": 5}]}
    for streamed, body in ((True, event(**answer)), (False, json.dumps(answer).encode())):
        counter = fed(body, streamed=streamed)
        assert (counter.prompt_tokens, counter.completion_tokens) == (3, 2)


@pytest.mark.parametrize(
    "usage", [{"completion_tokens": "5"}, {"completion_tokens": -5}, [], "x", {"a": {}}], ids=str
)
def test_figures_that_are_none_do_no_harm(usage: Any) -> None:
    counter = fed(event(usage=usage))
    assert counter.completion_tokens in (None, 0)


@pytest.mark.parametrize(
    ("line", "figures"),
    [
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, (3, 4)),
        ({"timings": {"prompt_n": 1, "predicted_n": 4}}, (None, 4)),
        ({"response": "", "done": True, "prompt_eval_count": 3, "eval_count": 4}, (3, 4)),
        ({"details": {"finish_reason": "length", "generated_tokens": 4}}, (None, 4)),
        ({"tokens_predicted": 4, "tokens_evaluated": 3}, (3, 4)),
        ({"response": {"usage": {"input_tokens": 3, "output_tokens": 4}}}, (3, 4)),
    ],
    ids=["anthropic", "llama.cpp", "ollama", "tgi", "llama.cpp /completion", "responses"],
)
def test_figures_are_known_by_the_names_of_common_servers(
    line: dict[str, Any], figures: tuple[int | None, int | None]
) -> None:
    for text in (json.dumps(line), json.dumps(line, separators=(",", ":"))):
        counter = fed(text.encode() + b"\n")
        assert (counter.prompt_tokens, counter.completion_tokens) == figures


@pytest.mark.parametrize(
    "line",
    [
        {"choices": [{"text": " a"}]},
        {"choices": [{"delta": {"reasoning_content": "hm"}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{"}}]}}]},
        {"message": {"role": "assistant", "content": "a"}, "done": False},
        {"response": "a", "done": False},
        {"token": {"id": 5, "text": " a", "logprob": -0.1}, "generated_text": None},
    ],
    ids=["completions", "reasoning", "tools", "ollama chat", "ollama generate", "tgi"],
)
def test_pieces_of_text_are_known_by_the_names_of_common_servers(line: dict[str, Any]) -> None:
    assert fed(json.dumps(line).encode() + b"\n").tokens == 1


def test_a_line_without_an_end_is_held_up_to_a_bound() -> None:
    counter = TokenCounter(streamed=True)
    for _ in range(100):
        counter.feed(b"x" * 10_000)
        assert len(counter._held) <= MAX_HELD
    counter.feed(b"\n" + piece("a"))
    assert counter.tokens == 1


def test_of_a_whole_answer_the_end_is_looked_at() -> None:
    body = json.dumps({"choices": ["x" * 100_000], "usage": {"completion_tokens": 9}}).encode()
    for size in (100, 5000, len(body)):
        counter = TokenCounter(streamed=False)
        for at in range(0, len(body), size):
            counter.feed(body[at : at + size])
            assert len(counter._held) <= MAX_HELD
        assert len(counter._held) <= TAIL
        counter.finish()
        assert counter.completion_tokens == 9


def test_the_load_of_a_whole_answer_is_by_the_model_servers_count() -> None:
    body = b'{"usage":{"prompt_tokens":10,"completion_tokens":5}}'
    assert load_of_answer(b"application/json", body, lambda p, c: p * 0.1 + c) == 6.0
    assert load_of_answer(b"application/json", b"{}", lambda p, c: p + c) is None
    assert load_of_answer(b"image/png", body, lambda p, c: p + c) is None
