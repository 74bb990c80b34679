from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.arrivals import RECENT, WINDOW, ArrivalWindow


def test_a_steady_load_has_the_same_rate_in_all_windows() -> None:
    window = ArrivalWindow()
    for second in range(100, 220):
        window.add(30.0, second + 0.5)
    assert window.rates(219.9) == (30.0, 30.0, 30.0)


def test_a_new_burst_shows_in_the_short_window_first() -> None:
    window = ArrivalWindow()
    window.add(600.0, 1000.2)
    mean, recent, peak = window.rates(1001.0)
    assert (mean, recent, peak) == (10.0, 120.0, 120.0)


def test_a_past_burst_remains_as_the_peak_for_a_minute() -> None:
    window = ArrivalWindow()
    window.add(600.0, 1000.0)
    assert window.rates(1050.0) == (10.0, 0.0, 120.0)
    assert window.rates(1060.0) == (0.0, 0.0, 0.0)


def test_load_that_was_given_up_is_taken_back() -> None:
    window = ArrivalWindow()
    second = window.add(600.0, 1000.0)
    window.take_back(600.0, second, 1020.0)
    assert window.rates(1020.0) == (0.0, 0.0, 0.0)


def test_taking_back_what_is_long_past_changes_nothing() -> None:
    window = ArrivalWindow()
    second = window.add(600.0, 1000.0)
    window.add(60.0, 1060.0)  # the same place in the ring
    window.take_back(600.0, second, 1060.5)
    assert window.rates(1060.5)[0] == pytest.approx(1.0)


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    window = ArrivalWindow()
    window.add(60.0, 1000.0)
    window.add(60.0, 990.0)
    assert window.rates(991.0)[0] == pytest.approx(2.0)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e4, allow_nan=False, allow_infinity=False, allow_subnormal=False),
            st.floats(0, 300),
        )
    )
)
def test_the_mean_is_what_arrived_in_the_last_minute(arrivals: list[tuple[float, float]]) -> None:
    window = ArrivalWindow()
    arrivals.sort(key=lambda pair: pair[1])
    for load, at in arrivals:
        window.add(load, at)
    expected = sum(load for load, at in arrivals if int(at) > 300 - 60)
    mean, recent, peak = window.rates(300.0)
    assert mean == pytest.approx(expected / 60)
    assert 0 <= recent <= peak
    assert mean <= peak


def test_what_came_is_told_by_its_second_and_forgotten_in_the_end() -> None:
    window = ArrivalWindow()
    for second in range(10_000):
        window.add(1.0, second + 0.25)
        window.add(2.0, second + 0.75)
    window.rates(10_007.0)
    assert [window.arrived[second] for second in range(9940, 10_000)] == [(3.0, 2)] * 60
    assert len(window.arrived) <= 120


def rates_from_scratch(window: ArrivalWindow, second: int) -> tuple[float, float, float]:
    buckets = [window._buckets[at % WINDOW] for at in range(second - WINDOW + 1, second + 1)]
    fives = [sum(buckets[end - RECENT : end]) for end in range(RECENT, WINDOW + 1)]
    mean = sum(buckets) / WINDOW
    return mean, fives[-1] / RECENT, max(max(fives) / RECENT, mean)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.3, 1.0, 1.0, 7.0, 61.0, 200.0]),
            st.sampled_from(["add", "add", "revise", "rates"]),
            st.floats(0.0, 1e6),
            st.integers(0, 70),
        )
    )
)
def test_rates_are_as_if_summed_from_scratch(calls: list[tuple[float, str, float, int]]) -> None:
    window, now = ArrivalWindow(), 1000.0
    for passed, call, load, ago in calls:
        now += passed
        if call == "add":
            window.add(load, now)
        elif call == "revise":
            window.revise(-load if ago % 2 else load, int(now) - ago, now)
        else:
            assert window.rates(now) == rates_from_scratch(window, int(now))
    assert window.rates(now) == rates_from_scratch(window, int(now))


def test_what_nobody_asks_for_the_rates_of_does_not_grow() -> None:
    window = ArrivalWindow()
    for second in range(10_000):
        window.add(1.0, float(second))
    assert len(window._stale) <= 2 * WINDOW + 1
