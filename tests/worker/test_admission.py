from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker import admission as module
from stoker.worker.admission import Verdict, retry_after_header


class Place(module.Place):
    """A place that remembers whose it is."""

    def __init__(self, lane: Lane, load: float, item: int | str) -> None:
        super().__init__(lane, load)
        self.item = item


Lane = module.Lane[Place]
Admission = module.Admission[Place]


@given(
    st.lists(st.tuples(st.sampled_from(["enter", "leave"]), st.integers(0, 30)), max_size=120),
    st.integers(1, 5),
)
def test_concurrency_is_kept_and_nobody_is_lost_or_overtaken(
    steps: list[tuple[str, int]], limit: int
) -> None:
    admission: Admission = Admission(perf=1.0)
    lane: Lane = Lane(limit)
    here: list[Place] = []
    entered: list[int] = []
    started: list[int | str] = []
    left_queue: set[int | str] = set()
    for number, (step, value) in enumerate(steps):
        if step == "enter":
            place = Place(lane, 1.0, number)
            verdict = admission.enter(place, None)
            assert verdict in (Verdict.START, Verdict.WAIT)
            here.append(place)
            entered.append(number)
            if verdict is Verdict.START:
                started.append(number)
        elif here:
            place = here.pop(value % len(here))
            if not place.working:
                left_queue.add(place.item)
            started += [p.item for p in admission.leave(place)]
        working = [p for p in here if p.working]
        waiting = [p for p in here if not p.working]
        assert len(working) == lane.working <= limit
        # Nobody waits while there is a free place.
        assert not waiting or len(working) == limit
        assert admission.load == float(len(here))
    while here:
        started += [p.item for p in admission.leave(here.pop(0))]
    assert started == [n for n in entered if n not in left_queue]


def test_two_lanes_have_places_of_their_own() -> None:
    admission: Admission = Admission()
    one: Lane = Lane(1)
    other: Lane = Lane(1)
    assert admission.enter(Place(one, 1.0, "a"), None) is Verdict.START
    assert admission.enter(Place(other, 1.0, "b"), None) is Verdict.START
    assert admission.enter(Place(one, 1.0, "c"), None) is Verdict.WAIT


def test_a_request_is_refused_when_it_would_wait_longer_than_allowed() -> None:
    admission: Admission = Admission(perf=100.0)
    lane: Lane = Lane(1)
    assert admission.enter(Place(lane, 1000.0, "working"), 30.0) is Verdict.START
    assert admission.enter(Place(lane, 2000.0, "queued"), 30.0) is Verdict.WAIT
    assert admission.expected_wait() == 30.0
    assert admission.enter(Place(lane, 700.0, "just in time"), 30.0) is Verdict.WAIT
    assert admission.enter(Place(lane, 1.0, "too late"), 30.0) is Verdict.REFUSE
    assert admission.retry_after == 7.0
    assert admission.load == 3700.0


def test_a_free_place_is_taken_whatever_the_load_at_work() -> None:
    admission: Admission = Admission(perf=1.0)
    lane: Lane = Lane(2)
    assert admission.enter(Place(lane, 1e6, "big"), 30.0) is Verdict.START
    assert admission.enter(Place(lane, 1.0, "small"), 30.0) is Verdict.START
    assert admission.enter(Place(lane, 1.0, "third"), 30.0) is Verdict.REFUSE


def test_the_wait_in_a_lane_with_places_is_until_one_of_them_is_free() -> None:
    admission: Admission = Admission(perf=100.0)
    lane: Lane = Lane(16)
    for number in range(16):
        assert admission.enter(Place(lane, 250.0, number), 0.0) is Verdict.START
    assert admission.enter(Place(lane, 250.0, "first to wait"), 2.4) is Verdict.REFUSE
    assert admission.enter(Place(lane, 250.0, "first to wait"), 2.5) is Verdict.WAIT
    assert admission.expected_wait(lane) == pytest.approx(2 / 17 * 42.5)
    assert admission.expected_wait() == 42.5


def test_without_a_limit_the_wait_inside_the_model_server_counts() -> None:
    admission: Admission = Admission(perf=1.0)
    lane: Lane = Lane(None)
    assert admission.enter(Place(lane, 31.0, "first"), 30.0) is Verdict.START
    assert admission.enter(Place(lane, 1.0, "second"), 30.0) is Verdict.REFUSE
    assert admission.retry_after == 1.0


def test_no_limit_of_time_means_none() -> None:
    admission: Admission = Admission(perf=1e-6)
    lane: Lane = Lane(1)
    admission.enter(Place(lane, 1e9, "first"), None)
    assert admission.enter(Place(lane, 1.0, "second"), None) is Verdict.WAIT


@pytest.mark.parametrize("perf", [0.0, 1e9])
def test_the_queue_is_bounded_in_length(perf: float) -> None:
    admission: Admission = Admission(perf=perf, max_queued=2)
    lane: Lane = Lane(1)
    verdicts = [admission.enter(Place(lane, 1.0, n), 30.0) for n in range(4)]
    assert verdicts == [Verdict.START, Verdict.WAIT, Verdict.WAIT, Verdict.REFUSE]


def test_leaving_twice_frees_one_place() -> None:
    admission: Admission = Admission()
    lane: Lane = Lane(1)
    places = [Place(lane, 1.0, n) for n in range(3)]
    for place in places:
        admission.enter(place, None)
    assert [p.item for p in admission.leave(places[0])] == [1]
    assert not admission.leave(places[0])
    assert lane.working == 1


@pytest.mark.parametrize(
    ("seconds", "header"), [(0.0, b"1"), (1.2, b"2"), (1e12, b"3600"), (30.0, b"30")]
)
def test_retry_after_is_in_whole_seconds_and_bounded(seconds: float, header: bytes) -> None:
    assert retry_after_header(seconds) == header
