from __future__ import annotations

import base64
import io
import json
import math
import wave
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ConfigError
from stoker.wire import DEFAULT_LOAD, MAX_COST
from stoker.worker import RawCalculator
from stoker.worker.calculators import (
    AudioSeconds,
    Constant,
    EmbeddingCharacters,
    ImagePixelSteps,
    LlmTokens,
    text,
)
from stoker.worker.calculators.media import MAX_SIDE
from stoker.worker.calculators.text import IMAGE_TOKENS, MAX_ANSWERS, MAX_CONTEXT

CONTEXT = 2048
LLM = LlmTokens(0.1, context=CONTEXT)
ALL = [LLM, LlmTokens(), ImagePixelSteps(), AudioSeconds(), EmbeddingCharacters(), Constant(3)]


def raw(payload: Any) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(payload).encode())


def load(calculator: RawCalculator, **payload: Any) -> float:
    return calculator(raw(payload))


def llm(**payload: Any) -> float:
    return load(LLM, **payload)


# --- text generation


@pytest.mark.parametrize(
    "limit",
    [
        {"max_tokens": 32},
        {"max_completion_tokens": 32},
        {"max_output_tokens": 32},
        {"max_new_tokens": 32},
        {"n_predict": 32},
        {"parameters": {"max_new_tokens": 32}},
        {"sampling_params": {"max_new_tokens": 32}},
        {"options": {"num_predict": 32}},
    ],
)
def test_a_generated_token_is_a_unit_by_whatever_name_its_limit_goes(limit: dict[str, Any]) -> None:
    assert llm(**limit) == 32.0


def test_without_a_limit_the_default_counts() -> None:
    assert llm(messages=[]) == DEFAULT_LOAD
    assert load(LlmTokens(max_tokens=7), messages=[]) == 7.0


def test_a_null_limit_counts_as_absent() -> None:
    assert llm(max_tokens=None) == DEFAULT_LOAD


@pytest.mark.parametrize("limit", [10**400, 10**9, -1, -2])
def test_an_answer_is_bounded_by_the_context(limit: int) -> None:
    assert llm(max_tokens=limit) == CONTEXT


@pytest.mark.parametrize(
    ("n", "best_of", "answers"), [(3, None, 3), (None, 4, 4), (2, 5, 5), (0, 0, 1), (-3, 2, 2)]
)
def test_load_grows_with_the_number_of_answers(
    n: int | None, best_of: int | None, answers: int
) -> None:
    assert llm(max_tokens=10, n=n, best_of=best_of) == 10.0 * answers


def test_answers_asked_for_in_a_nested_object_count() -> None:
    assert llm(sampling_params={"max_new_tokens": 10, "n": 4}) == 40.0
    assert llm(parameters={"max_new_tokens": 10, "best_of": 2}) == 20.0


def test_each_prompt_of_a_list_is_answered() -> None:
    assert llm(max_tokens=10, n=2, prompt=["a" * 40, "b" * 40]) == 40.0 + 0.1 * 20
    assert llm(max_tokens=10, prompt=[[1, 2], [3]]) == pytest.approx(20.3)


def test_the_number_of_answers_is_bounded() -> None:
    assert llm(max_tokens=10, n=10**9) == 10.0 * MAX_ANSWERS
    assert llm(max_tokens=10, n=100, prompt=["a"] * 100) == pytest.approx(1280 + 100 * 0.025)


@pytest.mark.parametrize(
    "prompt",
    [
        {"prompt": "x" * 400},
        {"inputs": "x" * 400},
        {"text": "x" * 400},
        {"input": "x" * 400},
        {"prompt": [7] * 100},
        {"messages": [{"content": "x" * 100}, {"content": "x" * 300}]},
        {"messages": [{"content": [{"type": "text", "text": "x" * 400}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x" * 400}]}]},
        {"prompt": "x" * 200, "system": "x" * 200},
        {"prompt": "é" * 200},
    ],
)
def test_a_prompt_costs_a_share_of_its_tokens(prompt: dict[str, Any]) -> None:
    assert llm(max_tokens=1, **prompt) == pytest.approx(1 + 0.1 * 100)


def test_the_definitions_of_tools_are_part_of_the_prompt() -> None:
    tools = [{"type": "function", "function": {"name": "f" * 400}}]
    definitions = len(json.dumps(tools)) / 4
    assert llm(max_tokens=1, messages=[], tools=tools) == pytest.approx(1 + 0.1 * definitions)


def test_an_image_in_a_message_costs_a_fixed_number_of_tokens() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    content = [{"type": "text", "text": "What is it?"}, part]
    assert llm(max_tokens=1, messages=[{"role": "user", "content": content}]) == pytest.approx(
        1 + 0.1 * (IMAGE_TOKENS + 11 / 4)
    )


@pytest.mark.parametrize(
    "other",
    [
        {"input": "Hello", "text": {"format": {"type": "text"}}},  # OpenAI's responses
        {"prompt": {"id": "pmpt_1", "variables": {}}},
        {"system": [{"type": "text", "text": "Be brief."}]},  # Anthropic's messages
        {"messages": 5},
    ],
)
def test_where_a_field_means_something_else_the_limit_counts_alone(other: dict[str, Any]) -> None:
    assert llm(max_tokens=32, n=2, **other) == 64.0


def test_a_prompt_is_bounded_by_the_context() -> None:
    assert llm(max_tokens=1, prompt="x" * 10**6) == pytest.approx(1 + 0.1 * CONTEXT)


def test_a_models_own_usage_becomes_load() -> None:
    assert LLM.of_usage(50, 20) == 25.0
    assert LLM.of_usage(-1, -1) == 0.0


# --- embeddings and reranking


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "x" * 120},
        {"input": ["x" * 40, "y" * 80]},
        {"inputs": ["x" * 40, "y" * 80]},
        {"inputs": [["x" * 40, "y" * 80]]},
        {"input": [5] * 30},
        {"input": [[5] * 10, [6] * 20]},
        {"query": "x" * 20, "texts": ["y" * 40, "z" * 40]},
        {"query": "x" * 20, "documents": ["y" * 40, "z" * 40]},
    ],
)
def test_four_characters_of_a_text_to_embed_count_as_a_token(asked: dict[str, Any]) -> None:
    assert load(EmbeddingCharacters(), **asked) == 30.0
    assert load(EmbeddingCharacters(weight=0.5), **asked) == 15.0


def test_a_text_to_embed_is_bounded_by_the_context_and_costs_at_least_a_token() -> None:
    assert load(EmbeddingCharacters(10), input=["x" * 1000, "", "y" * 40]) == 21.0


# --- images


def test_an_image_costs_its_megapixels_times_its_steps() -> None:
    assert load(ImagePixelSteps(), width=1000, height=500, steps=10, n=3) == 15.0
    assert load(ImagePixelSteps(), size="1000x500", num_inference_steps=10) == 5.0


def test_what_an_image_request_does_not_say_is_the_default() -> None:
    assert load(ImagePixelSteps(500, 200, 30), prompt="a cat", size="auto") == 3.0


def test_the_figures_of_an_image_are_bounded() -> None:
    huge = load(ImagePixelSteps(), width=10**9, height=10**9, steps=1, n=1)
    assert huge == MAX_SIDE**2 / 1e6


def graph(**latent: Any) -> dict[str, Any]:
    return {
        "3": {"class_type": "KSampler", "inputs": {"steps": 10, "latent_image": ["5", 0]}},
        "5": {"class_type": "EmptyLatentImage", "inputs": latent},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["4", 1]}},
        "7": {"class_type": "ImageScale", "inputs": {"width": 9000, "height": 9000}},
    }


def test_a_graph_costs_what_its_latent_image_and_its_samplers_say() -> None:
    latent = {"width": 1000, "height": 500, "batch_size": 2}
    assert load(ImagePixelSteps(), prompt=graph(**latent)) == 10.0
    assert load(ImagePixelSteps(), prompt=graph(**latent, length=5)) == 50.0


def test_each_sampler_of_a_graph_counts() -> None:
    nodes = graph(width=1000, height=500, batch_size=1)
    nodes["8"] = {"class_type": "KSampler", "inputs": {"steps": 20}}
    assert load(ImagePixelSteps(), prompt=nodes) == 15.0


def test_a_graph_whose_figures_come_from_other_nodes_costs_the_default() -> None:
    link = ["9", 0]
    nodes = graph(width=link, height=link, batch_size=link)
    nodes["3"]["inputs"]["steps"] = link
    assert load(ImagePixelSteps(1000, 1000, 7), prompt=nodes) == 7.0


# --- sound


def wav(seconds: float, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(b"\0\0" * int(rate * seconds))
    return file.getvalue()


@pytest.mark.parametrize("rate", [8_000, 44_100])
def test_the_header_of_a_wav_file_tells_its_length(rate: int) -> None:
    text = base64.b64encode(wav(30.0, rate)).decode()
    for file in (text, f"data:audio/wav;base64,{text}", {"filename": "a.wav", "data": text}):
        assert load(AudioSeconds(), file=file) == pytest.approx(30.0, rel=0.01)


def test_the_size_of_another_file_tells_its_length_at_the_usual_bitrate() -> None:
    text = base64.b64encode(b"\xff\xfb" * 80_000).decode()
    assert load(AudioSeconds(), file=text) == pytest.approx(10.0, rel=0.01)
    assert load(AudioSeconds(64_000), file=text) == pytest.approx(20.0, rel=0.01)


def test_a_duration_that_the_client_says_counts() -> None:
    assert load(AudioSeconds(), duration=42.5, file="AAAA") == 42.5


def test_a_text_to_speak_costs_the_time_that_it_takes() -> None:
    assert load(AudioSeconds(), input="x" * 150) == 10.0
    assert load(AudioSeconds(), input="x" * 150, speed=2) == 5.0


# --- all of them


@pytest.mark.parametrize("calculator", ALL[:-1], ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"nonsense", b"\xff", b"[" * 100_000, b'"\\ud800"', b'{"n": {}, "input": {}}'],
)
def test_what_the_model_server_will_refuse_has_the_default_load(
    calculator: RawCalculator, payload: bytes
) -> None:
    if isinstance(calculator, ImagePixelSteps | AudioSeconds) and b"input" in payload:
        payload = b'{"n": [], "speed": []}'
    assert calculator(msgspec.Raw(payload)) == DEFAULT_LOAD


def test_a_fixed_load_is_fixed() -> None:
    assert Constant(2.5)(msgspec.Raw(b"anything")) == 2.5
    assert Constant(0)(msgspec.Raw(b"{}")) == 0.0


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: Constant(-1), "Constant.load"),
        (lambda: Constant(math.nan), "Constant.load"),
        (lambda: LlmTokens(prompt_weight=2), "LlmTokens.prompt_weight"),
        (lambda: LlmTokens(max_tokens=0), "LlmTokens.max_tokens"),
        (lambda: LlmTokens(context=0), "LlmTokens.context"),
        (lambda: EmbeddingCharacters(weight=math.inf), "EmbeddingCharacters.weight"),
        (lambda: ImagePixelSteps(steps=0), "ImagePixelSteps.steps"),
        (lambda: AudioSeconds(0), "AudioSeconds.bitrate"),
    ],
)
def test_a_setting_that_cannot_work_is_named(make: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        make()


FIELDS = """
    messages content prompt input inputs text texts query max_tokens n_predict n best_of options
    parameters sampling_params num_predict width height size steps batch_size file duration speed
    class_type tools role type
"""
KNOWN = FIELDS.split()
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(payload=st.dictionaries(st.sampled_from(KNOWN), values) | values)
def test_any_payload_has_a_finite_load_and_none_raises(payload: Any) -> None:
    for calculator in ALL:
        assert 0.0 < calculator(raw(payload)) <= MAX_COST


@given(payload=st.binary())
def test_any_bytes_have_a_finite_load_and_none_raises(payload: bytes) -> None:
    for calculator in ALL:
        assert 0.0 < calculator(msgspec.Raw(payload)) <= MAX_COST


sizes = st.integers(0, 3 * MAX_CONTEXT)
few = st.integers(1, 200)


@given(sizes, sizes, few, few, st.integers(0, 20_000), st.integers(0, 20_000))
def test_a_request_that_asks_for_more_text_never_costs_less(
    limit: int, more: int, n: int, further: int, length: int, longer: int
) -> None:
    low = llm(max_tokens=limit, n=n, prompt="x" * length)
    high = llm(max_tokens=limit + more, n=n + further, prompt="x" * (length + longer))
    assert low <= high


@given(sizes, sizes, few, few)
def test_a_request_that_asks_for_more_pixels_never_costs_less(
    side: int, more: int, steps: int, further: int
) -> None:
    low = load(ImagePixelSteps(), width=side, height=64, steps=steps)
    high = load(ImagePixelSteps(), width=side + more, height=64, steps=steps + further, n=2)
    assert low <= high


TEXTS = st.text(max_size=60)
CONTENTS = TEXTS | st.none() | st.just([{"type": "text", "text": "hello"}])
CHATS = st.fixed_dictionaries(
    {"messages": st.lists(st.fixed_dictionaries({"content": CONTENTS}), max_size=4)},
    optional={"max_tokens": st.integers(-2, 10**6) | st.floats(0, 1e6), "n": st.integers(1, 4)},
)
PROMPTS = st.fixed_dictionaries(
    {"prompt": TEXTS | st.lists(TEXTS, max_size=3) | st.lists(st.integers(0, 9), max_size=9)},
    optional={
        "max_tokens": st.integers(-2, 10**6),
        "max_completion_tokens": st.integers(1, 99),
        "system": TEXTS,
        "options": st.just({"num_predict": 5}),
    },
)


@given(CHATS | PROMPTS, st.sampled_from([None, 7, 4096]))
def test_the_short_way_for_usual_requests_comes_to_the_same(
    payload: dict[str, Any], context: int | None
) -> None:
    class Long(LlmTokens):
        def _usual(self, asked: Any) -> None:
            return None

    raw = msgspec.Raw(msgspec.json.encode(payload))
    assert LlmTokens(context=context).parts(raw) == pytest.approx(Long(context=context).parts(raw))


def test_usual_requests_take_the_short_way() -> None:
    for payload in (
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5},
        {"prompt": "hello", "max_tokens": 5, "stream": True},
    ):
        asked = text._decode(msgspec.json.encode(payload))
        assert LlmTokens()._usual(asked) is not None
