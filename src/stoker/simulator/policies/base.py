"""What a policy sees, and what it answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from stoker.autoscaler.planning import Action, EndpointSnapshot
from stoker.simulator.sharing import Job


@dataclass(slots=True)
class Traffic:
    """What peers measure, counted from the start of the run; they take differences.

    The integral of the requests in the system over time, divided by a time, is their mean
    number in it: what Knative and Ray Serve average.
    """

    arrivals: int = 0
    """Requests that came."""
    load: float = 0.0
    """Load that came, load units."""
    in_system: int = 0
    """Requests held, queued at a worker, or in service, now."""
    system_seconds: float = 0.0
    """Integral of `in_system` over time, up to the last `advance`."""
    last_request_at: float = 0.0
    """When a request came or ended last."""
    _at: float = 0.0
    _waiting: deque[Job] = field(default_factory=deque)

    def advance(self, now: float) -> None:
        """Bring the integral up to `now`."""
        self.system_seconds += self.in_system * (now - self._at)
        self._at = now

    def came(self, job: Job, now: float) -> None:
        """A request arrived."""
        self.advance(now)
        self.arrivals += 1
        self.load += job.load
        self.in_system += 1
        self.last_request_at = now
        self._waiting.append(job)

    def left(self, now: float) -> None:
        """A request ended, or was given up."""
        self.advance(now)
        self.in_system -= 1
        self.last_request_at = now

    def longest_wait(self, now: float) -> float:
        """Seconds since the oldest request came whose service has not begun; 0.0 without one."""
        waiting = self._waiting
        while waiting and (waiting[0].begun is not None or waiting[0].over):
            waiting.popleft()
        return now - waiting[0].arrived if waiting else 0.0


class Policy(Protocol):
    """Decides about the fleet, in each round of the control plane."""

    name: str

    def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> Sequence[Action]:
        """What to do now."""
