from __future__ import annotations

import errno
import os
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.logline import LogLine
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
    tail = LogTail(path)
    assert tail.poll() == []
    assert tail.problem == "it is not a regular file"


def test_who_writes_into_a_fifo_is_not_ended_by_a_look_at_it(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    tail = LogTail(path)
    opened = 0

    def count(*args: object, **more: object) -> int:
        nonlocal opened
        opened += 1
        raise OSError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", count)
        assert tail.poll() == []
    assert not opened


def test_a_log_that_fails_to_be_read_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    append(path, b"first\nsecond")
    tail = LogTail(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        assert tail.poll() == []
        assert tail.problem == "Stale file handle"
        assert tail.poll() == []
    assert tail.poll() == ["first"]
    assert tail.problem == ""
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", broken)
        assert tail.poll() == ["second"]
    tail.close()


def broken(*_: object) -> bytes:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


def test_a_gap_before_a_line_does_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"x" * 100_000 + b"\n")
    tail = LogTail(path)
    tail.poll()
    os.truncate(path, 0)
    with path.open("r+b") as file:  # not for appending: it goes on where it was
        file.seek(100_001)
        file.write(b"loaded\n")
    assert tail.poll() == ["loaded"]
    assert tail.poll() == []
    append(path, b"\0\0more\n")
    assert tail.poll() == ["more"]
    tail.close()


def test_a_gap_of_gigabytes_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.seek(2**40)
        file.write(b"loaded\n")
    tail = LogTail(path)
    assert tail.poll() == ["loaded"]
    assert not tail.behind
    tail.close()


@pytest.mark.parametrize("coding", ["utf-16-le", "utf-16-be"])
def test_letters_of_two_bytes_are_read(tmp_path: Path, coding: str) -> None:
    path = tmp_path / "log"
    append(path, "first\nmodel loaded\n".encode(coding))
    tail = LogTail(path, wanted=LineMatcher(["model loaded"], [], []).wanted)
    assert tail.poll() == ["first", "model loaded"]
    tail.close()


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


def test_many_lines_that_count_are_given_out_in_bounded_steps(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"x\n" * 200_000)
    tail = LogTail(path)
    assert len(tail.poll()) < 50_000
    assert tail.behind
    tail.close()


def test_of_a_line_without_an_end_little_is_held_and_all_is_looked_at() -> None:
    splitter, lines = LineSplitter(), []
    for number in range(20_000):
        lines += splitter.feed(b"<%05d>          " % number)
        assert len(splitter._partial) < 20_000
    found = set(re.findall(r"<\d{5}>", " ".join(lines + splitter.flush())))
    assert len(found) == 20_000


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_lines_do_not_depend_on_how_they_arrive(data: bytes, cuts: list[int]) -> None:
    whole = LineSplitter()
    expected = whole.feed(data) + whole.flush()
    pieces = LineSplitter()
    edges = [0, *sorted(cuts), len(data)]
    found = [line for a, b in pairwise(edges) for line in pieces.feed(data[a:b])]
    assert found + pieces.flush() == expected


@given(st.integers(0, 400), st.integers(10, 60), st.lists(st.integers(0, 460), max_size=5))
def test_a_text_is_found_wherever_it_stands_in_a_long_line(
    before: int, max_line: int, cuts: list[int]
) -> None:
    data = b"a" * before + b"READY" + b"b" * 50 + b"\nshort\n"
    splitter = LineSplitter(max_line=max_line, overlap=4)
    edges = [0, *sorted(cuts), len(data)]
    lines = [line for a, b in pairwise(edges) for line in splitter.feed(data[a:b])]
    assert any("READY" in line for line in lines)
    assert lines[-1] == "short"
    assert all(len(line) <= max_line + 1 for line in lines)


def test_only_the_first_piece_of_a_long_line_can_be_its_beginning() -> None:
    form = LogLine("READY", before="INFO: ")
    lines = LineSplitter(max_line=20, overlap=8).feed(b"INFO: READY" + b" INFO: READY" * 9 + b"\n")
    assert [form.matches(line) for line in lines] == [True] + [False] * (len(lines) - 1)


def test_bytes_that_are_not_text_are_replaced() -> None:
    assert LineSplitter().feed(b"\xff ok\n") == ["\ufffd ok"]


def test_a_progress_bar_does_not_hide_the_line_after_it() -> None:
    assert LineSplitter().feed(b"10%\r20%\rmodel loaded\r\n")[:3] == ["10%", "20%", "model loaded"]


def test_a_text_that_a_carriage_return_cuts_is_found() -> None:
    assert "model loaded" in LineSplitter().feed(b"model lo\raded\n")
    splitter = LineSplitter()
    splitter.feed(b"model lo\raded")
    assert "model loaded" in splitter.peek()


def test_a_text_that_a_carriage_return_cuts_is_found_behind_parts_that_say_nothing(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    matcher = LineMatcher(["model loaded"], [], [])
    tail = LogTail(path, wanted=matcher.wanted)
    path.write_bytes(b"10%\r" * 1000 + b"model \r")
    assert tail.poll() == ["10%"]
    append(path, b"\rloaded\n")
    assert any(matcher.meaning(line) for line in tail.poll())
    tail.close()


def test_windows_line_ends_make_no_line_twice() -> None:
    assert LineSplitter().feed(b"one\r\ntwo\r\n") == ["one", "two"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x1b[32mINFO\x1b[0m:     model \x1b[1mloaded\x1b[22m",
        b"\x1b]0;a title\x07INFO:     model loaded",
        b"\x1b]8;;http://x\x1b\\INFO:     model loaded\x1b]8;;\x1b\\",
        b"\x1b(BINFO:     model loaded\x1b[K",
    ],
)
def test_colours_and_other_escape_sequences_hide_nothing(data: bytes) -> None:
    assert LineSplitter().feed(data + b"\n") == ["INFO:     model loaded"]


def test_an_unfinished_line_is_looked_at_once_when_nothing_is_added(tmp_path: Path) -> None:
    path = tmp_path / "log"
    append(path, b"first\nserver is listening on port 8000")
    tail = LogTail(path)
    assert tail.poll(10.0) == ["first"]
    assert tail.poll(10.5) == []
    assert tail.poll(11.0) == ["server is listening on port 8000"]
    assert tail.poll(20.0) == []
    append(path, b" now\n")
    assert tail.poll(21.0) == ["server is listening on port 8000 now"]
    assert tail.poll(30.0) == []
    tail.close()


@pytest.mark.parametrize(
    "line",
    [
        b"INFO: 127.0.0.1 - POST /v1/chat/completions 200 OK\n",
        b"\x1b[32mINFO: 127.0.0.1 - POST /v1/chat/completions 200 OK\n",
        b"loading weights 10%\r",
    ],
    ids=["lines", "colours", "a progress bar"],
)
def test_a_large_log_is_read_within_a_few_seconds_to_the_line_at_its_end(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        for _ in range(50):
            file.write(line * (1_000_000 // len(line)))
        file.write(b"INFO: model \x1b[1mloaded\n")
    matcher = LineMatcher(["model loaded"], ["failed", "out of memory"], ["warming"])
    tail = LogTail(path, wanted=matcher.wanted)
    found: list[str] = []
    looked = 0
    began = time.process_time()
    while not looked or tail.behind:
        looked += 1
        found += [line for line in tail.poll() if matcher.meaning(line)]
    assert time.process_time() - began < 3.0  # here 0.1 s, and 0.5 s in colours
    assert found[0] == "INFO: model loaded"
    assert looked <= 50
    tail.close()


def test_many_lines_that_count_are_read_in_small_steps(tmp_path: Path) -> None:
    path, line = tmp_path / "log", b"CUDA error\n"
    count = 4 * logtail.MAX_READ // len(line)
    path.write_bytes(line * count)
    tail = LogTail(path, wanted=LineMatcher([], ["CUDA error"], []).wanted)
    steps = [len(tail.poll())]
    while tail.behind:
        steps.append(len(tail.poll()))
    assert sum(steps) == count
    assert max(steps) < 10 * logtail.MAX_LINES  # each keeps the worker from its requests
    tail.close()


def test_texts_are_found_anywhere_in_a_line_and_errors_come_first() -> None:
    matcher = LineMatcher(["loaded"], ["failed"], ["loading"])
    assert matcher.meaning("[info] model loaded.") is Meaning.LOADED
    assert matcher.meaning("failed before it was loaded") is Meaning.ERROR
    assert matcher.meaning("loading 3 of 4") is Meaning.INFO
    assert matcher.meaning("something else") is None


def test_a_line_by_its_form_matches_from_its_beginning_to_its_end() -> None:
    form = LogLine("startup complete.", before=r"(?:\(\w+\) )?INFO:\s+", after=r"\s*")
    matcher = LineMatcher([form], [], [])
    assert matcher.meaning("INFO:     startup complete.") is Meaning.LOADED
    assert matcher.meaning("(one) INFO: startup complete. ") is Meaning.LOADED
    assert matcher.meaning("INFO: prompt: 'INFO:     startup complete.'") is None
    assert matcher.meaning("INFO:     startup complete.' they say") is None
    assert str(form) == "startup complete."
