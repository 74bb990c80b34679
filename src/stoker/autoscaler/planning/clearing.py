"""What cannot stay: lasting errors, what loads for ever, what is taken away, what is over a cap."""

from __future__ import annotations

from collections.abc import Collection

from stoker.autoscaler.planning.draft import MAY_COME_BACK, Draft
from stoker.autoscaler.states import ACTIVE, EXISTS, LOADING_STATES, WorkerState

_ERROR = frozenset({WorkerState.ERROR})
_PENDING = frozenset({WorkerState.PENDING})
_UNDER_OUR_HAND = EXISTS - {WorkerState.DESTROYING, WorkerState.STOPPING}

_FIRST_TO_GO: tuple[Collection[WorkerState], ...] = (
    frozenset({WorkerState.STOPPED}),
    frozenset({WorkerState.DRAINING}),
    LOADING_STATES | MAY_COME_BACK,
    ACTIVE,
)
"""Above a cap: idle ones first."""


def clear_away(draft: Draft) -> None:
    """Send away what cannot stay."""
    settings = draft.settings
    for worker in draft.worst_first(_ERROR):
        if worker.lost:
            draft.destroy(worker, "its instance failed")
        elif draft.lasted(worker) >= settings.error_grace:
            draft.destroy(worker, f"it has had an error for {draft.lasted(worker):.0f} s")
    for worker in draft.worst_first(_PENDING):
        if draft.lasted(worker) >= settings.pending_grace:
            draft.destroy(worker, f"not heard of for {draft.lasted(worker):.0f} s")
    for worker in draft.worst_first(LOADING_STATES):
        if draft.lasted(worker) >= settings.loading_limit:
            draft.destroy(worker, f"not ready after {draft.lasted(worker):.0f} s")
    orphans = [
        worker for worker in draft.own(_UNDER_OUR_HAND) if worker.workergroup_id not in draft.groups
    ]
    for worker in sorted(orphans, key=draft.worth):
        draft.remove(worker, "its workergroup is gone")
    if draft.leaving:
        _let_leave(draft)
    _respect_caps(draft)


def _let_leave(draft: Draft) -> None:
    """Machines that are taken away: serve as long as they can, then run empty in time."""
    for worker in draft.own(_UNDER_OUR_HAND):
        if worker.id not in draft.leaving:
            continue
        if worker.state not in ACTIVE:
            draft.remove(worker, draft.why_leaving(worker))
        elif draft.now >= draft.drain_at(worker):
            draft.drain(worker, draft.why_leaving(worker))


def _respect_caps(draft: Draft) -> None:
    """Let go of what a lowered `max_workers` does not allow."""
    scopes: list[tuple[int | None, int, str]] = [
        (None, draft.parameters.max_workers, "max_workers")
    ]
    scopes += [
        (group.id, group.max_workers, f"max_workers of workergroup {group.id}")
        for group in draft.snapshot.groups
        if group.max_workers is not None
    ]
    total = draft.recruiter.existing
    for group_id, cap, name in scopes:
        if total <= cap:
            continue
        inside = [
            worker
            for worker in draft.all(EXISTS)
            if group_id is None or worker.workergroup_id == group_id
        ]
        leaving = sum(
            worker.id in draft.done or worker.state is WorkerState.DESTROYING for worker in inside
        )
        surplus = len(inside) - leaving - cap
        if surplus <= 0:
            continue
        for states in _FIRST_TO_GO:
            for worker in draft.worst_first(states):
                if surplus > 0 and group_id in (None, worker.workergroup_id):
                    draft.remove(worker, f"{len(inside)} workers, {name} {cap}")
                    surplus -= 1
