"""The memory of an endpoint's load, and what it asks for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler.arrivals import ArrivalWindow, Demand
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    Forecaster,
    GroupSnapshot,
    Outlook,
    WorkerSnapshot,
)
from stoker.autoscaler.planning.errors import ForecastErrors
from stoker.autoscaler.planning.history import LoadHistory
from stoker.autoscaler.planning.season import DAY, SLOT, SLOTS, Recurring
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters

WORKER = WorkerSnapshot(
    id=1, workergroup_id=1, state=WorkerState.READY, state_since=0.0, perf=100.0, slots=4
)
ENDPOINT = EndpointSnapshot(
    endpoint_id=1,
    name="e",
    parameters=EndpointParameters(),
    demand=Demand(),
    workers=(WORKER,),
    groups=(GroupSnapshot(id=1, perf=100.0, create_seconds=30.0, start_seconds=5.0),),
)


class Endpoint:
    """Drives a forecaster second by second, with requests of 50 load units."""

    def __init__(self, snapshot: EndpointSnapshot = ENDPOINT) -> None:
        self.snapshot = snapshot
        self.forecaster = Forecaster()
        self.load = 0.0
        self.count = 0
        self.now = 1000.0

    def second(self, load: float, **demand: float) -> Outlook:
        self.now += 1
        self.load += load
        self.count += math.ceil(load / 50)
        told = Demand(arrived_load=self.load, arrived_count=self.count)
        for name, value in demand.items():
            told = replace(told, **{name: value})
        return self.forecaster.observe(replace(self.snapshot, demand=told), self.now)

    def run(self, loads: list[float]) -> Outlook:
        return [self.second(load) for load in loads][-1]


def test_a_steady_load_needs_what_it_is_over_target_util() -> None:
    outlook = Endpoint().run([300.0] * 300)
    assert outlook.predicted == pytest.approx(300.0)
    assert 300.0 - 1e-3 <= outlook.needed <= 500.0


def test_what_is_over_the_slots_is_worked_off_in_target_queue_time() -> None:
    endpoint = Endpoint()
    before = endpoint.run([50.0] * 120)
    after = endpoint.second(50.0, held_count=100, held_load=5000.0)
    assert after.clearing == pytest.approx((100 - 0.6 * 4) * 50 / 10)
    assert after.needed >= before.needed + after.clearing - 1e-3
    assert "over the workers' slots" in after.why


def test_those_over_the_slots_are_no_larger_for_a_long_request_that_has_a_slot() -> None:
    endpoint = Endpoint()
    for _ in range(120):
        endpoint.second(50.0, booked_count=1, booked_load=50.0)
    endpoint.count -= 1999  # 100,000 load units are one request, and not 2,000
    there = {"booked_count": 20, "booked_load": 100_000.0 + 19 * 50}
    at_once = endpoint.second(100_000.0, **there)
    later = [endpoint.second(50.0, **there) for _ in range(20)]
    for outlook in (at_once, *later):
        # They are of 50 and not, as the mean of all that are there, of 5,000.
        assert 0 < outlook.clearing < (20 - 0.6 * 4) * 500 / 10


def after_two_nights() -> Endpoint:
    """450 load/s each night from 2:00 to 2:30, and it is 1:50 now; no worker can be stopped."""
    endpoint = Endpoint(replace(ENDPOINT, workers=(replace(WORKER, stoppable=False),)))
    for day in range(2):
        for slot in range(SLOTS):
            load = 450.0 if 24 <= slot < 30 else 0.0
            endpoint.forecaster.history.add(load, 1, day * DAY + slot * SLOT, seconds=SLOT)
    endpoint.forecaster.history.add(0.0, 0, 2 * DAY, seconds=6600.0)
    endpoint.now = 2 * DAY + 6600.0
    return endpoint


def test_what_comes_each_night_is_prepared_for_as_long_before_as_a_worker_takes_to_come() -> None:
    endpoint = after_two_nights()
    quiet = endpoint.run([1.0] * (600 - 39))
    assert quiet.binds != "season"
    assert quiet.needed < 100.0
    # 1.25 x 30 s before.
    ready = endpoint.run([1.0] * 2)
    assert ready.binds == "season"
    assert ready.needed == pytest.approx(450.0 / 0.9)
    assert ready.for_load == ready.needed
    assert ready.why == (
        "what came on both of the last two days within 38 s of this time, as far as it came "
        "lately, needs 500.0/s"
    )


def test_a_monday_is_prepared_for_after_a_weekend_of_nothing() -> None:
    endpoint = Endpoint(replace(ENDPOINT, workers=(replace(WORKER, stoppable=False),)))
    history = endpoint.forecaster.history
    for day in range(7):
        for slot in range(SLOTS):
            load = 450.0 if 108 <= slot < 204 and day < 5 else 0.0
            history.add(load, 1, day * DAY + slot * SLOT, seconds=SLOT)
    history.add(0.0, 0, 7 * DAY, seconds=32_340.0)  # 8:59
    endpoint.now = 7 * DAY + 32_340.0
    ready = endpoint.run([1.0] * 30)
    assert ready.binds == "season"
    assert ready.needed == pytest.approx(450.0 / 0.9)
    assert ready.why == (
        "what came on this day of the week within 38 s of this time, as far as it came lately, "
        "needs 500.0/s"
    )


def test_what_comes_each_night_is_let_go_where_it_does_not_come() -> None:
    endpoint = after_two_nights()
    endpoint.run([1.0] * 650)
    assert endpoint.run([1.0] * 300).needed < 100.0


def test_it_is_told_how_far_what_recurs_is_believed() -> None:
    endpoint = after_two_nights()
    assert endpoint.run([1.0] * 10).recurring == Recurring(0.0, 0.0, "day")
    ready = endpoint.run([1.0] * (600 - 30))
    assert ready.recurring == Recurring(450.0, 450.0, "day")
    assert ready.recurring_seconds == pytest.approx(1.25 * 30)
    # A third of it comes.
    believed = endpoint.run([150.0] * 900).recurring
    assert believed is not None
    assert believed.expected == 450.0
    assert believed.belief == pytest.approx(1 / 3, abs=0.1)


def test_stopped_workers_start_just_before_it_and_missing_ones_are_created_earlier() -> None:
    endpoint = after_two_nights()
    slow = replace(ENDPOINT.groups[0], create_seconds=200.0)
    endpoint.snapshot = replace(ENDPOINT, groups=(slow,))
    early = endpoint.run([1.0] * (600 - 251))
    assert early.reserve == 0.0
    created = endpoint.run([1.0] * 2)
    assert created.reserve == pytest.approx(450.0 / 0.9)
    assert created.needed < 100.0
    # 1.25 x 5 s before.
    assert endpoint.run([1.0] * 240).binds != "season"
    assert endpoint.run([1.0] * 8).needed == pytest.approx(450.0 / 0.9)


def test_nothing_is_prepared_where_a_timeout_says_when_the_last_worker_goes() -> None:
    endpoint = after_two_nights()
    asked = EndpointParameters(min_load=0.0, inactivity_timeout=5.0)
    endpoint.snapshot = replace(endpoint.snapshot, parameters=asked)
    outlook = endpoint.run([1.0] * 590)
    assert outlook.binds != "season"
    assert outlook.recurring is None


def test_what_comes_each_night_finds_no_way_to_scale_late() -> None:
    prepared, surprised = after_two_nights(), after_two_nights()
    surprised.forecaster.history = LoadHistory()
    late = []
    for endpoint in (prepared, surprised):
        endpoint.run([1.0] * 600 + [450.0] * 60)
        rehearsal = endpoint.forecaster._rehearsal
        assert rehearsal is not None
        late.append(rehearsal._late.max())
    assert late[0] == 0.0
    assert late[1] > 0.0


def test_without_a_known_perf_the_mean_is_all_there_is() -> None:
    unknown = replace(
        ENDPOINT, workers=(), groups=(GroupSnapshot(id=1),), demand=Demand(arrival_rate=90.0)
    )
    outlook = Forecaster().observe(unknown, 5.0)
    assert outlook.candidate is None
    assert outlook.needed == pytest.approx(100.0)


def test_what_came_before_perf_was_known_is_rehearsed_then() -> None:
    endpoint = Endpoint(replace(ENDPOINT, workers=(), groups=(GroupSnapshot(id=1),)))
    burst = ([0.0] * 110 + [1000.0] * 10) * 4
    assert endpoint.run(burst).candidate is None
    endpoint.snapshot = ENDPOINT
    outlook = endpoint.run([0.0] * 40)
    assert outlook.candidate is not None
    assert outlook.candidate.floor >= 3
    assert outlook.needed >= 300.0
    assert "held ready" in outlook.why


def test_a_changed_cap_keeps_what_was_learnt_in_ten_minutes() -> None:
    endpoint = Endpoint()
    endpoint.run(([0.0] * 110 + [1000.0] * 10) * 5)
    parameters = EndpointParameters(max_workers=12)
    endpoint.snapshot = replace(ENDPOINT, parameters=parameters)
    outlook = endpoint.run([0.0] * 40)
    assert outlook.candidate is not None
    assert outlook.candidate.floor >= 3


def test_the_same_calls_give_the_same_answers() -> None:
    loads = [float(second * 37 % 400) for second in range(300)]
    assert Endpoint().run(loads) == Endpoint().run(loads)


def test_a_call_more_within_a_second_changes_nothing_later() -> None:
    one, two = Endpoint(), Endpoint()
    for second in range(200):
        load = 50.0 * (second % 7)
        one.second(load)
        two.second(load)
        two.forecaster.observe(
            replace(two.snapshot, demand=Demand(arrived_load=two.load, arrived_count=two.count)),
            two.now + 0.5,
        )
    assert one.second(0.0) == two.second(0.0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e5, 1e5), st.floats(0, 1e6)), min_size=1, max_size=12))
def test_a_clock_that_jumps_breaks_nothing(steps: list[tuple[float, float]]) -> None:
    endpoint = Endpoint()
    for jump, load in steps:
        endpoint.now += jump
        outlook = endpoint.second(load)
        assert math.isfinite(outlook.needed)
        assert outlook.needed >= 0
        assert all(math.isfinite(h.expected) and h.upper >= h.expected for h in outlook.horizons)


def test_an_idle_day_is_passed_in_one_go() -> None:
    endpoint = Endpoint()
    endpoint.run([200.0] * 100)
    endpoint.now += 86400.0
    outlook = endpoint.second(0.0)
    assert outlook.predicted == 0.0


def test_the_upper_forecast_is_as_far_above_as_the_forecasts_were_off() -> None:
    steady, errors = LoadHistory(), ForecastErrors()
    wild, worse = LoadHistory(), ForecastErrors()
    for second in range(3600):
        steady.add(100.0, 1, float(second))
        errors.step(steady, float(second))
        wild.add(200.0 * (second // 60 % 2), 1, float(second))
        worse.step(wild, float(second))
    assert errors.of(60.0) == pytest.approx(0.0, abs=1e-6)
    assert worse.of(60.0) > 100.0


def test_forecasts_that_wait_to_be_judged_are_bounded() -> None:
    history, errors = LoadHistory(), ForecastErrors()
    for minute in range(4000):
        errors.step(history, minute * 60.0)
    assert max(len(pending) for pending in errors._pending) <= 1441


@pytest.mark.parametrize(("slots", "full"), [(0, True), (16, False)])
def test_workers_are_full_where_their_slots_are_and_else_where_much_is_at_work(
    slots: int, full: bool
) -> None:
    """Four requests of 1,000 on a worker of 100/s: with 16 slots, the next begins at once."""
    endpoint = Endpoint(replace(ENDPOINT, workers=(replace(WORKER, slots=slots),)))
    for _ in range(120):
        endpoint.count -= 19  # of 20 that `second` counts
        endpoint.second(1000.0)
    before = endpoint.second(0.0)
    after = endpoint.second(0.0, booked_count=3, booked_load=2900.0, held_count=1, held_load=1000.0)
    assert before.clearing == 0.0
    assert (after.clearing > 100.0) is full


def test_requests_without_load_do_not_spoil_what_was_learnt() -> None:
    endpoint = Endpoint()
    endpoint.run([50.0] * 100)
    for _ in range(200):
        endpoint.count += 1000
        endpoint.second(0.0)
    outlook = endpoint.run([300.0] * 700)
    assert endpoint.forecaster._rehearsal is not None
    assert not np.isnan(endpoint.forecaster._rehearsal._late).any()
    assert 300.0 <= outlook.needed <= 600.0


NONSENSE = (math.nan, math.inf, -math.inf, 1e300, 1e30, 1e-300, -1.0, 0.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "values"),
    [
        # One after the other: to see each time that it is over takes 900 s.
        *((name, NONSENSE) for name in ("perf", "create_seconds", "start_seconds")),
        *((name, NONSENSE) for name in ("held_load", "booked_load")),
        *(("arrived_load", (value,)) for value in NONSENSE),
    ],
)
def test_a_figure_that_means_nothing_is_passed_over(name: str, values: tuple[float]) -> None:
    endpoint = Endpoint()
    endpoint.run([300.0] * 30)
    good, demand = endpoint.snapshot, {}
    outlooks = []
    for bad in values:
        if name == "perf":
            endpoint.snapshot = replace(good, workers=(WORKER, replace(WORKER, id=2, perf=bad)))
        elif name.endswith("seconds"):
            endpoint.snapshot = replace(good, groups=(replace(good.groups[0], **{name: bad}),))
        else:
            demand = {name: bad}
        outlooks += [endpoint.second(300.0, held_count=100, **demand) for _ in range(20)]
    endpoint.snapshot = good
    outlooks += [endpoint.second(300.0) for _ in range(900)]
    for outlook in outlooks:
        assert math.isfinite(outlook.needed)
        assert "nan" not in outlook.why
        assert "inf" not in outlook.why
    assert 300.0 <= outlooks[-1].needed <= 500.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300, -1.0, 0.0])
@pytest.mark.parametrize("name", ["target_util", "target_queue_time", "max_queue_time", "min_load"])
def test_a_parameter_that_means_nothing_breaks_nothing(name: str, bad: float) -> None:
    endpoint = Endpoint(replace(ENDPOINT, parameters=EndpointParameters(**{name: bad})))
    for _ in range(100):
        outlook = endpoint.second(300.0, held_count=100, held_load=5000.0)
        assert math.isfinite(outlook.needed)
        assert outlook.needed >= 0


def test_a_clock_that_was_set_back_by_a_day_is_not_waited_for() -> None:
    endpoint = Endpoint()
    endpoint.run([50.0] * 200)
    endpoint.now -= 86400.0
    assert endpoint.run([1500.0] * 60).predicted > 500.0


@pytest.mark.parametrize("step", [7200.0, -7200.0, 1.7e9])
def test_a_clock_that_was_put_right_is_no_silence(step: float) -> None:
    steady, shifted = Endpoint(), Endpoint()
    for endpoint in (steady, shifted):
        endpoint.run([200.0] * 300)
    shifted.now += step
    shifted.forecaster.clock_set(step)
    for endpoint in (steady, shifted):
        endpoint.run([200.0] * 300)
    assert shifted.forecaster.history.seconds() == steady.forecaster.history.seconds()


# What waited is a claim until a worker has seen it.


def test_what_turns_out_to_be_less_is_put_right_in_the_second_in_which_it_came() -> None:
    endpoint, honest = Endpoint(), Endpoint()
    for one, huge in ((endpoint, 5000.0), (honest, 0.0)):
        one.run([50.0] * 100)
        one.second(50.0 + huge)
        one.run([50.0] * 4)
    # Said in the fifth second after it came.
    revised = {"revisions": 1, "revised": {7: -5000.0}, "second": 12}
    after = endpoint.second(50.0, **revised)  # type: ignore[arg-type]
    same = honest.second(50.0)
    assert after.load == pytest.approx(same.load)
    assert after.predicted == pytest.approx(same.predicted, rel=0.01)
    assert sum(endpoint.forecaster.history.total()) == pytest.approx(
        sum(honest.forecaster.history.total()), abs=101
    )
    assert endpoint.second(50.0, **revised).load == pytest.approx(  # type: ignore[arg-type]
        honest.second(50.0).load
    ), "once"


def test_until_a_worker_has_seen_a_request_its_size_is_not_learnt() -> None:
    endpoint = Endpoint()
    for _ in range(5):
        endpoint.second(0.0, seen=False)
    outlook = endpoint.second(1000.0, seen=False)
    assert outlook.candidate is None
    for _ in range(3):
        endpoint.second(0.0, seen=False)
    outlook = endpoint.second(
        0.0,
        revisions=1,
        revised={7: -990.0},
        second=11,  # type: ignore[arg-type]
    )
    assert outlook.candidate is not None
    assert endpoint.forecaster._mean_load == pytest.approx(10.0 / 20)
    assert outlook.needed <= 100.0


def test_what_is_put_right_never_makes_load_negative() -> None:
    endpoint = Endpoint()
    endpoint.run([50.0] * 10)
    for revision in range(1, 20):
        outlook = endpoint.second(
            0.0,
            revisions=revision,
            revised={5: -1e9 * revision},  # type: ignore[arg-type]
            second=8,
        )
        assert outlook.load >= 0
        assert outlook.needed >= 0
    assert endpoint.forecaster._mean_load >= 0


def test_one_huge_request_doubles_the_mean_load_at_most() -> None:
    endpoint = Endpoint()
    endpoint.run([50.0] * 120)
    usual = endpoint.forecaster._mean_load
    assert usual == pytest.approx(50.0)
    endpoint.load += 1e6
    endpoint.count += 1
    endpoint.run([0.0] * 2)
    assert usual < endpoint.forecaster._mean_load <= 2 * usual * (1 + 1e-9)
    # It is forgotten as fast as all others are.
    endpoint.run([50.0] * 300)
    assert endpoint.forecaster._mean_load == pytest.approx(usual, rel=0.06)


def test_requests_that_are_really_large_move_the_mean_load_within_a_few() -> None:
    endpoint = Endpoint()
    endpoint.run([50.0] * 120)
    for _ in range(20):
        endpoint.load += 50_000.0
        endpoint.count += 1
        endpoint.second(0.0)
    assert endpoint.forecaster._mean_load > 50_000.0 / 10


@pytest.mark.parametrize("claimed", [1.0, 1e6])
def test_a_huge_request_that_is_put_right_moves_the_mean_load_no_further(claimed: float) -> None:
    endpoint = Endpoint()
    endpoint.run([50.0] * 120)
    router = 100
    for load, revisions in ((claimed, 0), (0.0, 0), (0.0, 1)):
        endpoint.load += load
        endpoint.count += 1 if load else 0
        router += 1
        revised = {101: 50.0 - claimed if claimed > 50 else 1e6} if revisions else {}
        endpoint.second(0.0, second=router, revisions=revisions, revised=revised)  # type: ignore[arg-type]
    most = 50.0 if claimed > 50 else 100.0
    assert endpoint.forecaster._mean_load == pytest.approx(most, rel=0.05)


def test_what_was_kept_when_claims_were_believed_is_not_read() -> None:
    text = Endpoint().forecaster.written(5.0)
    assert Forecaster().read(text, 6.0)
    assert not Forecaster().read(text.replace('"counted":"seen",', ""), 6.0)


def heard(calls: list[float], ahead: float = 0.0, restarted: float = math.inf) -> Forecaster:
    """A forecaster that is called at `calls`, on a clock that is `ahead` of the router's."""
    forecaster, window, came, clock = Forecaster(), ArrivalWindow(), 0.0, 0.0
    for now in [*sorted(calls), 100.0]:
        if restarted < now:
            window, clock, restarted = ArrivalWindow(), 50.0, math.inf
        while came < now:
            if int(came) % 7 < 3:
                window.add(10.0 + int(came), came + clock)
            came += 0.25
        mean, recent, peak = window.rates(now + clock)
        demand = Demand(
            arrival_rate=mean,
            recent_rate=recent,
            peak_rate=peak,
            arrived_load=window.total_load,
            arrived_count=window.total_count,
            second=window.second,
            arrived=window.arrived,
        )
        forecaster.observe(replace(ENDPOINT, demand=demand), now + ahead)
    return forecaster


@pytest.mark.parametrize(
    "calls",
    [
        [second / 10 for second in range(1000)],
        [second + 0.5 for second in range(100)],
        [second + (0.4 if second % 3 else 0.99) for second in range(100)],
        [0.0, *range(20, 100, 9)],
    ],
    ids=["often", "in the middle", "irregular", "seldom"],
)
@pytest.mark.parametrize("ahead", [0.0, 5000.3])
def test_what_came_is_in_its_own_second_however_calls_are_timed(
    calls: list[float], ahead: float
) -> None:
    regular = heard([float(second) for second in range(100)])
    other = heard(calls, ahead)
    assert other.history.seconds()[-90:] == regular.history.seconds()[-90:]


def test_a_router_that_begins_anew_costs_no_more_than_what_it_had_counted() -> None:
    forecaster = heard([second + 0.5 for second in range(100)], restarted=60.0)
    loads = [load for load, _ in forecaster.history.seconds()]
    assert all(0 <= load <= 4 * 110 for load in loads)
    assert 95 <= len(loads) <= 100


def test_a_second_burst_gets_at_once_what_the_first_one_brought() -> None:
    endpoint = Endpoint(replace(ENDPOINT, workers=(replace(WORKER, stoppable=True),)))
    endpoint.run([50.0] * 400)
    asked = []
    for _ in range(3):
        asked.append(endpoint.run([1000.0] * 2).needed)
        endpoint.run([1000.0] * 38 + [50.0] * 260)
    assert asked[0] < 200
    assert all(1000 <= one < 1500 for one in asked[1:])
