"""The pool: enough workers with the model, active or stopped.

`cold_workers`, `cold_mult` and `min_cold_load` say how many, and what recurs at this time.
What is missing is created; stopped ones beyond it are destroyed. A worker that has drained is
stopped, or destroyed if the pool does not need it. A worker that cannot be stopped counts while it
is active, and is destroyed once it has drained; no such worker is created for the pool, since it
would have to be active, and paid, for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from stoker.autoscaler.planning.draft import Draft
from stoker.autoscaler.planning.need import Needs
from stoker.autoscaler.planning.recruiting import COLD_LOADING
from stoker.autoscaler.planning.retention import Retention
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot, GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import WorkerState

_LEAST = "min_cold_load"
_MULT = "cold_mult"
_SEASON = "what comes each day or week at this time"

_STOPPED = frozenset({WorkerState.STOPPED})
_DRAINING = frozenset({WorkerState.DRAINING})


def fill(draft: Draft, needs: Needs) -> None:
    """Create what the pool lacks."""
    parameters = draft.parameters
    pool = draft.pool()
    count = len(pool) + len(draft.created)
    while count < parameters.pool_floor:
        why = f"cold_workers {parameters.cold_workers}: {count} have the model or load it"
        if draft.create(why, stoppable=True) is None:
            draft.explain("cold_workers needs more")
            return
        count += 1
    for group in draft.snapshot.groups:
        if group.min_cold_load > 0:
            _fill_capacity(draft, pool, group.min_cold_load, group)
    for name, floor in floors(draft.snapshot, needs):
        _fill_capacity(draft, pool, floor, None, name=name)


def floors(snapshot: EndpointSnapshot, needs: Needs) -> Iterator[tuple[str, float]]:
    """What asks for the capacity of the pool, and for how much: load units per second."""
    parameters = snapshot.parameters
    if parameters.min_cold_load > 0:
        yield _LEAST, parameters.min_cold_load
    if not needs.zero and parameters.cold_mult > 1:
        yield _MULT, parameters.cold_mult * needs.load
    yield _SEASON, _reserve(snapshot, needs)


def _fill_capacity(
    draft: Draft,
    pool: list[WorkerSnapshot],
    floor: float,
    group: GroupSnapshot | None,
    *,
    name: str = _LEAST,
) -> None:
    """Create until the pool, or its part in `group`, has a capacity of `floor`."""
    members = [w for w in pool if group is None or w.workergroup_id == group.id]
    capacity = sum(draft.coming_perf(worker) for worker in members)
    capacity += sum(perf for owner, perf in draft.created if group in (None, owner))
    where = f" of workergroup {group.id}" if group is not None else ""
    while capacity < floor:
        why = f"{name}{where}: total capacity {capacity:.1f}/s, needs {floor:.1f}/s"
        perf = draft.create(why, only=group.id if group is not None else None, stoppable=True)
        if perf is None:
            # Where there is no room for a reserve (one's own two cores), that is no fault.
            if name not in (_MULT, _SEASON) or "not stoppable" in draft.recruiter.refusals.values():
                draft.explain(f"{name}{where} needs more")
            return
        capacity += perf


def _reserve(snapshot: EndpointSnapshot, needs: Needs) -> float:
    """Capacity that what comes each day or week asks for; see `Outlook.reserve`."""
    outlook = snapshot.outlook
    return 0.0 if outlook is None or needs.zero else outlook.reserve


def trim(draft: Draft, needs: Needs) -> None:
    """Destroy what the pool does not need."""
    spare = _spare(draft, needs)
    if not spare:
        return
    remaining = draft.pool()
    for worker in spare:
        others = without(remaining, worker)
        if not is_enough(draft, needs, others):
            return
        remaining = others
        draft.destroy(worker, _why_spare(draft, needs, others))


def _spare(draft: Draft, needs: Needs) -> list[WorkerSnapshot]:
    """What may be destroyed, in this order, as far as the pool allows."""
    if needs.zero:
        # What still loads costs most: nobody waits for it any more.
        drained = [w for w in draft.worst_first(_DRAINING) if not w.requests]
        return draft.worst_first(COLD_LOADING) + drained + draft.worst_first(_STOPPED)
    if not draft.own(_STOPPED):
        return []
    found = []
    kept_for = _retention(draft.snapshot, draft.settings)
    rank = len(draft.pool())
    for worker in draft.worst_first(_STOPPED):
        times = kept_for.get(worker.workergroup_id, (draft.settings.cold_retention,))
        if draft.lasted(worker) >= times[min(rank, len(times)) - 1]:
            found.append(worker)
        rank -= 1
    return found


def is_trimmed(
    snapshot: EndpointSnapshot, needs: Needs, now: float, settings: PlannerSettings
) -> bool:
    """Whether `trim` has nothing to do where all workers are ready or stopped.

    May be False though it has nothing to do.
    """
    stopped = [worker for worker in snapshot.workers if worker.state is WorkerState.STOPPED]
    if not stopped or needs.zero:
        return not stopped
    # In whatever order they would go: none has been stopped for as long as any of them is kept.
    lowest = len(snapshot.workers) - len(stopped)
    shortest = {
        group: min(times[min(lowest, len(times) - 1) :])
        for group, times in _retention(snapshot, settings).items()
    }
    return all(
        now - worker.state_since < shortest.get(worker.workergroup_id, settings.cold_retention)
        for worker in stopped
    )


def _retention(
    snapshot: EndpointSnapshot, settings: PlannerSettings
) -> dict[int | None, tuple[float, ...]]:
    """Seconds for which stopped workers are kept that the pool does not need.

    By workergroup, and then by rank: how many have the model, those that are let go before it left
    out; the last figure is that of all further ones.
    """
    outlook = snapshot.outlook
    if outlook is not None and outlook.retention:
        return {group.id: outlook.retention for group in snapshot.groups}
    return {
        group.id: Retention(settings).seconds(
            group.create_seconds, group.start_seconds or settings.unknown_start_seconds
        )
        for group in snapshot.groups
    }


def without(workers: list[WorkerSnapshot], worker: WorkerSnapshot) -> list[WorkerSnapshot]:
    """The others."""
    return [other for other in workers if other.id != worker.id]


def is_enough(draft: Draft, needs: Needs, workers: list[WorkerSnapshot]) -> bool:
    """Whether `workers` would do as the pool."""
    parameters = draft.parameters
    floor = parameters.min_cold_load
    if not needs.zero:
        floor = max(floor, parameters.cold_mult * needs.kept_load, _reserve(draft.snapshot, needs))
    return (
        len(workers) >= parameters.pool_floor
        and draft.known_perf(workers) >= floor
        and all(
            draft.known_perf(w for w in workers if w.workergroup_id == group.id)
            >= group.min_cold_load
            for group in draft.snapshot.groups
            if group.min_cold_load > 0
        )
    )


def _why_spare(draft: Draft, needs: Needs, others: list[WorkerSnapshot]) -> str:
    parameters = draft.parameters
    wants = []
    if parameters.cold_workers != "auto":
        wants.append(f"cold_workers {parameters.cold_workers}")
    if parameters.min_cold_load > 0:
        wants.append(f"min_cold_load {parameters.min_cold_load:.1f}/s")
    if not needs.zero:
        spare = parameters.cold_mult * needs.kept_load
        wants.append(f"cold_mult {parameters.cold_mult:g} ({spare:.1f}/s)")
    enough = f"{' and '.join(wants)} met without it: " if wants else "nothing asks for it: "
    enough += f"leaves {len(others)} with {draft.known_perf(others):.1f}/s"
    return f"{needs.now.why}, {enough}" if needs.zero else enough
