import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.loadtest.answer import ERROR_INSIDE, MAX_DETAIL, MAX_HELD, AnswerTimer


def event(data):
    return b"data: %b\n\n" % json.dumps(data).encode()


def delta(text):
    return {"choices": [{"delta": {"content": text}}]}


STREAM = b"".join(
    [
        event({"choices": [{"delta": {"role": "assistant", "content": ""}}]}),
        event(delta("Hel")),
        b": a comment\n\n",
        event(delta("lo")),
        event({"choices": [], "usage": {"completion_tokens": 7}}),
        b"data: [DONE]\n\n",
    ]
)


def read(kind, *pieces, status=200):
    """Each piece comes a second after the one before it."""
    timer = AnswerTimer(start=0.0)
    timer.head(status, kind)
    for second, piece in enumerate(pieces, 1):
        timer.feed(piece, float(second))
    return timer.finish(float(len(pieces) + 1))


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_an_event_stream_counts_the_same_in_whatever_pieces_it_comes(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in pairwise(edges)]
    outcome = read("text/event-stream; charset=utf-8", *pieces)
    assert (outcome.chunks, outcome.tokens, outcome.tokens_told) == (4, 7, True)
    assert outcome.bytes_received == len(STREAM)
    assert outcome.reason == ""
    assert len(outcome.gaps) == 1


def test_the_first_token_is_the_first_chunk_with_text_and_gaps_are_between_those():
    outcome = read("text/event-stream", event(delta("")), event(delta("a")), b"", event(delta("b")))
    assert (outcome.first_byte, outcome.first_token, outcome.gaps) == (1.0, 2.0, [2.0])
    assert (outcome.tokens, outcome.tokens_told) == (2, False)


@pytest.mark.parametrize(
    "chunk",
    [
        delta("x"),
        {"choices": [{"delta": {"reasoning_content": "x"}}]},
        {"choices": [{"delta": {"reasoning": "x"}}]},
        {"choices": [{"delta": {"tool_calls": [{"function": {"name": "x"}}]}}]},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "x"}},
        {"type": "response.output_text.delta", "delta": "x"},
        {"choices": [{"text": "x"}]},
        {"content": "x"},
        {"token": {"text": "x"}},
        {"message": {"content": "x"}},
        {"response": "x"},
    ],
)
def test_text_is_found_where_each_server_puts_it(chunk):
    assert read("text/event-stream", event(chunk)).first_token == 1.0
    assert read("application/x-ndjson", json.dumps(chunk).encode()).tokens == 1


@pytest.mark.parametrize(
    "said",
    [{"usage": {"completion_tokens": 9}}, {"tokens_predicted": 9}, {"eval_count": 9}],
)
def test_a_whole_json_answer_tells_its_tokens(said):
    outcome = read("application/json", json.dumps(said).encode())
    assert (outcome.tokens, outcome.tokens_told) == (9, True)
    assert (outcome.first_token, outcome.chunks) == (None, 0)


def test_an_error_inside_a_stream_is_a_failure_though_the_status_was_good():
    outcome = read("text/event-stream", event(delta("a")), event({"error": {"message": "oom"}}))
    assert (outcome.reason, outcome.detail) == (ERROR_INSIDE, "oom")


def test_a_refusal_is_named_by_its_status_with_what_it_says():
    outcome = read("application/json", b'{"error": "too busy"}', status=429)
    assert (outcome.reason, outcome.detail) == ("status 429", "too busy")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("Wed, 21 Oct 2026", None), ("-1", None), ("9" * 40, 86_400)],
)
def test_retry_after_counts_in_seconds(header, seconds):
    timer = AnswerTimer(0.0)
    timer.head(503, "", header)
    assert timer.finish(1.0).retry_after == seconds


def test_what_a_refusal_says_is_short_and_without_secrets_and_control_characters():
    outcome = read("text/plain", b"api_key=hunter2 \x1b[31m" + b"x" * 5000, status=500)
    assert len(outcome.detail) <= MAX_DETAIL
    assert "hunter2" not in outcome.detail
    assert "\x1b" not in outcome.detail


def test_a_refusal_that_is_cut_is_still_that_refusal():
    timer = AnswerTimer(0.0)
    timer.head(500, "")
    assert timer.fail("cut in the middle", 1.0).reason == "status 500"


def test_a_line_without_end_is_not_kept():
    timer = AnswerTimer(0.0)
    timer.head(200, "text/event-stream")
    for second in range(2 * MAX_HELD // 2**20):
        timer.feed(b"x" * 2**20, float(second))
        assert len(timer._reader._frames._lines._held) <= MAX_HELD
    assert timer.finish(99.0).tokens == 0


def test_a_json_body_that_is_an_error_is_a_failure_though_the_status_was_good():
    outcome = read("application/json", b'{"error": {"message": "oom", "code": 500}}')
    assert (outcome.reason, outcome.detail) == (ERROR_INSIDE, "oom")


@given(st.binary(max_size=400), st.sampled_from(["text/event-stream", "application/x-ndjson", ""]))
def test_no_bytes_make_it_fail(data, kind):
    outcome = read(kind, data, b"data: " + data)
    assert outcome.end == 3.0


def test_what_is_kept_of_one_answer_is_bounded():
    timer = AnswerTimer(start=0.0)
    timer.head(200, "text/event-stream")
    for second in range(1, 8):
        timer.feed(event(delta("x")) * 10_000, float(second))
    assert timer.finish(9.0).tokens == 70_000
    assert len(timer.outcome.gaps) == 65_536
    timer = AnswerTimer(start=0.0)
    timer.head(503)
    for second in range(1, 100):
        timer.feed(b"x" * 10_000, float(second))
    assert len(timer._refusal) < 100_000
