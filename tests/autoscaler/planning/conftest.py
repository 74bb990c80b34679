"""What the tests of the planner share: an endpoint in few words, and what was decided in fewer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    Action,
    ActionKind,
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    Outlook,
    Plan,
    PlannerSettings,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import LOADING_STATES, Event, WorkerState, next_state
from stoker.wire import EndpointParameters

NOW = 1000.0

# Everything off: each test turns on what it is about.
BARE = EndpointParameters(
    min_load=0, cold_workers=0, cold_mult=1, max_workers=8, inactivity_timeout=5, target_util=0.9
)


def parameters(**changes: Any) -> EndpointParameters:
    return msgspec.structs.replace(BARE, **changes)


def worker(worker_id: int, state: WorkerState = WorkerState.READY, **more: Any) -> WorkerSnapshot:
    figures: dict[str, Any] = {"workergroup_id": 1, "state_since": 0.0, "perf": 50.0} | more
    return WorkerSnapshot(id=worker_id, state=state, **figures)


def group(**more: Any) -> GroupSnapshot:
    figures: dict[str, Any] = {
        "id": 1,
        "perf": 50.0,
        "offers": (OfferSnapshot(id="cpu", provider="local", available=8),),
    } | more
    return GroupSnapshot(**figures)


def steady(rate: float) -> Demand:
    """An endpoint that has been asked for `rate` load/s for a while, and keeps up with it."""
    return Demand(
        arrival_rate=rate,
        recent_rate=rate,
        peak_rate=rate,
        booked_load=rate,
        booked_count=4,
        last_request_at=NOW,
    )


def held(count: int, load: float = 100.0) -> Demand:
    rate = count * load / 5
    return Demand(
        arrival_rate=rate / 12,
        recent_rate=rate,
        peak_rate=rate,
        held_load=count * load,
        held_count=count,
        last_request_at=NOW,
    )


def quiet(seconds: float) -> Demand:
    if seconds >= 60:
        return Demand(last_request_at=NOW - seconds)
    return Demand(arrival_rate=20.0, peak_rate=200.0, last_request_at=NOW - seconds)


def decide(
    demand: Demand,
    *workers: WorkerSnapshot,
    scaling: EndpointParameters = BARE,
    groups: tuple[GroupSnapshot, ...] | None = None,
    settings: PlannerSettings | None = None,
    outlook: Outlook | None = None,
) -> Plan:
    snapshot = EndpointSnapshot(
        endpoint_id=1,
        name="chat",
        parameters=scaling,
        demand=demand,
        workers=workers,
        groups=(group(),) if groups is None else groups,
        outlook=outlook,
    )
    return plan(snapshot, NOW, settings or PlannerSettings())


def kinds(decided: Plan) -> list[tuple[str, int | None]]:
    return [(action.kind.value, action.worker_id) for action in decided.actions]


def only(decided: Plan) -> Action:
    (action,) = decided.actions
    return action


EVENTS = {
    ActionKind.START: Event.PLAN_START,
    ActionKind.DRAIN: Event.PLAN_DRAIN,
    ActionKind.STOP: Event.PLAN_STOP,
    ActionKind.DESTROY: Event.PLAN_DESTROY,
    ActionKind.UPDATE: Event.PLAN_UPDATE,
    ActionKind.REBOOT: Event.PLAN_REBOOT,
}


def live(
    demand: Demand,
    workers: list[WorkerSnapshot],
    groups: tuple[GroupSnapshot, ...],
    rounds: int = 150,
) -> Iterator[dict[int, WorkerSnapshot]]:
    """Plan and carry out, 5 s a round, in which all goes well: the fleet after each plan."""
    fleet = {one.id: one for one in workers}
    revisions = {one.id: one.revision for one in groups}
    for _ in range(rounds):
        for action in decide(demand, *fleet.values(), groups=groups).actions:
            if action.worker_id is None:
                assert action.group_id is not None
                new_id = max(fleet, default=0) + 1
                fleet[new_id] = worker(
                    new_id,
                    WorkerState.CREATING,
                    workergroup_id=action.group_id,
                    revision=revisions[action.group_id],
                    state_since=NOW,
                    perf=0.0,
                )
                continue
            one = fleet[action.worker_id]
            assert one.workergroup_id is not None
            rebooted = action.kind is ActionKind.REBOOT
            fleet[one.id] = replace(
                one,
                state=next_state(one.state, EVENTS[action.kind]),
                state_since=NOW,
                revision=revisions[one.workergroup_id] if rebooted else one.revision,
            )
        yield fleet
        for one in list(fleet.values()):
            # Time passes by making everything older: the demand stays as it is.
            older = replace(one, state_since=one.state_since - 5.0)
            if one.state in LOADING_STATES:
                older = replace(one, state=WorkerState.READY, state_since=NOW, perf=50.0)
            elif one.state is WorkerState.STOPPING:
                older = replace(one, state=WorkerState.STOPPED, state_since=NOW)
            fleet[one.id] = older
            if one.state is WorkerState.DESTROYING:
                del fleet[one.id]
