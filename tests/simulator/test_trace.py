"""Traces: both kinds of CSV, and mistakes with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.errors import ConfigError, StokerError
from stoker.simulator import Trace, read_trace, write_trace


def written(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_azures_columns_give_seconds_and_load(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n",
    )
    trace = read_trace(path)
    assert list(trace.arrivals) == pytest.approx([0.0, 4.314579], abs=1e-6)
    assert list(trace.loads) == pytest.approx([44 + 37.4, 109 + 39.6])
    assert list(read_trace(path, prompt_weight=0.0).loads) == [44, 109]


def test_a_day_that_ends_goes_on_in_the_next(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-12-31T23:59:59.5,1,1\n2024-01-01 00:00:01+00:00,1,1\n",
    )
    assert list(read_trace(path).arrivals) == pytest.approx([0.0, 1.5])


def test_plain_columns_may_come_in_any_order_and_lines_too(tmp_path: Path) -> None:
    path = written(tmp_path, "load,key,arrival\r\n5,a,12\r\n\r\n7,b,10.5\r\n")
    trace = read_trace(path)
    assert list(trace.arrivals) == [0.0, 1.5]
    assert list(trace.loads) == [7.0, 5.0]
    assert (trace.duration, trace.load, len(trace)) == (1.5, 12.0, 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: must name the columns TIMESTAMP,ContextTokens,GeneratedTokens or arrival"),
        ("when,load\n1,2\n", "found: when, load"),
        ("arrival,load\n", "has no request"),
        ("arrival,load\n1,2\n3\n", "line 3: has 1 columns, needs 2"),
        ("arrival,load\n1,2\n3,four\n", "line 3: load is no number: 'four'"),
        ("arrival,load\n1,-2\n", "line 2: load must be a number of at least 0, not -2"),
        ("arrival,load\nnan,2\n", "line 2: arrival must be a number of at least 0, not nan"),
        ("arrival,load\n1,1e12\n", "line 2: its load is above 1e+09"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n",
            "line 2: TIMESTAMP is no date and time: 'yesterday'",
        ),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,x,2\n",
            "line 2: ContextTokens is no number: 'x'",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_trace(written(tmp_path, text))
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"arrival,load\n\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_trace(tmp_path / "binary.csv")


@given(
    requests=st.lists(
        st.tuples(
            st.floats(0, 1e5).map(lambda v: round(v, 6)),
            st.floats(0, 1e6).map(lambda v: float(f"{v:.6g}")),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_written_is_read_again(
    requests: list[tuple[float, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trace") / "t.csv"
    trace = Trace.of("t", requests)
    write_trace(trace, path)
    again = read_trace(path)
    first = trace.arrivals[0]
    assert list(again.arrivals) == pytest.approx([at - first for at in trace.arrivals], abs=1e-5)
    assert sorted(again.loads) == sorted(trace.loads)
