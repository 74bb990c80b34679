"""Load of long requests is counted while it is worked off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.planning.longest import AT_ONCE, LONGEST, LongRequests

PERF, SLOTS, MEAN = 400.0, 16.0, 300.0


def step(long: LongRequests, second: int, load: float, requests: float, **more: float) -> float:
    figures = {"mean_load": MEAN, "present": 8.0, "perf": PERF, "slots": SLOTS, **more}
    return long.step(second, load, requests, **figures)


def served(speed: float = 100.0) -> LongRequests:
    """One that has seen eight requests being served, each at `speed`."""
    long = LongRequests()
    for second in range(-600, 0):
        step(long, second, 8 * speed, 8 * speed / MEAN)
    assert long.speed(PERF, SLOTS) == pytest.approx(speed)
    return long


def test_a_second_of_usual_requests_counts_at_once() -> None:
    long = served()
    usual = (4 + AT_ONCE) * MEAN
    assert step(long, 0, usual, 4) == usual
    assert step(long, 1, 0.0, 0) == 0.0


def test_a_long_request_counts_at_the_speed_at_which_one_is_served() -> None:
    long = served(100.0)
    first = step(long, 0, 60_000.0, 1)
    assert first == pytest.approx((1 + AT_ONCE) * MEAN + 100, rel=0.05)
    after = [step(long, second, 800.0, 800 / MEAN) for second in range(1, 300)]
    # Eight requests are served as before, and this one beside them.
    assert after == pytest.approx([900.0] * 299, rel=0.05)


def test_all_of_it_is_counted_in_the_end() -> None:
    long = served()
    counted = [step(long, 0, 9000.0, 1)]
    counted += [step(long, second, 0.0, 0) for second in range(1, 200)]
    assert sum(counted) == pytest.approx(9000.0)
    assert counted[-1] == 0.0


def test_seconds_that_are_passed_in_one_go_count_as_much_as_one_by_one() -> None:
    long = served()
    counted = step(long, 0, 9000.0, 1)
    for second in range(1, 400, 10):
        counted += 10 * step(long, second, 0.0, 0, seconds=10.0)
    assert counted == pytest.approx(9000.0)


def test_until_a_speed_was_seen_a_request_is_taken_to_have_a_worker_for_itself() -> None:
    long = LongRequests()
    assert step(long, 0, 9000.0, 1) == (1 + AT_ONCE) * MEAN + PERF


@pytest.mark.parametrize(("speed", "least"), [(1.0, PERF / SLOTS), (5000.0, PERF)])
def test_no_request_is_slower_than_a_full_worker_nor_faster_than_an_idle_one(
    speed: float, least: float
) -> None:
    long = LongRequests()
    for second in range(100):
        step(long, second, 8 * speed, 8)
    assert long.speed(PERF, SLOTS) == pytest.approx(least)


def test_what_was_claimed_too_much_is_not_counted_any_more() -> None:
    long = served()
    counted = step(long, 0, 1e6, 1)
    counted += long.revise(0, 300.0 - 1e6, 1, MEAN)
    counted += sum(step(long, second, 0.0, 0) for second in range(1, 100))
    assert counted == pytest.approx(300.0, abs=1e-6)


def test_what_turns_out_to_be_long_is_counted_while_it_is_worked_off() -> None:
    long = served()
    step(long, 0, 300.0, 1)
    assert long.revise(0, 9000.0, 1, MEAN) == (1 + AT_ONCE) * MEAN
    assert step(long, 1, 800.0, 800 / MEAN) == pytest.approx(900.0, rel=0.05)


def test_nothing_is_counted_for_longer_than_an_hour() -> None:
    long = served()
    step(long, 0, 1e9, 1)
    last = int(LONGEST)
    assert step(long, last, 0.0, 0) > 0
    assert step(long, last + 1, 0.0, 0) == 0


@given(
    st.lists(
        st.tuples(st.floats(0, 1e9), st.integers(0, 50), st.floats(-1e9, 1e9), st.integers(0, 5)),
        max_size=30,
    )
)
def test_no_more_is_counted_than_came(steps: list[tuple[float, int, float, int]]) -> None:
    long = LongRequests()
    came = counted = 0.0
    for second, (load, requests, change, ago) in enumerate(steps):
        counted += step(long, second, load, requests)
        came += load
        by = max(change, -load)
        came += max(0.0, by)
        now = long.revise(second - ago, by, requests, MEAN)
        assert min(0.0, by) <= now <= max(0.0, by)
    assert 0 <= counted <= came * (1 + 1e-9) + 1e-6


def test_what_is_put_right_a_thousand_times_takes_no_more_room() -> None:
    long = served()
    for _ in range(1000):
        long.revise(0, 1e6, 1, MEAN)
    assert len(long._rests) == 1
    for second in range(2 * int(LONGEST)):
        step(long, second, 1e9, 1)
    assert len(long._rests) <= LONGEST
