"""From a number to actions."""

from __future__ import annotations

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
)
from stoker.autoscaler.states import WorkerState
from stoker.simulator.policies.scaling import scale_to
from stoker.wire import EndpointParameters


def snapshot(*workers: WorkerSnapshot, available: int = 10) -> EndpointSnapshot:
    offers = (OfferSnapshot(id="o", provider="p", available=available),)
    return EndpointSnapshot(
        endpoint_id=1,
        name="e",
        parameters=EndpointParameters(),
        demand=Demand(),
        workers=workers,
        groups=(GroupSnapshot(id=1, offers=offers),),
    )


def worker(
    number: int,
    state: WorkerState,
    *,
    requests: int = 0,
    since: float = 0.0,
    stoppable: bool = True,
) -> WorkerSnapshot:
    return WorkerSnapshot(
        id=number,
        workergroup_id=1,
        state=state,
        state_since=since,
        requests=requests,
        stoppable=stoppable,
    )


def told(
    wanted: int, *workers: WorkerSnapshot, available: int = 10
) -> list[tuple[str, int | None]]:
    actions = scale_to(wanted, snapshot(*workers, available=available), "why")
    return [(action.kind.value, action.worker_id) for action in actions]


def test_what_drains_is_put_back_then_what_is_stopped_is_started_then_one_is_created() -> None:
    workers = (
        worker(1, WorkerState.READY),
        worker(2, WorkerState.STOPPED),
        worker(3, WorkerState.DRAINING, requests=2),
    )
    assert told(4, *workers) == [("start", 3), ("start", 2), ("create", None)]


def test_no_more_are_created_than_the_provider_has() -> None:
    assert told(4, available=2) == [("create", None)] * 2


def test_what_still_loads_goes_first_the_youngest_before() -> None:
    workers = (
        worker(1, WorkerState.READY, requests=1),
        worker(2, WorkerState.READY),
        worker(3, WorkerState.LOADING, since=5.0),
        worker(4, WorkerState.LOADING, since=9.0),
    )
    assert told(3, *workers) == [("destroy", 4)]
    assert told(1, *workers) == [("destroy", 4), ("destroy", 3), ("drain", 2)]


def test_what_has_drained_is_stopped_where_it_can_be() -> None:
    drained = worker(1, WorkerState.DRAINING)
    assert told(0, drained) == [("stop", 1)]
    assert told(0, worker(1, WorkerState.DRAINING, stoppable=False)) == [("destroy", 1)]
    assert told(0, worker(1, WorkerState.DRAINING, requests=1)) == []


def test_what_failed_is_destroyed_and_replaced() -> None:
    assert told(1, worker(1, WorkerState.ERROR)) == [("destroy", 1), ("create", None)]
