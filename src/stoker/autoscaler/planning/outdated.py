"""Which workers run old settings while their workergroup is updated; the rules: `updating`."""

from __future__ import annotations

from enum import Enum

from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot, GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, WorkerState


class Stage(Enum):
    """How far the update of a workergroup is."""

    TURN = "the next one may be taken out"
    SOAK = "one has just become ready with the new settings"
    HALTED = "a worker failed with the new settings"


class Updates:
    """Which workergroups are being updated, and how far; false when none is."""

    def __init__(self, snapshot: EndpointSnapshot, now: float, settings: PlannerSettings) -> None:
        self._groups = {group.id: group for group in snapshot.groups if group.updating}
        self.stages: dict[int, Stage] = {}
        if not self._groups:
            return
        for worker in snapshot.workers:
            group = self._of(worker)
            if group is None:
                continue
            if worker.revision != group.revision:
                self.stages.setdefault(group.id, Stage.TURN)
        for group in self._groups.values():
            if group.id in self.stages:
                self.stages[group.id] = self._stage(group, snapshot, now, settings)

    def __bool__(self) -> bool:
        return bool(self.stages)

    def _of(self, worker: WorkerSnapshot) -> GroupSnapshot | None:
        if worker.attached or worker.workergroup_id is None:
            return None
        return self._groups.get(worker.workergroup_id)

    @staticmethod
    def _stage(
        group: GroupSnapshot, snapshot: EndpointSnapshot, now: float, settings: PlannerSettings
    ) -> Stage:
        new = [
            worker
            for worker in snapshot.workers
            if worker.workergroup_id == group.id
            and worker.revision == group.revision
            and not worker.attached
        ]
        if group.failures or any(worker.state is WorkerState.ERROR for worker in new):
            return Stage.HALTED
        for worker in new:
            if worker.state in ACTIVE and 0 <= now - worker.state_since < settings.update_soak:
                return Stage.SOAK
        return Stage.TURN

    def outdated(self, worker: WorkerSnapshot) -> bool:
        """Whether it is to get other settings."""
        group = self._of(worker)
        return group is not None and worker.revision != group.revision

    def in_turn(self, worker: WorkerSnapshot) -> bool:
        """Whether it may be taken out to get them."""
        return self.outdated(worker) and (
            self.stages.get(worker.workergroup_id or 0) is not Stage.HALTED
        )

    def under_way(self) -> bool:
        """Whether any workergroup's update goes on."""
        return any(stage is not Stage.HALTED for stage in self.stages.values())

    def soaks(self, group_id: int | None) -> bool:
        """Whether the workergroup waits to see how the last one does."""
        return group_id is not None and self.stages.get(group_id) is Stage.SOAK
