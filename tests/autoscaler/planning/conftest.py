"""What the tests of the planner share: an endpoint in few words, and what was decided in fewer."""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    Action,
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    Plan,
    PlannerSettings,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import WorkerState
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
) -> Plan:
    snapshot = EndpointSnapshot(
        endpoint_id=1,
        name="chat",
        parameters=scaling,
        demand=demand,
        workers=workers,
        groups=(group(),) if groups is None else groups,
    )
    return plan(snapshot, NOW, settings or PlannerSettings())


def kinds(decided: Plan) -> list[tuple[str, int | None]]:
    return [(action.kind.value, action.worker_id) for action in decided.actions]


def only(decided: Plan) -> Action:
    (action,) = decided.actions
    return action
