"""What is remembered of the load by the second."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.planning.history import SECONDS, LoadHistory


def feed(history: LoadHistory, loads: list[float], start: float = 0.0) -> float:
    for place, load in enumerate(loads):
        history.add(load, 1, start + place)
    return start + len(loads)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=80), st.integers(1, 120))
def test_a_mean_is_taken_over_what_is_known(loads: list[float], seconds: int) -> None:
    history = LoadHistory()
    feed(history, loads)
    used = loads[-seconds:]
    assert history.mean(seconds) == pytest.approx(sum(used) / len(used))


def test_memory_is_bounded() -> None:
    history = LoadHistory()
    feed(history, [1.0] * (SECONDS + 50))
    history.add(0.0, 0, SECONDS + 50.0, seconds=1e9)
    assert len(history) == SECONDS
    assert history.mean(SECONDS) == 0.0


def test_a_mean_counts_what_is_put_right_in_a_silence() -> None:
    history = LoadHistory()
    now = feed(history, [8.0, 0.0, 0.0, 0.0])
    assert [history.mean(seconds) for seconds in (3, 4)] == [0.0, 2.0]
    history.revise(2, 6.0, now - 2)
    assert [history.mean(seconds) for seconds in (1, 3)] == [0.0, 2.0]


def test_a_rising_load_is_expected_to_rise_on() -> None:
    history = LoadHistory()
    now = feed(history, [float(second) for second in range(400)])
    assert history.trend() == pytest.approx(1.0)
    assert history.ahead(now, 60.0, 400.0) == pytest.approx(460.0)


def test_a_trend_is_not_believed_beyond_twice_the_level_nor_below_zero() -> None:
    history = LoadHistory()
    now = feed(history, [float(second) for second in range(400)])
    assert history.ahead(now, 3600.0, 100.0) == 200.0
    falling = LoadHistory()
    now = feed(falling, [float(400 - second) for second in range(400)])
    assert falling.ahead(now, 3600.0, 5.0) == 0.0


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.floats(0, 1000)),
            st.tuples(st.just("revise"), st.floats(-100, 100)),
        ),
        max_size=20,
    )
)
def test_what_is_remembered_of_what_is_expected_is_what_would_be_worked_out(
    steps: list[tuple[str, float]],
) -> None:
    history = LoadHistory()
    now = feed(history, [float(second % 90) for second in range(400)])
    for what, figure in steps:
        if what == "add":
            history.add(figure, 1, now)
            now += 1
        else:
            history.revise(3, figure, now - 3)
        level = history.mean(60)
        remembered = [history.ahead(now, 30.0, level) for _ in range(2)]
        change = min(level, history.trend() * 30.0)
        assert remembered == [max(0.0, level + change)] * 2
