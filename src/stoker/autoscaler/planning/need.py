"""How much active capacity an endpoint needs.

Two answers, between which nothing happens (hysteresis): what must be there **now**, else we scale
up at once; and what is **kept**, so that we scale down only below it. The second is never less.

* Sustained: max(min_load, anticipated load / target_util). Anticipated is the mean arrival rate of
  the last 60 s for "now", and its highest 5-s mean in that time for "kept": a need that was seen
  once is kept for 60 s, so two waves 30 s apart do not cost a cold start.
* Burst: load that arrives in these 5 s / target_util, and what it takes to finish all that waits
  or works within `target_queue_time`. As a request is not divided between workers, this asks for at
  most as many workers as there are requests. E.g. one request of 1,000 tokens on a worker of
  80 tokens/s waits 12.5 s; a second worker would not make it faster, and is not created for it.
* Zero: when nothing is held or works and the endpoint has been quiet for its `inactivity_timeout`,
  nothing is needed beyond `min_load`, and what arrived in the last minute no longer counts. Where
  `inactivity_timeout` is absent and there is a forecast, that decides: the last worker may go after
  `idle_wait` if nothing is held for bursts or for what recurs, and is kept, stopped, as the
  pool keeps others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stoker.autoscaler.planning.outlook import Outlook
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot
from stoker.autoscaler.states import ACTIVE, WorkerState

_FOREVER = 1e9
"""Seconds."""

_ROUNDING = 1e-6
"""Relative: so many workers' perf, added up, may be a little less than their number times it."""

_SERVED = ACTIVE | {WorkerState.DRAINING}
"""Whose last request counts for how long the endpoint has been quiet."""


@dataclass(slots=True)
class Need:
    """Active capacity that is asked for."""

    sustained: float
    """Load units per second."""
    burst: float
    """Load units per second; may be infinite (`target_queue_time` 0)."""
    burst_workers: int
    """Workers that the burst can make use of."""
    workers: int
    """However little the load."""
    why: str
    """The figure that decides, in words."""
    ready: int = 0
    """Workers held for bursts, of whatever perf: their number decides, not their capacity. That
    would change with each that comes or goes, and ask for another."""
    for_load: float = 0.0
    """Where some are held ready: what the load alone asks for of `sustained`."""

    def met_by(self, capacity: float, workers: int) -> bool:
        """Whether so much capacity in so many workers is enough."""
        if self.ready > 0:
            return workers >= max(self.workers, self.ready) and capacity >= self.for_load
        return (
            workers >= self.workers
            and capacity >= self.sustained
            and (capacity >= self.burst or workers >= self.burst_workers)
        )


@dataclass(slots=True)
class Needs:
    """Both answers."""

    now: Need
    kept: Need
    zero: bool
    """The endpoint may have no active worker."""
    quiet_for: float
    """Seconds without a request."""
    load: float = 0.0
    """Capacity that the load asks for without what is held for bursts, load units per second: of
    which `cold_mult` is taken when the pool is filled."""
    kept_load: float = 0.0
    """The same, when it is trimmed."""


def needs_of(snapshot: EndpointSnapshot, now: float, settings: PlannerSettings) -> Needs:
    """What `snapshot` needs at `now`."""
    parameters, demand = snapshot.parameters, snapshot.demand
    working = max(demand.booked_count, sum(worker.requests for worker in snapshot.workers))
    outstanding = demand.held_count + working
    quiet_for = 0.0 if outstanding else _quiet_for(snapshot, now)
    timeout = parameters.inactivity_timeout
    gate = settings.idle_wait if timeout is None else timeout
    idle = parameters.min_load <= 0 and gate >= 0 and not outstanding and quiet_for >= gate
    outlook = snapshot.outlook
    foreseen = outlook is not None and outlook.candidate is not None
    zero = idle and not (foreseen and timeout is None)
    if zero:
        nothing = Need(0.0, 0.0, 0, 0, f"quiet for {quiet_for:.0f} s, inactivity_timeout {gate:g}")
        return Needs(nothing, nothing, zero, quiet_for)

    floor = 1 if parameters.min_load > 0 or gate < 0 or outstanding else 0
    if outlook is not None and foreseen:
        last = 0 if idle else 1
        return _foreseen(snapshot, outlook, floor, last, outstanding, quiet_for)
    return _by_means(snapshot, floor, outstanding, quiet_for)


def _foreseen(
    snapshot: EndpointSnapshot,
    outlook: Outlook,
    floor: int,
    last: int,
    outstanding: int,
    quiet_for: float,
) -> Needs:
    """By the forecast: for how long a need is kept is in its figures."""
    least = snapshot.parameters.min_load
    sustained = max(least, outlook.needed * (1 - _ROUNDING))
    why = outlook.why if outlook.needed > least else f"min_load needs {least:.1f}/s"
    ready = outlook.candidate.floor if outlook.candidate is not None else 0
    for_load = max(least, outlook.for_load * (1 - _ROUNDING))
    now = Need(sustained, 0.0, 0, floor, why, ready, for_load)
    kept_rate = outlook.kept * (1 - _ROUNDING)
    if kept_rate > sustained:
        why += f"; {outstanding} requests keep {outlook.kept:.1f}/s"
    kept = Need(
        max(sustained, kept_rate), 0.0, outstanding, last, why, ready, max(for_load, kept_rate)
    )
    load = max(least, outlook.load / snapshot.parameters.target_util)
    return Needs(now, kept, False, quiet_for, load, load)


def _by_means(snapshot: EndpointSnapshot, floor: int, outstanding: int, quiet_for: float) -> Needs:
    """Without a forecast (no perf is known yet): by the means of the last seconds."""
    parameters, demand = snapshot.parameters, snapshot.demand
    gate = parameters.inactivity_timeout
    util = parameters.target_util
    sustained = max(parameters.min_load, demand.arrival_rate / util)
    # Above max_queue_time nothing is routed, so to wait for more than that before we scale up
    # would leave requests held although more workers are allowed.
    patience = min(parameters.target_queue_time, parameters.max_queue_time)
    backlog = demand.outstanding_load
    clearing = 0.0 if backlog <= 0 else backlog / patience if patience > 0 else math.inf
    recent = demand.recent_rate / util
    burst = max(recent, clearing)

    if burst > sustained and clearing >= recent:
        why = f"{backlog:.1f} load waits or works and is to end in {patience:g} s "
        why += "(target_queue_time)" + (f": needs {clearing:.1f}/s" if patience > 0 else "")
    elif burst > sustained:
        why = (
            f"load {demand.recent_rate:.1f}/s in these 5 s / target_util {util:.2f} "
            f"needs {recent:.1f}/s"
        )
    elif demand.arrival_rate / util > parameters.min_load:
        why = f"load {demand.arrival_rate:.1f}/s / target_util {util:.2f} needs {sustained:.1f}/s"
    elif parameters.min_load > 0:
        why = f"min_load needs {sustained:.1f}/s"
    elif outstanding:
        why = f"{outstanding} requests are held or at work"
    elif gate is not None and gate < 0:
        why = f"inactivity_timeout {gate:g} allows no zero"
    else:
        why = "no load"
    now_need = Need(sustained, burst, outstanding, floor, why)
    kept_rate = max(demand.peak_rate, demand.arrival_rate) / util
    kept_need = Need(
        max(sustained, kept_rate),
        burst,
        outstanding,
        1,
        f"load {demand.peak_rate:.1f}/s at most in 60 s / target_util {util:.2f} "
        f"needs {kept_rate:.1f}/s"
        if kept_rate > sustained
        else why,
    )
    return Needs(now_need, kept_need, False, quiet_for, now_need.sustained, kept_need.sustained)


def _quiet_for(snapshot: EndpointSnapshot, now: float) -> float:
    """Seconds since the last request came or ended, or since a worker became ready for one."""
    last = -math.inf
    if snapshot.demand.last_request_at is not None:
        last = snapshot.demand.last_request_at
    for worker in snapshot.workers:
        if worker.state in ACTIVE and not worker.attached:
            last = max(last, worker.state_since)
        if worker.state in _SERVED and worker.idle_since is not None:
            last = max(last, worker.idle_since)
    # Nothing ever came: quiet for as long as anybody could ask.
    return max(0.0, now - last) if last > -math.inf else _FOREVER
