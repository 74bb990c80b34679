"""A plan in the making: which workers count as what, and what was decided about them so far."""

from __future__ import annotations

import math
from collections.abc import Iterable

from stoker.autoscaler.planning.plan import Action, ActionKind
from stoker.autoscaler.planning.recruiting import PerfEstimates, Recruiter, value
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot, GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE, HAS_MODEL, LOADING_STATES, WorkerState


class Draft:
    """Bookkeeping of one call of the planner; a worker is decided about once."""

    def __init__(self, snapshot: EndpointSnapshot, now: float, settings: PlannerSettings) -> None:
        self.snapshot = snapshot
        self.parameters = snapshot.parameters
        self.now = now
        self.settings = settings
        self.perf = PerfEstimates(snapshot)
        self.recruiter = Recruiter(snapshot, now, settings, self.perf)
        self.groups = {group.id: group for group in snapshot.groups}
        self.actions: list[Action] = []
        self.done: set[int] = set()
        """Workers about which something was decided, or that are on the way out."""
        self.created: list[tuple[GroupSnapshot, float]] = []
        """Creations of this plan, with their expected perf (infinite: unknown)."""
        self.notes: list[str] = []

    # Which workers count as what.

    def own(self, states: Iterable[WorkerState]) -> list[WorkerSnapshot]:
        """Our workers in `states` about which nothing is decided yet, worst value first."""
        wanted = frozenset(states)
        found = [
            worker
            for worker in self.snapshot.workers
            if worker.state in wanted and not worker.attached and worker.id not in self.done
        ]
        return sorted(found, key=self._worth)

    def _worth(self, worker: WorkerSnapshot) -> tuple[tuple[float, float, float], bool, int]:
        # Among equals the busy ones stay, then the older ones.
        return (
            value(self.perf.of_worker(worker), worker.price),
            worker.requests > 0,
            -worker.id,
        )

    def active(self) -> list[WorkerSnapshot]:
        """Takes requests."""
        return [
            worker
            for worker in self.snapshot.workers
            if worker.state in ACTIVE and worker.id not in self.done
        ]

    def coming(self) -> list[WorkerSnapshot]:
        """On their way without our doing more; an error that just happened is given a moment."""
        return [
            worker
            for worker in self.snapshot.workers
            if worker.id not in self.done
            and (
                worker.state in LOADING_STATES
                or (
                    worker.state in (WorkerState.ERROR, WorkerState.PENDING) and not worker.attached
                )
            )
        ]

    def ready_perf(self, worker: WorkerSnapshot) -> float:
        """Load units per second of a ready worker; a guess if nothing is known."""
        return self.perf.of_worker(worker) or self.settings.unknown_perf

    def coming_perf(self, worker: WorkerSnapshot) -> float:
        """Infinite if unknown: the first of its kind is measured before a second is ordered."""
        return self.perf.of_worker(worker) or math.inf

    def known_perf(self, workers: Iterable[WorkerSnapshot]) -> float:
        """Load units per second in all; what is not known counts as none."""
        return sum(self.perf.of_worker(worker) or 0.0 for worker in workers)

    def lasted(self, worker: WorkerSnapshot) -> float:
        """Seconds that it has been in its state."""
        return self.now - worker.state_since

    # Writing it down.

    def act(self, kind: ActionKind, worker: WorkerSnapshot, reason: str) -> None:
        """Decide `kind` about a worker."""
        self.done.add(worker.id)
        self.actions.append(
            Action(
                kind,
                f"{kind} worker {worker.id}: {reason}",
                worker_id=worker.id,
                group_id=worker.workergroup_id,
            )
        )

    def drain(self, worker: WorkerSnapshot, reason: str) -> None:
        """Send it nothing new."""
        self.act(ActionKind.DRAIN, worker, f"{reason}; {worker.requests} in flight")

    def destroy(self, worker: WorkerSnapshot, reason: str) -> None:
        """Have it destroyed."""
        self.act(ActionKind.DESTROY, worker, reason)

    def remove(self, worker: WorkerSnapshot, reason: str) -> None:
        """Take the next step towards its end."""
        if worker.state in ACTIVE:
            self.drain(worker, reason)
        elif worker.state is WorkerState.DRAINING and worker.requests:
            self.done.add(worker.id)  # nothing to do but to wait
        else:
            self.destroy(worker, reason)

    def create(self, reason: str, *, only: int | None = None) -> float | None:
        """Order one worker; its expected perf (infinite: unknown), or None if there is no way."""
        found = self.recruiter.next(only)
        if found is None:
            return None
        group, offer = found
        perf = self.perf.of_offer(group, offer)
        about = f"; ready in about {group.create_seconds:.0f} s" if group.create_seconds else ""
        self.actions.append(
            Action(
                ActionKind.CREATE,
                f"create worker: {reason}{about}",
                group_id=group.id,
                offer_id=offer.id,
                provider=offer.provider,
            )
        )
        self.created.append((group, perf or math.inf))
        return perf or math.inf

    def explain(self, what: str) -> None:
        """Note why there is no more of `what`."""
        self.notes += [f"{what}, but {text}" for text in self.recruiter.refusals]

    def pool(self) -> list[WorkerSnapshot]:
        """Has the model, or is about to; what was decided above is taken into account."""
        gone = {action.worker_id for action in self.actions if action.kind is ActionKind.DESTROY}
        coming = {worker.id for worker in self.coming()}
        return [
            worker
            for worker in self.snapshot.workers
            if worker.id not in gone
            and (worker.state in HAS_MODEL or worker.id in coming)
            and (worker.attached or worker.workergroup_id in self.groups)
        ]
