from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.sizes import ENOUGH, MEMORY, Sizes


def sizes(*loads: float) -> Sizes:
    made = Sizes()
    for load in loads:
        made.add(load)
    return made


def test_the_ends_are_not_known_until_enough_was_seen() -> None:
    assert not sizes(*[10.0] * (ENOUGH - 1)).known
    assert sizes(*[10.0] * ENOUGH).known


@pytest.mark.parametrize("outlier", [0.0, 1e-6, 1e9])
def test_one_outlier_moves_neither_end(outlier: float) -> None:
    seen = sizes(*[100.0] * (ENOUGH - 1), outlier)
    assert 70 <= seen.low <= 100 <= seen.high <= 142


def test_what_comes_often_moves_the_end() -> None:
    assert sizes(*[100.0] * 100, *[5000.0] * 10).high >= 5000


def test_what_is_long_past_is_forgotten() -> None:
    seen = sizes(*[1e6] * 1000, *[100.0] * int(20 * MEMORY))
    assert seen.high <= 142
    assert len(seen._weights) <= 2


def test_the_mean_follows_what_comes_and_no_outlier() -> None:
    seen = sizes(*[100.0] * 200)
    assert seen.typical == pytest.approx(100)
    seen.add(1e9)
    assert seen.typical < 115
    for _ in range(1000):
        seen.add(20.0)
    assert seen.typical == pytest.approx(20, rel=0.01)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=200))
def test_the_ends_lie_within_what_was_seen(loads: list[float]) -> None:
    seen = sizes(*loads)
    largest = max(*loads, 2.0**-20) if len(loads) > 1 else max(loads[0], 2.0**-20)
    assert 0 < seen.low <= seen.high <= 1.42 * largest
