from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker import logtail
from stoker.worker.logtail import LineMatcher, LineSplitter, LogTail, Meaning


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 40)),
            st.tuples(st.just("poll"), st.just(0)),
            st.tuples(st.just("rename"), st.just(0)),
            st.tuples(st.just("truncate"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_every_line_is_found_once_under_any_split_of_writes_and_rotations(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("log") / "model.log"
    tail = LogTail(path)
    text = b"".join(b"line number %d says hello\n" % n for n in range(200))
    written = 0
    found: list[str] = []
    unseen = True  # a file that was never looked at before it is moved away cannot be found

    def finish_line() -> int:
        end = text.index(b"\n", written - 1) + 1 if written else 0
        append(path, text[written:end])
        return end

    for step, size in steps:
        if step == "write":
            append(path, text[written : written + size])
            written += size
        elif step == "poll":
            found += tail.poll()
            unseen = not path.exists()
        elif path.exists():
            written = finish_line()
            if step == "truncate":
                # What was not read before it is cut off is gone: no reader could find it.
                found += tail.poll()
                os.truncate(path, 0)
                unseen = False
            else:
                if unseen:
                    found += tail.poll()
                path.rename(path.with_suffix(f".{written}"))
                path.touch()
                unseen = True
    if written:
        finish_line()
    found += tail.poll()
    found += tail.poll()
    tail.close()
    end = text.index(b"\n", written - 1) + 1 if written else 0
    assert found == text[:end].decode().splitlines()


def test_a_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "later.log")
    assert tail.poll() == []
    append(tmp_path / "later.log", b"here\n")
    assert tail.poll() == ["here"]
    tail.close()


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_what_is_no_file_does_not_block_or_fail(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd"
    if kind == "directory":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert LogTail(path).poll() == []


def test_a_file_cut_and_grown_again_between_two_looks_is_read_from_its_beginning(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    append(path, b"first\n")
    tail = LogTail(path)
    assert tail.poll() == ["first"]
    os.truncate(path, 0)
    append(path, b"second, and longer than what was there\n")
    assert tail.poll() == ["second, and longer than what was there"]
    tail.close()


def test_the_unfinished_last_line_of_a_rotated_file_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"killed in mid-sent")
    tail = LogTail(path)
    assert tail.poll() == []
    path.rename(tmp_path / "log.1")
    append(path, b"loaded\n")
    assert tail.poll() == ["killed in mid-sent", "loaded"]
    tail.close()


def test_a_large_log_is_read_in_bounded_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logtail, "MAX_READ", 100)
    path = tmp_path / "log"
    append(path, b"x" * 9 + b"\n" + b"123456789\n" * 24)
    tail = LogTail(path)
    assert [len(tail.poll()) for _ in range(4)] == [10, 10, 5, 0]
    tail.close()


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_lines_do_not_depend_on_how_they_arrive(data: bytes, cuts: list[int]) -> None:
    whole = LineSplitter()
    expected = whole.feed(data) + whole.flush()
    pieces = LineSplitter()
    edges = [0, *sorted(cuts), len(data)]
    found = [line for a, b in pairwise(edges) for line in pieces.feed(data[a:b])]
    assert found + pieces.flush() == expected


def test_a_long_line_is_cut_and_the_next_one_is_found() -> None:
    splitter = LineSplitter(max_line=10)
    assert splitter.feed(b"a" * 1000) == []
    assert splitter.feed(b"a" * 1000 + b"\nshort\n") == ["a" * 10, "short"]


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert LineSplitter().feed(b"\xff ok\n") == ["\ufffd ok"]


def test_a_progress_bar_does_not_hide_the_line_after_it() -> None:
    assert LineSplitter().feed(b"10%\r20%\rmodel loaded\r\n") == ["10%", "20%", "model loaded"]


def test_texts_are_found_anywhere_in_a_line_and_errors_come_first() -> None:
    matcher = LineMatcher(["loaded"], ["failed"], ["loading"])
    assert matcher.meaning("[info] model loaded.") is Meaning.LOADED
    assert matcher.meaning("failed before it was loaded") is Meaning.ERROR
    assert matcher.meaning("loading 3 of 4") is Meaning.INFO
    assert matcher.meaning("something else") is None
