"""Runpod's two scaling strategies: queue delay and request count.

Written from the public description: "Endpoint settings", section on auto-scaling
(https://docs.runpod.io/serverless/endpoints/endpoint-configurations).

* **Queue delay** adds workers when requests have waited for longer than a threshold (4 s). How many
  at a time is not said; here it is one each second while that lasts.
* **Request count**: ceil(requests queued and in progress / scaler value).
* A worker that is idle for the idle timeout (5 s) is let go; busy ones stay. Without a request
  there is no worker, unless "active workers" are set; the first request gets one at once.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning import EndpointSnapshot, WorkerSnapshot
from stoker.autoscaler.states import ACTIVE
from stoker.simulator.policies.base import Traffic
from stoker.simulator.policies.scaling import ordered

STEP = 1.0
"""Seconds between two workers that are added for a delay."""


def _lasting(worker: WorkerSnapshot, now: float, timeout: float) -> bool:
    if worker.state not in ACTIVE:
        return False
    idle = worker.idle_since is not None and not worker.requests
    since = max(worker.idle_since or 0.0, worker.state_since)
    return not idle or now - since < timeout


class QueueDelay:
    """Adds a worker while a request waits for longer than `delay` seconds.

    Args:
        delay: seconds.
        idle_timeout: seconds.
        minimum: active workers.
    """

    name = "runpod_delay"

    def __init__(self, delay: float = 4.0, *, idle_timeout: float = 5.0, minimum: int = 0) -> None:
        self._delay, self._idle, self._minimum = delay, idle_timeout, minimum
        self._added_at = -math.inf

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """What is there, less what idles, and one more while the queue is late."""
        wait = traffic.longest_wait(now)
        have = ordered(snapshot)
        busy = sum(_lasting(worker, now, self._idle) for worker in snapshot.workers)
        coming = have - sum(worker.state in ACTIVE for worker in snapshot.workers)
        wanted = busy + coming
        first = wait > 0 and not have
        if first or (wait > self._delay and now - self._added_at >= STEP - 1e-9):
            self._added_at = now
            wanted = have + 1
        return max(self._minimum, wanted), f"longest wait {wait:.1f} s, limit {self._delay:g}"


class RequestCount:
    """One worker for each `requests` that are queued or in progress.

    Args:
        requests: of a worker.
        idle_timeout: seconds.
        minimum: active workers.
    """

    name = "runpod_count"

    def __init__(
        self, requests: float = 4.0, *, idle_timeout: float = 5.0, minimum: int = 0
    ) -> None:
        self._requests, self._idle, self._minimum = requests, idle_timeout, minimum

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """At least what is not idle for long enough."""
        by_count = math.ceil(traffic.in_system / self._requests)
        busy = sum(_lasting(worker, now, self._idle) for worker in snapshot.workers)
        why = f"{traffic.in_system} requests, {self._requests:g} for a worker"
        return max(self._minimum, by_count, busy), why
