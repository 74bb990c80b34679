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
    parameters,
    quiet,
    steady,
    worker,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import ActionKind, Plan, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, Event, WorkerState, next_state

UPDATING = group(revision=1, updating=True)
EVENTS = {
    ActionKind.START: Event.PLAN_START,
    ActionKind.DRAIN: Event.PLAN_DRAIN,
    ActionKind.STOP: Event.PLAN_STOP,
    ActionKind.DESTROY: Event.PLAN_DESTROY,
    ActionKind.UPDATE: Event.PLAN_UPDATE,
    ActionKind.REBOOT: Event.PLAN_REBOOT,
}


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
    fleet = {n: worker(n) for n in (1, 2, 3)}
    now = NOW
    for _ in range(200):
        decided = decide_at(demand, now, fleet)
        for action in decided.actions:
            if action.kind is ActionKind.CREATE:
                new_id = max(fleet) + 1
                fleet[new_id] = worker(
                    new_id, WorkerState.CREATING, revision=1, state_since=now, perf=0.0
                )
                continue
            assert action.worker_id is not None
            one = fleet[action.worker_id]
            revision = 1 if action.kind is ActionKind.REBOOT else one.revision
            state = next_state(one.state, EVENTS[action.kind])
            fleet[one.id] = replace(one, state=state, state_since=now, revision=revision)
        ready = [one for one in fleet.values() if one.state in ACTIVE]
        assert len(ready) >= 3, [action.reason for action in decided.actions]
        now += 5.0
        for one in list(fleet.values()):
            if one.state in (WorkerState.CREATING, WorkerState.REBOOTING):
                fleet[one.id] = replace(one, state=WorkerState.READY, state_since=now, perf=50.0)
            elif one.state is WorkerState.DESTROYING:
                del fleet[one.id]
    assert len(fleet) == 3
    assert all(one.revision == 1 and one.state is WorkerState.READY for one in fleet.values())
    assert decide_at(demand, now, fleet).actions == ()


def decide_at(demand: Demand, now: float, fleet: dict[int, WorkerSnapshot]) -> Plan:
    shifted = [replace(one, state_since=one.state_since - (now - NOW)) for one in fleet.values()]
    return decide(demand, *shifted, groups=(UPDATING,))


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
