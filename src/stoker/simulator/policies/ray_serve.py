"""Ray Serve's replica autoscaler.

Written from its public description: "Advanced Ray Serve Autoscaling"
(https://docs.ray.io/en/latest/serve/advanced-guides/advanced-autoscaling.html) and the reference of
``AutoscalingConfig`` for the defaults.

* The mean number of ongoing requests (queued and in service) of the last `look_back` seconds,
  divided by the replicas, is compared with the target of one replica. The number of replicas is
  multiplied by their ratio, which a smoothing factor may bring nearer to 1, and rounded up.
* A decision up must hold for `upscale_delay`, one down for `downscale_delay`, before it is done;
  one in the other direction, or none, starts the count anew.
* From no replica at all one is ordered at once when a request waits.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning import EndpointSnapshot
from stoker.simulator.policies.base import Traffic
from stoker.simulator.policies.windows import WindowMean


class RayServe:
    """See above; the defaults are Ray's.

    Args:
        target: ongoing requests of a replica.
        upscale_delay: seconds.
        downscale_delay: seconds.
        look_back: seconds.
        up_smoothing: factor on the step up.
        down_smoothing: factor on the step down.
        minimum: replicas at least.
    """

    name = "ray_serve"

    def __init__(
        self,
        target: float = 2.0,
        *,
        upscale_delay: float = 30.0,
        downscale_delay: float = 600.0,
        look_back: float = 30.0,
        up_smoothing: float = 1.0,
        down_smoothing: float = 1.0,
        minimum: int = 1,
    ) -> None:
        self._target, self._minimum = target, minimum
        self._delays = {1: upscale_delay, -1: downscale_delay}
        self._smoothing = {1: up_smoothing, -1: down_smoothing}
        self._ongoing = WindowMean(look_back)
        self._size = max(1, minimum)
        self._direction, self._since = 0, 0.0

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """Decide, and do it when the decision has held."""
        ongoing = self._ongoing.of(traffic.system_seconds, now)
        why = f"{ongoing:.1f} ongoing, target {self._target:g}"
        if self._size == 0:
            self._size = 1 if traffic.in_system else 0
            return self._size, why
        ratio = ongoing / self._size / self._target
        direction = (ratio > 1) - (ratio < 1)
        if direction:
            ratio = 1 + (ratio - 1) * self._smoothing[direction]
        limit = snapshot.parameters.max_workers
        aim = max(self._minimum, min(limit, math.ceil(self._size * ratio - 1e-9)))
        direction = (aim > self._size) - (aim < self._size)
        if direction != self._direction:
            self._direction, self._since = direction, now
        if direction and now - self._since >= self._delays[direction]:
            self._size, self._direction = aim, 0
        return self._size, why
