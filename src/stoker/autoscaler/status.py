"""What `stoker status` shows: all endpoints, workers and providers, as plain values."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from stoker.autoscaler.fleet import Endpoint
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import Plan
from stoker.autoscaler.states import wire_name
from stoker.autoscaler.waiting import last_failure, public, waiting_reason
from stoker.providers import Offer
from stoker.version import __version__


class Observed(Protocol):
    """What the reconciler saw last."""

    @property
    def offers(self) -> dict[str, list[Offer]]:
        """Of each provider."""
        ...

    @property
    def problems(self) -> dict[str, str]:
        """Why a provider cannot be asked."""
        ...

    @property
    def plans(self) -> dict[int, tuple[Plan, float]]:
        """The last plan of each endpoint."""
        ...


def status(plane: Plane, observed: Observed) -> dict[str, Any]:
    """Everything at a glance; for the owner of the account, because it names all endpoints."""
    now = plane.now()
    return {
        "version": __version__,
        "now": plane.wall(),
        "endpoints": [
            _endpoint(plane, observed, endpoint, now)
            for endpoint in plane.fleet.endpoints.values()
            if not endpoint.record.destroyed
        ],
        "workers": [
            {
                "id": worker.id,
                "endpoint_name": _name(plane, worker.endpoint_id),
                "workergroup_id": worker.record.workergroup_id,
                "status": wire_name(worker.state),
                "seconds": round(max(0.0, now - worker.state_since), 3),
                "provider": worker.record.provider,
                "hardware": worker.record.hardware,
                "perf": worker.perf,
                "load": worker.report.cur_load if worker.report else 0.0,
                "requests": worker.report.num_requests_working if worker.report else 0,
                "error": worker.error,
            }
            for worker in plane.fleet.workers.values()
        ],
        "providers": [_provider(plane, observed, name) for name in plane.providers],
    }


def _endpoint(plane: Plane, observed: Observed, endpoint: Endpoint, now: float) -> dict[str, Any]:
    demand = plane.router.demand(endpoint.id, now)
    decided, _ = observed.plans.get(endpoint.id, (None, 0.0))
    last = last_failure(plane, endpoint.id)
    workers = plane.fleet.of_endpoint(endpoint.id)
    return {
        "id": endpoint.id,
        "endpoint_name": endpoint.name,
        "endpoint_state": endpoint.parameters.endpoint_state,
        "workers": dict(sorted(Counter(wire_name(worker.state) for worker in workers).items())),
        "load_per_second": round(demand.arrival_rate, 3),
        "requests_waiting": demand.held_count,
        "requests_working": demand.booked_count,
        "reason": waiting_reason(plane, endpoint.id, decided),
        "last_error": None
        if last is None
        else {
            "worker_id": last.worker_id,
            "at": plane.wall(last.at),
            "text": public(last.text),
        },
    }


def _provider(plane: Plane, observed: Observed, name: str) -> dict[str, Any]:
    holders = Counter(_name(plane, worker.endpoint_id) for worker in plane.fleet.of_provider(name))
    return {
        "name": name,
        "problem": observed.problems.get(name),
        "instances": dict(sorted(holders.items())),
        "offers": [
            {
                "hardware": offer.hardware,
                "price_per_hour": offer.price_per_hour,
                "available": offer.available,
                "capacity": offer.capacity,
                "limit": offer.limit,
            }
            for offer in observed.offers.get(name, ())
        ],
    }


def _name(plane: Plane, endpoint_id: int) -> str:
    endpoint = plane.fleet.endpoints.get(endpoint_id)
    return endpoint.name if endpoint is not None else f"deleted endpoint {endpoint_id}"
