"""Traces that are packed with gzip."""

import gzip

import pytest

from stoker.errors import ConfigError
from stoker.simulator import read_trace
from stoker.simulator import trace as traces

TEXT = b"arrival,load\n" + b"".join(b"%d,%d\n" % (n, n * 7919 % 1000) for n in range(1000))


def test_a_packed_trace_is_the_same_as_the_trace(tmp_path):
    (tmp_path / "t.csv").write_bytes(TEXT)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(TEXT))
    plain, packed = read_trace(tmp_path / "t.csv"), read_trace(tmp_path / "t.csv.gz")
    assert (packed.arrivals, packed.loads) == (plain.arrivals, plain.loads)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (gzip.compress(TEXT)[:-100], "ends too early"),
        (gzip.compress(TEXT)[:200] + b"\xff" * 200, "damaged"),
        (TEXT, "is not a gzip file"),
    ],
)
def test_a_broken_packed_trace_is_named(tmp_path, data, problem):
    (tmp_path / "t.csv.gz").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"t\.csv\.gz: .*{problem}"):
        read_trace(tmp_path / "t.csv.gz")


def test_a_line_without_an_end_is_not_unpacked_whole(tmp_path):
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a" * 1_000_000))
    with pytest.raises(ConfigError, match=r"line 1: has more than 65,536 characters"):
        read_trace(tmp_path / "t.csv.gz")


def test_what_is_unpacked_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(traces, "MAX_TEXT", 10_000)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"arrival,load\n" + b"\n" * 20_000))
    with pytest.raises(ConfigError, match=r"has more than 10,000 characters"):
        read_trace(tmp_path / "t.csv.gz")
