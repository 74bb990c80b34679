"""What the simulated fleet teaches, as the control plane learns it.

The rules are those of `stoker.autoscaler.experience`, which is about rows of a database: perf by
class of machine as an average that forgets, times to come up as an upper quantile of the last ten,
failures in a row of the workergroup and of each offer. At the start nothing is known. A test tells
the same story to both.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from stoker.autoscaler.states import LOADING_STATES, WorkerState

KEEP = 0.7
"""Share of the former figure in a learnt one."""

REMEMBERED = 10
"""Times to come up that are remembered, of each kind."""

QUANTILE = 0.8


@dataclass(slots=True)
class Trouble:
    """Failures in a row."""

    failures: int = 0
    last_at: float | None = None


@dataclass(slots=True)
class Learnt:
    """What is known of the one workergroup."""

    perf: float = 0.0
    """Load units per second, of all its machines; 0: not known yet."""
    perfs: dict[str, float] = field(default_factory=dict)
    """The same by kind of machine."""
    failed: Trouble = field(default_factory=Trouble)
    offers: dict[str, Trouble] = field(default_factory=dict)
    _created_in: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _started_in: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def create_seconds(self) -> float:
        """How long a created worker takes until it is ready; 0: not known."""
        return _upper(self._created_in)

    @property
    def start_seconds(self) -> float:
        """How long a stopped worker takes until it is ready; 0: not known."""
        return _upper(self._started_in)

    def ready(
        self, kind: str, perf: float, took: float | None, *, started: bool, recovered: bool = False
    ) -> None:
        """A worker came up.

        Args:
            kind: of machine.
            perf: load units per second, as it was measured.
            took: seconds, where it was being created or started.
            started: it had been ready before.
            recovered: from an error, which ends no row of failures.
        """
        self.perf = _mix(self.perf, perf)
        self.perfs[kind] = _mix(self.perfs.get(kind, 0.0), perf)
        if not recovered:
            self.failed = Trouble()
            self.offers.pop(kind, None)
        if took is not None:
            # At least a moment: 0 would say that it is not known.
            (self._started_in if started else self._created_in).append(max(0.1, took))

    def left(self, before: WorkerState, after: WorkerState, kind: str, now: float) -> None:
        """A worker left a state; it is a failure if that was on its way up."""
        if before in LOADING_STATES and after is WorkerState.ERROR:
            offer = self.offers.setdefault(kind, Trouble())
            for trouble in (self.failed, offer):
                trouble.failures, trouble.last_at = trouble.failures + 1, now


def _upper(seconds: deque[float]) -> float:
    return sorted(seconds)[math.ceil(QUANTILE * len(seconds)) - 1] if seconds else 0.0


def _mix(former: float, observed: float) -> float:
    return observed if former <= 0 else KEEP * former + (1 - KEEP) * observed
