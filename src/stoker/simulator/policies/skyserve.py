"""SkyServe's autoscaler on requests per second ("target QPS").

Written from its public description: "Autoscaling"
(https://docs.skypilot.co/en/stable/serving/autoscaling.html): replicas = ceil(QPS /
``target_qps_per_replica``); it scales up when more are wanted for ``upscale_delay_seconds`` (300 s)
and down when fewer are for ``downscale_delay_seconds`` (1,200 s); from no replica at once.

The target has no default there: it is asked of the user, who must know the size of his requests.
Without one, this takes perf / mean load of the requests seen so far x 0.8.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning import EndpointSnapshot
from stoker.simulator.policies.base import Traffic
from stoker.simulator.policies.windows import WindowMean

GUESS_UTIL = 0.8
"""Share of the capacity that is to be used where no target is given."""


class TargetQps:
    """See above.

    Args:
        target: requests per second of a replica; 0: from the perf and the mean load so far.
        upscale_delay: seconds.
        downscale_delay: seconds.
        window: seconds over which requests are counted.
        minimum: replicas at least.
    """

    name = "target_qps"

    def __init__(
        self,
        target: float = 0.0,
        *,
        upscale_delay: float = 300.0,
        downscale_delay: float = 1200.0,
        window: float = 60.0,
        minimum: int = 1,
    ) -> None:
        self._target, self._minimum = target, minimum
        self._delays = {1: upscale_delay, -1: downscale_delay}
        self._rate = WindowMean(window)
        self._size = max(1, minimum)
        self._direction, self._since = 0, 0.0

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """Count, and follow when the count has asked for it for long enough."""
        rate = self._rate.of(traffic.arrivals, now)
        target = self._target or self._guess(snapshot, traffic)
        limit = snapshot.parameters.max_workers
        aim = max(self._minimum, min(limit, math.ceil(rate / target - 1e-9)))
        direction = (aim > self._size) - (aim < self._size)
        if direction != self._direction:
            self._direction, self._since = direction, now
        at_once = self._size == 0
        if direction and (at_once or now - self._since >= self._delays[direction]):
            self._size, self._direction = aim, 0
        return self._size, f"{rate:.2f} requests/s, target {target:.2f}"

    @staticmethod
    def _guess(snapshot: EndpointSnapshot, traffic: Traffic) -> float:
        perf = snapshot.groups[0].perf
        if perf <= 0 or traffic.load <= 0:
            return 1.0
        return GUESS_UTIL * perf / (traffic.load / traffic.arrivals)
