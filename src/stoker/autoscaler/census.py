"""Whose instances are these? A provider's list against our books. Pure.

Rules:

* A list may be wrong: name an instance twice, leave one out, tell another worker's id, or be from a
  moment ago. One wrong list does no harm: what nobody asked for is believed when the next list says
  it again.
* An instance whose id is in our books is its worker's, whatever worker the list names for it.
* An instance that we have no id of yet is its worker's when that worker waits for one (the answer
  to our order is not here, or was lost); of several the first by id, so that each list gives the
  same.
* Every other instance is a **stray**: nobody uses it and somebody pays for it.
* Named twice, it has the status that costs most.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.states import LEAVING, WorkerState
from stoker.providers import Instance, InstanceStatus

_COSTLY: dict[InstanceStatus, int] = {
    "running": 4,
    "creating": 3,
    "stopping": 2,
    "stopped": 1,
    "failed": 0,
}

_S = WorkerState

_AS_ASKED: frozenset[tuple[WorkerState, InstanceStatus]] = frozenset(
    {
        (_S.CREATING, "creating"),
        (_S.CREATING, "running"),
        (_S.CREATED, "running"),
        (_S.STOPPING, "stopped"),
    }
)
"""What follows from an order of ours; everything else that a list says is to be said twice."""


@dataclass(slots=True)
class Census:
    """What a list comes to."""

    found: dict[int, Instance] = field(default_factory=dict)
    """By worker."""
    strays: list[Instance] = field(default_factory=list)


def match(instances: Iterable[Instance], workers: Iterable[Worker]) -> Census:
    """Find the worker of each instance.

    Args:
        instances: as the provider listed them.
        workers: those that are this provider's by our books.
    """
    by_id: dict[str, Instance] = {}
    for instance in instances:
        former = by_id.get(instance.id)
        if former is None or _cost(instance) > _cost(former):
            by_id[instance.id] = instance
    owners: dict[str, int] = {}
    waiting: set[int] = set()
    for worker in workers:
        if worker.instance_id is None:
            waiting.add(worker.id)
        else:
            owners[worker.instance_id] = worker.id
    census = Census()
    for instance_id in sorted(by_id):
        instance = by_id[instance_id]
        owner = owners.get(instance_id)
        if owner is not None:
            census.found[owner] = instance
        elif instance.worker_id in waiting:
            waiting.discard(instance.worker_id)
            census.found[instance.worker_id] = instance
        else:
            census.strays.append(instance)
    return census


def _cost(instance: Instance) -> int:
    return _COSTLY.get(instance.status, -1)  # of a status that nobody knows nothing follows


def believed(worker: Worker, status: InstanceStatus) -> bool:
    """Whether a status is to be acted on; one that nobody asked for is when it is said again.

    Remembers what was said in `Worker.listed`.
    """
    expected = (worker.state, status) in _AS_ASKED or worker.state in LEAVING - {_S.DRAINING}
    said_again = worker.listed == status
    worker.listed = status
    return expected or said_again
