"""What the forecaster wants to know of an endpoint's workers, of all that the planner sees."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.autoscaler.planning.recruiting import COLD_LOADING
from stoker.autoscaler.planning.snapshot import EndpointSnapshot
from stoker.autoscaler.states import ACTIVE, LOADING_STATES
from stoker.wire import MAX_COST

LEAST = 1e-9
"""Perf, load units per second, or load of a request: below this, or above `MAX_COST`, no figure
means anything; it is taken as not known."""


@dataclass(slots=True, kw_only=True)
class FleetFigures:
    """What the forecaster wants to know of an endpoint's workers."""

    perf: float
    """Of one worker, load units per second; 0: not known."""
    largest: float
    """The highest perf of one."""
    slots: int
    """Requests that one works on at once; 0: not known."""
    create_seconds: float
    """0: not known."""
    start_seconds: float
    """0: not known."""
    coming: int
    """Workers that are active or on their way."""
    booting: int
    """Of these, the ones that are being created."""
    stoppable: bool
    """Workers that were let go are stopped, and started again instead of created."""

    @classmethod
    def of(cls, snapshot: EndpointSnapshot) -> FleetFigures:
        """From what the planner sees."""
        perfs = slots = largest = 0.0
        measured = told = coming = booting = 0
        for worker in snapshot.workers:
            if LEAST <= worker.perf <= MAX_COST:
                perfs, measured = perfs + worker.perf, measured + 1
                largest = max(largest, worker.perf)
            if worker.slots > 0:
                slots, told = slots + worker.slots, told + 1
            state = worker.state
            if state in ACTIVE or state in LOADING_STATES:
                coming += 1
                booting += state in COLD_LOADING
        groups = snapshot.groups
        perf = perfs / measured if measured else _mean([group.perf for group in groups])
        return cls(
            perf=perf,
            largest=max(largest, perf),
            slots=round(slots / told) if told else 0,
            create_seconds=_mean([group.create_seconds for group in groups]),
            start_seconds=_mean([group.start_seconds for group in groups]),
            coming=coming,
            booting=booting,
            stoppable=_stoppable(snapshot),
        )


def _stoppable(snapshot: EndpointSnapshot) -> bool:
    """By its own workers; where there is none, by what may be created."""
    own = [worker for worker in snapshot.workers if not worker.attached]
    if own:
        return any(worker.stoppable for worker in own)
    return any(offer.stoppable for group in snapshot.groups for offer in group.offers)


def _mean(figures: list[float]) -> float:
    """Of those that are known."""
    known = [figure for figure in figures if LEAST <= figure <= MAX_COST]
    return sum(known) / len(known) if known else 0.0
