"""Logs of an instance directory, as they are read and followed."""

import os

import pytest

from stoker.launcher import InstanceManifest, write_manifest
from stoker.providers import reading
from stoker.providers.folder import Folder


class Directory:
    """An instance directory whose logs a test writes."""

    def __init__(self, path):
        self.path = path
        self.folder = Folder(path)
        self.after = ""

    def write(self, text, name="model", mode="a"):
        with (self.path / f"{name}.log").open(mode, newline="") as file:
            file.write(text)

    def rotate(self):
        (self.path / "model.log").rename(self.path / "model.log.1")

    def read(self, *logs, tail=100):
        """What is new in some logs since the last call."""
        part = reading.read_logs(self.folder, logs or ("model",), tail, self.after)
        self.after = part.after
        return [line.text for line in part.lines]


@pytest.fixture
def directory(tmp_path):
    return Directory(tmp_path)


def test_the_last_lines_come_first_and_then_what_is_new(directory):
    directory.write("one\ntwo\nthree\n")
    assert directory.read(tail=2) == ["two", "three"]
    assert directory.read() == []
    directory.write("four\n")
    assert directory.read() == ["four"]


def test_a_line_is_told_when_it_is_whole(directory):
    directory.write("begin\n")
    directory.read()
    directory.write("half")
    assert directory.read() == []
    directory.write(" and half\n")
    assert directory.read() == ["half and half"]


def test_the_last_line_of_a_log_that_ended_without_one_is_told(directory):
    directory.write("fine\nKilled")
    assert directory.read() == ["fine", "Killed"]


def test_a_log_that_comes_later_is_read_from_its_beginning(directory):
    assert directory.read() == []
    directory.write("here\n")
    assert directory.read() == ["here"]


def test_a_rotated_log_is_read_on_in_both_files(directory):
    directory.write("one\n")
    directory.read()
    directory.write("two\n")
    directory.rotate()
    directory.write("three\n")
    assert directory.read() == ["two", "three"]
    assert directory.read() == []


def test_a_log_that_was_emptied_is_read_from_its_beginning(directory):
    directory.write("a long line of the former boot\n")
    directory.read()
    directory.write("new\n", mode="w")
    assert directory.read() == ["new"]


def test_logs_are_followed_each_by_itself(directory):
    directory.write("m1\n")
    directory.write("w1\n", "worker")
    assert directory.read("model", "worker") == ["m1", "w1"]
    directory.write("w2\n", "worker")
    assert directory.read("model", "worker") == ["w2"]


def test_secrets_of_the_manifest_are_hidden(directory):
    write_manifest(
        directory.path,
        InstanceManifest(
            instance_id="local-1",
            worker_id=1,
            mtoken="the-workers-secret",
            endpoint="e",
            backend="vllm",
            report_addr="http://127.0.0.1:1",
        ),
    )
    directory.write("mtoken=x the-workers-secret api_key=abc\n")
    assert directory.read() == ["mtoken=*** *** api_key=***"]


def test_a_huge_log_is_read_in_bounded_parts(directory, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 1000)
    directory.write("".join(f"line {n:04}\n" for n in range(500)))
    first = directory.read(tail=10_000)
    assert first[-1] == "line 0499"
    assert sum(len(line) + 1 for line in first) <= 1000
    directory.write("".join(f"more {n:04}\n" for n in range(500)))
    seen = []
    while part := directory.read():
        assert sum(len(line) + 1 for line in part) <= 1000
        seen += part
    assert seen == [f"more {n:04}" for n in range(500)]


def test_a_line_without_end_is_cut_and_its_rest_is_skipped(directory, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 1000)
    monkeypatch.setattr(reading, "MAX_LINE", 100)
    directory.write("begin\n")
    directory.read()
    directory.write("x" * 2500 + " the end of a secret\nnext\n")
    seen = [line for _ in range(5) for line in directory.read()]
    assert seen[0] == "x" * 99 + "…"
    assert seen[-1] == "next"
    assert not any("secret" in line for line in seen)


def test_of_a_line_that_was_written_over_the_last_text_is_told(directory):
    directory.write("10 %\r50 %\r100 %\ndos\r\n")
    assert directory.read() == ["100 %", "dos"]


@pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
def test_only_a_regular_file_is_read(directory, kind, tmp_path):
    secret = tmp_path / "secret.key"
    secret.write_text("swordfish\n")
    log = tmp_path / "model.log"
    if kind == "link":
        log.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(log)
    else:
        log.mkdir()
    assert directory.read() == []


@pytest.mark.parametrize(
    "after", ["x", "model:1:2", "model:-1:2:0", "model:1:" + "9" * 40 + ":0", "../secret:1:0:0"]
)
def test_a_place_that_makes_no_sense_counts_as_not_read(directory, after):
    directory.write("one\n")
    directory.after = after
    assert directory.read() == ["one"]


def test_a_log_that_no_instance_has_is_not_read(directory, tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    assert directory.read("../model", "manifest.json", "nothing") == []
