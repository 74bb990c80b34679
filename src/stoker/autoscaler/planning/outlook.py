"""What a `Forecaster` says: how much active capacity an endpoint needs, and what it expects."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.autoscaler.planning.rehearsal import Candidate
from stoker.autoscaler.planning.season import Recurring

PREDICTORS = (
    "mean of 10 s",
    "mean of 10 s, or what bursts bring",
    "mean of 2 minutes",
    "trend and time of day",
)
"""Of the load per second; a `Candidate` names one by its place."""


@dataclass(frozen=True, slots=True)
class Horizon:
    """The load that is expected some time from now, load units per second."""

    seconds: float
    expected: float
    upper: float
    """95% of what came was below, as far as the errors so far tell."""


@dataclass(slots=True, kw_only=True)
class Outlook:
    """How much active capacity an endpoint needs. Rates are in load units per second."""

    needed: float
    """Active capacity, `target_util` taken into account."""
    load: float
    """That came in the last two minutes, a second."""
    predicted: float
    """The load per second that is predicted for when a worker ordered now would be ready."""
    anticipated: float
    """The same with its margin; of which `target_util` is taken."""
    floor: float
    """Capacity that is held for bursts, whatever the load: that of so many workers, as in
    `candidate`, of the mean perf of those that are there."""
    clearing: float
    """Capacity that works off in `target_queue_time` what is over the slots of the workers."""
    binds: str
    """Which of these decides: ``target_util``, ``target_queue_time``, ``hold`` (a need that was
    there a moment ago), ``headroom`` (for bursts) or ``season`` (what comes each day or week)."""
    why: str
    """The figure that decides, in words."""
    for_load: float = 0.0
    """Active capacity for what is predicted and what waits, without what is held for bursts."""
    reserve: float = 0.0
    """Capacity, active or stopped, for what recurs until a worker created now is there."""
    kept: float = 0.0
    """The same, down to which workers are let go, if that is more: with less, what is there would
    be over the slots of the workers, and one be called back."""
    recurring: Recurring | None = None
    """What recurs within `recurring_seconds`; None: nothing is prepared for before it comes."""
    recurring_seconds: float = 0.0
    """The time in which a worker that is created now is there, with some to spare."""
    retention: tuple[float, ...] = ()
    """Seconds for which it pays to keep a stopped worker, of the first worker with the model, of
    the second, and so on; the last is that of all further ones. Empty: no worker can be stopped, or
    nothing is known."""
    fallen: bool = False
    """The load has gone for which workers still boot (see `ebb`)."""
    candidate: Candidate | None = None
    """The way to scale that would have cost least so far; None: nothing rehearsed yet."""
    horizons: tuple[Horizon, ...] = ()
