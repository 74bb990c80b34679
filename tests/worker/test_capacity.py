from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker.admission import Admission, Lane, Place, Verdict
from stoker.worker.capacity import BOUND, WINDOW, Capacity


def saturated(capacity: Capacity, rate: float, seconds: int, begin: float = 0.0) -> None:
    """A look each second at a model server that serves `rate` and is saturated."""
    for second in range(seconds + 1):
        now = begin + second
        capacity.observe(now, now * rate, saturated=True, request_seconds=1.0)


def measured(perf: float = 100.0) -> Capacity:
    capacity = Capacity()
    capacity.measured(perf)
    return capacity


def test_the_benchmark_counts_until_more_is_known() -> None:
    assert measured().perf == 100.0


def test_each_window_under_saturation_moves_perf_half_of_the_way() -> None:
    capacity = measured()
    saturated(capacity, 60.0, 10)
    assert capacity.perf == 80.0
    saturated(capacity, 60.0, 20, begin=10.0)
    assert capacity.perf == 65.0
    assert capacity.corrections == 3


def test_without_saturation_nothing_is_learnt() -> None:
    capacity = measured()
    for second in range(100):
        capacity.observe(float(second), second * 5.0, saturated=False, request_seconds=1.0)
    assert capacity.perf == 100.0


def test_a_moment_without_saturation_begins_the_window_anew() -> None:
    capacity = measured()
    for second in range(100):
        now, full = float(second), second % 9 != 0
        capacity.observe(now, now * 60.0, saturated=full, request_seconds=1.0)
    assert capacity.perf == 100.0


def test_requests_that_take_long_make_the_window_longer() -> None:
    capacity = measured()
    for second in range(61):
        # Served all at once when the requests end, after 30 s each.
        served = (second // 30) * 1800.0
        capacity.observe(float(second), served, saturated=True, request_seconds=30.0)
    assert capacity.perf == 80.0


def test_a_new_benchmark_counts_more_than_what_was_seen_before() -> None:
    capacity = measured()
    saturated(capacity, 60.0, 10)
    capacity.measured(100.0)
    assert capacity.perf == 80.0
    capacity.measured(200.0)
    assert capacity.perf == 200.0


def test_before_the_benchmark_nothing_is_known() -> None:
    capacity = Capacity()
    saturated(capacity, 60.0, 30)
    assert capacity.perf == 0.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e9), st.booleans()), max_size=50))
def test_perf_stays_within_bounds_of_the_benchmark(
    looks: list[tuple[float, float, bool]],
) -> None:
    capacity, now, served = measured(), 0.0, 0.0
    for pause, more, full in looks:
        now, served = now + pause, served + more
        capacity.observe(now, served, saturated=full, request_seconds=1.0)
        assert 100.0 / BOUND <= capacity.perf <= 100.0 * BOUND


def place(lane: Lane[Place], load: float = 10.0) -> Place:
    return Place(lane, load)


def test_a_lane_with_all_places_taken_all_the_time_is_saturated() -> None:
    admission: Admission[Place] = Admission()
    lane: Lane[Place] = Lane(2)
    here = [place(lane) for _ in range(4)]
    for one in here:
        admission.enter(one, None)
    assert admission.take_slack([lane])  # the time before they came
    assert not admission.take_slack([lane])
    admission.leave(here[0])  # the third takes the place at once
    assert not admission.take_slack([lane])
    for one in here[1:3]:
        admission.leave(one)
    assert admission.take_slack([lane])


def test_a_place_that_was_empty_for_a_moment_is_slack() -> None:
    admission: Admission[Place] = Admission()
    lane: Lane[Place] = Lane(1)
    first = place(lane)
    admission.enter(first, None)
    admission.take_slack([lane])
    admission.leave(first)
    admission.enter(place(lane), None)
    assert admission.take_slack([lane])
    assert not admission.take_slack([lane])


def test_a_lane_without_a_limit_is_saturated_by_so_many() -> None:
    admission: Admission[Place] = Admission(full_at=2)
    lane: Lane[Place] = Lane(None)
    here = [place(lane) for _ in range(3)]
    for one in here:
        admission.enter(one, None)
    admission.take_slack([lane])
    admission.leave(here[0])
    assert not admission.take_slack([lane])
    admission.leave(here[1])
    assert admission.take_slack([lane])


def test_an_idle_worker_is_not_saturated() -> None:
    admission: Admission[Place] = Admission()
    admission.take_slack([Lane(1)])
    assert admission.take_slack([Lane(1)])


def test_what_is_served_of_a_running_request_shortens_the_wait() -> None:
    admission: Admission[Place] = Admission(perf=10.0)
    lane: Lane[Place] = Lane(1)
    one = place(lane, 100.0)
    assert admission.enter(one, 30.0) is Verdict.START
    assert admission.expected_wait() == 10.0
    assert admission.progress(one, 40.0) == 40.0
    assert admission.expected_wait() == 6.0
    assert admission.progress(one, 100.0) == 60.0
    assert admission.expected_wait() == 0.0
    admission.leave(one)
    assert admission.load == 0.0


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 2000)), max_size=30))
def test_the_load_is_what_the_requests_here_have_left(
    requests: list[tuple[float, float]],
) -> None:
    admission: Admission[Place] = Admission()
    lane: Lane[Place] = Lane(3)
    here = []
    for load, served in requests:
        one = place(lane, load)
        admission.enter(one, None)
        admission.progress(one, served)
        here.append(one)
        assert admission.load == pytest.approx(sum(p.load for p in here), abs=1e-6)
    for one in here:
        admission.leave(one)
    assert admission.load == 0.0


assert WINDOW == 10.0  # the figures above are worked out for it
