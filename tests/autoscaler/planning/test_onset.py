"""When a burst begins, and what load it is likely to bring."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.planning.onset import ALARM, LAST, LONGEST, MOST, Onsets

SLOTS = 12.0
"""Seconds in which a worker of 400 load/s does 16 requests of 300 load units."""

LEAD = 3.0
"""Workers come in 5 s, and requests may wait for 2 s."""

RNG = random.Random(7)


def run(onsets: Onsets, requests: list[float]) -> Onsets:
    for came in requests:
        onsets.step(came, SLOTS, LEAD)
    return onsets


def burst(rate: float, seconds: int, quiet: int = 100) -> list[float]:
    return [rate] * seconds + [0.0] * quiet


def poisson(rate: float) -> float:
    """A number of arrivals in a second (Knuth's method)."""
    limit, product, number = math.exp(-rate), RNG.random(), 0
    while product > limit:
        product, number = product * RNG.random(), number + 1
    return float(number)


def test_a_burst_out_of_silence_is_recognised_in_its_first_second() -> None:
    assert run(Onsets(), [0.0] * 60 + [10.0]).on


def test_a_burst_above_a_steady_load_is_recognised_within_two_seconds() -> None:
    onsets = run(Onsets(), [2.0] * 120)
    assert not onsets.on
    assert run(onsets, [12.0] * 2).on


def test_nothing_is_told_where_there_is_no_burst() -> None:
    onsets = run(Onsets(), [3.0] * 120)
    assert (onsets.on, onsets.rate()) == (False, 0.0)


def test_of_the_first_burst_what_came_of_it_so_far_is_told() -> None:
    onsets = run(Onsets(), [0.0] * 60 + [10.0] * 2)
    assert onsets.rate() == pytest.approx(10)


def test_a_burst_is_expected_to_bring_what_the_last_one_brought() -> None:
    onsets = run(Onsets(), [0.0] * 60 + burst(20.0, 60))
    assert onsets.bursts == 1
    assert onsets.typical == pytest.approx(20, rel=0.05)
    # It begins slowly.
    rate = run(onsets, [8.0]).rate()
    assert rate > 0.9 * 20 * onsets.enough > 8


def test_the_longer_a_burst_lasts_the_less_those_before_it_count() -> None:
    onsets = run(Onsets(), [0.0] * 60 + burst(20.0, 60))
    told = [run(onsets, [8.0]).rate() for _ in range(40)]
    assert told == sorted(told, reverse=True)
    assert told[-1] < 12


def test_less_capacity_than_its_rate_is_enough_for_a_short_burst() -> None:
    """19 requests/s for 20 s: 9.8 workers of 1.33 requests/s each, not 14.3."""
    onsets = run(Onsets(), [0.0] * 60 + burst(19.0, 20))
    assert onsets.typical * onsets.enough == pytest.approx(9.8 * 16 / SLOTS, rel=0.05)


def test_a_long_burst_needs_nearly_all_of_its_rate() -> None:
    onsets = run(Onsets(), [0.0] * 60 + burst(19.0, 240))
    assert onsets.enough > 0.9


def test_a_burst_is_over_a_few_seconds_after_it_ends() -> None:
    onsets = run(Onsets(), [0.0] * 60 + [20.0] * 30)
    assert onsets.on
    assert not run(onsets, [0.0] * LAST).on


def test_a_second_of_silence_does_not_end_a_burst() -> None:
    onsets = run(Onsets(), [0.0] * 60 + [20.0] * 10 + [0.0] + [20.0] * 10)
    assert onsets.on
    assert onsets.bursts == 0


def test_what_lasts_is_the_usual_rate() -> None:
    onsets = run(Onsets(), [0.0] * 60 + [20.0] * (int(LONGEST) + 60))
    assert not onsets.on


def test_a_load_that_rises_slowly_is_no_burst() -> None:
    onsets = Onsets()
    for second in range(1800):
        assert not run(onsets, [1 + second / 180]).on


@pytest.mark.parametrize("rate", [0.4, 4.0, 30.0])
def test_a_steady_load_hardly_ever_looks_like_a_burst_and_then_not_like_a_high_one(
    rate: float,
) -> None:
    onsets, alarms, was = Onsets(), 0, False
    for _ in range(7200):
        run(onsets, [poisson(rate)])
        alarms += onsets.on and not was
        was = onsets.on
    assert alarms <= 7
    assert onsets.typical <= 2.5 * rate + 1


def test_silence_that_is_passed_in_one_go_ends_a_burst() -> None:
    onsets = run(Onsets(), [0.0] * 60 + [20.0] * 10)
    onsets.step(0.0, SLOTS, LEAD, seconds=10.0)
    assert not onsets.on
    assert onsets.bursts == 1


def test_so_many_requests_as_are_a_burst_are_more_than_a_few() -> None:
    assert not run(Onsets(), [0.0] * 60 + [ALARM]).on


@given(
    st.lists(
        st.tuples(
            st.floats(allow_nan=True, allow_infinity=True) | st.integers(0, 40).map(float),
            st.floats(1e-6, 1e6),
            st.sampled_from([1.0, 1.0, 1.0, 10.0, 1e6]),
        ),
        max_size=80,
    )
)
def test_whatever_comes_what_is_told_is_finite_and_no_more_than_came(
    steps: list[tuple[float, float, float]],
) -> None:
    onsets, highest = Onsets(), 0.0
    for requests, slots_seconds, seconds in steps:
        onsets.step(requests, slots_seconds, LEAD, seconds=seconds)
        if requests > 0:
            highest = max(highest, min(requests, MOST))
        assert 0 <= onsets.rate() <= highest * (1 + 1e-9)
        assert 0 <= onsets.enough <= 1
        assert len(onsets._last) <= 10
