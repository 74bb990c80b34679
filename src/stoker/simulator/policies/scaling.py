"""From a number of workers to actions: how every policy that answers with a number is carried out.

The same for all, and generous: a worker that drains goes back to work at once if it is wanted
again; where there is a pool, a stopped worker is started before a new one is created, and a drained
one is stopped, never destroyed. What still loads goes first when there are too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stoker.autoscaler.planning import Action, ActionKind, EndpointSnapshot, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, LOADING_STATES, WorkerState
from stoker.simulator.policies.base import Traffic


def scale_to(wanted: int, snapshot: EndpointSnapshot, why: str) -> list[Action]:
    """Bring the fleet to `wanted` workers that serve or are about to.

    Args:
        wanted: at least 0.
        snapshot: the endpoint as it is.
        why: the figures that led to the number, for the reason of each action.
    """
    workers = [w for w in snapshot.workers if w.leaves_at is None]
    active = [w for w in workers if w.state in ACTIVE]
    coming = [w for w in workers if w.state in LOADING_STATES]
    draining = [w for w in workers if w.state is WorkerState.DRAINING]
    have = len(active) + len(coming)
    actions = [
        _act(ActionKind.DESTROY, w, "its instance failed")
        for w in workers
        if w.state is WorkerState.ERROR
    ]
    reason = f"{wanted} wanted, {have} there: {why}"
    if wanted > have:
        ready = sorted(draining, key=lambda w: -w.requests)
        ready += [w for w in workers if w.state is WorkerState.STOPPED]
        for worker in ready[: wanted - have]:
            actions.append(_act(ActionKind.START, worker, reason))
            if worker in draining:
                draining.remove(worker)
        actions += _create(wanted - have - len(ready), snapshot, reason)
    elif wanted < have:
        # The youngest first: they have the longest to go.
        unneeded = sorted(coming, key=lambda w: -w.state_since)[: have - wanted]
        actions += [_act(ActionKind.DESTROY, w, reason) for w in unneeded]
        busy_last = sorted(active, key=lambda w: (w.requests, -w.id))
        for worker in busy_last[: have - wanted - len(unneeded)]:
            actions.append(_act(ActionKind.DRAIN, worker, f"{reason}; {worker.requests} in flight"))
    for worker in draining:
        if not worker.requests:
            kind = ActionKind.STOP if worker.stoppable else ActionKind.DESTROY
            actions.append(_act(kind, worker, "drained, nothing in flight"))
    return actions


def _act(kind: ActionKind, worker: WorkerSnapshot, why: str) -> Action:
    return Action(
        kind,
        f"{kind} worker {worker.id}: {why}",
        worker_id=worker.id,
        group_id=worker.workergroup_id,
    )


def _create(count: int, snapshot: EndpointSnapshot, why: str) -> list[Action]:
    group = snapshot.groups[0]
    actions: list[Action] = []
    for offer in group.offers:
        for _ in range(min(max(0, count - len(actions)), offer.available)):
            actions.append(
                Action(
                    ActionKind.CREATE,
                    f"create worker: {why}",
                    group_id=group.id,
                    offer_id=offer.id,
                    provider=offer.provider,
                )
            )
    return actions


class Counting(Protocol):
    """A policy that answers with a number of workers."""

    name: str

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """How many workers shall serve, and why."""


class Scaled:
    """Carries out what a `Counting` policy wants, within `max_workers` unless it is exempt."""

    def __init__(self, counting: Counting, *, capped: bool = True) -> None:
        self.name = counting.name
        self._counting = counting
        self._capped = capped

    def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> Sequence[Action]:
        """What to do now."""
        wanted, why = self._counting.wanted(snapshot, traffic, now)
        if self._capped:
            wanted = min(wanted, snapshot.parameters.max_workers)
        return scale_to(max(0, wanted), snapshot, why)


def serving(snapshot: EndpointSnapshot) -> int:
    """Workers that take requests."""
    return sum(worker.state in ACTIVE for worker in snapshot.workers)


def ordered(snapshot: EndpointSnapshot) -> int:
    """Workers that take requests or are about to."""
    return sum(
        worker.state in ACTIVE or worker.state in LOADING_STATES for worker in snapshot.workers
    )
