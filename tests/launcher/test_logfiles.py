from __future__ import annotations

import asyncio
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.launcher.logfiles import MAX_LINE, TAIL_LINES, LogPipe, RotatingLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.log"


def older(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def test_a_new_run_has_a_new_file_and_the_old_one_is_kept(path: Path) -> None:
    log = RotatingLog(path)
    for run in (b"one\n", b"two\n", b"three\n", b"four\n"):
        log.begin()
        log.write(run)
    assert path.read_bytes() == b"four\n"
    assert older(path, 1).read_bytes() == b"three\n"
    assert older(path, 2).read_bytes() == b"two\n"
    assert not older(path, 3).exists()


def test_a_file_is_rotated_by_size_between_two_lines(path: Path) -> None:
    log = RotatingLog(path, max_bytes=10)
    log.begin()
    log.write(b"1234567\n")
    log.write(b"abc\nde")
    log.write(b"f\n")
    assert older(path, 1).read_bytes() == b"1234567\nabc\n"
    assert path.read_bytes() == b"def\n"


def test_a_reader_that_follows_the_old_file_sees_its_end(path: Path) -> None:
    log = RotatingLog(path, max_bytes=10)
    log.begin()
    with path.open("rb") as reader:
        log.write(b"1234567890\n")
        log.write(b"next\n")
        assert reader.read() == b"1234567890\n"
    assert path.read_bytes() == b"next\n"


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=30), max_size=50))
def test_no_file_outgrows_twice_its_size_and_nothing_is_lost(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("log") / "model.log"
    log = RotatingLog(path, max_bytes=40, keep=100)
    log.begin()
    for chunk in chunks:
        log.write(chunk)
    log.close()
    files = [path, *(older(path, n) for n in range(1, 101))]
    found = [file.read_bytes() for file in reversed(files) if file.exists()]
    assert b"".join(found) == b"".join(chunks)
    assert all(len(content) <= 80 + 30 for content in found)


def test_what_cannot_be_written_is_counted_and_dropped() -> None:
    log = RotatingLog(Path("/dev/full"))
    log.write(b"12345\n")
    log.write(b"67\n")
    assert log.dropped == 9
    assert log.tail() == ["12345", "67"]


def test_a_log_whose_directory_is_gone_comes_back_with_it(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "gone" / "model.log")
    log.begin()
    log.write(b"lost\n")
    (tmp_path / "gone").mkdir()
    log.write(b"kept\n")
    assert log.dropped == 5
    assert (tmp_path / "gone" / "model.log").read_bytes() == b"kept\n"


def test_the_tail_is_bounded_in_lines_and_in_their_length(path: Path) -> None:
    log = RotatingLog(path)
    log.write(b"".join(b"%d\n" % n for n in range(1000)) + b"x" * 10_000)
    tail = log.tail()
    assert len(tail) == TAIL_LINES
    assert tail[0] == str(1000 - TAIL_LINES + 1)
    assert tail[-1] == "x" * MAX_LINE


def test_a_new_worker_finds_the_boot_though_it_was_rotated_away(path: Path) -> None:
    log = RotatingLog(path, max_bytes=20)
    log.begin()
    log.write(b"model loaded\n")
    log.booted()
    log.write(b"a line of a request\n" * 5)
    assert b"model loaded" not in path.read_bytes()
    log.replay()
    assert path.read_bytes() == b"model loaded\n"


def test_the_boot_is_not_repeated_while_it_is_still_there(path: Path) -> None:
    log = RotatingLog(path)
    log.begin()
    log.write(b"model loaded\n")
    log.booted()
    log.replay()
    assert path.read_bytes() == b"model loaded\n"


def test_a_boot_that_a_full_disk_swallowed_is_written_when_there_is_room(path: Path) -> None:
    path.symlink_to("/dev/full")
    log = RotatingLog(path)
    log.write(b"loading\nmodel loaded\n")
    log.booted()
    log.mend()
    assert path.is_symlink()
    path.unlink()
    log.mend()
    assert path.read_bytes() == b"loading\nmodel loaded\n"
    log.write(b"a line of a request\n")
    log.mend()
    assert path.read_bytes() == b"loading\nmodel loaded\na line of a request\n"


def test_of_a_boot_for_which_there_is_no_room_the_end_is_written(path: Path) -> None:
    log = RotatingLog(path)
    log.write(b"of an earlier run\n")
    log.begin()
    assert older(path, 1).exists()
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, former[1]))  # as if the disk were full then
    try:
        for number in range(200):
            log.write(b"%03d is a line of the boot that is longer than others\n" % number)
        log.write(b"model loaded\n")
        log.booted()
        log.mend()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert path.read_bytes().endswith(
        b"199 is a line of the boot that is longer than others\nmodel loaded\n"
    )
    assert not older(path, 1).exists()


async def test_what_a_child_writes_arrives_in_the_log(path: Path) -> None:
    log = RotatingLog(path)
    pipe = LogPipe(log)
    os.write(pipe.writer, b"hello\n")
    pipe.drain()
    assert log.tail() == ["hello"]
    pipe.close()


async def test_a_child_that_writes_much_is_not_blocked_by_a_full_disk() -> None:
    log = RotatingLog(Path("/dev/full"), max_bytes=1 << 30)
    pipe = LogPipe(log)
    code = "import sys\nfor _ in range(64): sys.stdout.buffer.write(b'x' * 65536)"
    child = await asyncio.create_subprocess_exec(
        "python3", "-c", code, stdout=pipe.writer, stderr=asyncio.subprocess.DEVNULL
    )
    pipe.started()
    assert await asyncio.wait_for(child.wait(), 20) == 0
    pipe.drain()
    assert log.dropped == 64 * 65536
    pipe.close()
