"""From a snapshot to a plan.

In this order, and each action with its reason:

1. What cannot stay goes: workers with a lasting error, or that load for ever, or whose workergroup
   is gone, or above `max_workers`.
2. Too little active capacity: draining workers go back to work, then stopped ones are started, then
   new ones are created, best value first. What is on its way counts, so one need is answered once.
3. Too much: ready workers are drained, worst value first.
4. The pool: enough workers with the model, active or stopped (`cold_workers`, `cold_mult`,
   `min_cold_load`), are created; stopped ones beyond it are destroyed. A worker that has drained is
   stopped, or destroyed if the pool does not need it.

Attached workers count, and nothing is ever done to them. A ready worker is always drained first,
even when it looks idle: a request may be assigned between this snapshot and the action.
Workers are let go in a fixed order up to the first that is needed, never by what fits best, so that
more demand never leaves fewer workers.
"""

from __future__ import annotations

from stoker.autoscaler.planning.draft import Draft
from stoker.autoscaler.planning.need import Needs, needs_of
from stoker.autoscaler.planning.plan import ActionKind, Plan
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot, GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, EXISTS, LOADING_STATES, WorkerState

DEFAULT_SETTINGS = PlannerSettings()

_COLD_LOADING = frozenset(
    {
        WorkerState.CREATING,
        WorkerState.CREATED,
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
    }
)


def plan(
    snapshot: EndpointSnapshot, now: float, settings: PlannerSettings = DEFAULT_SETTINGS
) -> Plan:
    """Decide what to do about one endpoint.

    Args:
        snapshot: the endpoint as it is.
        now: seconds, on the clock of the snapshot's times.
        settings: the planner's own figures.
    """
    if snapshot.parameters.endpoint_state == "suspended":
        return Plan(summary="suspended: workers stay as they are")
    return _Planner(snapshot, now, settings).plan()


class _Planner(Draft):
    def plan(self) -> Plan:
        needs = needs_of(self.snapshot, self.now, self.settings)
        stopped = self.parameters.endpoint_state == "stopped"
        self._clear_away()
        if stopped:
            self._stop_all()
        else:
            self._scale_up(needs)
            self._scale_down(needs)
            self._fill_pool(needs)
        self._trim_pool(needs, stopped=stopped)
        self._warn()
        summary = "stopped: all workers become inactive" if stopped else self._summary(needs)
        return Plan(tuple(self.actions), summary, tuple(self.notes))

    # 1. What cannot stay.

    def _clear_away(self) -> None:
        settings = self.settings
        for worker in self.own({WorkerState.ERROR}):
            if worker.lost:
                self.destroy(worker, "its instance failed")
            elif self.lasted(worker) >= settings.error_grace:
                self.destroy(worker, f"it has had an error for {self.lasted(worker):.0f} s")
        for worker in self.own({WorkerState.PENDING}):
            if self.lasted(worker) >= settings.pending_grace:
                self.destroy(worker, f"not heard of for {self.lasted(worker):.0f} s")
        for worker in self.own(LOADING_STATES):
            if self.lasted(worker) >= settings.loading_limit:
                self.destroy(worker, f"not ready after {self.lasted(worker):.0f} s")
        for worker in self.own(EXISTS - {WorkerState.DESTROYING, WorkerState.STOPPING}):
            if worker.workergroup_id not in self.groups:
                self.remove(worker, "its workergroup is gone")
        self._respect_caps()

    def _respect_caps(self) -> None:
        """Let go of what a lowered `max_workers` does not allow: idle ones first."""
        scopes: list[tuple[int | None, int, str]] = [
            (None, self.parameters.max_workers, "max_workers")
        ]
        scopes += [
            (group.id, group.max_workers, f"max_workers of workergroup {group.id}")
            for group in self.snapshot.groups
            if group.max_workers is not None
        ]
        order = (
            {WorkerState.STOPPED},
            {WorkerState.DRAINING},
            LOADING_STATES | {WorkerState.ERROR, WorkerState.PENDING},
            ACTIVE,
        )
        for group_id, cap, name in scopes:
            inside = [
                worker
                for worker in self.snapshot.workers
                if worker.state in EXISTS and group_id in (None, worker.workergroup_id)
            ]
            leaving = [
                worker
                for worker in inside
                if worker.id in self.done or worker.state is WorkerState.DESTROYING
            ]
            surplus = len(inside) - len(leaving) - cap
            for states in order:
                for worker in self.own(states):
                    if surplus > 0 and group_id in (None, worker.workergroup_id):
                        self.remove(worker, f"{len(inside)} workers, {name} {cap}")
                        surplus -= 1

    def _stop_all(self) -> None:
        for worker in self.own(ACTIVE):
            self.drain(worker, "the endpoint is stopped")
        for worker in self.own(_COLD_LOADING | {WorkerState.PENDING}):
            self.destroy(worker, "the endpoint is stopped, and it is not loaded")

    # 2. Too little.

    def _scale_up(self, needs: Needs) -> None:
        active, coming, need = self.active(), self.coming(), needs.now
        ready = sum(self.ready_perf(worker) for worker in active)
        capacity = ready + sum(self.coming_perf(worker) for worker in coming)
        count = len(active) + len(coming)
        if need.met_by(capacity, count):
            return
        why = f"{need.why}, active capacity {ready:.1f}/s"
        if coming:
            why += f" and {len(coming)} on their way"
        for state in (WorkerState.DRAINING, WorkerState.STOPPED, WorkerState.STOPPING):
            for worker in reversed(self.own({state})):
                if need.met_by(capacity, count):
                    return
                if state is not WorkerState.STOPPING:
                    self.act(ActionKind.START, worker, why)
                elif self.lasted(worker) < self.settings.stopping_grace:
                    # It can be started in a moment, which is sooner than a new one is loaded.
                    self.notes.append(f"waits for worker {worker.id} to stop, to start it again")
                else:
                    continue
                capacity += self.coming_perf(worker)
                count += 1
        while not need.met_by(capacity, count):
            perf = self.create(why)
            if perf is None:
                # Without the figures, so that the same trouble is the same line each time.
                self.explain("load needs more workers")
                return
            capacity += perf
            count += 1

    # 3. Too much.

    def _scale_down(self, needs: Needs) -> None:
        remaining = self.active()
        for worker in self.own(ACTIVE):
            remaining.remove(worker)
            capacity = sum(self.ready_perf(other) for other in remaining)
            if not needs.kept.met_by(capacity, len(remaining)):
                return
            left = f"leaves {len(remaining)} active with {capacity:.1f}/s"
            self.drain(worker, f"{needs.kept.why}, {left}")

    # 4. The pool.

    def _fill_pool(self, needs: Needs) -> None:
        parameters = self.parameters
        pool = self.pool()
        count = len(pool) + len(self.created)
        while count < min(parameters.cold_workers, parameters.max_workers):
            why = f"cold_workers {parameters.cold_workers}: {count} have the model or load it"
            if self.create(why) is None:
                self.explain("cold_workers needs more")
                return
            count += 1
        for group in self.snapshot.groups:
            self._fill_capacity(pool, group.min_cold_load, group)
        self._fill_capacity(pool, parameters.min_cold_load, None)
        if not needs.zero and parameters.cold_mult > 1:
            self._fill_capacity(pool, parameters.cold_mult * needs.now.sustained, None, spare=True)

    def _fill_capacity(
        self,
        pool: list[WorkerSnapshot],
        floor: float,
        group: GroupSnapshot | None,
        *,
        spare: bool = False,
    ) -> None:
        """Create until the pool, or its part in `group`, has a capacity of `floor`."""
        members = [w for w in pool if group is None or w.workergroup_id == group.id]
        capacity = sum(self.coming_perf(worker) for worker in members)
        capacity += sum(perf for owner, perf in self.created if group in (None, owner))
        name = "cold_mult" if spare else "min_cold_load"
        where = f" of workergroup {group.id}" if group is not None else ""
        while capacity < floor:
            why = f"{name}{where}: total capacity {capacity:.1f}/s, needs {floor:.1f}/s"
            perf = self.create(why, only=group.id if group is not None else None)
            if perf is None:
                # Where there is no room for a reserve (one's own two cores), that is no fault.
                if not spare:
                    self.explain(f"{name}{where} needs more")
                return
            capacity += perf

    def _trim_pool(self, needs: Needs, *, stopped: bool) -> None:
        """Stop what has drained; destroy what the pool does not need."""
        parameters = self.parameters
        floor = parameters.min_cold_load
        if not needs.zero:
            floor = max(floor, parameters.cold_mult * needs.kept.sustained)
        remaining = self.pool()
        drained = [worker for worker in self.own({WorkerState.DRAINING}) if not worker.requests]
        for worker in [] if stopped else self._spare(needs, drained):
            others = [other for other in remaining if other.id != worker.id]
            if not self._pool_is_enough(others, floor):
                break
            remaining = others
            self.destroy(worker, self._why_spare(others, needs))
        for worker in drained:
            if worker.id not in self.done:
                self.act(ActionKind.STOP, worker, "drained, nothing in flight")

    def _spare(self, needs: Needs, drained: list[WorkerSnapshot]) -> list[WorkerSnapshot]:
        """What may be destroyed, in this order, as far as the pool allows."""
        if needs.zero:
            # What still loads costs most: nobody waits for it any more.
            return self.own(_COLD_LOADING) + drained + self.own({WorkerState.STOPPED})
        kept_for = self.settings.cold_retention
        return [w for w in self.own({WorkerState.STOPPED}) if self.lasted(w) >= kept_for]

    def _pool_is_enough(self, workers: list[WorkerSnapshot], floor: float) -> bool:
        wanted = min(self.parameters.cold_workers, self.parameters.max_workers)
        return (
            len(workers) >= wanted
            and self.known_perf(workers) >= floor
            and all(
                self.known_perf(w for w in workers if w.workergroup_id == group.id)
                >= group.min_cold_load
                for group in self.snapshot.groups
                if group.min_cold_load > 0
            )
        )

    def _why_spare(self, others: list[WorkerSnapshot], needs: Needs) -> str:
        parameters = self.parameters
        wants = [f"cold_workers {parameters.cold_workers}"]
        if parameters.min_cold_load > 0:
            wants.append(f"min_cold_load {parameters.min_cold_load:.1f}/s")
        if not needs.zero:
            spare = parameters.cold_mult * needs.kept.sustained
            wants.append(f"cold_mult {parameters.cold_mult:g} ({spare:.1f}/s)")
        enough = f"{' and '.join(wants)} met without it: "
        enough += f"leaves {len(others)} with {self.known_perf(others):.1f}/s"
        return f"{needs.now.why}, {enough}" if needs.zero else enough

    def _warn(self) -> None:
        """Say what was made of parameters that contradict each other."""
        parameters = self.parameters
        if parameters.cold_workers > parameters.max_workers:
            self.notes.append(
                f"cold_workers {parameters.cold_workers} is above max_workers "
                f"{parameters.max_workers}: taken as {parameters.max_workers}"
            )
        if parameters.target_queue_time > parameters.max_queue_time:
            self.notes.append(
                f"target_queue_time {parameters.target_queue_time:g} s is above max_queue_time "
                f"{parameters.max_queue_time:g} s: taken as {parameters.max_queue_time:g} s"
            )
        self.notes = list(dict.fromkeys(self.notes))

    def _summary(self, needs: Needs) -> str:
        active = [w for w in self.snapshot.workers if w.state in ACTIVE]
        coming = [w for w in self.snapshot.workers if w.state in LOADING_STATES]
        stopped = [w for w in self.snapshot.workers if w.state is WorkerState.STOPPED]
        demand = self.snapshot.demand
        return (
            f"{needs.now.why}; {len(active)} active with "
            f"{sum(self.ready_perf(w) for w in active):.1f}/s, {len(coming)} on their way, "
            f"{len(stopped)} stopped; {demand.held_count} held"
        )
