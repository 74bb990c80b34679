from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker import metering
from stoker.worker.metering import Meter


class Request:
    """What a meter counts."""

    def __init__(self, request_idx: int, load: float, now: float) -> None:
        self.request_idx = request_idx
        self.load = self.estimate = load
        self.served = 0.0
        self.silent = False
        self.path = "/"
        self.entered_queue_at = now
        self.work_started_at: float | None = None


def accept(meter: Meter, request_idx: int, load: float, now: float) -> Request:
    request = Request(request_idx, load, now)
    meter.accepted(request)
    return request


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 1000)),
        st.tuples(st.just("refuse"), st.integers(0, 1000)),
        st.tuples(st.just("Success"), st.integers(0, 20)),
        st.tuples(st.just("Error"), st.integers(0, 20)),
        st.tuples(st.just("Cancelled"), st.integers(0, 20)),
        st.tuples(st.just("grow"), st.integers(0, 20)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("report accepted"), st.just(0)),
        st.tuples(st.just("report failed"), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS)
def test_accepted_reports_add_up_to_the_truth_whatever_failed_between(
    steps: list[tuple[str, int]],
) -> None:
    meter = Meter()
    live: list[Request] = []
    taken = None
    told = {"new": 0.0, "rej": 0.0, "served": 0.0, "received": 0}
    truth = {"new": 0.0, "rej": 0.0, "served": 0.0, "received": 0}

    def tell() -> None:
        assert taken is not None
        told["new"] += taken.new_load
        told["rej"] += taken.rej_load
        told["served"] += taken.cur_perf
        told["received"] += taken.received

    for number, (step, value) in enumerate(steps):
        if step == "accept":
            live.append(accept(meter, number, float(value), float(number)))
            truth["new"] += value
            truth["received"] += 1
        elif step == "refuse":
            meter.refused(number, float(value), float(number))
            truth["rej"] += value
            truth["received"] += 1
        elif step == "grow":
            if live:
                request = live[value % len(live)]
                request.load += value
                meter.grow(request, float(value))
                truth["new"] += value
        elif step in ("Success", "Error", "Cancelled"):
            if live:
                request = live.pop(value % len(live))
                meter.ended(request, step, float(number))
                truth["served"] += request.load if step == "Success" else 0
                truth["new"] -= request.load if step == "Cancelled" else 0
        elif step == "take":
            if taken is None:
                taken = meter.take()
        elif taken is not None:
            if step == "report accepted":
                tell()
            else:
                meter.put_back(taken)
            taken = None
        assert meter.cur_load == sum(request.load for request in live)
        assert meter.live == len(live)
    if taken is not None:
        tell()
    taken = meter.take()
    tell()
    assert told == truth


@given(
    st.lists(st.sampled_from(["finish", "take", "told", "failed"]), max_size=60),
    st.integers(1, 5),
)
def test_finished_requests_are_told_once_and_in_order(steps: list[str], batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metering, "MAX_BATCH", batch)
        meter = Meter()
        told: list[int] = []
        count = 0
        taken = None
        for step in steps:
            if step == "finish":
                meter.ended(accept(meter, count, 1.0, 0.0), "Success", 1.0)
                count += 1
            elif step == "take":
                taken = meter.take_finished() if taken is None else taken
                assert len(taken) <= batch
            elif taken is not None:
                if step == "told":
                    told += [request.request_idx for request in taken]
                else:
                    meter.put_back_finished(taken)
                taken = None
        told += [request.request_idx for request in taken or []]
        while rest := meter.take_finished():
            told += [request.request_idx for request in rest]
        assert told == list(range(count))


def test_many_finished_requests_are_told_in_parts() -> None:
    meter = Meter()
    for number in range(metering.MAX_BATCH + 1):
        meter.ended(accept(meter, number, 1.0, 0.0), "Success", 1.0)
    assert [len(meter.take_finished()) for _ in range(3)] == [metering.MAX_BATCH, 1, 0]


def test_a_request_that_ends_twice_counts_once() -> None:
    meter = Meter()
    request = accept(meter, 1, 5.0, 0.0)
    meter.ended(request, "Success", 1.0)
    meter.ended(request, "Cancelled", 2.0)
    figures = meter.take()
    assert (figures.new_load, figures.cur_perf) == (5.0, 5.0)
    assert [r.status for r in meter.take_finished()] == ["Success"]


def test_memory_is_bounded_while_the_control_plane_is_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metering, "MAX_FINISHED", 10)
    meter = Meter()
    for number in range(25):
        if number % 2:
            meter.refused(number, 1.0, 1.0, path="/")
        else:
            meter.ended(accept(meter, number, 1.0, 0.0), "Success", 1.0)
        assert len(meter._finished) <= 10
        if number == 20:
            taken = meter.take_finished()
    meter.put_back_finished(taken)
    kept = [request.request_idx for request in meter.take_finished()]
    assert kept == [*range(15, 25)]
    assert meter.forgotten == 15


def test_a_finished_request_says_when_it_came_began_and_ended() -> None:
    meter = Meter()
    request = accept(meter, 7, 5.0, 10.0)
    request.work_started_at = 11.0
    meter.ended(request, "Error", 12.5)
    (finished,) = meter.take_finished()
    assert (finished.request_idx, finished.success, finished.status) == (7, False, "Error")
    assert (finished.entered_queue_at, finished.work_started_at) == (10.0, 11.0)
    assert finished.work_completed_at == 12.5


def test_a_refused_request_is_told_as_rejected() -> None:
    meter = Meter()
    meter.refused(3, 50.0, 1.0)
    assert [r.status for r in meter.take_finished()] == ["Rejected"]
    assert meter.cur_load == 0.0


def test_requests_at_work_are_named_but_not_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metering, "MAX_WORKING_IDXS", 2)
    meter = Meter()
    first = accept(meter, 1, 1.0, 0.0)
    for number in (2, 3):
        accept(meter, number, 1.0, 0.0)
    assert meter.working_requests() == ([1, 2], [1.0, 1.0])
    meter.ended(first, "Success", 1.0)
    assert meter.working_requests() == ([2, 3], [1.0, 1.0])


def test_what_is_known_to_be_served_counts_at_once_and_is_no_load_any_more() -> None:
    meter = Meter()
    request = accept(meter, 1, 100.0, 0.0)
    request.load -= 30.0
    meter.progress(request, served=30.0, off=30.0)
    assert meter.cur_load == 70.0
    assert meter.take().cur_perf == 30.0
    meter.ended(request, "Success", 1.0)
    assert meter.take().cur_perf == 70.0
    assert meter.served == 100.0


def test_a_load_that_turned_out_otherwise_takes_the_place_of_the_estimate() -> None:
    meter = Meter()
    request = accept(meter, 1, 100.0, 0.0)
    meter.progress(request, served=10.0, off=10.0)
    request.load -= 10.0
    meter.ended(request, "Success", 1.0, actual=40.0)
    figures = meter.take()
    assert (figures.new_load, figures.cur_perf, meter.cur_load) == (40.0, 40.0, 0.0)


def test_what_was_turned_down_is_no_load_that_came() -> None:
    meter = Meter()
    request = accept(meter, 1, 1e6, 0.0)
    meter.ended(request, "Error", 1.0, actual=2.0)
    figures = meter.take()
    assert (figures.new_load, figures.cur_perf, meter.cur_load) == (2.0, 0.0, 0.0)
    assert meter.take_finished()[0].load == 2.0


def test_what_a_cancelled_request_was_served_stays_in_the_figures() -> None:
    meter = Meter()
    request = accept(meter, 1, 100.0, 0.0)
    meter.progress(request, served=25.0, off=25.0)
    request.load -= 25.0
    meter.ended(request, "Cancelled", 1.0)
    figures = meter.take()
    assert (figures.new_load, figures.cur_perf) == (25.0, 25.0)


def test_a_request_within_a_session_is_counted_and_not_told() -> None:
    meter = Meter()
    request = accept(meter, 1, 5.0, 0.0)
    request.silent = True
    assert meter.working_requests() == ([], [])
    meter.ended(request, "Success", 1.0)
    meter.refused(1, 5.0, 2.0, silent=True)
    figures = meter.take()
    assert (figures.new_load, figures.rej_load, figures.received) == (5.0, 5.0, 2)
    assert meter.take_finished() == []


ENDS = st.sampled_from(["Success", "Error", "Cancelled"])
LOADS = st.integers(0, 1000)


@given(st.lists(st.tuples(LOADS, LOADS, st.none() | LOADS, ENDS), max_size=30))
def test_in_the_end_what_came_less_what_was_lost_is_what_was_served(
    requests: list[tuple[int, int, int | None, str]],
) -> None:
    meter = Meter()
    lost = 0.0
    for number, (load, passed, actual, end) in enumerate(requests):
        request = accept(meter, number, float(load), 0.0)
        off = min(float(passed), request.load)
        request.load -= off
        meter.progress(request, float(passed), off)
        meter.ended(request, end, 1.0, actual=None if actual is None else float(actual))
        lost += (load if actual is None else actual) - passed if end == "Error" else 0.0
    figures = meter.take()
    assert figures.new_load - lost == pytest.approx(figures.cur_perf)
    assert meter.served == pytest.approx(figures.cur_perf)
    assert meter.cur_load == 0.0
