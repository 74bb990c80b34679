"""Knative's Pod Autoscaler (KPA), on concurrency.

Written from its public description: "Additional autoscaling configuration for Knative Pod
Autoscaler" (https://knative.dev/docs/serving/autoscaling/kpa-specific), the pages on concurrency,
scale bounds and scale to zero beside it, and ``config-autoscaler``'s comments on its defaults.

* Each 2 s it takes the mean concurrency (requests held, queued and in service) of the stable window
  (60 s) and of the panic window (a tenth of it), and divides each by the target of one replica:
  ``containerConcurrency`` x the target utilisation (70%).
* Panic: when the panic window asks for at least 200% of the ready replicas. In panic the number of
  replicas only grows; it ends when there was no such reason for a stable window.
* One step grows to at most 1,000 times the ready replicas, and shrinks to half of them at least.
* To zero when there was no traffic for a stable window, and 30 s of grace after that. A request
  that comes then is held, and one replica is ordered at once.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning import EndpointSnapshot
from stoker.simulator.policies.base import Traffic
from stoker.simulator.policies.scaling import serving
from stoker.simulator.policies.windows import WindowMean

TICK = 2.0
"""Seconds between two decisions."""


class Knative:
    """See above; the defaults are Knative's.

    Args:
        target: utilisation of the concurrency of a replica.
        concurrency: ``containerConcurrency``; 0: the slots of a worker.
        window: the stable window, seconds.
        panic_window: share of the stable window.
        panic_threshold: times the ready replicas.
        up: largest step up, times the ready replicas.
        down: largest step down, as a divisor of the ready replicas.
        grace: seconds before the last replica goes.
        minimum: replicas at least; 0 allows zero.
    """

    name = "knative"

    def __init__(
        self,
        target: float = 0.7,
        *,
        concurrency: float = 0.0,
        window: float = 60.0,
        panic_window: float = 0.1,
        panic_threshold: float = 2.0,
        up: float = 1000.0,
        down: float = 2.0,
        grace: float = 30.0,
        minimum: int = 0,
    ) -> None:
        self._target, self._concurrency = target, concurrency
        self._window, self._grace, self._minimum = window, grace, minimum
        self._threshold, self._up, self._down = panic_threshold, up, down
        self._stable = WindowMean(window)
        self._panic = WindowMean(window * panic_window)
        self._slots = 0
        self._panicked_at: float | None = None
        self._panic_size = 0
        self._decided_at = -math.inf
        self._answer = max(1, minimum)
        self._why = "at the start"

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """Decide anew each 2 s, and at once when a request comes to no replica."""
        stable = self._stable.of(traffic.system_seconds, now)
        panic = self._panic.of(traffic.system_seconds, now)
        if self._answer == 0 and traffic.in_system:
            self._answer, self._why = 1, "a request is held"
        if now - self._decided_at >= TICK - 1e-9:
            self._decided_at = now
            self._decide(snapshot, traffic, stable, panic, now)
        return self._answer, self._why

    def _decide(
        self, snapshot: EndpointSnapshot, traffic: Traffic, stable: float, panic: float, now: float
    ) -> None:
        self._slots = max([self._slots, *(worker.slots for worker in snapshot.workers)])
        # Until a first worker has told its slots, one is enough.
        target = self._target * (self._concurrency or self._slots or math.inf)
        ready = max(1, serving(snapshot))
        highest, lowest = math.ceil(self._up * ready), math.floor(ready / self._down)
        by_stable = min(highest, max(lowest, math.ceil(stable / target - 1e-9)))
        by_panic = min(highest, max(lowest, math.ceil(panic / target - 1e-9)))
        if by_panic / ready >= self._threshold:
            if self._panicked_at is None:
                self._panic_size = 0
            self._panicked_at = now
        elif self._panicked_at is not None and now - self._panicked_at > self._window:
            self._panicked_at = None
        answer = by_stable
        if self._panicked_at is not None:
            self._panic_size = max(self._panic_size, by_panic, by_stable, ready)
            answer = self._panic_size
        answer = max(answer, self._minimum)
        quiet = now - traffic.last_request_at
        if answer == 0 and (traffic.in_system or quiet < self._window + self._grace):
            answer = 1
        self._answer = answer
        mode = "panic" if self._panicked_at is not None else "stable"
        self._why = f"{mode}: concurrency {stable:.1f} and {panic:.1f}, target {target:.1f}"
