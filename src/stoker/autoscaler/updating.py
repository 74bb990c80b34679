"""Rolling updates: asked for, cancelled, finished.

Rules:

* A workergroup has a revision, which counts up when what its workers run is changed. New workers
  get the present one at once; those that are there keep theirs until an update is asked for.
* An update is asked for and cancelled by `request_update`, and is kept in the store: it goes on
  after a restart. The planner takes one worker after the other out of the rotation, and the actor
  has it start anew once it is empty.
* It is finished when every worker of the group runs the present revision.
* Cancelled, workers that wait for their turn go on as they are; one that starts anew already comes
  up with the new settings.
"""

from __future__ import annotations

from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.states import WorkerState
from stoker.errors import NotFoundError
from stoker.store import WorkergroupRecord

_UNDER_WAY = frozenset(
    {WorkerState.UPDATE_READY, WorkerState.UPDATE_REBOOTING, WorkerState.UPDATE_STARTING}
)


def _of_group(plane: Plane, endpoint_id: int, group_id: int) -> list[Worker]:
    return [
        worker
        for worker in plane.fleet.of_endpoint(endpoint_id)
        if worker.record.workergroup_id == group_id and worker.goal != "destroy"
    ]


async def request_update(plane: Plane, group_id: int, *, cancel: bool) -> tuple[str, int]:
    """Begin a rolling update of a workergroup, or end it where it is.

    Both may be asked for twice.

    Returns:
        What that means, in one line, and how many workers run former settings.

    Raises:
        NotFoundError: there is no such workergroup.
    """
    group = plane.fleet.groups.get(group_id)
    if group is None:
        raise NotFoundError(f"there is no workergroup {group_id}")
    where = f"workergroup {group_id}"
    workers = _of_group(plane, group.endpoint_id, group_id)
    former = sum(worker.revision != group.revision for worker in workers)
    if cancel:
        if not group.updating:
            return f"{where}: no update is under way", former
        text = f"{where}: the update is cancelled; {former} of {len(workers)} workers keep theirs"
    elif not former:
        return f"{where}: all {len(workers)} workers run its present settings", 0
    elif group.updating:
        said = f"{where}: an update is under way; {former} of {len(workers)} workers are to come"
        return said, former
    else:
        text = f"{where}: update {former} of {len(workers)} workers to revision {group.revision}"
    await plane.store.update_workergroup(group_id, updating=not cancel)
    await plane.changed()
    plane.journal.note(group.endpoint_id, "info0", text, group_id=group_id)
    return text, former


def finished_updates(plane: Plane, endpoint_id: int) -> list[WorkergroupRecord]:
    """The workergroups of an endpoint whose update has nothing left to do."""
    return [
        group
        for group in plane.fleet.groups_of(endpoint_id)
        if group.updating
        and not any(
            w.revision != group.revision or w.state in _UNDER_WAY
            for w in _of_group(plane, endpoint_id, group.id)
        )
    ]


async def finish_update(plane: Plane, group: WorkergroupRecord) -> None:
    """Write down that the update of a workergroup is finished.

    Raises:
        StoreError: the store cannot be written; it is tried again in a later round.
    """
    workers = _of_group(plane, group.endpoint_id, group.id)
    await plane.store.update_workergroup(group.id, updating=False)
    await plane.changed()
    plane.journal.note(
        group.endpoint_id,
        "info0",
        f"workergroup {group.id}: the update is finished; "
        f"{len(workers)} workers run revision {group.revision}",
        group_id=group.id,
    )
