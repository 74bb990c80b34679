"""From what the control plane knows to what the planner sees; and what is learnt on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from stoker.autoscaler.fleet import Endpoint, Worker
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
)
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.providers import Offer

if TYPE_CHECKING:
    from stoker.autoscaler.controlplane import ControlPlane

KEEP = 0.7
"""Share of the former figure in a learnt one: the last three observations make up two thirds."""


@dataclass(slots=True)
class Learnt:
    """What the workers of a group have taught us."""

    perf: float = 0.0
    """Load units per second; 0: not known yet."""
    create_seconds: float = 0.0
    start_seconds: float = 0.0
    failures: int = 0
    """In a row, to bring a worker up."""
    last_failure_at: float | None = None


class Experience:
    """Learns from the changes of workers' states, per workergroup."""

    def __init__(self) -> None:
        self._groups: dict[int, Learnt] = {}

    def of(self, group_id: int) -> Learnt:
        """What is known of a group."""
        return self._groups.setdefault(group_id, Learnt())

    def forget(self, group_id: int) -> None:
        """Its settings changed: nothing learnt before holds."""
        self._groups.pop(group_id, None)

    def note(self, worker: Worker, before: WorkerState, now: float) -> None:
        """A worker has just changed from `before` to its present state."""
        group = worker.record.workergroup_id
        if group is None:
            return
        learnt = self.of(group)
        if worker.state is WorkerState.READY:
            learnt.failures, learnt.last_failure_at = 0, None
            learnt.perf = _mix(learnt.perf, worker.perf)
            if worker.coming_since is not None:
                took = now - worker.coming_since
                if worker.was_ready:
                    learnt.start_seconds = _mix(learnt.start_seconds, took)
                else:
                    learnt.create_seconds = _mix(learnt.create_seconds, took)
            worker.coming_since, worker.was_ready = None, True
        elif worker.state is WorkerState.STARTING:
            worker.coming_since = now
        elif worker.state is WorkerState.ERROR and before in LOADING_STATES:
            learnt.failures += 1
            learnt.last_failure_at = now


def _mix(former: float, observed: float) -> float:
    return observed if former <= 0 else KEEP * former + (1 - KEEP) * observed


def snapshot(
    plane: ControlPlane, endpoint: Endpoint, offers: Mapping[str, Sequence[Offer]], now: float
) -> EndpointSnapshot:
    """One endpoint as the planner sees it."""
    fleet = plane.fleet
    recruitable = tuple(
        OfferSnapshot(
            id=offer.id,
            provider=provider,
            price=offer.price_per_hour,
            available=offer.available,
        )
        for provider, listed in offers.items()
        for offer in listed
        if offer.available > 0
    )
    groups = []
    for group in fleet.groups_of(endpoint.id):
        learnt = plane.experience.of(group.id)
        groups.append(
            GroupSnapshot(
                id=group.id,
                max_workers=group.max_workers,
                min_cold_load=group.min_cold_load or 0.0,
                offers=recruitable,
                perf=learnt.perf,
                create_seconds=learnt.create_seconds,
                start_seconds=learnt.start_seconds,
                failures=learnt.failures,
                last_failure_at=learnt.last_failure_at,
            )
        )
    demand = plane.router.demand(endpoint.id, now)
    if demand.last_request_at is None:
        # What came before a restart is not known: so it counts as having come just then.
        demand = replace(demand, last_request_at=plane.loaded_at)
    return EndpointSnapshot(
        endpoint_id=endpoint.id,
        name=endpoint.name,
        parameters=endpoint.parameters,
        demand=demand,
        workers=tuple(_worker(plane, worker) for worker in fleet.of_endpoint(endpoint.id)),
        groups=tuple(groups),
    )


def _worker(plane: ControlPlane, worker: Worker) -> WorkerSnapshot:
    view = plane.router.worker(worker.id)
    requests = view.requests if view else 0
    state = worker.state
    if worker.goal == "destroy" and state is not WorkerState.DESTROYING:
        # Decided, and about to happen: the planner shall not decide it again.
        state = WorkerState.DESTROYING
    return WorkerSnapshot(
        id=worker.id,
        workergroup_id=worker.record.workergroup_id,
        state=state,
        state_since=worker.state_since,
        perf=worker.perf,
        load=view.load if view else 0.0,
        requests=requests,
        idle_since=max(worker.idle_since, view.idle_since) if view and not requests else None,
        price=worker.record.price_per_hour,
        attached=worker.record.attached,
        provider=worker.record.provider,
        lost=worker.lost,
    )
