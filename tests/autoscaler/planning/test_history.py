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
