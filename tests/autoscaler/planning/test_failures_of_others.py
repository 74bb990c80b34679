"""What users of other systems reported, played through: none of it can happen here.

Each test bears the number of the report. Those that are about routing are in the router's tests.
"""

from __future__ import annotations

from dataclasses import replace

from tests.autoscaler.planning.conftest import (
    NOW,
    decide,
    group,
    held,
    kinds,
    live,
    parameters,
    quiet,
    steady,
    worker,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import ActionKind, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, WorkerState

UPDATING = group(revision=1, updating=True)


def test_runpod_worker_vllm_29_a_model_that_cannot_start_is_not_created_again_and_again() -> None:
    """At its owner's cost: after ten failures in a row no more is created until it is changed."""
    now, created, failures, last = NOW, 0, 0, None
    for _ in range(200):
        now += 1000.0  # longer than any back-off
        age = None if last is None else NOW - (now - last)
        failing = group(failures=failures, last_failure_at=age)
        decided = decide(held(5), groups=(failing,))
        orders = sum(action.kind is ActionKind.CREATE for action in decided.actions)
        if not orders:
            break
        created += orders
        failures, last = failures + orders, now
    assert created == 10
    assert decided.notes == (
        "load needs more workers, but workergroup 1: 10 workers failed in a row; none is created "
        "any more until the workergroup is changed",
    )
    assert decided.explanation is not None
    assert decided.explanation.binds == "failure budget"
    # It was changed, so the control plane counts anew.
    assert [a.kind for a in decide(held(1), groups=(group(),)).actions] == [ActionKind.CREATE]


def test_skypilot_3245_an_old_worker_goes_only_when_its_replacement_is_ready() -> None:
    busy = replace(steady(40.0), booked_count=1)
    old = worker(1, WorkerState.UPDATE_READY)
    for state in (
        WorkerState.CREATING,
        WorkerState.CREATED,
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
        WorkerState.ERROR,
    ):
        coming = worker(2, state, revision=1, perf=0.0, state_since=NOW)
        assert ("drain", 1) not in kinds(decide(busy, old, coming, groups=(UPDATING,)))
    ready = worker(2, revision=1)
    assert kinds(decide(busy, old, ready, groups=(UPDATING,))) == [("drain", 1)]


def test_skyserve_4907_while_old_workers_are_ready_some_are_in_rotation() -> None:
    """A whole update of three workers, from the first to the last: never fewer than are needed."""
    demand = replace(steady(120.0), booked_count=3)
    fleet: dict[int, WorkerSnapshot] = {}
    for fleet in live(demand, [worker(n) for n in (1, 2, 3)], (UPDATING,)):
        assert sum(one.state in ACTIVE for one in fleet.values()) >= 3
    assert [(one.revision, one.state) for one in fleet.values()] == [(1, WorkerState.READY)] * 3
    assert decide(demand, *fleet.values(), groups=(UPDATING,)).actions == ()


def test_knative_3759_scaling_down_never_cuts_a_running_request() -> None:
    """Every worker that goes is drained first, and waits for its last request however long."""
    scaling = parameters(max_workers=0, inactivity_timeout=0)
    for demand in (quiet(600), steady(1.0), Demand()):
        for state in (WorkerState.READY, WorkerState.UPDATE_READY):
            working = [worker(n, state, requests=1, state_since=-1e6) for n in (1, 2)]
            for decided in (
                decide(demand, *working, scaling=scaling),
                decide(demand, *working, groups=()),
                decide(demand, *working, groups=(UPDATING,)),
                decide(demand, *working, scaling=parameters(endpoint_state="stopped")),
            ):
                assert {a.kind for a in decided.actions if a.worker_id is not None} <= {
                    ActionKind.DRAIN,
                    ActionKind.UPDATE,
                    ActionKind.START,
                }
        draining = worker(1, WorkerState.DRAINING, requests=1, state_since=-1e6)
        for one in (group(), UPDATING):
            decided = decide(demand, draining, groups=(one,), scaling=scaling)
            assert [a for a in decided.actions if a.kind is not ActionKind.START] == []
