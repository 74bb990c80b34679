"""The simulated workers: their states, what they cost, and what is learnt from them.

Rules:

* States change by the table of `stoker.autoscaler.states` alone, as in the control plane.
* A second in a state is added up when the state is left; `settle` adds up the last ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from stoker.autoscaler.learnt import Learnt, OfferKey
from stoker.autoscaler.planning import GroupSnapshot, OfferSnapshot, WorkerSnapshot
from stoker.autoscaler.router import Router
from stoker.autoscaler.states import (
    ACTIVE,
    LOADING_STATES,
    Event,
    WorkerState,
    next_state,
)
from stoker.simulator.settings import Hardware, SimulatorSettings
from stoker.simulator.sharing import Sharing
from stoker.wire import FinishedRequest

GROUP = 1
"""Id of the one workergroup."""

ENDPOINT = 1

PROVIDER = "simulated"

Category = Literal["active", "loading", "inactive"]

FREE = frozenset({WorkerState.DESTROYING, WorkerState.DESTROYED})

UNUSED = FREE | {WorkerState.STOPPED}


def category(state: WorkerState) -> Category | None:
    """As what a second in `state` is priced; None: not at all."""
    if state in FREE:
        return None
    if state in LOADING_STATES:
        return "loading"
    return "inactive" if state is WorkerState.STOPPED else "active"


@dataclass(slots=True, eq=False)
class SimWorker:
    """One worker, and what runs on it."""

    id: int
    kind: Hardware
    server: Sharing
    state: WorkerState
    state_since: float
    url: str
    goal: Literal["run", "destroy"] = "run"
    perf: float = 0.0
    """As reported; 0: not yet."""
    dead: bool = False
    """Its machine is gone, which the control plane may not know yet."""
    lost: bool = False
    """The control plane knows that it is."""
    coming_since: float | None = None
    was_ready: bool = False
    leaves_at: float | None = None
    revision: int = 0
    idle_since: float = 0.0
    changed: bool = False
    """Since its last report."""
    reported_at: float = 0.0
    finished: list[FinishedRequest] = field(default_factory=list)
    """Requests that ended since its last report."""
    life: int = 0
    """Counts boots, stops and losses: an event of an earlier life is void."""
    due: int = 0
    """Counts changes of when its next request ends: an earlier such event is void."""
    stopped: WorkerSnapshot | None = None
    """How the planner sees it while it is stopped and empty: nothing changes then."""

    @property
    def available(self) -> bool:
        """Whether the router may send requests to it."""
        return self.state in ACTIVE and self.goal == "run"


@dataclass(slots=True)
class Counts:
    """What happened."""

    creations: int = 0
    starts: int = 0
    stops: int = 0
    destroyed: int = 0
    failures: int = 0
    boot_failures: int = 0
    preemptions: int = 0


class SimFleet:
    """All simulated workers of the endpoint."""

    def __init__(self, settings: SimulatorSettings, scored: tuple[float, float]) -> None:
        """Make an empty fleet.

        Args:
            settings: the machines.
            scored: the time in which costs count, from and until.
        """
        self.settings = settings
        self.kinds = {kind.name: kind for kind in settings.kinds}
        self.workers: dict[int, SimWorker] = {}
        self.counts = Counts()
        self.seconds: dict[Category, float] = {"active": 0.0, "loading": 0.0, "inactive": 0.0}
        """Worker-seconds that were scored, in those of the main kind of machine."""
        self.cost = 0.0
        """The same, priced."""
        self.peak = 0
        self.revision = 0
        self.updating = False
        self._scored = scored
        # A machine without a price is one's own: a second of it is a second.
        main = settings.price
        self._weights = {k.name: k.price / main if main > 0 else 1.0 for k in settings.kinds}
        self._last_id = 0
        self.learnt = Learnt()
        self._group: GroupSnapshot | None = None
        """As it was last seen; None once a worker has come or gone, or something was learnt."""

    # Workers come, change and go.

    def add(self, kind: Hardware, state: WorkerState, now: float) -> SimWorker:
        """Take a new worker in."""
        self._last_id += 1
        worker = SimWorker(
            self._last_id,
            kind,
            Sharing(kind.perf, kind.slots, kind.share),
            state,
            now,
            f"http://worker-{self._last_id}",
            revision=self.revision,
            idle_since=now,
        )
        self.workers[worker.id] = worker
        self._group = None
        return worker

    def count(self, kind: Hardware) -> int:
        """Machines of that kind that are taken."""
        return sum(worker.kind is kind for worker in self.workers.values())

    def happen(self, worker: SimWorker, event: Event, now: float) -> bool:
        """Apply an event; whether the state is another one."""
        before = worker.state
        after = next_state(before, event)
        if after is before:
            return False
        self._bill(worker, now)
        worker.state, worker.state_since, worker.stopped = after, now, None
        self._learn(worker, before, now)
        self._group = None
        if after is WorkerState.DESTROYED:
            del self.workers[worker.id]
        return True

    def settle(self, now: float) -> None:
        """Add up the seconds of the present states."""
        for worker in self.workers.values():
            self._bill(worker, now)

    def _bill(self, worker: SimWorker, now: float) -> None:
        kind = category(worker.state)
        if kind is None:
            return
        start, end = self._scored
        seconds = min(now, end) - max(worker.state_since, start)
        if seconds <= 0:
            return
        seconds *= self._weights[worker.kind.name]
        self.seconds[kind] += seconds
        self.cost += seconds * (self.settings.inactive_price if kind == "inactive" else 1.0)

    def _learn(self, worker: SimWorker, before: WorkerState, now: float) -> None:
        if worker.state is WorkerState.READY and before not in ACTIVE | {WorkerState.DRAINING}:
            self.learn_ready(worker, now, recovered=before is WorkerState.ERROR)
        elif worker.state is WorkerState.STARTING:
            worker.coming_since = now
        elif before in LOADING_STATES and worker.state is WorkerState.ERROR:
            self.learnt.did_not_come(_offer(worker.kind), now)

    def learn_ready(self, worker: SimWorker, now: float, *, recovered: bool = False) -> None:
        """A worker has become ready."""
        self._group = None
        worker.perf = worker.kind.perf
        self.learnt.took(worker.perf, worker.kind.name)
        if not recovered:
            self.learnt.came_up(_offer(worker.kind))
        if worker.coming_since is not None:
            self.learnt.came_in(now - worker.coming_since, again=worker.was_ready)
        worker.coming_since, worker.was_ready = None, True

    # What the planner sees.

    def snapshots(self, router: Router) -> tuple[WorkerSnapshot, ...]:
        """Every worker as the control plane would show it."""
        if self._group is None:
            running = sum(one.state not in UNUSED for one in self.workers.values())
            self.peak = max(self.peak, running)
        return tuple([one.stopped or _see(one, router) for one in self.workers.values()])

    def group(self) -> GroupSnapshot:
        """The workergroup with its offers and what was learnt."""
        known = self._group
        if known is None or (known.revision, known.updating) != (self.revision, self.updating):
            known = self._group = self._see_group()
        return known

    def _see_group(self) -> GroupSnapshot:
        taken = dict.fromkeys(self.kinds, 0)
        failed = self.learnt.offers
        for worker in self.workers.values():
            taken[worker.kind.name] += 1
        offers = tuple(
            OfferSnapshot(
                id=kind.name,
                provider=PROVIDER,
                price=kind.price,
                available=kind.available - taken[kind.name],
                perf=self.learnt.perfs.get(kind.name, 0.0),
                hardware=kind.name,
                spot=kind.spot,
                stoppable=kind.stoppable,
                failures=trouble.failures if (trouble := failed.get(_offer(kind))) else 0,
                last_failure_at=trouble.last_at if trouble else None,
            )
            for kind in self.kinds.values()
            if kind.available > taken[kind.name]
        )
        return GroupSnapshot(
            id=GROUP,
            offers=offers,
            perf=self.learnt.perf,
            create_seconds=self.learnt.create_seconds,
            start_seconds=self.learnt.start_seconds,
            failures=self.learnt.failures,
            last_failure_at=self.learnt.last_failure_at,
            revision=self.revision,
            updating=self.updating,
        )

    def capacities(self) -> tuple[float, float, float]:
        """Load units per second that are active, on their way, and stopped."""
        active = coming = stopped = 0.0
        for worker in self.workers.values():
            if worker.state in ACTIVE:
                active += worker.kind.perf
            elif worker.state in LOADING_STATES:
                coming += worker.kind.perf
            elif worker.state is WorkerState.STOPPED:
                stopped += worker.kind.perf
        return active, coming, stopped


def _see(worker: SimWorker, router: Router) -> WorkerSnapshot:
    """As the control plane would show it."""
    view, kind = router.worker(worker.id), worker.kind
    requests = view.requests if view else 0
    seen = WorkerSnapshot(
        id=worker.id,
        workergroup_id=GROUP,
        state=WorkerState.DESTROYING if worker.goal == "destroy" else worker.state,
        state_since=worker.state_since,
        perf=worker.perf,
        load=view.load if view else 0.0,
        requests=requests,
        idle_since=max(worker.idle_since, view.idle_since) if view and not requests else None,
        price=kind.price,
        provider=PROVIDER,
        offer_id=kind.name,
        lost=worker.lost,
        hardware=kind.name,
        slots=kind.slots if worker.perf > 0 else 0,
        revision=worker.revision,
        leaves_at=worker.leaves_at,
        stoppable=kind.stoppable,
        coming_since=worker.coming_since,
    )
    if seen.state is WorkerState.STOPPED and not requests:
        worker.stopped = seen
    return seen


def _offer(kind: Hardware) -> OfferKey:
    return PROVIDER, kind.name
