"""What workers teach about their workergroup: how fast they are, how long they take, what fails.

Rules:

* Perf is learnt by class of machine, as an average that forgets: the last three observations make
  up two thirds.
* Times to come up are an upper quantile (`QUANTILE`) of the last `REMEMBERED`: capacity that is
  planned to be there before it is costs waits, and one slow start must not spoil the figure for
  ever. E.g. of 10, 11, 12, 60 and 10 s it is 12 s.
* A worker that does not come up is a failure of its workergroup and of the offer it is on; one that
  comes up ends both rows of failures.
* An order that the provider refuses (the offer is gone, the account is empty) is no fault of the
  model: it delays the next try, but is never what uses up the budget of failures.
* A change of what the workers run makes all of it void; any other change of the workergroup clears
  its failures, since its owner has looked at it.

Times here are on the control plane's own clock; what is kept in the store has Unix seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.planning import PlannerSettings
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.store import WorkergroupRecord

KEEP = 0.7
"""Share of the former figure in a learnt one: the last three observations make up two thirds."""

REMEMBERED = 10
"""Times to come up that are remembered, of each kind."""

QUANTILE = 0.8

LEAST_SECONDS = 0.1
"""A worker takes at least so long to come: 0 would say that it is not known."""

MAX_OFFERS = 256
"""Failing offers remembered per workergroup; the oldest are forgotten."""

MAX_REFUSALS = 8
"""Refusals in a row that count: 128 s of back-off, and less than any budget of failures."""

LOADING_LIMIT = PlannerSettings().loading_limit
"""A worker that is destroyed after loading for so long has failed, though nobody said so."""


@dataclass(slots=True)
class Trouble:
    """Failures in a row."""

    failures: int = 0
    last_at: float = 0.0

    def again(self, now: float) -> None:
        """One more."""
        self.failures, self.last_at = self.failures + 1, now


OfferKey = tuple[str, str]
"""(provider, offer)."""


@dataclass(slots=True)
class Learnt:
    """What the workers of a group have taught us."""

    perf: float = 0.0
    """Load units per second, of all its machines; 0: not known yet."""
    perfs: dict[str, float] = field(default_factory=dict)
    """The same by class of machine."""
    created_in: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Seconds from the order of a worker until it was ready."""
    started_in: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Seconds from the start of a stopped worker until it was ready."""
    failed: Trouble = field(default_factory=Trouble)
    refused: Trouble = field(default_factory=Trouble)
    offers: OrderedDict[OfferKey, Trouble] = field(default_factory=OrderedDict)

    @property
    def create_seconds(self) -> float:
        """How long a created worker takes until it is ready; 0: not known."""
        return upper(self.created_in)

    @property
    def start_seconds(self) -> float:
        """How long a stopped worker takes until it is ready; 0: not known."""
        return upper(self.started_in)

    @property
    def failures(self) -> int:
        """In a row, to bring a worker up."""
        return max(self.failed.failures, min(self.refused.failures, MAX_REFUSALS))

    @property
    def last_failure_at(self) -> float | None:
        """When the last of them was."""
        troubles = [one.last_at for one in (self.failed, self.refused) if one.failures]
        return max(troubles, default=None)

    def took(self, perf: float, hardware: str) -> None:
        """A worker of this class of machine was measured."""
        if perf > 0:
            self.perf = _mix(self.perf, perf)
            self.perfs[hardware] = _mix(self.perfs.get(hardware, 0.0), perf)

    def came_up(self, offer: OfferKey) -> None:
        """A worker is ready: what failed before is over."""
        self.failed, self.refused = Trouble(), Trouble()
        self.offers.pop(offer, None)

    def offer_failed(self, offer: OfferKey, now: float) -> None:
        """A worker on this offer did not come up."""
        self.offers.setdefault(offer, Trouble()).again(now)
        self.offers.move_to_end(offer)
        while len(self.offers) > MAX_OFFERS:
            self.offers.popitem(last=False)


class _KeptTrouble(msgspec.Struct, array_like=True):
    failures: int
    at: float


class _Kept(msgspec.Struct, omit_defaults=True):
    """A `Learnt` in the store; its moments are Unix seconds."""

    revision: int = 0
    perf: float = 0.0
    perfs: dict[str, float] = {}
    created_in: list[float] = []
    started_in: list[float] = []
    failed: _KeptTrouble | None = None
    refused: _KeptTrouble | None = None
    offers: list[tuple[str, str, _KeptTrouble]] = []


_decode = msgspec.json.Decoder(_Kept).decode


class Experience:
    """Learns from the changes of workers' states, per workergroup."""

    def __init__(self) -> None:
        self._groups: dict[int, Learnt] = {}
        self.dirty: set[int] = set()
        """Workergroups of which something was learnt that is not kept yet."""

    def of(self, group_id: int) -> Learnt:
        """What is known of a group."""
        return self._groups.setdefault(group_id, Learnt())

    def changed(self, before: WorkergroupRecord, after: WorkergroupRecord) -> None:
        """The settings of a group were written."""
        if before.revision != after.revision:
            self._groups.pop(after.id, None)
        else:
            learnt = self.of(after.id)
            learnt.failed, learnt.refused = Trouble(), Trouble()
            learnt.offers.clear()
        self.dirty.add(after.id)

    def forget(self, group_id: int) -> None:
        """The group is gone."""
        self._groups.pop(group_id, None)
        self.dirty.discard(group_id)

    def measured(self, worker: Worker) -> None:
        """A ready worker has told another perf than before."""
        group = worker.record.workergroup_id
        if group is not None:
            self.of(group).took(worker.perf, worker.record.hardware)
            self.dirty.add(group)

    def note(self, worker: Worker, before: WorkerState, now: float) -> None:
        """A worker has just changed from `before` to its present state."""
        group = worker.record.workergroup_id
        if group is None:
            return
        if worker.state is WorkerState.READY:
            self._came_up(self.of(group), worker, before, now)
            self.dirty.add(group)
        elif worker.state is WorkerState.STARTING:
            worker.coming_since = now
        elif worker.state is WorkerState.ERROR and _was_coming(worker, before):
            self._failed(group, worker, before, now)
        elif before is WorkerState.STOPPING and worker.state is WorkerState.STOPPED:
            if _was_coming(worker, before):
                self._failed(group, worker, before, now)
        elif before in LOADING_STATES and worker.state is WorkerState.DESTROYING:
            since = worker.coming_since
            if since is not None and now - since >= LOADING_LIMIT:
                self._failed(group, worker, before, now)

    def vanished(self, worker: Worker, now: float) -> None:
        """The instance of a worker is gone, or as good as gone, and nobody asked for that."""
        group = worker.record.workergroup_id
        coming = _was_coming(worker, worker.state)
        if group is not None and coming and worker.leaves_at is None:
            self._failed(group, worker, worker.state, now)

    def _came_up(self, learnt: Learnt, worker: Worker, before: WorkerState, now: float) -> None:
        learnt.took(worker.perf, worker.record.hardware)
        if before in LOADING_STATES:
            learnt.came_up(_offer(worker))
        if worker.coming_since is not None:
            times = learnt.started_in if worker.was_ready else learnt.created_in
            times.append(max(LEAST_SECONDS, now - worker.coming_since))
        worker.coming_since, worker.was_ready = None, True

    def _failed(self, group: int, worker: Worker, before: WorkerState, now: float) -> None:
        learnt = self.of(group)
        refused = before is WorkerState.CREATING and worker.instance_id is None
        (learnt.refused if refused else learnt.failed).again(now)
        if worker.record.offer_id:
            learnt.offer_failed(_offer(worker), now)
        self.dirty.add(group)

    # -- what survives a restart -----------------------------------------------------------

    def written(self, group: WorkergroupRecord, unix: Callable[[float], float]) -> str:
        """What is known of a group, as JSON.

        Args:
            group: whose.
            unix: makes Unix seconds of a moment on the control plane's clock.
        """
        learnt = self.of(group.id)

        def kept(trouble: Trouble) -> _KeptTrouble | None:
            if not trouble.failures:
                return None
            return _KeptTrouble(trouble.failures, unix(trouble.last_at))

        record = _Kept(
            revision=group.revision,
            perf=learnt.perf,
            perfs=learnt.perfs,
            created_in=list(learnt.created_in),
            started_in=list(learnt.started_in),
            failed=kept(learnt.failed),
            refused=kept(learnt.refused),
            offers=[
                (*offer, _KeptTrouble(trouble.failures, unix(trouble.last_at)))
                for offer, trouble in learnt.offers.items()
            ],
        )
        return msgspec.json.encode(record).decode()

    def read(self, group: WorkergroupRecord, text: str, moment: Callable[[float], float]) -> None:
        """Take up what an earlier control plane had learnt, unless it is of other settings.

        Args:
            group: whose.
            text: what `written` gave.
            moment: makes a moment on the control plane's clock of Unix seconds, not after now.
        """
        try:
            record = _decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return
        if record.revision != group.revision:
            return

        def trouble(kept: _KeptTrouble | None) -> Trouble:
            return Trouble(kept.failures, moment(kept.at)) if kept else Trouble()

        learnt = Learnt(record.perf, dict(record.perfs))
        learnt.created_in.extend(record.created_in)
        learnt.started_in.extend(record.started_in)
        learnt.failed, learnt.refused = trouble(record.failed), trouble(record.refused)
        for provider, offer, kept in record.offers:
            learnt.offers[provider, offer] = trouble(kept)
        self._groups[group.id] = learnt


def upper(seconds: deque[float]) -> float:
    """The `QUANTILE` of some times (the nearest rank); 0 where there are none."""
    if not seconds:
        return 0.0
    return sorted(seconds)[math.ceil(QUANTILE * len(seconds)) - 1]


def _was_coming(worker: Worker, before: WorkerState) -> bool:
    """Whether a worker in state `before` was still to become ready.

    One that ends before that may say that it drains, as any worker that ends does.
    """
    unasked = before is WorkerState.STOPPING and worker.goal == "run"
    return before in LOADING_STATES or (unasked and worker.coming_since is not None)


def _offer(worker: Worker) -> OfferKey:
    return worker.record.provider, worker.record.offer_id


def _mix(former: float, observed: float) -> float:
    return observed if former <= 0 else KEEP * former + (1 - KEEP) * observed
