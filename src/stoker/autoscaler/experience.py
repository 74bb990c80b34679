"""Learns from what workers do, per workergroup: how fast they are, how long they take, what fails.

Rules:

* Perf and times to come up are learnt as `stoker.autoscaler.learnt` says.
* A worker that does not come up is a failure of its workergroup and of the offer it is on; one that
  comes up ends both rows of failures.
* An order that the provider refuses (the offer is gone, the account is empty) is no fault of the
  model: it delays the next try, but is never what uses up the budget of failures.
* A change of what the workers run makes all of it void; any other change of the workergroup clears
  its failures, since its owner has looked at it. Whether workers that still run former settings
  come up says nothing of the present ones: it neither halts a rolling update nor lets it go on.

Times here are on the control plane's own clock; what is kept in the store has Unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.learnt import Learnt, OfferKey, Trouble
from stoker.autoscaler.planning import PlannerSettings
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.errors import UNREADABLE
from stoker.store import WorkergroupRecord

LOADING_LIMIT = PlannerSettings().loading_limit
"""A worker that is destroyed after loading for so long has failed, though nobody said so."""


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


@dataclass(frozen=True, slots=True)
class Failure:
    """What a worker said, or its provider, when it failed."""

    worker_id: int
    text: str
    at: float


class Experience:
    """Learns from the changes of workers' states, per workergroup."""

    def __init__(self, revision: Callable[[int], int | None] = lambda _: None) -> None:
        """Know nothing yet.

        Args:
            revision: tells that of a workergroup's present settings, by its id; None: not known.
        """
        self._revision = revision
        self._groups: dict[int, Learnt] = {}
        self._last_failures: dict[int, Failure] = {}
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
        self._last_failures.pop(after.id, None)

    def last_failure(self, group_id: int) -> Failure | None:
        """The last failure of a group's workers, unless one of them became ready after it."""
        return self._last_failures.get(group_id)

    def forget(self, group_id: int) -> None:
        """The group is gone."""
        self._last_failures.pop(group_id, None)
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
        if worker.state is WorkerState.ERROR:
            self._fell(group, worker, worker.error or "it does not say why", now)
        if worker.state is WorkerState.READY:
            self._came_up(self.of(group), worker, before, now)
            self.dirty.add(group)
            self._last_failures.pop(group, None)
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
        if group is not None and coming:
            self._fell(group, worker, "its instance is gone", now)
        if group is not None and coming and worker.leaves_at is None:
            self._failed(group, worker, worker.state, now)

    def _fell(self, group: int, worker: Worker, text: str, now: float) -> None:
        self._last_failures[group] = Failure(worker.id, text, now)

    def _came_up(self, learnt: Learnt, worker: Worker, before: WorkerState, now: float) -> None:
        learnt.took(worker.perf, worker.record.hardware)
        if before in LOADING_STATES and not self._former(worker):
            learnt.came_up(_offer(worker))
        if worker.coming_since is not None:
            learnt.came_in(now - worker.coming_since, again=worker.was_ready)
        worker.coming_since, worker.was_ready = None, True

    def _former(self, worker: Worker) -> bool:
        """Whether it runs settings that its workergroup had before."""
        present = self._revision(worker.record.workergroup_id or 0)
        return present is not None and worker.revision != present

    def _failed(self, group: int, worker: Worker, before: WorkerState, now: float) -> None:
        refused = before is WorkerState.CREATING and worker.instance_id is None
        if not refused and self._former(worker):
            return
        offer = _offer(worker) if worker.record.offer_id else None
        self.of(group).did_not_come(offer, now, refused=refused)
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
        except UNREADABLE:
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


def _was_coming(worker: Worker, before: WorkerState) -> bool:
    """Whether a worker in state `before` was still to become ready.

    One that ends before that may say that it drains, as any worker that ends does.
    """
    unasked = before is WorkerState.STOPPING and worker.goal == "run"
    return before in LOADING_STATES or (unasked and worker.coming_since is not None)


def _offer(worker: Worker) -> OfferKey:
    return worker.record.provider, worker.record.offer_id
