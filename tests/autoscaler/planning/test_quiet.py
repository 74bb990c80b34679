"""The quick way through a round that decides nothing: it answers what the long way would."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.autoscaler.planning.test_planner_properties import (
    NOW,
    demands,
    offers_of,
    snapshots,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    Candidate,
    EndpointSnapshot,
    GroupSnapshot,
    Outlook,
    Plan,
    PlannerSettings,
    WorkerSnapshot,
    plan,
    planner,
)
from stoker.autoscaler.planning.need import needs_of
from stoker.autoscaler.planning.quiet import is_quiet
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters

many = settings(max_examples=300, deadline=None)

READY, STOPPED = WorkerState.READY, WorkerState.STOPPED

rates = st.sampled_from([0.0, 10.0, 45.0, 90.0, 120.0])

calm_demands = (
    st.just(Demand(last_request_at=NOW - 3.0))
    | demands()
    | st.builds(
        Demand,
        arrival_rate=rates,
        peak_rate=rates,
        booked_count=st.integers(0, 5),
        last_request_at=st.sampled_from([None, NOW - 600.0, NOW - 3.0]),
    )
)

outlooks = (
    st.none()
    | st.none()
    | st.builds(
        Outlook,
        needed=rates,
        for_load=rates,
        reserve=rates,
        kept=rates,
        load=rates,
        predicted=rates,
        anticipated=rates,
        floor=rates,
        clearing=rates,
        binds=st.just("headroom"),
        why=st.just("of the load"),
        candidate=st.none()
        | st.builds(
            Candidate,
            predictor=st.integers(0, 3),
            margin=st.just(1.0),
            hold=st.just(60.0),
            floor=st.integers(0, 4),
        ),
    )
)


odd = st.sampled_from(
    [
        {"perf": 0.0},
        {"leaves_at": NOW + 20.0},
        {"leaves_at": NOW + 1e6},
        {"workergroup_id": 7},
        {"attached": True},
        {"attached": True, "workergroup_id": 7},
        {"revision": 0},
        *({"state": one} for one in WorkerState),
    ]
)
near = st.sampled_from([0.0, 0.0, -15.0, -35.0, 5.0, -60.0])


@st.composite
def calm(draw: st.DrawFn) -> EndpointSnapshot:
    """Endpoints of ready and stopped workers, half of them with one that is unusual."""
    count = draw(st.integers(1, 4))
    state = st.sampled_from([READY, READY, READY, READY, STOPPED])
    workers = [
        WorkerSnapshot(
            id=number,
            workergroup_id=1,
            state=draw(state),
            state_since=draw(st.sampled_from([NOW - 9000.0, NOW - 3.0])),
            perf=draw(st.sampled_from([50.0, 50.0, 50.0, 20.0])),
            price=draw(st.sampled_from([0.0, 0.5])),
            requests=draw(st.sampled_from([0, 0, 3])),
            revision=1,
            idle_since=draw(st.sampled_from([None, NOW - 600.0])),
            stoppable=draw(st.sampled_from([True, True, False])),
        )
        for number in range(1, count + 1)
    ]
    if draw(st.booleans()):
        workers[0] = replace(workers[0], **draw(odd))
    # What is asked for is near to what is there, so that many rounds are quiet.
    ready = sum(worker.perf for worker in workers if worker.state is READY)
    everything = sum(worker.perf for worker in workers)
    group = GroupSnapshot(
        id=1,
        offers=tuple(draw(offers_of)),
        max_workers=draw(st.sampled_from([None] * 6 + [1])),
        min_cold_load=draw(st.sampled_from([0.0] * 4 + [120.0])),
        perf=50.0,
        create_seconds=30.0,
        start_seconds=5.0,
        revision=1,
        updating=draw(st.sampled_from([False] * 6 + [True])),
    )
    return EndpointSnapshot(
        endpoint_id=1,
        name="e",
        parameters=EndpointParameters(
            min_load=max(0.0, ready + draw(near)),
            cold_mult=draw(st.sampled_from([1.0, 1.0, 1.0, 2.0])),
            cold_workers=max(0, count + draw(st.sampled_from([-1, -1, -1, 0, 1]))),
            min_cold_load=draw(st.sampled_from([0.0, 0.0, 0.0, everything, everything + 5.0])),
            max_workers=count + draw(st.sampled_from([4, 4, 4, 0, -1])),
            inactivity_timeout=draw(st.sampled_from([None, None, -1.0, 5.0])),
            endpoint_state=draw(st.sampled_from(["active"] * 6 + ["suspended", "stopped"])),
        ),
        demand=draw(calm_demands),
        workers=tuple(workers),
        groups=(group,),
    )


def long_way(snapshot: EndpointSnapshot, *, explain: bool) -> Plan:
    with mock.patch.object(planner, "is_quiet", return_value=False):
        return plan(snapshot, NOW, explain=explain)


@many
@given(calm() | calm() | snapshots(), outlooks, st.booleans())
def test_the_quick_way_answers_what_the_long_way_does(
    snapshot: EndpointSnapshot, outlook: Outlook | None, explain: bool
) -> None:
    seen = replace(snapshot, outlook=outlook)
    assert plan(seen, NOW, explain=explain) == long_way(seen, explain=explain)


QUIET = EndpointSnapshot(
    endpoint_id=1,
    name="e",
    parameters=EndpointParameters(min_load=90.0, cold_workers=2, cold_mult=1, max_workers=3),
    demand=Demand(),
    workers=tuple(
        WorkerSnapshot(id=number, workergroup_id=1, state=READY, state_since=0.0, perf=50.0)
        for number in (1, 2)
    ),
    groups=(GroupSnapshot(id=1),),
)


def quick(snapshot: EndpointSnapshot) -> bool:
    return is_quiet(snapshot, needs_of(snapshot, NOW, PlannerSettings()))


def test_most_rounds_take_the_quick_way() -> None:
    assert quick(QUIET)
    with mock.patch.object(planner, "Draft", side_effect=AssertionError("the long way")):
        assert plan(QUIET, NOW, explain=False) == Plan()


def test_stopped_workers_leave_it_quick() -> None:
    asleep = replace(QUIET.workers[0], id=3, state=STOPPED)
    assert quick(replace(QUIET, workers=(*QUIET.workers, asleep)))


@pytest.mark.parametrize(("lasted", "goes"), [(10.0, False), (1e7, True)])
def test_a_stopped_worker_goes_once_it_was_kept_for_long_enough(lasted: float, goes: bool) -> None:
    asleep = replace(QUIET.workers[0], id=3, state=STOPPED, state_since=NOW - lasted)
    actions = plan(replace(QUIET, workers=(*QUIET.workers, asleep)), NOW, explain=False).actions
    assert [action.worker_id for action in actions] == ([3] if goes else [])


def changed(**figures: Any) -> EndpointSnapshot:
    """QUIET, but for its first worker."""
    return replace(QUIET, workers=(replace(QUIET.workers[0], **figures), *QUIET.workers[1:]))


def with_parameters(**figures: Any) -> EndpointSnapshot:
    return replace(QUIET, parameters=msgspec.structs.replace(QUIET.parameters, **figures))


@pytest.mark.parametrize(
    "snapshot",
    [
        *(changed(state=state) for state in sorted(set(WorkerState) - {READY, STOPPED})),
        changed(perf=0.0),
        changed(perf=500.0),
        changed(leaves_at=NOW),
        changed(workergroup_id=7),
        replace(QUIET, groups=(GroupSnapshot(id=1, updating=True),)),
        replace(QUIET, groups=(GroupSnapshot(id=1, max_workers=1),)),
        replace(QUIET, groups=(GroupSnapshot(id=1, min_cold_load=200.0),)),
        replace(QUIET, groups=(GroupSnapshot(id=1), GroupSnapshot(id=2))),
        replace(QUIET, groups=()),
        with_parameters(max_workers=1),
        with_parameters(min_load=110.0),
        with_parameters(min_load=40.0),
        with_parameters(cold_workers=3),
        with_parameters(cold_mult=2.0),
        with_parameters(min_cold_load=110.0),
        with_parameters(endpoint_state="stopped"),
        with_parameters(endpoint_state="suspended"),
    ],
)
def test_whatever_may_have_to_be_done_takes_the_long_way(snapshot: EndpointSnapshot) -> None:
    assert not quick(snapshot)


def test_a_reserve_for_what_recurs_takes_the_long_way() -> None:
    outlook = Outlook(
        needed=90.0,
        for_load=90.0,
        reserve=110.0,
        kept=90.0,
        load=90.0,
        predicted=90.0,
        anticipated=90.0,
        floor=0.0,
        clearing=0.0,
        binds="target_util",
        why="",
        candidate=Candidate(predictor=0, margin=1.0, hold=60.0, floor=0),
    )
    assert not quick(replace(QUIET, outlook=outlook))
    assert quick(replace(QUIET, outlook=replace(outlook, reserve=100.0)))
