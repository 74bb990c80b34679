from __future__ import annotations

import pytest
from tests.autoscaler.planning.conftest import (
    NOW,
    decide,
    group,
    held,
    kinds,
    parameters,
    steady,
    worker,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import OfferSnapshot, Plan, PlannerSettings, WorkerSnapshot
from stoker.autoscaler.planning.valuing import spot_share
from stoker.autoscaler.states import WorkerState

SMALL = OfferSnapshot(id="s", hardware="small", price=1.0, available=8)
LARGE = OfferSnapshot(id="l", hardware="large", price=1.0, available=8)


def small(worker_id: int, state: WorkerState = WorkerState.READY) -> WorkerSnapshot:
    return worker(worker_id, state, hardware="small", price=1.0)


def large(worker_id: int) -> WorkerSnapshot:
    return worker(worker_id, hardware="large", price=1.0, perf=90.0)


def offers(decided: Plan) -> list[str | None]:
    return [action.offer_id for action in decided.actions if action.kind == "create"]


def test_perf_per_price_is_learnt_by_class_of_hardware() -> None:
    # Other offers than those that the workers came from, of the same two classes.
    fleet = (small(1), large(2))
    both = group(offers=(SMALL, LARGE))
    assert offers(decide(steady(200.0), *fleet, groups=(both,))) == ["l"]
    dear = OfferSnapshot(id="l", hardware="large", price=2.0, available=8)
    # 90 / 2.00 is less than 50 / 1.00.
    both = group(offers=(SMALL, dear))
    assert offers(decide(steady(200.0), *fleet, groups=(both,))) == ["s", "s"]


def test_one_worker_at_a_time_explores_hardware_that_was_not_measured() -> None:
    fleet = (small(1), small(2), small(3))
    both = group(offers=(SMALL, LARGE))
    decided = decide(steady(250.0), *fleet, groups=(both,))
    assert offers(decided) == ["l", "s", "s"]
    assert "explores large at 1.00/h" in decided.actions[0].reason
    explorer = worker(4, WorkerState.LOADING, hardware="large", perf=0.0, offer_id="l")
    assert offers(decide(steady(250.0), *fleet, explorer, groups=(both,))) == ["s", "s"]


def test_exploring_stays_within_a_share_of_what_is_spent() -> None:
    both = group(offers=(SMALL, LARGE))
    # With one worker at 1.00, another at 1.00 would be half of all; with two, it is a third.
    assert offers(decide(steady(80.0), small(1), groups=(both,))) == ["s"]
    assert offers(decide(steady(120.0), small(1), small(2), groups=(both,))) == ["l"]
    none = PlannerSettings(exploration_share=0.0)
    decided = decide(steady(120.0), small(1), small(2), groups=(both,), settings=none)
    assert offers(decided) == ["s"]


def test_an_explorer_is_never_all_that_comes_for_a_held_request() -> None:
    both = group(offers=(SMALL, LARGE))
    waiting = held(4, load=400.0)
    fleet = (small(1), small(2))
    assert offers(decide(waiting, *fleet, groups=(both,))) == ["s", "l"]
    coming = small(3, WorkerState.LOADING)
    assert offers(decide(waiting, *fleet, coming, groups=(both,))) == ["l"]


def test_what_was_not_measured_is_taken_when_nothing_else_is_to_be_had() -> None:
    waiting = held(2, load=400.0)
    assert offers(decide(waiting, small(1), groups=(group(offers=(LARGE,)),))) == ["l"]


def test_a_spot_machine_counts_less_by_what_is_lost_when_it_is_taken_away() -> None:
    settings = PlannerSettings(spot_lifetime=7200.0)
    assert spot_share(300.0, settings) == pytest.approx(0.923, abs=0.001)
    stays = OfferSnapshot(id="stays", perf=50.0, price=1.0)
    for price, chosen in ((0.93, "stays"), (0.92, "spot")):
        spot = OfferSnapshot(id="spot", perf=50.0, price=price, spot=True)
        one = group(offers=(stays, spot), create_seconds=300.0)
        assert offers(decide(steady(40.0), groups=(one,))) == [chosen]


# Quarantine.


def test_an_offer_that_failed_is_passed_over_and_the_group_goes_on() -> None:
    bad = OfferSnapshot(id="bad", failures=1, last_failure_at=NOW - 30)
    good = OfferSnapshot(id="good", price=1.0)
    one = group(offers=(bad, good), failures=1, last_failure_at=NOW - 30)
    assert offers(decide(held(1), groups=(one,))) == ["good"]


def test_quarantine_ends_and_is_longer_after_each_failure() -> None:
    good = OfferSnapshot(id="good", price=1.0)
    for failures, age, chosen in (
        (1, 59, "good"),
        (1, 60, "bad"),
        (3, 239, "good"),
        (3, 240, "bad"),
    ):
        bad = OfferSnapshot(id="bad", failures=failures, last_failure_at=NOW - age)
        assert offers(decide(held(1), groups=(group(offers=(bad, good)),))) == [chosen]


def test_the_only_offer_is_tried_again_after_the_back_off_of_a_group() -> None:
    for age, chosen in ((3.9, []), (4.0, ["bad"])):
        bad = OfferSnapshot(id="bad", failures=3, last_failure_at=NOW - age)
        decided = decide(held(1), groups=(group(offers=(bad,)),))
        assert offers(decided) == chosen
    assert decide(held(1), groups=(group(offers=(bad,)),)).notes == ()
    bad = OfferSnapshot(id="bad", failures=3, last_failure_at=NOW)
    notes = decide(held(1), groups=(group(offers=(bad,)),)).notes
    assert notes == ("load needs more workers, but workergroup 1: all offers rest after failures",)


# Workers that cannot be stopped.


def test_no_reserve_is_created_that_would_have_to_be_active() -> None:
    fixed = OfferSnapshot(id="fixed", available=8, stoppable=False)
    scaling_up = decide(steady(40.0), groups=(group(offers=(fixed,)),))
    assert offers(scaling_up) == ["fixed"]
    reserve = parameters(cold_workers=3, cold_mult=3)
    ready = worker(1, stoppable=False)
    decided = decide(steady(40.0), ready, scaling=reserve, groups=(group(offers=(fixed,)),))
    assert kinds(decided) == []
    assert (
        "workergroup 1: its workers cannot be stopped, so none is held in reserve"
        in (decided.notes[0])
    )


def test_a_drained_worker_that_cannot_be_stopped_is_destroyed() -> None:
    light = Demand(
        arrival_rate=1.0, recent_rate=1.0, peak_rate=1.0, booked_count=1, last_request_at=NOW
    )
    drained = worker(2, WorkerState.DRAINING, stoppable=False)
    decided = decide(light, worker(1), drained, scaling=parameters(cold_workers=2))
    assert ("destroy", 2) in kinds(decided)
    busy = worker(2, WorkerState.DRAINING, stoppable=False, requests=1)
    assert ("destroy", 2) not in kinds(decide(light, worker(1), busy))
