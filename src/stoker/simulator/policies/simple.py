"""The plainest policies: a fixed number, and a target utilisation on the mean of a window."""

from __future__ import annotations

import math

from stoker.autoscaler.planning import EndpointSnapshot
from stoker.simulator.policies.base import Traffic
from stoker.simulator.policies.windows import WindowMean


class Fixed:
    """So many workers, whatever comes. The right number is known only in hindsight."""

    def __init__(self, workers: int) -> None:
        self.name = f"fixed:{workers}"
        self._workers = workers

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """The same number each time."""
        return self._workers, "fixed"


class TargetUtilisation:
    """ceil(mean load of a window / (util x perf)), in each round, up and down.

    Args:
        util: share of the capacity that is to be used.
        window: seconds.
        minimum: workers at least.
    """

    def __init__(self, util: float = 0.8, *, window: float = 60.0, minimum: int = 1) -> None:
        self.name = f"target_util:{util:g}"
        self._util = util
        self._minimum = minimum
        self._load = WindowMean(window)

    def wanted(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> tuple[int, str]:
        """From the load that came in the window."""
        rate = self._load.of(traffic.load, now)
        perf = snapshot.groups[0].perf
        if perf <= 0:
            return self._minimum, "perf is not known yet"
        wanted = math.ceil(rate / (self._util * perf) - 1e-9)
        return max(self._minimum, wanted), f"load {rate:.1f}/s, util {self._util:g}"
