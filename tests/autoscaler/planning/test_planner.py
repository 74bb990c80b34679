from __future__ import annotations

from dataclasses import replace

import pytest
from tests.autoscaler.planning.conftest import (
    NOW,
    decide,
    group,
    held,
    kinds,
    only,
    parameters,
    quiet,
    steady,
    worker,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    ActionKind,
    Candidate,
    OfferSnapshot,
    Outlook,
    WorkerSnapshot,
)
from stoker.autoscaler.planning.retention import Retention
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.states import WorkerState

HEADROOM = Outlook(
    needed=200.0,
    load=36.0,
    predicted=36.0,
    anticipated=36.0,
    floor=200.0,
    clearing=0.0,
    binds="headroom",
    why="bursts are best met by 4 workers held ready: needs 200.0/s",
    candidate=Candidate(predictor=2, margin=1.0, hold=60.0, floor=4),
)
NO_FLOOR = Candidate(predictor=2, margin=1.0, hold=60.0, floor=0)
SETTINGS = PlannerSettings()
LITTLE = replace(HEADROOM, needed=1.0, floor=0.0, load=1.0, binds="target_util", candidate=NO_FLOOR)

# Up.


def test_a_held_request_creates_a_worker_from_zero() -> None:
    action = only(decide(held(1)))
    assert action.kind is ActionKind.CREATE
    assert (action.group_id, action.offer_id, action.provider) == (1, "cpu", "local")
    assert action.reason == (
        "create worker: load 20.0/s in these 5 s / target_util 0.90 needs 22.2/s, "
        "active capacity 0.0/s"
    )


def test_a_stopped_worker_is_started_rather_than_one_created() -> None:
    assert kinds(decide(held(1), worker(3, WorkerState.STOPPED))) == [("start", 3)]


def test_the_reason_names_load_need_and_capacity() -> None:
    action = only(decide(steady(42.0), worker(3, WorkerState.STOPPED)))
    assert action.reason == (
        "start worker 3: load 42.0/s / target_util 0.90 needs 46.7/s, active capacity 0.0/s"
    )


def test_a_draining_worker_goes_back_to_work_first() -> None:
    decided = decide(
        held(1),
        worker(3, WorkerState.STOPPED, state_since=NOW),
        worker(4, WorkerState.DRAINING, requests=1),
    )
    assert kinds(decided) == [("start", 4)]


def test_a_worker_that_is_stopping_is_waited_for_rather_than_one_created() -> None:
    stopping = worker(3, WorkerState.STOPPING, state_since=NOW - 2)
    decided = decide(held(1), stopping)
    assert kinds(decided) == []
    assert "waits for worker 3" in decided.notes[0]


def test_a_worker_that_does_not_end_stopping_is_not_waited_for() -> None:
    stuck = worker(3, WorkerState.STOPPING, state_since=NOW - 100)
    assert kinds(decide(held(1), stuck)) == [("create", None)]


def test_what_is_on_its_way_is_not_ordered_twice() -> None:
    coming = worker(3, WorkerState.CREATING, perf=0.0, state_since=NOW)
    assert kinds(decide(held(1), coming)) == []


def test_target_util_leaves_room() -> None:
    scaling = parameters(target_util=0.5)
    # 60 / 0.5 = 120/s: three workers of 50/s.
    decided = decide(steady(60.0), worker(1), scaling=scaling)
    assert kinds(decided) == [("create", None), ("create", None)]


def test_a_queue_over_target_queue_time_scales_up_hard() -> None:
    scaling = parameters(target_queue_time=10.0)
    waiting = Demand(booked_load=1900.0, booked_count=32, last_request_at=NOW)
    # 1,900 load in 10 s needs 190/s: four workers of 50/s, three more than there are.
    decided = decide(waiting, worker(1, requests=32), scaling=scaling)
    assert kinds(decided) == [("create", None)] * 3
    assert "1900.0 load waits or works" in decided.actions[0].reason


def test_one_large_request_does_not_ask_for_more_workers_than_it_can_use() -> None:
    one = Demand(
        recent_rate=200.0,
        peak_rate=200.0,
        booked_load=1000.0,
        booked_count=1,
        last_request_at=NOW,
    )
    assert kinds(decide(one, worker(1, requests=1))) == []


def test_min_load_is_a_floor_of_active_capacity() -> None:
    decided = decide(Demand(), scaling=parameters(min_load=80.0))
    assert kinds(decided) == [("create", None), ("create", None)]


def test_a_first_worker_is_measured_before_more_are_created() -> None:
    decided = decide(held(30), groups=(group(perf=0.0),))
    assert kinds(decided) == [("create", None)]


def test_the_best_perf_per_price_is_recruited_first() -> None:
    offers = (
        OfferSnapshot(id="slow", price=1.0, perf=50.0, available=1),
        OfferSnapshot(id="fast", price=3.0, perf=300.0, available=1),
        OfferSnapshot(id="dear", price=9.0, perf=300.0, available=1),
    )
    decided = decide(steady(300.0), groups=(group(offers=offers),))
    assert [action.offer_id for action in decided.actions] == ["fast", "slow"]


# Attached workers.


def test_an_attached_worker_is_capacity() -> None:
    attached = worker(9, workergroup_id=None, attached=True)
    assert kinds(decide(steady(40.0), attached)) == []


def test_nothing_is_done_to_an_attached_worker() -> None:
    decided = decide(
        quiet(600),
        worker(8, WorkerState.ERROR, workergroup_id=None, attached=True),
        worker(9, workergroup_id=None, attached=True),
        scaling=parameters(max_workers=0),
    )
    assert kinds(decided) == []


# Down.


def test_load_that_has_only_just_fallen_keeps_its_workers() -> None:
    lower = Demand(
        arrival_rate=30.0, recent_rate=10.0, peak_rate=80.0, booked_count=1, last_request_at=NOW
    )
    assert kinds(decide(lower, worker(1), worker(2))) == []


def test_when_the_peak_of_a_minute_is_lower_the_worst_worker_is_drained() -> None:
    lower = Demand(
        arrival_rate=10.0, recent_rate=10.0, peak_rate=20.0, booked_count=1, last_request_at=NOW
    )
    decided = decide(lower, worker(1, perf=60.0), worker(2, perf=50.0), worker(3, perf=40.0))
    assert kinds(decided) == [("drain", 3), ("drain", 2)]
    assert "leaves 2 active with 110.0/s" in decided.actions[0].reason


def test_a_busy_worker_is_drained_and_not_stopped() -> None:
    lower = Demand(arrival_rate=1.0, recent_rate=1.0, peak_rate=1.0, last_request_at=NOW)
    draining = worker(2, WorkerState.DRAINING, requests=1)
    assert kinds(decide(lower, worker(1), draining)) == []


def test_a_drained_worker_is_stopped_while_there_is_traffic() -> None:
    lower = Demand(
        arrival_rate=1.0, recent_rate=1.0, peak_rate=1.0, booked_count=1, last_request_at=NOW
    )
    assert kinds(decide(lower, worker(1), worker(2, WorkerState.DRAINING))) == [("stop", 2)]


def test_a_stopped_worker_beyond_the_pool_is_destroyed_after_a_while() -> None:
    lower = Demand(
        arrival_rate=1.0, recent_rate=1.0, peak_rate=1.0, booked_count=1, last_request_at=NOW
    )
    fresh = worker(2, WorkerState.STOPPED, state_since=NOW - 59)
    old = worker(3, WorkerState.STOPPED, state_since=NOW - 60)
    assert kinds(decide(lower, worker(1), fresh, old)) == [("destroy", 3)]


def test_until_something_is_known_it_is_kept_as_long_as_the_first_guess_says() -> None:
    lower = Demand(
        arrival_rate=1.0, recent_rate=1.0, peak_rate=1.0, booked_count=1, last_request_at=NOW
    )
    for start, taken_for in ((5.0, 5.0), (0.0, SETTINGS.unknown_start_seconds)):
        slow = group(create_seconds=30.0, start_seconds=start)
        kept = Retention(SETTINGS).seconds(30.0, taken_for)[-1]
        fresh = worker(2, WorkerState.STOPPED, state_since=NOW - kept + 1)
        old = worker(3, WorkerState.STOPPED, state_since=NOW - kept)
        assert kinds(decide(lower, worker(1), fresh, old, groups=(slow,))) == [("destroy", 3)]


@pytest.mark.parametrize(
    ("lasted", "gone"), [((99, 199, 299), []), ((99, 200, 299), [3]), ((100, 200, 300), [4, 3, 2])]
)
def test_each_stopped_worker_is_kept_by_its_rank(lasted: tuple[int, ...], gone: list[int]) -> None:
    stopped = [
        worker(number, WorkerState.STOPPED, state_since=NOW - seconds)
        for number, seconds in zip((2, 3, 4), lasted, strict=True)
    ]
    outlook = replace(LITTLE, retention=(1e9, 100.0, 200.0, 300.0))
    decided = decide(steady(1.0), worker(1), *stopped, outlook=outlook)
    assert [one for kind, one in kinds(decided) if kind == "destroy"] == gone


def test_further_workers_are_kept_as_long_as_the_last_rank_that_is_told_of() -> None:
    stopped = worker(2, WorkerState.STOPPED, state_since=NOW - 100)
    for kept, gone in ((100.0, [("destroy", 2)]), (101.0, [])):
        outlook = replace(LITTLE, retention=(kept,))
        decided = decide(steady(1.0), worker(1), stopped, outlook=outlook)
        assert [one for one in kinds(decided) if one[0] == "destroy"] == gone


def test_headroom_for_bursts_is_held_and_the_reserve_is_taken_of_the_load_alone() -> None:
    decided = decide(
        steady(36.0), worker(1), worker(2), scaling=parameters(cold_mult=6), outlook=HEADROOM
    )
    reasons = [action.reason for action in decided.actions]
    assert [reason.startswith(f"create worker: {HEADROOM.why}") for reason in reasons] == [
        True,
        True,
        False,
    ]
    # 6 x 36 / 0.9 is 240, and four workers of 50 are there or ordered.
    assert "cold_mult: total capacity 200.0/s, needs 240.0/s" in reasons[2]
    assert decided.explanation is not None
    assert decided.explanation.binds == "headroom"
    assert dict(decided.explanation.details)["headroom"].startswith("mean of 2 minutes x 1.00")


def test_what_comes_each_day_is_created_for_the_pool_and_kept_in_it() -> None:
    outlook = replace(
        HEADROOM, needed=36.0, load=30.0, floor=0.0, reserve=140.0, candidate=NO_FLOOR
    )
    calm = parameters(cold_workers=0, cold_mult=1)
    stopped = worker(2, WorkerState.STOPPED, state_since=NOW - 9000)
    action = only(decide(steady(30.0), worker(1), stopped, scaling=calm, outlook=outlook))
    assert action.kind is ActionKind.CREATE
    assert action.reason.startswith(
        "create worker: what comes each day or week at this time: total capacity 100.0/s, "
        "needs 140.0/s"
    )
    nothing = replace(outlook, reserve=0.0)
    decided = decide(steady(30.0), worker(1), stopped, scaling=calm, outlook=nothing)
    assert kinds(decided) == [("destroy", 2)]


# Zero.


def test_before_the_inactivity_timeout_one_worker_stays() -> None:
    assert kinds(decide(quiet(4.9), worker(1), scaling=parameters(inactivity_timeout=5))) == []


def test_after_the_inactivity_timeout_all_are_drained() -> None:
    decided = decide(quiet(5), worker(1), worker(2), scaling=parameters(inactivity_timeout=5))
    assert kinds(decided) == [("drain", 2), ("drain", 1)]
    assert "quiet for 5 s, inactivity_timeout 5" in decided.actions[0].reason


def test_drained_workers_are_destroyed_when_nothing_is_to_be_kept() -> None:
    decided = decide(
        quiet(6), worker(1, WorkerState.DRAINING), worker(2, WorkerState.STOPPED, state_since=NOW)
    )
    assert sorted(kinds(decided)) == [("destroy", 1), ("destroy", 2)]


def test_what_still_loads_is_destroyed_when_nobody_waits_for_it() -> None:
    assert kinds(decide(quiet(6), worker(1, WorkerState.LOADING))) == [("destroy", 1)]


def test_after_everything_is_gone_nothing_is_done() -> None:
    assert kinds(decide(quiet(6))) == []


def test_the_quiet_time_counts_from_the_end_of_the_last_request() -> None:
    ended = worker(1, idle_since=NOW - 2)
    assert kinds(decide(quiet(300), ended)) == []


def test_a_request_at_work_is_not_quiet_however_long_it_takes() -> None:
    assert kinds(decide(quiet(300), worker(1, requests=1))) == []


def test_without_an_inactivity_timeout_the_last_worker_goes_after_a_minute() -> None:
    scaling = parameters(inactivity_timeout=None)
    assert kinds(decide(quiet(59), worker(1), scaling=scaling)) == []
    assert kinds(decide(quiet(60), worker(1), scaling=scaling)) == [("drain", 1)]


def test_an_inactivity_timeout_of_zero_lets_the_last_worker_go_at_once() -> None:
    assert kinds(decide(quiet(0), worker(1), scaling=parameters(inactivity_timeout=0))) == [
        ("drain", 1)
    ]


def test_a_negative_inactivity_timeout_keeps_one_active_for_ever() -> None:
    scaling = parameters(inactivity_timeout=-1)
    assert kinds(decide(quiet(1e6), worker(1), worker(2), scaling=scaling)) == [("drain", 2)]
    assert kinds(decide(quiet(1e6), scaling=scaling)) == [("create", None)]


def test_min_load_keeps_one_active_whatever_the_timeout() -> None:
    scaling = parameters(min_load=1.0, inactivity_timeout=5)
    assert kinds(decide(quiet(1e6), worker(1), scaling=scaling)) == []


# The pool.


def test_cold_workers_are_created_before_any_request_came() -> None:
    decided = decide(Demand(), worker(1, WorkerState.STOPPED), scaling=parameters(cold_workers=3))
    assert kinds(decided) == [("create", None), ("create", None)]
    assert "cold_workers 3: 1 have the model" in decided.actions[0].reason


def test_cold_workers_are_stopped_and_kept_when_it_is_quiet() -> None:
    scaling = parameters(cold_workers=2)
    decided = decide(
        quiet(600), worker(1, WorkerState.DRAINING), worker(2, WorkerState.STOPPED), scaling=scaling
    )
    assert kinds(decided) == [("stop", 1)]


def test_as_many_cold_workers_as_pay_create_none_and_keep_what_has_just_been_stopped() -> None:
    scaling = parameters(cold_workers="auto")
    assert decide(Demand(), scaling=scaling).actions == ()
    just = worker(2, WorkerState.STOPPED, state_since=NOW - 30)
    old = worker(3, WorkerState.STOPPED, state_since=NOW - 36_000)
    decided = decide(steady(10.0), worker(1), just, old, scaling=scaling)
    assert kinds(decided) == [("destroy", 3)]
    assert "cold_workers" not in decided.actions[0].reason


def test_as_many_cold_workers_as_pay_are_none_when_nothing_is_to_stay() -> None:
    stopped = worker(2, WorkerState.STOPPED, state_since=NOW - 1)
    decided = decide(quiet(600), stopped, scaling=parameters(cold_workers="auto"))
    assert kinds(decided) == [("destroy", 2)]
    assert "inactivity_timeout 5, nothing asks for it: leaves 0" in decided.actions[0].reason


def test_what_is_drained_and_cannot_be_stopped_is_missing_in_the_pool_at_once() -> None:
    workers = [worker(1), worker(2, stoppable=False), worker(3, stoppable=False)]
    decided = decide(steady(40.0), *workers, scaling=parameters(cold_mult=3))
    drained = [action.worker_id for action in decided.actions if action.kind is ActionKind.DRAIN]
    created = [action for action in decided.actions if action.kind is ActionKind.CREATE]
    assert drained == [3, 2]
    assert len(created) == 2  # as if the two were gone: 1 worker of 50/s, and 133.3/s are needed


def test_cold_mult_keeps_a_reserve_of_stopped_workers() -> None:
    decided = decide(
        steady(40.0), worker(1), scaling=parameters(cold_mult=3)
    )  # 3 x 44.4 = 133.3/s: two more of 50/s
    assert kinds(decided) == [("create", None), ("create", None)]
    assert "cold_mult: total capacity 50.0/s, needs 133.3/s" in decided.actions[0].reason


def test_a_reserve_for_which_there_is_no_room_is_no_complaint() -> None:
    decided = decide(
        steady(40.0), worker(1), scaling=parameters(cold_mult=3), groups=(group(offers=()),)
    )
    assert kinds(decided) == []
    assert decided.notes == ()


def test_min_cold_load_is_a_floor_of_total_capacity() -> None:
    scaling = parameters(min_cold_load=120.0)
    assert kinds(decide(Demand(), worker(1, WorkerState.STOPPED), scaling=scaling)) == [
        ("create", None),
        ("create", None),
    ]
    stopped = [worker(n, WorkerState.STOPPED) for n in range(1, 5)]
    assert kinds(decide(quiet(600), *stopped, scaling=scaling)) == [("destroy", 4)]


def test_min_cold_load_of_a_workergroup_is_met_in_that_group() -> None:
    groups = (group(), group(id=2, min_cold_load=60.0))
    decided = decide(Demand(), worker(1, WorkerState.STOPPED), groups=groups)
    assert [action.group_id for action in decided.actions if action.kind == "create"] == [2, 2]


def test_the_reserve_for_the_peak_of_a_minute_is_not_destroyed() -> None:
    lower = Demand(
        arrival_rate=10.0, recent_rate=10.0, peak_rate=40.0, booked_count=1, last_request_at=NOW
    )
    workers = [worker(1), worker(2, WorkerState.STOPPED), worker(3, WorkerState.STOPPED)]
    # 3 x 44.4 = 133.3/s: all three of 50/s, although 3 x 11.1 = 33.3/s would do for now.
    assert kinds(decide(lower, *workers, scaling=parameters(cold_mult=3))) == []


def test_workers_are_let_go_in_order_up_to_the_first_that_is_needed() -> None:
    lower = Demand(
        arrival_rate=50.0, recent_rate=50.0, peak_rate=50.0, booked_count=9, last_request_at=NOW
    )
    slow = worker(1, perf=40.0)
    quick = [worker(n, perf=50.0) for n in (2, 3)]
    # 55.6/s are needed. Without the slow one there are 100/s; without a second, 50/s.
    assert kinds(decide(lower, slow, *quick)) == [("drain", 1)]
    # The worst of these is needed; to let go of the small one instead might fit, but then more
    # demand could leave fewer workers.
    dear = worker(1, perf=50.0, price=10.0)
    small = worker(2, perf=10.0, price=1.0)
    assert kinds(decide(lower, dear, small)) == []


def test_a_starting_worker_of_unknown_perf_is_waited_for() -> None:
    coming = worker(3, WorkerState.MODEL_LOADING, perf=0.0, state_since=NOW)
    assert kinds(decide(held(30), coming, groups=(group(perf=0.0),))) == []


# Caps and contradictions.


def test_max_workers_is_never_exceeded_and_says_so() -> None:
    decided = decide(held(50), worker(1), scaling=parameters(max_workers=2))
    assert kinds(decided) == [("create", None)]
    assert decided.notes == ("load needs more workers, but max_workers 2 is reached",)


def test_max_workers_of_a_workergroup_is_never_exceeded() -> None:
    decided = decide(held(50), worker(1), groups=(group(max_workers=2),))
    assert kinds(decided) == [("create", None)]
    assert "workergroup 1: its max_workers 2 is reached" in decided.notes[0]


def test_a_lowered_max_workers_lets_idle_workers_go_first() -> None:
    workers = [worker(1), worker(2), worker(3, WorkerState.STOPPED)]
    decided = decide(steady(90.0), *workers, scaling=parameters(max_workers=1))
    assert kinds(decided) == [("destroy", 3), ("drain", 2)]


def test_cold_workers_above_max_workers_are_clamped_and_noted() -> None:
    decided = decide(Demand(), scaling=parameters(cold_workers=5, max_workers=2))
    assert kinds(decided) == [("create", None)] * 2
    assert "cold_workers 5 is above max_workers 2: taken as 2" in decided.notes


def test_an_endpoint_without_workergroups_says_why_nothing_is_created() -> None:
    decided = decide(held(1), groups=())
    assert decided.notes == (
        "load needs more workers, but the endpoint has no workergroup to create workers in",
    )


# Trouble.


def test_a_worker_with_an_error_is_given_a_moment_then_replaced() -> None:
    fresh = worker(1, WorkerState.ERROR, state_since=NOW - 29)
    assert kinds(decide(held(1), fresh)) == []
    lasting = worker(1, WorkerState.ERROR, state_since=NOW - 30)
    assert kinds(decide(held(1), lasting)) == [("destroy", 1), ("create", None)]


def test_a_worker_whose_instance_failed_is_replaced_at_once() -> None:
    lost = worker(1, WorkerState.ERROR, state_since=NOW, lost=True)
    assert kinds(decide(held(1), lost)) == [("destroy", 1), ("create", None)]


def test_a_worker_from_before_a_restart_is_waited_for_then_replaced() -> None:
    fresh = worker(1, WorkerState.PENDING, state_since=NOW - 5)
    assert kinds(decide(Demand(), fresh, scaling=parameters(min_load=1.0))) == []
    silent = worker(1, WorkerState.PENDING, state_since=NOW - 30)
    assert kinds(decide(Demand(), silent, scaling=parameters(min_load=1.0))) == [
        ("destroy", 1),
        ("create", None),
    ]


def test_a_failing_workergroup_rests_longer_each_time() -> None:
    resting = group(failures=4, last_failure_at=NOW - 7)  # rests 8 s
    decided = decide(held(1), groups=(resting,))
    assert kinds(decided) == []
    assert "waits 8 s after 4 failures in a row" in decided.notes[0]
    rested = group(failures=4, last_failure_at=NOW - 8)
    assert kinds(decide(held(1), groups=(rested,))) == [("create", None)]


def test_a_workergroup_that_keeps_failing_creates_no_more() -> None:
    hopeless = group(failures=10, last_failure_at=0.0)
    decided = decide(held(1), groups=(hopeless,))
    assert kinds(decided) == []
    assert "10 workers failed in a row" in decided.notes[0]


def test_another_workergroup_helps_out_while_one_rests() -> None:
    resting = group(failures=4, last_failure_at=NOW)
    other = group(id=2)
    assert [a.group_id for a in decide(held(1), groups=(resting, other)).actions] == [2]


def test_a_worker_whose_workergroup_is_gone_is_drained_then_destroyed() -> None:
    assert kinds(decide(steady(10.0), worker(1, workergroup_id=7), worker(2))) == [("drain", 1)]
    drained = worker(1, WorkerState.DRAINING, workergroup_id=7)
    assert kinds(decide(steady(10.0), drained, worker(2))) == [("destroy", 1)]


# States of the endpoint.


def test_a_suspended_endpoint_is_left_alone() -> None:
    scaling = parameters(endpoint_state="suspended", cold_workers=3)
    assert kinds(decide(held(9), worker(1, WorkerState.STOPPED), scaling=scaling)) == []


def test_a_stopped_endpoint_becomes_inactive_and_keeps_its_models() -> None:
    scaling = parameters(endpoint_state="stopped", min_load=100.0, cold_workers=5)
    decided = decide(
        held(9),
        worker(1),
        worker(2, WorkerState.DRAINING),
        worker(3, WorkerState.STOPPED),
        worker(4, WorkerState.LOADING),
        scaling=scaling,
    )
    assert sorted(kinds(decided)) == [("destroy", 4), ("drain", 1), ("stop", 2)]


GONE = Outlook(
    needed=45.0,
    for_load=45.0,
    load=40.0,
    predicted=40.0,
    anticipated=40.0,
    floor=0.0,
    clearing=0.0,
    binds="target_util",
    why="load 40.0/s needs 45.0/s",
    fallen=True,
    candidate=Candidate(predictor=0, margin=1.0, hold=15.0, floor=0),
)


def booting(worker_id: int, seconds: float) -> WorkerSnapshot:
    """Ordered so long ago; it changed its state since."""
    return worker(
        worker_id,
        WorkerState.LOADING,
        perf=0.0,
        state_since=NOW - seconds / 4,
        coming_since=NOW - seconds,
    )


BOOTS = (group(create_seconds=100.0),)


def test_boots_for_a_load_that_has_gone_are_called_off_while_less_than_half_done() -> None:
    workers = (worker(1), booting(2, 70.0), booting(3, 40.0), booting(4, 20.0))
    decided = decide(steady(40.0), *workers, groups=BOOTS, outlook=GONE)
    assert kinds(decided) == [("destroy", 4), ("destroy", 3)]
    assert "load 40.0/s needs 45.0/s, met without it" in decided.actions[0].reason


def test_boots_that_are_needed_are_not_called_off() -> None:
    more = replace(GONE, needed=90.0, for_load=90.0)
    decided = decide(steady(40.0), worker(1), booting(2, 9.0), groups=BOOTS, outlook=more)
    assert not decided.actions


def test_boots_are_not_called_off_for_a_load_that_only_moves() -> None:
    moves = replace(GONE, fallen=False)
    decided = decide(steady(40.0), worker(1), booting(2, 9.0), groups=BOOTS, outlook=moves)
    assert not decided.actions


def test_boots_for_the_pool_are_not_called_off() -> None:
    scaling = parameters(cold_workers=2)
    workers = (worker(1), booting(2, 9.0), booting(3, 5.0))
    decided = decide(steady(40.0), *workers, scaling=scaling, groups=BOOTS, outlook=GONE)
    assert kinds(decided) == [("destroy", 3)]


def test_boots_are_not_called_off_where_workergroups_share_the_load() -> None:
    groups = (*BOOTS, group(id=2, create_seconds=100.0))
    workers = (worker(1), worker(2, workergroup_id=2), booting(3, 9.0))
    decided = decide(steady(40.0), *workers, groups=groups, outlook=GONE)
    assert ("destroy", 3) not in kinds(decided)
