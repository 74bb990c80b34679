"""What is learnt of workers: how fast they are, how long they take to come, what fails. Pure.

* Perf is learnt by class of machine, as an average that forgets: the last three observations make
  up two thirds.
* Times to come up are an upper quantile (`QUANTILE`) of the last `REMEMBERED`: capacity that is
  planned to be there before it is costs waits, and one slow start must not spoil the figure for
  ever. E.g. of 10, 11, 12, 60 and 10 s it is 12 s.
* Failures count in a row, of the workergroup and of each offer; a worker that comes up ends both.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Protocol

from stoker.autoscaler.states import LOADING_STATES, WorkerState

KEEP = 0.7
"""Share of the former figure in a learnt one: the last three observations make up two thirds."""

REMEMBERED = 10
"""Times to come up that are remembered, of each kind."""

QUANTILE = 0.8

LEAST_SECONDS = 0.1
"""A worker takes at least so long to come: 0 would say that it is not known."""

UNKNOWN_START_SECONDS = 15.0
"""How long a stopped worker is taken to need until one was started."""

MAX_OFFERS = 256
"""Failing offers remembered per workergroup; the oldest are forgotten."""

MAX_REFUSALS = 8
"""Refusals in a row that count: 128 s of back-off, and less than any budget of failures."""


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


class Comer(Protocol):
    """A worker, as far as it matters for when it will be ready."""

    @property
    def state(self) -> WorkerState:
        """Where it is on its way."""
        ...

    @property
    def goal(self) -> str:
        """``run``, or what shall become of it instead."""
        ...

    @property
    def lost(self) -> bool:
        """Its instance is known to have failed."""
        ...

    @property
    def coming_since(self) -> float | None:
        """Since when it is being created or started; None: it is not."""
        ...

    @property
    def was_ready(self) -> bool:
        """It was ready before, so it is started and not created."""
        ...


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

    def came_in(self, seconds: float, *, again: bool) -> None:
        """A worker became ready so long after it was ordered or, `again`, started."""
        (self.started_in if again else self.created_in).append(max(LEAST_SECONDS, seconds))

    def ready_at(self, worker: Comer) -> float | None:
        """When a worker that boots or starts is expected to be ready; None: it is not known to be.

        One that reboots is not counted upon: how long that takes is not learnt.
        """
        since = worker.coming_since
        coming = worker.state in LOADING_STATES and worker.goal == "run" and not worker.lost
        if not coming or since is None:
            return None
        takes = self.create_seconds
        if worker.was_ready:
            takes = self.start_seconds or UNKNOWN_START_SECONDS
        return since + takes if takes > 0 else None

    def did_not_come(self, offer: OfferKey | None, now: float, *, refused: bool = False) -> None:
        """A worker did not come up.

        Args:
            offer: that it is on, if that is known.
            now: on the clock of all these times.
            refused: its provider would not have it.
        """
        (self.refused if refused else self.failed).again(now)
        if offer is None:
            return
        self.offers.setdefault(offer, Trouble()).again(now)
        self.offers.move_to_end(offer)
        while len(self.offers) > MAX_OFFERS:
            self.offers.popitem(last=False)


def upper(seconds: deque[float]) -> float:
    """The `QUANTILE` of some times (the nearest rank); 0 where there are none."""
    if not seconds:
        return 0.0
    return sorted(seconds)[math.ceil(QUANTILE * len(seconds)) - 1]


def _mix(former: float, observed: float) -> float:
    return observed if former <= 0 else KEEP * former + (1 - KEEP) * observed
