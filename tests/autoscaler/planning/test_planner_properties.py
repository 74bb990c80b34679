"""What holds for every plan, whatever the endpoint looks like."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    ActionKind,
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    Plan,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import (
    ACTIVE,
    EXISTS,
    LEAVING,
    LOADING_STATES,
    Event,
    WorkerState,
    next_state,
)
from stoker.wire import EndpointParameters

NOW = 1000.0

many = settings(max_examples=50, deadline=None)

EVENTS = {
    ActionKind.START: Event.PLAN_START,
    ActionKind.DRAIN: Event.PLAN_DRAIN,
    ActionKind.STOP: Event.PLAN_STOP,
    ActionKind.DESTROY: Event.PLAN_DESTROY,
    ActionKind.UPDATE: Event.PLAN_UPDATE,
    ActionKind.REBOOT: Event.PLAN_REBOOT,
}

loads = st.sampled_from([0.0, 0.0, 1.0, 10.0, 42.0, 100.0, 1000.0])
perfs = st.sampled_from([50.0, 5.0, 20.0, 50.0, 200.0, 0.0])

parameters = st.builds(
    EndpointParameters,
    min_load=st.sampled_from([0.0, 0.0, 1.0, 60.0]),
    min_cold_load=st.sampled_from([0.0, 0.0, 100.0]),
    target_util=st.sampled_from([0.5, 0.9, 1.0]),
    cold_mult=st.sampled_from([1.0, 2.5]),
    cold_workers=st.integers(0, 4),
    max_workers=st.integers(0, 12),
    max_queue_time=st.sampled_from([0.0, 5.0, 30.0]),
    target_queue_time=st.sampled_from([0.0, 1.0, 10.0]),
    inactivity_timeout=st.sampled_from([None, -1.0, 0.0, 5.0]),
    endpoint_state=st.sampled_from(["active"] * 10 + ["suspended", "stopped"]),
)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    rates = sorted(draw(st.tuples(loads, loads, loads)))
    held_count, booked_count = draw(st.integers(0, 20)), draw(st.integers(0, 20))
    return Demand(
        arrival_rate=rates[0],
        recent_rate=rates[1],
        peak_rate=rates[2],
        held_load=held_count * draw(loads),
        held_count=held_count,
        booked_load=booked_count * draw(loads),
        booked_count=booked_count,
        last_request_at=draw(st.sampled_from([None, NOW - 600.0, NOW - 3.0, NOW])),
    )


groups_of: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        max_workers=st.sampled_from([None, None, None, None, 0, 3]),
        min_cold_load=st.sampled_from([0.0, 0.0, 100.0]),
        perf=perfs,
        failures=st.sampled_from([0, 0, 0, 0, 3, 50]),
        last_failure_at=st.sampled_from([NOW - 1.0, NOW - 1000.0]),
        weight=st.sampled_from([1.0, 1.0, 1.0, 0.1, 0.0]),
        revision=st.just(1),
        updating=st.sampled_from([False, False, True]),
        sees=st.sets(st.sampled_from([0, 1, 2]), min_size=1),
    ),
    min_size=1,
    max_size=2,
)

offers_of = st.lists(
    st.builds(
        OfferSnapshot,
        id=st.sampled_from(["a", "b", "c"]),
        provider=st.just("local"),
        price=st.sampled_from([0.0, 0.5, 2.0]),
        available=st.integers(0, 6),
        perf=perfs,
        hardware=st.sampled_from(["", "small", "large"]),
        spot=st.booleans(),
        stoppable=st.sampled_from([True, True, False]),
        failures=st.sampled_from([0, 0, 0, 2]),
        last_failure_at=st.sampled_from([None, NOW - 1.0, NOW - 70.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda offer: offer.id,
)

workers_of: st.SearchStrategy[list[dict[str, Any]]] = st.lists(
    st.builds(
        dict,
        state=st.sampled_from([*WorkerState, *[WorkerState.READY, WorkerState.STOPPED] * 6]),
        state_since=st.sampled_from([NOW - 5000.0, NOW - 20.0, NOW]),
        workergroup_id=st.sampled_from([1, 1, 1, 1, 1, 2, 7]),
        perf=perfs,
        requests=st.sampled_from([0, 0, 3]),
        price=st.sampled_from([0.0, 0.5, 2.0]),
        attached=st.sampled_from([False] * 5 + [True]),
        provider=st.just("local"),
        offer_id=st.sampled_from(["a", "b"]),
        hardware=st.sampled_from(["", "small", "large"]),
        revision=st.sampled_from([1, 1, 0]),
        leaves_at=st.sampled_from([None] * 6 + [NOW + 20.0, NOW + 1e6]),
        stoppable=st.sampled_from([True, True, False]),
        lost=st.booleans(),
        idle_since=st.sampled_from([None, NOW - 600.0, NOW - 3.0]),
    ),
    max_size=8,
)


@st.composite
def snapshots(draw: st.DrawFn) -> EndpointSnapshot:
    workers: list[dict[str, Any]] = draw(workers_of)
    groups: list[dict[str, Any]] = draw(groups_of)
    offers = draw(offers_of)
    for one in groups:
        seen = one.pop("sees")
        one["offers"] = tuple(offer for n, offer in enumerate(offers) if n in seen)
    return EndpointSnapshot(
        endpoint_id=1,
        name="e",
        parameters=draw(parameters),
        demand=draw(demands()),
        workers=tuple(WorkerSnapshot(id=n, **one) for n, one in enumerate(workers, 1)),
        groups=tuple(GroupSnapshot(id=n, **one) for n, one in enumerate(groups, 1)),
    )


def carry_out(snapshot: EndpointSnapshot, decided: Plan) -> EndpointSnapshot:
    """The endpoint a moment after; raises where an action does not fit a worker's state."""
    workers = {worker.id: worker for worker in snapshot.workers}
    taken: dict[str, int] = {}
    for action in decided.actions:
        if action.kind is ActionKind.CREATE:
            assert action.group_id is not None
            assert action.offer_id is not None
            new_id = max(workers, default=0) + 1
            workers[new_id] = WorkerSnapshot(
                id=new_id,
                workergroup_id=action.group_id,
                state=WorkerState.CREATING,
                state_since=NOW,
                provider=action.provider,
                offer_id=action.offer_id,
                revision=1,
            )
            taken[action.offer_id] = taken.get(action.offer_id, 0) + 1
        else:
            assert action.worker_id is not None
            worker = workers[action.worker_id]
            state = next_state(worker.state, EVENTS[action.kind])
            revision = 1 if action.kind is ActionKind.REBOOT else worker.revision
            workers[worker.id] = replace(worker, state=state, state_since=NOW, revision=revision)
    groups = tuple(
        replace(
            group,
            offers=tuple(
                replace(offer, available=offer.available - taken.get(offer.id, 0))
                for offer in group.offers
            ),
        )
        for group in snapshot.groups
    )
    return replace(snapshot, workers=tuple(workers.values()), groups=groups)


def existing(snapshot: EndpointSnapshot) -> int:
    return sum(worker.state in EXISTS for worker in snapshot.workers)


def serving(snapshot: EndpointSnapshot) -> int:
    states = ACTIVE | LOADING_STATES
    return sum(worker.state in states for worker in snapshot.workers)


def staying(snapshot: EndpointSnapshot) -> int:
    return sum(worker.state not in LEAVING for worker in snapshot.workers)


@many
@given(snapshots())
def test_a_plan_never_exceeds_max_workers(snapshot: EndpointSnapshot) -> None:
    after = carry_out(snapshot, plan(snapshot, NOW))
    assert existing(after) <= max(existing(snapshot), snapshot.parameters.max_workers)
    for group in snapshot.groups:
        if group.max_workers is not None:
            before, now = (
                sum(w.workergroup_id == group.id and w.state in EXISTS for w in s.workers)
                for s in (snapshot, after)
            )
            assert now <= max(before, group.max_workers)


@many
@given(snapshots())
def test_a_plan_never_takes_more_machines_than_are_offered(snapshot: EndpointSnapshot) -> None:
    after = carry_out(snapshot, plan(snapshot, NOW))
    assert all(offer.available >= 0 for group in after.groups for offer in group.offers)


@many
@given(snapshots())
def test_a_plan_never_touches_an_attached_worker(snapshot: EndpointSnapshot) -> None:
    attached = {worker.id for worker in snapshot.workers if worker.attached}
    assert not attached & {action.worker_id for action in plan(snapshot, NOW).actions}


@many
@given(snapshots())
def test_a_worker_is_decided_about_once(snapshot: EndpointSnapshot) -> None:
    ids = [a.worker_id for a in plan(snapshot, NOW).actions if a.worker_id is not None]
    assert len(ids) == len(set(ids))


@many
@given(snapshots())
def test_a_serving_worker_is_never_stopped_before_it_is_drained_and_empty(
    snapshot: EndpointSnapshot,
) -> None:
    workers = {worker.id: worker for worker in snapshot.workers}
    for action in plan(snapshot, NOW).actions:
        if action.kind in (ActionKind.STOP, ActionKind.DESTROY, ActionKind.REBOOT):
            assert action.worker_id is not None
            worker = workers[action.worker_id]
            assert worker.state not in ACTIVE
            assert worker.state is not WorkerState.DRAINING or worker.requests == 0


@many
@given(snapshots())
def test_plans_that_are_carried_out_come_to_rest(snapshot: EndpointSnapshot) -> None:
    """The same demand never makes the fleet swing: within a few rounds nothing is left to do.

    Some rounds are natural: drained, then stopped, then destroyed; or a better worker is started,
    and the worst one drained for it.
    """
    rounds = 0
    while (decided := plan(snapshot, NOW)).actions:
        snapshot = carry_out(snapshot, decided)
        rounds += 1
        assert rounds <= 6, [action.reason for action in decided.actions]


@many
@given(snapshots(), st.data())
def test_more_demand_never_leaves_fewer_workers(
    snapshot: EndpointSnapshot, data: st.DataObject
) -> None:
    less, extra = snapshot.demand, data.draw(demands())
    more = Demand(
        arrival_rate=less.arrival_rate + extra.arrival_rate,
        recent_rate=less.recent_rate + extra.recent_rate,
        peak_rate=less.peak_rate + extra.peak_rate,
        held_load=less.held_load + extra.held_load,
        held_count=less.held_count + extra.held_count,
        booked_load=less.booked_load + extra.booked_load,
        booked_count=less.booked_count + extra.booked_count,
        last_request_at=max(less.last_request_at or 0.0, extra.last_request_at or 0.0) or None,
    )
    with_less = carry_out(snapshot, plan(snapshot, NOW))
    busier = replace(snapshot, demand=more)
    with_more = carry_out(busier, plan(busier, NOW))
    assert serving(with_more) >= serving(with_less)
    assert staying(with_more) >= staying(with_less)


@many
@given(snapshots())
def test_the_same_snapshot_gives_the_same_plan_with_a_line_for_each_action(
    snapshot: EndpointSnapshot,
) -> None:
    decided = plan(snapshot, NOW)
    assert decided == plan(snapshot, NOW)
    for action in decided.actions:
        subject = "worker:" if action.worker_id is None else f"worker {action.worker_id}:"
        assert action.reason.startswith(f"{action.kind} {subject} ")
        assert "\n" not in action.reason
        assert "inf" not in action.reason.replace("inactivity", "")
        assert "nan" not in action.reason
