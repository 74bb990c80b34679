from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.backends.workload import MAX_ANSWERS, completion_load, embedding_load

CONTEXT = 2048


def load(**payload: Any) -> float:
    return completion_load(json.dumps(payload).encode(), CONTEXT)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_load_is_the_limit_of_new_tokens(name: str) -> None:
    assert load(messages=[], **{name: 32}) == 32.0


def test_load_without_a_limit_is_one_hundred() -> None:
    assert load(messages=[{"role": "user", "content": "hi"}]) == 100.0


def test_a_null_limit_counts_as_absent() -> None:
    assert load(max_tokens=None) == 100.0


def test_load_is_bounded_by_the_context_of_a_slot() -> None:
    assert load(max_tokens=10**400) == CONTEXT


@pytest.mark.parametrize("limit", [-1, -2])
def test_an_unlimited_answer_counts_as_a_full_context(limit: int) -> None:
    assert load(n_predict=limit) == CONTEXT


def test_load_grows_with_the_number_of_answers() -> None:
    assert load(max_tokens=10, n=3) == 30.0


def test_each_prompt_of_a_list_is_an_answer() -> None:
    assert load(max_tokens=10, n=2, prompt=["a", "b", "c"]) == 60.0


def test_a_prompt_of_token_numbers_is_one_answer() -> None:
    assert load(max_tokens=10, prompt=[1, 2, 3]) == 10.0


def test_the_number_of_answers_is_bounded() -> None:
    assert load(max_tokens=10, n=10**9) == 10.0 * MAX_ANSWERS


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"nonsense", b'{"max_tokens": "many"}', b"\xff", b"[" * 100_000]
)
def test_what_the_model_server_will_refuse_has_the_default_load(payload: bytes) -> None:
    assert completion_load(payload, CONTEXT) == 100.0


def test_four_characters_of_a_text_to_embed_count_as_a_token() -> None:
    assert embedding_load(json.dumps({"input": ["x" * 40, "y" * 80]}).encode(), CONTEXT) == 30.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["max_tokens", "max_completion_tokens", "n_predict", "n", "prompt", "input"]
        ),
        json_values,
    )
)
def test_load_is_positive_and_bounded_for_any_payload(payload: dict[str, Any]) -> None:
    raw = json.dumps(payload).encode()
    assert 1.0 <= completion_load(raw, CONTEXT) <= CONTEXT * MAX_ANSWERS
    assert 1.0 <= embedding_load(raw, CONTEXT) <= CONTEXT * MAX_ANSWERS
