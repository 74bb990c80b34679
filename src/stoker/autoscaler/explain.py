"""What `stoker explain` shows of an endpoint: its last plan in figures, and each worker's part."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from stoker.autoscaler.acting import DRAINS_WAIT
from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import Plan
from stoker.autoscaler.planning import explain as lines_of
from stoker.autoscaler.states import wire_name
from stoker.errors import NotFoundError
from stoker.store import WorkergroupRecord


def explain(plane: Plane, endpoint_id: int, last: tuple[Plan, float] | None) -> dict[str, Any]:
    """An endpoint's last plan with what it is about, as plain values.

    Args:
        plane: the control plane.
        endpoint_id: whose.
        last: its last plan and when it was made; None: there was no round yet.

    Raises:
        NotFoundError: there is no such endpoint.
    """
    endpoint = plane.fleet.endpoints.get(endpoint_id)
    if endpoint is None or endpoint.record.destroyed:
        raise NotFoundError(f"there is no endpoint {endpoint_id}")
    now = plane.now()
    decided, at = last if last is not None else (Plan(), now)
    explanation = decided.explanation
    # While we have just started: see `acting`.
    until = plane.wall(plane.loaded_at + DRAINS_WAIT)
    withheld = [action.reason for action in decided.withheld]
    when = f"withheld until {datetime.fromtimestamp(until, UTC):%H:%M:%S} UTC"
    return {
        "endpoint_id": endpoint.id,
        "endpoint_name": endpoint.name,
        "endpoint_state": endpoint.parameters.endpoint_state,
        "planned_at": plane.wall(at) if last is not None else None,
        "summary": decided.summary,
        "lines": lines_of(decided) + [f"{when}: {reason}" for reason in withheld],
        "explanation": asdict(explanation) if explanation is not None else None,
        "actions": [action.reason for action in decided.actions],
        "withheld": withheld,
        "withheld_until": until if withheld else None,
        "notes": list(decided.notes),
        "workergroups": [_group(plane, group) for group in plane.fleet.groups_of(endpoint_id)],
        "workers": [_worker(plane, worker, now) for worker in plane.fleet.of_endpoint(endpoint_id)],
    }


def _group(plane: Plane, group: WorkergroupRecord) -> dict[str, Any]:
    learnt = plane.experience.of(group.id)
    return {
        "id": group.id,
        "backend": group.backend,
        "weight": group.weight,
        "revision": group.revision,
        "updating": group.updating,
        "perf": learnt.perf,
        "perf_by_hardware": dict(learnt.perfs),
        "create_seconds": learnt.create_seconds,
        "start_seconds": learnt.start_seconds,
        "failures": learnt.failures,
        "failing_offers": [
            {"provider": provider, "offer": offer, "failures": trouble.failures}
            for (provider, offer), trouble in learnt.offers.items()
        ],
    }


def _worker(plane: Plane, worker: Worker, now: float) -> dict[str, Any]:
    view = plane.router.worker(worker.id)
    return {
        "id": worker.id,
        "workergroup_id": worker.record.workergroup_id,
        "status": wire_name(worker.state),
        "seconds": round(max(0.0, now - worker.state_since), 3),
        "state_seconds": {name: round(s, 3) for name, s in worker.seconds(now).items()},
        "perf": worker.capacity,
        "load": view.load if view else 0.0,
        "requests": view.requests if view else 0,
        "slots": worker.slots,
        "revision": worker.revision,
        "provider": worker.record.provider,
        "hardware": worker.record.hardware,
        "reason": worker.reason,
        "error": worker.error,
    }
