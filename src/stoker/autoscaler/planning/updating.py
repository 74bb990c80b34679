"""A rolling update: the workers of a workergroup get its new settings without a dropped request.

Rules:

* A worker is **outdated** if its workergroup is updating and it runs other settings than the
  workergroup's present ones. A ready one is marked (`ActionKind.UPDATE`) and serves until its turn.
* Its turn has come only when what is ready **without** it is enough: so outdated workers are what
  the ordinary rule for scaling down drains first. Drained and empty, it is rebooted.
* Where none can be spared, one is added first (`update_surge`): a stopped one is started, else one
  is created within `max_workers`. Where that is not possible the update waits, and says so; once
  the endpoint has been quiet for `update_quiet`, the worker is taken out all the same, since nobody
  is waiting.
* One that was updated has to be ready for `update_soak` before the next turn. A worker that fails
  with the new settings **halts** the update: the old ones go on until the settings are changed or
  the update is cancelled (`updating` false), which also takes the marks away.
* Stopped workers come last, one by one, so that there is a way back until all active ones are
  updated: they are destroyed, and the pool creates new ones. Started before that, for load, such a
  worker serves with its old settings, and gets its turn.
"""

from __future__ import annotations

from stoker.autoscaler.planning.draft import Draft
from stoker.autoscaler.planning.need import Needs
from stoker.autoscaler.planning.outdated import Stage
from stoker.autoscaler.planning.plan import ActionKind
from stoker.autoscaler.planning.pooling import is_enough, without
from stoker.autoscaler.planning.snapshot import GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, LOADING_STATES, WorkerState

_UNDER_WAY = LOADING_STATES | {WorkerState.DRAINING, WorkerState.STOPPING}


def reboot_drained(draft: Draft, needs: Needs) -> None:
    """Give the new settings to workers that were drained for them."""
    if not draft.updates:
        return
    for worker in draft.worst_first({WorkerState.DRAINING}):
        if worker.requests or worker.id in draft.leaving or not draft.updates.in_turn(worker):
            continue
        active, coming = draft.active(), draft.coming()
        capacity = draft.ready_capacity(active) + sum(draft.coming_perf(w) for w in coming)
        if not needs.now.met_by(capacity, len(active) + len(coming)) and not _quiet(draft, needs):
            continue  # load has returned: it goes back to work at once
        reboot(draft, needs, worker)


def reboot(draft: Draft, needs: Needs, worker: WorkerSnapshot) -> None:
    """Reboot a drained worker, or destroy it where it is no more needed."""
    group = worker.workergroup_id
    left = sum(draft.updates.outdated(w) for w in draft.active() if w.workergroup_id == group)
    under_way = sum(w.workergroup_id == group for w in draft.coming())
    if left > under_way or not is_enough(draft, needs, without(draft.pool(), worker)):
        why = f"drained, to get the new settings of workergroup {group}; {left} more to follow"
        draft.act(ActionKind.REBOOT, worker, why)
    else:
        draft.destroy(worker, f"drained, with the old settings of workergroup {group}; to spare")


def take_turns(draft: Draft, needs: Needs) -> None:
    """Where no outdated worker could be spared, add one; say how far the updates are."""
    for group_id, stage in draft.updates.stages.items():
        group = draft.groups[group_id]
        _tell(draft, group, stage)
        if stage is Stage.TURN and not needs.zero:
            _surge(draft, needs, group)


def mark(draft: Draft) -> None:
    """Mark ready workers that are to be updated; take the marks of the others away."""
    updates = draft.updates
    if updates:
        for worker in draft.own({WorkerState.READY}):
            if updates.in_turn(worker):
                group = worker.workergroup_id
                draft.act(
                    ActionKind.UPDATE,
                    worker,
                    f"workergroup {group} has new settings; it serves until its turn",
                )
    if WorkerState.UPDATE_READY in draft.by_state:
        for worker in draft.own({WorkerState.UPDATE_READY}):
            if not updates.outdated(worker):
                draft.act(ActionKind.START, worker, "its update was cancelled, or is not needed")


def retire_stopped(draft: Draft, needs: Needs) -> None:
    """When all active workers are updated, replace a stopped one that is not."""
    for group_id, stage in draft.updates.stages.items():
        if stage is not Stage.TURN:
            continue
        group = draft.groups[group_id]
        if any(draft.updates.outdated(w) for w in _of(draft.all(ACTIVE), group)):
            continue
        if _under_way(draft, group):
            continue
        for worker in draft.worst_first({WorkerState.STOPPED}):
            if not draft.updates.outdated(worker) or worker.workergroup_id != group_id:
                continue
            # Kept if nothing could be created in its place.
            recruiter = draft.recruiter
            stuck = recruiter.problem(group, stoppable=True)
            if stuck and not is_enough(draft, needs, without(draft.pool(), worker)):
                break
            draft.destroy(worker, f"stopped, with the old settings of workergroup {group_id}")
            break


def _surge(draft: Draft, needs: Needs, group: GroupSnapshot) -> None:
    outdated = [
        worker
        for worker in draft.worst_first(ACTIVE)
        if worker.workergroup_id == group.id and draft.updates.outdated(worker)
    ]
    if not outdated or _under_way(draft, group):
        return
    why = f"update of workergroup {group.id}: none of {len(outdated)} with old settings is to spare"
    missing = min(draft.settings.update_surge, len(outdated))
    for worker in draft.recall_order(WorkerState.STOPPED):
        if missing > 0 and worker.workergroup_id == group.id:
            draft.act(ActionKind.START, worker, why)
            missing -= 1
    added = missing < min(draft.settings.update_surge, len(outdated))
    while missing > 0 and draft.create(why, only=group.id) is not None:
        added = True
        missing -= 1
    if added:
        return
    if _quiet(draft, needs):
        reason = f"to get the new settings of workergroup {group.id}; "
        draft.drain(outdated[0], f"{reason}quiet for {needs.quiet_for:.0f} s")
    else:
        draft.explain(f"the update of workergroup {group.id} needs one more worker first")


def _under_way(draft: Draft, group: GroupSnapshot) -> bool:
    """Whether something is changing already in the workergroup."""
    return any(action.group_id == group.id for action in draft.actions) or bool(
        _of(draft.all(_UNDER_WAY), group)
    )


def _quiet(draft: Draft, needs: Needs) -> bool:
    return needs.quiet_for >= draft.settings.update_quiet and not draft.outstanding()


def _of(workers: list[WorkerSnapshot], group: GroupSnapshot) -> list[WorkerSnapshot]:
    return [w for w in workers if w.workergroup_id == group.id and not w.attached]


def _tell(draft: Draft, group: GroupSnapshot, stage: Stage) -> None:
    members = _of(list(draft.snapshot.workers), group)
    new = sum(worker.revision == group.revision for worker in members)
    how = f"update of workergroup {group.id}"
    if stage is Stage.HALTED:
        draft.notes.append(
            f"{how} is halted: a worker failed with the new settings; {len(members) - new} go on "
            "with the old ones until the settings are changed or the update is cancelled"
        )
    else:
        draft.notes.append(f"{how}: {new} of {len(members)} workers have the new settings")
