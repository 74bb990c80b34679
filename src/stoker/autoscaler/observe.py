"""From what the control plane knows to what the planner sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from stoker.autoscaler.fleet import Endpoint, Worker
from stoker.autoscaler.learnt import Learnt
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
)
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.autoscaler.waiting import room_of
from stoker.providers import Offer


def snapshot(
    plane: Plane,
    endpoint: Endpoint,
    offers: Mapping[str, Sequence[Offer]],
    now: float,
    problems: Mapping[str, str] | None = None,
) -> EndpointSnapshot:
    """One endpoint as the planner sees it; its forecaster takes note of what came.

    Args:
        plane: the control plane.
        endpoint: which.
        offers: what each provider listed last.
        now: on the control plane's own clock.
        problems: of the providers that could not be asked.
    """
    fleet = plane.fleet
    has_room = any(offer.available > 0 for listed in offers.values() for offer in listed)
    no_offer = "" if has_room else room_of(plane, endpoint.id, offers, problems or {})
    groups = []
    for group in fleet.groups_of(endpoint.id):
        learnt = plane.experience.of(group.id)
        groups.append(
            GroupSnapshot(
                id=group.id,
                max_workers=group.max_workers,
                min_cold_load=group.min_cold_load or 0.0,
                offers=_offers(learnt, offers),
                no_offer=no_offer,
                perf=learnt.perf,
                create_seconds=learnt.create_seconds,
                start_seconds=learnt.start_seconds,
                failures=learnt.failures,
                last_failure_at=learnt.last_failure_at,
                weight=group.weight,
                revision=group.revision,
                updating=group.updating,
            )
        )
    perfs = [group.perf for group in groups if group.perf > 0]
    plane.router.expect_perf(endpoint.id, sum(perfs) / len(perfs) if perfs else 0.0)
    demand = plane.router.demand(endpoint.id, now)
    if demand.last_request_at is None:
        # What came before a restart is not known: so it counts as having come just then.
        demand = replace(demand, last_request_at=plane.loaded_at)
    workers = fleet.of_endpoint(endpoint.id)
    for worker in workers:
        if worker.state in LOADING_STATES:  # its goal, or what is learnt, may be another one now
            plane.expect(worker, now)
    seen = EndpointSnapshot(
        endpoint_id=endpoint.id,
        name=endpoint.name,
        parameters=endpoint.parameters,
        demand=demand,
        workers=tuple(_worker(plane, worker) for worker in workers),
        groups=tuple(groups),
    )
    forecaster = plane.forecasters.get(endpoint.id)
    if forecaster is None:
        forecaster = plane.forecasters[endpoint.id] = plane.new_forecaster()
    # Its days are to begin at the same time whenever we were started.
    seen.outlook = forecaster.observe(seen, plane.day_time(now))
    return seen


def _offers(learnt: Learnt, offers: Mapping[str, Sequence[Offer]]) -> tuple[OfferSnapshot, ...]:
    """What has room, with what a group has learnt of it."""
    found = []
    for provider, listed in offers.items():
        for offer in listed:
            if offer.available <= 0:
                continue
            trouble = learnt.offers.get((provider, offer.id))
            found.append(
                OfferSnapshot(
                    id=offer.id,
                    provider=provider,
                    price=offer.price_per_hour,
                    available=offer.available,
                    perf=learnt.perfs.get(offer.hardware, 0.0),
                    hardware=offer.hardware,
                    spot=offer.spot,
                    stoppable=offer.stoppable,
                    failures=trouble.failures if trouble else 0,
                    last_failure_at=trouble.last_at if trouble else None,
                )
            )
    return tuple(found)


def _worker(plane: Plane, worker: Worker) -> WorkerSnapshot:
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
        perf=worker.capacity,
        load=view.load if view else 0.0,
        requests=requests,
        idle_since=max(worker.idle_since, view.idle_since) if view and not requests else None,
        price=worker.record.price_per_hour,
        attached=worker.record.attached,
        provider=worker.record.provider,
        offer_id=worker.record.offer_id,
        lost=worker.lost,
        hardware=worker.record.hardware,
        slots=worker.slots,
        revision=worker.revision,
        leaves_at=worker.leaves_at,
        stoppable=worker.record.stoppable,
        coming_since=worker.coming_since,
    )
