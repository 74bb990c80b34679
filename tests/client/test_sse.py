from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.client import sse
from stoker.client.sse import ServerSentEvent, SseParser
from stoker.errors import StokerError


def _parse(*chunks: bytes) -> list[ServerSentEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_fields_make_an_event(end: bytes) -> None:
    text = end.join([b"event: end", b"id: 7", b"data: one", b"data:two", b"", b""])
    assert _parse(text) == [ServerSentEvent("one\ntwo", "end", "7")]


def test_lines_that_end_in_carriage_returns_alone_are_lines() -> None:
    assert _parse(b"data: a\r\rdata: b\r\r:") == [ServerSentEvent("a"), ServerSentEvent("b")]


def test_comments_and_unknown_fields_are_skipped() -> None:
    assert _parse(b": ping\n\nretry: 5\nfoo: bar\ndata: x\n\n") == [ServerSentEvent("x")]


def test_an_event_without_its_blank_line_is_not_given() -> None:
    assert _parse(b"data: x\n") == []


def test_an_event_without_data_is_not_given_and_leaves_no_trace() -> None:
    assert _parse(b"event: a\n\ndata: x\n\n") == [ServerSentEvent("x", "message")]


def test_only_one_space_after_the_colon_is_taken_away() -> None:
    assert _parse(b"data:  x\n\n") == [ServerSentEvent(" x")]


def test_a_byte_order_mark_at_the_beginning_is_skipped() -> None:
    assert _parse(b"\xef\xbb", b"\xbfdata: x\n\n") == [ServerSentEvent("x")]


def test_an_event_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 1000)
    with pytest.raises(StokerError, match="larger"):
        _parse(*[b"x" * 100] * 20)
    with pytest.raises(StokerError, match="larger"):
        _parse(*[b"data: abcdef\n"] * 200)


@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n"]),
)
def test_it_does_not_matter_where_the_stream_is_cut(
    texts: list[str], cuts: list[int], end: bytes
) -> None:
    stream = b"".join(b"data: " + text.encode() + end + end for text in texts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    assert [event.data for event in _parse(*chunks)] == texts
