from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.autoscaler.planning.conftest import (
    NOW,
    decide,
    group,
    held,
    parameters,
    quiet,
    steady,
    worker,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import Explanation, GroupSnapshot, Outlook, Recurring, explain
from stoker.autoscaler.planning.rehearsal import Candidate
from stoker.autoscaler.states import WorkerState

RESTS = group(failures=4, last_failure_at=NOW)


@pytest.mark.parametrize(
    ("demand", "scaling", "one", "binds"),
    [
        (steady(40.0), {}, group(), "target_util"),
        (steady(40.0), {"min_load": 60.0}, group(), "min_load"),
        (held(3, load=900.0), {"target_queue_time": 1.0}, group(), "target_queue_time"),
        (quiet(600), {}, group(), "inactivity_timeout"),
        (quiet(600), {"inactivity_timeout": -1.0}, group(), "inactivity_timeout"),
        (steady(900.0), {"max_workers": 2}, group(), "max_workers"),
        (steady(900.0), {}, group(offers=()), "no offers"),
        (steady(900.0), {}, RESTS, "back-off"),
        (steady(900.0), {}, replace(RESTS, failures=10), "failure budget"),
        (steady(900.0), {}, group(max_workers=1), "max_workers of workergroup"),
        (steady(900.0), {}, group(weight=0.0), "weight"),
        (steady(40.0), {"endpoint_state": "stopped"}, group(), "endpoint_state"),
        (steady(40.0), {"endpoint_state": "suspended"}, group(), "endpoint_state"),
    ],
)
def test_a_plan_names_the_constraint_that_binds(
    demand: Demand, scaling: dict[str, Any], one: GroupSnapshot, binds: str
) -> None:
    found = decide(demand, worker(1), scaling=parameters(**scaling), groups=(one,)).explanation
    assert found is not None
    assert found.binds == binds
    assert found.why


def test_an_explanation_carries_the_figures() -> None:
    decided = decide(
        steady(72.0),
        worker(1),
        worker(2, WorkerState.LOADING, perf=0.0),
        worker(3, WorkerState.STOPPED),
        worker(4, WorkerState.DRAINING, requests=1),
        worker(5, WorkerState.STOPPING, state_since=NOW),
    )
    found = decided.explanation
    assert found is not None
    assert (found.anticipated, found.target_util, found.needed) == (72.0, 0.9, 80.0)
    assert (found.active, found.coming, found.stopped) == (50.0, 50.0, 50.0)
    assert found.workers == {"idle": 1, "loading": 1, "stopped": 1, "stopping": 2}
    assert (found.held, found.backlog) == (0, 72.0)


def test_an_explanation_crosses_the_wire_as_json() -> None:
    found = decide(held(3), worker(1), groups=(group(), group(id=2, weight=0.5))).explanation
    data = msgspec.json.encode(found)
    assert msgspec.json.decode(data, type=Explanation) == found


def test_a_plan_is_told_in_lines() -> None:
    decided = decide(steady(900.0), worker(1), scaling=parameters(max_workers=2))
    lines = explain(decided)
    assert lines[0] == (
        "binds: max_workers: max_workers 2 is reached; load 900.0/s / target_util 0.90 needs "
        "1000.0/s"
    )
    assert "capacity: 50.0/s active, 0.0/s on its way, 0.0/s stopped" in lines
    assert "workers: 1 idle" in lines
    assert "max_workers: 2 of 2 exist or are on order" in lines
    assert f"action: {decided.actions[0].reason}" in lines
    assert "note: load needs more workers, but max_workers 2 is reached" in lines
    assert all("\n" not in line for line in lines)


def test_a_plan_that_does_nothing_is_told_too() -> None:
    assert "action: none" in explain(decide(steady(40.0), worker(1)))


def test_a_suspended_endpoint_still_shows_its_figures() -> None:
    decided = decide(held(3), worker(1), scaling=parameters(endpoint_state="suspended"))
    assert decided.summary == "suspended: workers stay as they are"
    assert decided.explanation is not None
    assert (decided.explanation.active, decided.explanation.held) == (50.0, 3)


@pytest.mark.parametrize(
    ("recurring", "line", "belief"),
    [
        (
            Recurring(48.0, 120.0, "day"),
            "recurs each day: 120.0/s expected within 150 s, believed 40%",
            0.4,
        ),
        (
            Recurring(0.0, 120.0, "week"),
            "recurs each week: 120.0/s expected within 150 s, not followed: it did not pay",
            0.0,
        ),
    ],
)
def test_it_is_told_how_far_what_recurs_is_believed(
    recurring: Recurring, line: str, belief: float
) -> None:
    decided = decide(steady(40.0), worker(1), outlook=expects(recurring))
    assert line in explain(decided)
    assert decided.explanation is not None
    assert decided.explanation.recurring == 120.0
    assert decided.explanation.belief == pytest.approx(belief)


@pytest.mark.parametrize("recurring", [None, Recurring(0.0, 0.0, "day")])
def test_nothing_is_told_of_a_belief_where_nothing_recurs(recurring: Recurring | None) -> None:
    decided = decide(steady(40.0), worker(1), outlook=expects(recurring))
    assert not [line for line in explain(decided) if "recurs" in line]
    assert decided.explanation is not None
    assert (decided.explanation.recurring, decided.explanation.belief) == (0.0, 1.0)


def expects(recurring: Recurring | None) -> Outlook:
    return Outlook(
        needed=50.0,
        load=40.0,
        predicted=40.0,
        anticipated=40.0,
        floor=0.0,
        clearing=0.0,
        binds="target_util",
        why="load 40.0/s",
        candidate=Candidate(predictor=0, margin=1.0, hold=0.0, floor=0),
        recurring=recurring,
        recurring_seconds=150.0,
    )
