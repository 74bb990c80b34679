"""A plan in the making: which workers count as what, and what was decided about them so far.

Rules:

* A worker is decided about once.
* A worker whose machine is **leaving** (its provider takes it away, and it is time to replace it)
  serves as long as it can, but is no capacity: it is replaced before it goes.
* Nothing is sorted, and no offer looked at, before it is needed: most plans decide nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator

from stoker.autoscaler.planning.outdated import Updates
from stoker.autoscaler.planning.plan import Action, ActionKind
from stoker.autoscaler.planning.recruiting import Found, Recruiter
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot, GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.planning.valuing import PerfEstimates, Value, value
from stoker.autoscaler.planning.weighing import Shares
from stoker.autoscaler.states import ACTIVE, HAS_MODEL, LOADING_STATES, WorkerState

MAY_COME_BACK = frozenset({WorkerState.ERROR, WorkerState.PENDING})
"""Given a moment, in which nothing else is ordered in its place."""

_COMING = LOADING_STATES | MAY_COME_BACK

Worth = tuple[int, Value, bool, int]


class Draft:
    """Bookkeeping of one call of the planner."""

    def __init__(self, snapshot: EndpointSnapshot, now: float, settings: PlannerSettings) -> None:
        self.snapshot = snapshot
        self.parameters = snapshot.parameters
        self.now = now
        self.settings = settings
        self.perf = PerfEstimates(snapshot, settings)
        self.recruiter = Recruiter(snapshot, now, settings, self.perf)
        self.groups = {group.id: group for group in snapshot.groups}
        self.actions: list[Action] = []
        self.done: set[int] = set()
        """Workers about which something was decided, or that are on the way out."""
        self.created: list[tuple[GroupSnapshot, float]] = []
        """Creations of this plan, with their expected perf (infinite: unknown)."""
        self.rebooted: list[WorkerSnapshot] = []
        """On their way from this plan on."""
        self.notes: list[str] = []
        self.refusals: list[str] = []
        """Why something that is needed is not done."""
        self.binds: tuple[str, str] | None = None
        """Why the need is not met: (constraint, text)."""
        self.by_state: dict[WorkerState, list[WorkerSnapshot]] = {}
        self.leaving: set[int] = set()
        by_state = self.by_state
        for worker in snapshot.workers:
            found = by_state.get(worker.state)
            if found is None:
                by_state[worker.state] = [worker]
            else:
                found.append(worker)
            if worker.leaves_at is not None and now >= self._replace_at(worker):
                self.leaving.add(worker.id)
        self.updates = Updates(snapshot, now, settings)
        self.shares = Shares(snapshot.groups) if len(self.groups) > 1 else None
        if self.shares is not None:
            for worker in (*self.active(), *self.coming()):
                self.shares.change(worker.workergroup_id, self.ready_perf(worker), 1)

    # Which workers count as what.

    def all(self, states: Collection[WorkerState]) -> list[WorkerSnapshot]:
        """The workers in `states`, whatever was decided about them."""
        by_state = self.by_state
        if by_state.keys().isdisjoint(states):
            return []  # mostly: few states occur at once, and a plan asks for a dozen sets of them
        # By the order of the snapshot, not of a set: the same input gives the same plan.
        return [w for state, found in by_state.items() if state in states for w in found]

    def own(self, states: Collection[WorkerState]) -> list[WorkerSnapshot]:
        """Our workers in `states` about which nothing is decided yet."""
        done, found = self.done, self.all(states)
        return found and [w for w in found if not w.attached and w.id not in done]

    def worst_first(self, states: Collection[WorkerState]) -> list[WorkerSnapshot]:
        """The same, in the order in which they are let go."""
        found = self.own(states)
        return sorted(found, key=self.worth) if len(found) > 1 else found

    def worth(self, worker: WorkerSnapshot) -> Worth:
        """A key: the least goes first."""
        # Who goes anyway goes first, then whose turn it is to be updated. Among equals the busy
        # ones stay, then the older ones.
        kind = 2
        if worker.id in self.leaving:
            kind = 0
        elif self.updates and self.updates.in_turn(worker):
            kind = 1
        perf = worker.perf or self.perf.of_worker(worker)
        return kind, value(perf, worker.price), worker.requests > 0, -worker.id

    def active(self) -> list[WorkerSnapshot]:
        """Takes requests, and stays."""
        return self._standing(self.all(ACTIVE))

    def coming(self) -> list[WorkerSnapshot]:
        """On their way without our doing more; an error that just happened is given a moment."""
        coming = [
            worker
            for worker in self._standing(self.all(_COMING))
            if not worker.attached or worker.state in LOADING_STATES
        ]
        return coming + self.rebooted

    def _standing(self, workers: list[WorkerSnapshot]) -> list[WorkerSnapshot]:
        gone = self.done | self.leaving if self.leaving else self.done
        return [w for w in workers if w.id not in gone] if gone else workers

    def release_order(self) -> Iterator[WorkerSnapshot]:
        """Our active workers, in the order in which they are let go; drain one, or stop asking."""
        for worker in self._release_order():
            # What is next waits for a worker that was just updated; no other goes in its place.
            if self.updates and self.updates.soaks(worker.workergroup_id):
                return
            yield worker

    def _release_order(self) -> Iterator[WorkerSnapshot]:
        workers = self.own(ACTIVE)
        if not workers:
            return
        if self.shares is None:
            # Mostly the first one is needed already: no need to sort a hundred for that.
            first = min(workers, key=self.worth)
            yield first
            workers.remove(first)
            yield from sorted(workers, key=self.worth)
            return
        lines: dict[int | None, list[WorkerSnapshot]] = {}
        for worker in sorted(workers, key=self.worth, reverse=True):
            lines.setdefault(worker.workergroup_id, []).append(worker)
        worths = {worker.id: self.worth(worker) for worker in workers}
        while lines:
            heads = [line[-1] for line in lines.values()]
            chosen = min(
                heads,
                key=lambda w: (
                    worths[w.id][0],
                    self.shares.out_of(w.workergroup_id) if self.shares else (0, 0.0),
                    worths[w.id],
                ),
            )
            line = lines[chosen.workergroup_id]
            line.pop()
            if not line:
                del lines[chosen.workergroup_id]
            yield chosen

    def recall_order(self, state: WorkerState) -> Iterator[WorkerSnapshot]:
        """Our workers in `state`, best first; start one, or stop asking."""
        workers = [
            worker
            for worker in self.worst_first({state})
            if worker.workergroup_id in self.groups and worker.id not in self.leaving
        ]
        shares = self.shares
        if shares is None:
            yield from reversed(workers)
            return
        while workers:
            # max takes the first of equals, so the best is put in front.
            workers.reverse()
            best = min(
                workers, key=lambda w: shares.into(w.workergroup_id or 0, self.ready_perf(w))
            )
            workers.reverse()
            workers.remove(best)
            yield best

    def ready_perf(self, worker: WorkerSnapshot) -> float:
        """Load units per second of a ready worker; a guess if nothing is known."""
        return worker.perf or self.perf.of_worker(worker) or self.settings.unknown_perf

    def coming_perf(self, worker: WorkerSnapshot) -> float:
        """Infinite if unknown: the first of its kind is measured before a second is ordered."""
        return self.perf.of_worker(worker) or math.inf

    def known_perf(self, workers: Iterable[WorkerSnapshot]) -> float:
        """Load units per second in all; what is not known counts as none."""
        return math.fsum([w.perf or self.perf.of_worker(w) or 0.0 for w in workers])

    def ready_capacity(self, workers: Iterable[WorkerSnapshot]) -> float:
        """Load units per second in all; the same sum in whatever order it is taken."""
        return math.fsum([w.perf or self.ready_perf(w) for w in workers])

    def lasted(self, worker: WorkerSnapshot) -> float:
        """Seconds that it has been in its state."""
        return self.now - worker.state_since

    def outstanding(self) -> bool:
        """Whether any request is held or at work."""
        demand = self.snapshot.demand
        if demand.held_count or demand.booked_count:
            return True
        return any(worker.requests for worker in self.snapshot.workers)

    def create_seconds(self, worker: WorkerSnapshot) -> float:
        """How long one of its workergroup takes from its order until it is ready; 0: not known."""
        group = self.groups.get(worker.workergroup_id or 0)
        return group.create_seconds if group is not None else 0.0

    def boots_for(self, worker: WorkerSnapshot) -> float:
        """Seconds since it was ordered."""
        since = worker.coming_since
        return self.now - (worker.state_since if since is None else since)

    # Machines that are taken away.

    def _replace_at(self, worker: WorkerSnapshot) -> float:
        """When its successor has to be ordered."""
        assert worker.leaves_at is not None
        takes = self.create_seconds(worker) or self.settings.unknown_create_seconds
        return worker.leaves_at - takes - self.settings.leaving_margin

    def drain_at(self, worker: WorkerSnapshot) -> float:
        """When it has to be drained, so that what it has ends in time; infinite: it stays."""
        if worker.leaves_at is None:
            return math.inf
        rest = worker.load / self.ready_perf(worker)
        return worker.leaves_at - rest - self.settings.leaving_margin

    def why_leaving(self, worker: WorkerSnapshot) -> str:
        """The reason for what is done about it."""
        left = max(0.0, (worker.leaves_at or self.now) - self.now)
        return f"its machine is taken away in {left:.0f} s"

    # Writing it down.

    def act(self, kind: ActionKind, worker: WorkerSnapshot, reason: str) -> None:
        """Decide `kind` about a worker."""
        self.done.add(worker.id)
        if kind is ActionKind.REBOOT:
            self.rebooted.append(worker)
        self.actions.append(
            Action(
                kind,
                f"{kind} worker {worker.id}: {reason}",
                worker_id=worker.id,
                group_id=worker.workergroup_id,
            )
        )
        if self.shares is not None and worker.id not in self.leaving:
            counted = worker.state in ACTIVE or worker.state in _COMING
            counts = kind in (ActionKind.START, ActionKind.REBOOT, ActionKind.UPDATE)
            if counts != counted:
                perf = self.ready_perf(worker)
                self.shares.change(worker.workergroup_id, perf, 1 if counts else -1)

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

    def create(
        self, reason: str, *, only: int | None = None, stoppable: bool = False
    ) -> float | None:
        """Order one worker; its expected perf (infinite: unknown), or None if there is no way.

        Args:
            reason: why one is needed.
            only: a workergroup's id, to create it in that one.
            stoppable: whether it must be one that can be held in reserve.
        """
        found = self._find(only, stoppable=stoppable)
        if found is None:
            return None
        self.recruiter.take(found)
        group, offer = found.group, found.offer
        perf = self.perf.of_offer(group, offer)
        text = f"create worker: {reason}"
        if offer.price > 0:
            about = offer.hardware or offer.id
            text += f"; {'explores ' if found.explores else ''}{about} at {offer.price:.2f}/h"
            text += f" for {perf:.1f}/s" if perf and not found.explores else ""
            text += " (spot)" if offer.spot else ""
        if group.create_seconds:
            text += f"; ready in about {group.create_seconds:.0f} s"
        self.actions.append(
            Action(
                ActionKind.CREATE,
                text,
                group_id=group.id,
                offer_id=offer.id,
                provider=offer.provider,
            )
        )
        self.created.append((group, perf or math.inf))
        if self.shares is not None:
            self.shares.change(group.id, perf or self.settings.unknown_perf, 1)
        return perf or math.inf

    def _find(self, only: int | None, *, stoppable: bool) -> Found | None:
        recruiter, shares = self.recruiter, self.shares
        recruiter.refusals = {}
        problem = recruiter.cap_problem()
        if problem is not None:
            recruiter.refuse(problem)
            return None
        groups = self.snapshot.groups if only is None else (self.groups[only],)
        found = [recruiter.find(group, stoppable=stoppable) for group in groups]
        able = [one for one in found if one is not None]
        if len(able) < 2 or shares is None:
            return able[0] if able else None

        def turn(one: Found) -> tuple[tuple[int, float], float, float, float, int]:
            perf = self.perf.of_offer(one.group, one.offer) or self.settings.unknown_perf
            per_price, fast, cheap = self.perf.offer_value(one.group, one.offer)
            return shares.into(one.group.id, perf), -per_price, -fast, -cheap, one.group.id

        return min(able, key=turn)

    def explain(self, what: str) -> None:
        """Note why there is no more of `what`."""
        self.notes += [f"{what}, but {text}" for text in self.recruiter.refusals]
        self.refusals += self.recruiter.refusals

    def pool(self) -> list[WorkerSnapshot]:
        """Has the model, or is about to; what was decided above is taken into account."""
        gone = {action.worker_id for action in self.actions if action.kind is ActionKind.DESTROY}
        gone |= self.leaving
        drained = {action.worker_id for action in self.actions if action.kind is ActionKind.DRAIN}
        coming = {worker.id for worker in self.coming()}
        return [
            worker
            for worker in self.snapshot.workers
            if (worker.state in HAS_MODEL or worker.id in coming)
            and worker.id not in gone
            and (worker.attached or worker.workergroup_id in self.groups)
            # What cannot be stopped is destroyed once it is drained.
            and (
                worker.stoppable
                or (worker.state is not WorkerState.DRAINING and worker.id not in drained)
            )
        ]
