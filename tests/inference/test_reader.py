from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from benchmarks.reading import measure
from hypothesis import given
from hypothesis import strategies as st

from stoker.inference import AnswerReader, is_readable
from stoker.inference.dialects import ANSWER_COUNTS, PROMPT_COUNTS
from stoker.inference.framing import LONG_TAIL
from stoker.inference.reader import LIMIT

SSE, NDJSON, JSON = "text/event-stream", "application/x-ndjson", "application/json"


def event(name: str = "", **data: Any) -> bytes:
    text = json.dumps(data, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def line(**data: Any) -> bytes:
    return json.dumps(data).encode() + b"\n"


def piece(text: str | None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


def read(*parts: bytes, kind: str = SSE, **options: Any) -> AnswerReader:
    reader = AnswerReader(kind, **options)
    for part in parts:
        reader.feed(part)
    reader.finish()
    return reader


def told(reader: AnswerReader) -> tuple[Any, ...]:
    figures = (reader.prompt_tokens, reader.completion_tokens)
    return reader.events, reader.tokens, figures, reader.failure, reader.take_pieces()


STREAM = [
    event(choices=[{"delta": {"role": "assistant", "content": None}}]),
    *(piece(text) for text in ("Hel", "lo", ' "you"', "\\", "!")),
    event(choices=[{"delta": {}, "finish_reason": "stop"}]),
]
USAGE = event(choices=[], usage={"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})
DONE = b"data: [DONE]\n\n"


def test_events_with_text_count_as_tokens() -> None:
    reader = read(*STREAM, DONE)
    assert (reader.tokens, reader.events) == (5, 7)
    assert (reader.prompt_tokens, reader.completion_tokens) == (None, None)


def test_the_figures_of_the_model_server_come_from_the_end_of_the_stream() -> None:
    reader = read(*STREAM, USAGE, DONE)
    assert (reader.prompt_tokens, reader.completion_tokens) == (11, 7)


ANSWERS = {
    "chat": (
        SSE,
        b"".join([*STREAM, b": ping\n\n", USAGE, DONE]),
        (8, 5, (11, 7)),
        'Hello "you"\\!',
    ),
    "chat with CRLF": (
        SSE,
        b"".join([*STREAM, USAGE, DONE]).replace(b"\n", b"\r\n"),
        (8, 5, (11, 7)),
        'Hello "you"\\!',
    ),
    "thinking": (
        SSE,
        event(choices=[{"delta": {"reasoning": "hm"}}])
        + event(choices=[{"delta": {"reasoning_content": "hm", "reasoning": "hm"}}])
        + event(choices=[{"delta": {"tool_calls": [{"function": {"arguments": '{"a":1}'}}]}}]),
        (3, 3, (None, None)),
        '[hm][hm]<{"a":1}>',
    ),
    "completions": (SSE, event(choices=[{"text": "a"}]) + USAGE, (2, 1, (11, 7)), "a"),
    "anthropic": (
        SSE,
        event("message_start", type="message_start", message={"usage": {"input_tokens": 9}})
        + event("content_block_start", type="content_block_start", content_block={"type": "text"})
        + event("ping", type="ping")
        + b"".join(
            event("content_block_delta", type="content_block_delta", delta=delta)
            for delta in (
                {"type": "thinking_delta", "thinking": "hm"},
                {"type": "text_delta", "text": "Hi"},
                {"type": "input_json_delta", "partial_json": "{}"},
            )
        )
        + event("message_delta", type="message_delta", delta={}, usage={"output_tokens": 4})
        + event("message_stop", type="message_stop"),
        (8, 3, (9, 4)),
        "[hm]Hi<{}>",
    ),
    "responses": (
        SSE,
        event(type="response.created", response={"status": "in_progress", "error": None})
        + event(type="response.reasoning_text.delta", delta="hm")
        + event(type="response.output_text.delta", delta="Hi")
        + event(type="response.function_call_arguments.delta", delta="{}")
        + event(type="response.output_text.done", text="Hi")
        + event(
            type="response.completed",
            response={"status": "completed", "usage": {"input_tokens": 3, "output_tokens": 4}},
        ),
        (6, 3, (3, 4)),
        "[hm]Hi<{}>",
    ),
    "ollama chat": (
        NDJSON,
        line(message={"role": "assistant", "content": "", "thinking": "hm"}, done=False)
        + line(message={"role": "assistant", "content": "Hi"}, done=False)
        + line(message={"content": ""}, done=True, prompt_eval_count=3, eval_count=4),
        (3, 2, (3, 4)),
        "[hm]Hi",
    ),
    "ollama generate": (
        NDJSON,
        line(response="Hi", done=False)
        + line(response="", done=True, prompt_eval_count=3, eval_count=4),
        (2, 1, (3, 4)),
        "Hi",
    ),
    "tgi": (
        SSE,
        event(token={"id": 5, "text": "Hi", "special": False}, generated_text=None)
        + event(
            token={"id": 2, "text": "</s>", "special": True},
            generated_text="Hi",
            details={"generated_tokens": 2},
        ),
        (2, 1, (None, 2)),
        "Hi",
    ),
    "llama.cpp": (
        SSE,
        event(content="Hi", stop=False)
        + event(content="", stop=True, tokens_predicted=4, tokens_evaluated=3),
        (2, 1, (3, 4)),
        "Hi",
    ),
    "llama.cpp chat": (
        SSE,
        piece("Hi") + event(choices=[{"delta": {}}], timings={"predicted_n": 4}),
        (2, 1, (None, 4)),
        "Hi",
    ),
    "triton": (SSE, event(text_output="Hi"), (1, 1, (None, None)), "Hi"),
    "whole chat": (
        JSON,
        line(
            choices=[{"message": {"reasoning": "hm", "content": "Hi"}}],
            usage={"prompt_tokens": 3, "completion_tokens": 4},
        ),
        (0, 0, (3, 4)),
        "[hm]Hi",
    ),
    "whole messages": (
        JSON,
        line(
            type="message",
            content=[
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "Hi"},
                {"type": "tool_use", "name": "f", "input": {"a": 1}},
            ],
            usage={"input_tokens": 1, "cache_read_input_tokens": 2, "output_tokens": 4},
        ),
        (0, 0, (3, 4)),
        '[hm]Hi<f({"a":1})>',
    ),
    "whole response": (
        JSON,
        line(
            object="response",
            status="completed",
            error=None,
            output=[
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"type": "message", "content": [{"type": "output_text", "text": "Hi"}]},
            ],
            usage={"input_tokens": 3, "output_tokens": 4},
        ),
        (0, 0, (3, 4)),
        "[hm]Hi",
    ),
    "whole tgi": (
        JSON,
        b'[{"generated_text": "Hi", "details": {"generated_tokens": 2}}]',
        (0, 0, (None, 2)),
        "Hi",
    ),
    "stream of lines called JSON": (
        JSON,
        line(response="Hi", done=False) + line(response="", done=True, eval_count=4),
        (2, 1, (None, 4)),
        "Hi",
    ),
    "event stream called JSON": (JSON, piece("Hi") + USAGE + DONE, (2, 1, (11, 7)), "Hi"),
    "NaN": (
        SSE,
        b'data: {"choices":[{"text":"a","logprobs":[NaN]}]}\n\n',
        (1, 1, (None,) * 2),
        "a",
    ),
    "half a surrogate pair": (
        SSE,
        b'data: {"choices":[{"text":"a\\ud83d"}]}\n\n',
        (1, 1, (None,) * 2),
        "a\ufffd",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_each_dialect_is_read(name: str) -> None:
    kind, body, expected, text = ANSWERS[name]
    marks = {"text": ("", ""), "reasoning": ("[", "]"), "tool": ("<", ">")}
    events, tokens, figures, failure, pieces = told(read(body, kind=kind, keep_pieces=True))
    assert (events, tokens, figures) == expected
    assert "".join(marks[p.kind][0] + p.text + marks[p.kind][1] for p in pieces) == text
    assert failure is None
    assert told(read(body, kind=kind))[:4] == (*expected, None)


FAILURES = {
    "vLLM": (
        SSE,
        event(error={"message": "dead", "type": "InternalServerError", "code": 500}),
        500,
    ),
    "vLLM of old": (SSE, event(object="error", message="dead", code=400), 400),
    "named": (SSE, event("error", message="dead"), 502),
    "named, text": (SSE, b"event: error\ndata: dead\n\n", 502),
    "named, last": (SSE, b"event: error\ndata: dead", 502),
    "named, empty": (SSE, b"event: error\n\n", 502),
    "anthropic": (
        SSE,
        event("error", type="error", error={"type": "overloaded_error", "message": "dead"}),
        529,
    ),
    "anthropic, unnamed": (SSE, event(type="error", error={"message": "dead"}), 502),
    "responses": (SSE, event(type="error", code="server_error", message="dead"), 502),
    "response.failed": (
        SSE,
        event(type="response.failed", response={"status": "failed", "error": {"message": "dead"}}),
        502,
    ),
    "tgi": (SSE, event(error="dead", error_type="validation"), 422),
    "llama.cpp": (SSE, b'error: {"code":503,"message":"dead"}\n\n', 503),
    "bare": (SSE, b'{"error":"dead"}\n', 502),
    "in two lines": (SSE, b'data: {"error":\ndata: "dead"}\n\n', 502),
    "choice": (
        SSE,
        event(choices=[{"delta": {"content": "a"}, "error": "dead"}]),
        502,
    ),
    "finish": (SSE, event(choices=[{"delta": {"content": "a"}, "finish_reason": "error"}]), 502),
    "fastchat": (SSE, event(text="dead", error_code=50001), 502),
    "ollama": (NDJSON, line(error="dead"), 502),
    "ollama, last": (NDJSON, b'{"error":"dead"}', 502),
    "whole": (JSON, line(error={"message": "dead", "code": "404"}), 404),
    "whole, text": (JSON, line(error="dead"), 502),
    "whole, true": (JSON, line(error=True, message="dead"), 502),
    "whole, in a list": (JSON, b'[{"error":"dead"}]', 502),
    "whole response": (
        JSON,
        line(object="response", status="failed", error={"message": "dead"}),
        502,
    ),
    "sglang": (
        SSE,
        event(
            text="",
            meta_info={"finish_reason": {"type": "abort", "message": "dead", "status_code": 500}},
        ),
        500,
    ),
    "gemini": (SSE, event(error={"code": 503, "message": "dead", "status": "UNAVAILABLE"}), 503),
    "gemini, in an array": (
        JSON,
        b'[{"candidates":[]}\r\n,\r\n{"error":{"code":503,"message":"dead"}}]',
        503,
    ),
    "cohere": (SSE, event(event_type="stream-end", finish_reason="ERROR"), 502),
    "status": (JSON, line(status="error", message="dead"), 502),
    "success": (JSON, line(success=False, msg="dead", code=503), 503),
    "named by hand": (SSE, b"event: Error\ndata: dead\n\n", 502),
    "exception": (SSE, event("exception", message="dead"), 502),
    "text/json": ("text/json", line(error="dead"), 502),
    "type twice": (f"{SSE}, {SSE}", event(error="dead"), 502),
    "records": ("application/json-seq", b"\x1e" + line(x=1) + b"\x1e" + line(error="dead"), 502),
    "no type": ("", b"\n" + event(text="x") + event(error="dead"), 502),
    "no type, whole": ("", line(error="dead"), 502),
    "no type, lines": ("", line(text="x") + line(error="dead"), 502),
    "event stream called text": (
        "text/plain; charset=utf-8",
        b": hi\n\n" + event(error="dead"),
        502,
    ),
    "event stream called bytes": (
        "application/octet-stream",
        event("x") + event(error="dead"),
        502,
    ),
    "event stream called JSON": (JSON, event(error="dead"), 502),
    "longer than is held": (JSON, line(error="dead", prompt="x" * 2 * LIMIT), 502),
    "event longer than is held": (SSE, event(error={"message": "dead", "p": "x" * 2 * LIMIT}), 502),
}


@pytest.mark.parametrize("failures_only", [False, True])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_inside_a_good_status_is_seen(name: str, failures_only: bool) -> None:
    kind, body, status = FAILURES[name]
    for size in (1, 7, len(body)):
        parts = [body[at : at + size] for at in range(0, len(body), size)]
        for before in ((), (piece("Hi"), DONE)) if kind == SSE else ((),):
            failure = read(*before, *parts, kind=kind, failures_only=failures_only).failure
            assert failure is not None
            assert failure.status == status
            assert "dead" in failure.message or "error" in failure.message
        if len(body) > LIMIT:
            break


@pytest.mark.parametrize(
    "more",
    [
        {"error": "dead"},
        {"error_code": 5},
        {"type": "error"},
        {"object": "error"},
        {"status": "failed"},
        {"response": {"status": "failed"}},
        {"success": False, "message": "dead"},
        {"meta_info": {"finish_reason": {"type": "abort", "message": "dead"}}},
        {"timings": {"predicted_n": 7}},
        {"usage": {"completion_tokens": 7, "input_tokens": 3}},
    ],
    ids=str,
)
@pytest.mark.parametrize("said", [{"text": "a"}, {"delta": {"content": "a"}}], ids=str)
def test_what_stands_beside_a_piece_of_text_is_read_too(
    said: dict[str, Any], more: dict[str, Any]
) -> None:
    body = event(choices=[said], **more)
    events, tokens, figures, failure, _ = told(read(body))
    assert (events, tokens, figures, failure) == told(read(body, keep_pieces=True))[:4]
    assert tokens == 1
    assert failure is not None or 7 in figures


@pytest.mark.parametrize("failures_only", [False, True])
def test_the_first_failure_counts_whatever_follows_it(failures_only: bool) -> None:
    later = (event(error="later"), event(choices=[{"delta": {}, "error": None}]), DONE)
    failure = read(event(error="dead"), *later, failures_only=failures_only).failure
    assert failure is not None
    assert failure.message == "dead"


@pytest.mark.parametrize(
    "data",
    [
        {"error": None},
        {"error": ""},
        {"error": {}},
        {"error": False},
        {"error": 0.03, "choices": []},
        {"choices": [{"delta": {"content": '{"error": "x"}'}, "error": None}]},
        {"message": {"content": "error: none", "error": "of a tool"}},
        {"status": "failed", "object": "batch"},
        {"status": "error"},
        {"success": False, "found": 0},
        {"text": "", "meta_info": {"finish_reason": {"type": "stop", "matched": 2}}},
        {"choices": [{"finish_reason": "abort"}]},
        {"node_errors": {"5": "x"}},
    ],
    ids=str,
)
def test_what_only_mentions_errors_is_none(data: dict[str, Any]) -> None:
    for kind, body in ((SSE, event(**data)), (NDJSON, line(**data)), (JSON, line(**data))):
        assert read(body, kind=kind).failure is None
        assert read(body, kind=kind, failures_only=True).failure is None


SAMPLES = (*ANSWERS.values(), *FAILURES.values())


@given(st.data())
def test_it_does_not_matter_how_an_answer_is_cut(data: st.DataObject) -> None:
    kind, body = data.draw(
        st.sampled_from(
            [a[:2] for a in (*ANSWERS.values(), *FAILURES.values()) if len(a[1]) < 5000]
        )
    )
    places = data.draw(st.lists(st.integers(0, len(body)), max_size=40))
    cuts = [body[a:b] for a, b in pairwise([0, *sorted(places), len(body)])]
    for options in ({}, {"keep_pieces": True}, {"failures_only": True}):
        assert told(read(*cuts, kind=kind, **options)) == told(read(body, kind=kind, **options))


@given(
    st.lists(
        st.sampled_from(
            [
                piece("Hi").strip(),
                b"data: x",
                b"event: error",
                b": note",
                b"\n",
                b"\r",
                b"\r\n",
                b"\n\n",
            ]
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 500), max_size=12),
)
def test_events_end_where_the_specification_says_however_they_are_cut(
    parts: list[bytes], places: list[int]
) -> None:
    body = piece("Hi") + b"".join(parts)
    places = sorted(min(place, len(body)) for place in places)
    whole = told(read(body, keep_pieces=True))
    cut = [body[a:b] for a, b in pairwise([0, *places, len(body)])]
    assert told(read(*cut, keep_pieces=True)) == whole
    assert told(read(piece("Hi"), *parts, keep_pieces=True)) == whole


NAMES = [
    *("choices", "delta", "content", "message", "text", "error", "usage", "type", "object"),
    *("status", "response", "token", "reasoning", "finish_reason", "completion_tokens"),
    *("prompt_tokens", "code", "output", "index"),
]

VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 600)
    | st.sampled_from(["", "a", "error", "failed"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(NAMES),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(VALUE, st.sampled_from([SSE, NDJSON, JSON]))
def test_the_fast_way_and_the_full_way_agree_and_nothing_makes_them_fail(
    value: Any, kind: str
) -> None:
    body = b"data: " + json.dumps(value).encode() + b"\n\n"
    fast, full = read(body, kind=kind), read(body, kind=kind, keep_pieces=True)
    assert told(fast)[:4] == told(full)[:4]
    assert read(body, kind=kind, failures_only=True).failure == full.failure


@given(st.binary(max_size=400), st.sampled_from([SSE, NDJSON, JSON, ""]))
def test_no_bytes_make_it_fail(data: bytes, kind: str) -> None:
    read(data, b"data: " + data, kind=kind, keep_pieces=True)


@given(st.text(min_size=1), st.integers(0, 10**9))
def test_what_a_model_writes_forges_no_figures_and_no_failure(text: str, number: int) -> None:
    forged = f'{text}","usage":{{"completion_tokens":{number}}},"error":{{"message":"x"}}'
    for escaped in (forged, json.dumps(forged), json.dumps({"completion_tokens": number})):
        reader = read(piece(escaped), event(text=escaped))
        assert (reader.prompt_tokens, reader.completion_tokens) == (None, None)
        assert (reader.tokens, reader.failure) == (2, None)


def test_what_else_an_answer_holds_is_not_taken_for_figures() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    echoed = {"completion_tokens": 10**12, "prompt_tokens": 10**12}
    answer = {"usage": usage, "metadata": echoed, "tools": [{"eval_count": 5}]}
    for kind, body in ((SSE, event(**answer)), (JSON, line(**answer))):
        reader = read(body, kind=kind)
        assert (reader.prompt_tokens, reader.completion_tokens) == (3, 2)


@pytest.mark.parametrize("name", [*PROMPT_COUNTS, *ANSWER_COUNTS])
def test_a_figure_at_the_end_of_a_long_answer_is_found_by_each_of_its_names(name: str) -> None:
    reader = read(line(text="x" * 2 * LIMIT, inner={name: 9}), kind=JSON)
    expected = (9, None) if name in PROMPT_COUNTS else (None, 9)
    assert (reader.prompt_tokens, reader.completion_tokens) == expected


def test_reading_is_measured_in_each_dialect() -> None:
    assert all(min(figures) > 0 for figures in measure(1).values())


@pytest.mark.parametrize(
    "usage", [{"completion_tokens": "5"}, {"completion_tokens": -5}, [], "x", {"a": {}}], ids=str
)
def test_figures_that_are_none_do_no_harm(usage: Any) -> None:
    assert read(event(usage=usage)).completion_tokens in (None, 0)


def test_what_is_held_of_a_stream_is_bounded() -> None:
    reader = AnswerReader(SSE)
    for _ in range(100):
        reader.feed(b"x" * 10_000)
        assert reader._frames is not None
        assert len(reader._frames._lines._held) <= LIMIT
    reader.feed(b"\n" + piece("a"))
    assert reader.tokens == 1


def test_of_a_long_answer_or_event_the_end_is_looked_at() -> None:
    answer = {"choices": ["x" * 100_000], "usage": {"completion_tokens": 9}}
    for kind, body in ((JSON, line(**answer)), (SSE, event(**answer))):
        for size in (100, 5000, len(body)):
            reader = AnswerReader(kind)
            for at in range(0, len(body), size):
                reader.feed(body[at : at + size])
                if reader._held is not None:
                    assert len(reader._held) <= max(LIMIT, 2 * LONG_TAIL)
            reader.finish()
            assert reader.completion_tokens == 9


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_text_that_a_model_wrote_is_no_event(kind: str) -> None:
    assert read(line(error="dead"), kind=kind).failure is None
    assert read(b"so: " + event(error="dead"), kind=kind).failure is None
    for first in (b"\x89PNG\r\n\x1a\n", b"", b"da", b" " * 1000):
        reader = read(first, event(error="dead") * (len(first) > 7), kind=kind)
        assert (reader.failure, reader.events) == (None, 0)


def test_types_are_known_without_regard_to_case_and_parameters() -> None:
    assert is_readable(b"Text/Event-Stream; charset=utf-8")
    assert is_readable("application/problem+json")
    assert not is_readable("text/plain")
