from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import StokerError
from stoker.inference import ServerSentEvent, SseParser, framing
from stoker.inference.framing import LONG_HEAD, LONG_TAIL, Frame, Lines, SseFrames

LIMIT = LONG_HEAD + LONG_TAIL + 100


def parse(*chunks: bytes) -> list[ServerSentEvent]:
    parser = SseParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def frames_of(*chunks: bytes) -> list[Frame]:
    frames = SseFrames(LIMIT)
    return [frame for chunk in chunks for frame in frames.feed(chunk)] + frames.finish()


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_fields_make_an_event(end: bytes) -> None:
    text = end.join([b"event: end", b"id: 7", b"data: one", b"data:two", b"", b""])
    assert parse(text) == [ServerSentEvent("one\ntwo", "end", "7")]


def test_a_line_that_ends_in_a_carriage_return_is_complete_at_once() -> None:
    assert parse(b"data: a\r\r") == [ServerSentEvent("a")]
    assert parse(b"data: a\r\n\r", b"\ndata: b\n\n") == [ServerSentEvent("a"), ServerSentEvent("b")]


def test_comments_and_unknown_fields_are_skipped() -> None:
    assert parse(b": ping\n\nretry: 5\nfoo: bar\ndata: x\n\n") == [ServerSentEvent("x")]


def test_an_event_without_its_blank_line_is_not_given() -> None:
    assert parse(b"data: x\n") == []


def test_who_meters_gets_the_last_event_without_its_blank_line_too() -> None:
    assert frames_of(b"data: x\n") == frames_of(b"data: x") == [Frame(b"x")]


def test_an_event_without_data_is_not_given_and_leaves_no_trace() -> None:
    assert parse(b"event: a\n\ndata: x\n\n") == [ServerSentEvent("x", "message")]


def test_only_one_space_after_the_colon_is_taken_away() -> None:
    assert parse(b"data:  x\n\n") == [ServerSentEvent(" x")]


def test_a_byte_order_mark_at_the_beginning_is_skipped() -> None:
    assert parse(b"\xef\xbb", b"\xbfdata: x\n\n") == [ServerSentEvent("x")]
    assert parse(b"data: x\n\n\xef\xbb\xbfdata: y\n\n") == [ServerSentEvent("x")]


def test_an_event_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_EVENT", LIMIT)
    with pytest.raises(StokerError, match="larger"):
        parse(*[b"x" * 100] * 200)
    with pytest.raises(StokerError, match="larger"):
        parse(*[b"data: abcdef\n"] * 2000)


def test_fields_that_no_specification_knows_are_errors_for_who_meters_alone() -> None:
    for text in (b'error: {"code":500}\n\n', b'{"code":500}\n'):
        assert parse(text) == []
        (frame,) = frames_of(text)
        assert (frame.data, frame.event) == (b'{"code":500}', b"error")


@given(
    texts=st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    end=st.sampled_from([b"\n", b"\r\n", b"\r"]),
)
def test_it_does_not_matter_where_the_stream_is_cut(
    texts: list[str], cuts: list[int], end: bytes
) -> None:
    stream = b"".join(b"data: " + text.encode() + end + end for text in texts)
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    assert [event.data for event in parse(*chunks)] == texts


LONG = b"".join(b"%d " % number for number in range(LIMIT))
LINE = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"data: a", b"event: b", b"id: 1", b": c", b"error: x", b"\xef\xbb\xbf"]),
    st.integers(0, 3 * LIMIT).map(lambda size: b"data: " + LONG[:size]),
)


@given(
    lines=st.lists(st.tuples(LINE, st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n"])), max_size=6),
    sizes=st.lists(st.integers(1, LIMIT), min_size=1, max_size=8),
)
def test_any_bytes_give_the_same_frames_however_they_are_cut(
    lines: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    stream = b"".join(line + end for line, end in lines)
    chunks, at = [], 0
    while at < len(stream):
        chunks.append(stream[at : at + sizes[len(chunks) % len(sizes)]])
        at += len(chunks[-1])
    assert frames_of(*chunks) == frames_of(stream)
    assert all(len(frame.data) <= 2 * LIMIT for frame in frames_of(stream))


def test_of_a_long_line_the_beginning_and_the_end_are_kept_and_no_more_is_held() -> None:
    lines = Lines(LIMIT)
    for _ in range(1000):
        assert lines.feed(b"x" * 997) == []
        assert len(lines._held) <= 2 * LONG_TAIL + 997
    ((line, shortened),) = lines.feed(b"end\nnext")
    assert shortened
    assert len(line) == LONG_HEAD + LONG_TAIL
    assert line.endswith(b"xend")
    assert lines.finish() == [(b"next", False)]
