"""How active capacity is divided between the workergroups of an endpoint, by their weights.

Rules:

* Every workergroup of a weight above 0 gets one worker before another gets its second, the heaviest
  first: a canary is there as soon as there are two workers. From then on the next worker goes where
  (capacity + half of it) / weight is least (Sainte-Laguë's method of dividing seats), so that
  more capacity never takes a worker from anyone. E.g. weights 1 and 0.1, workers of 50/s: 1 + 1
  workers, then fourteen more in the first (14.5 x 50 / 1 = 725 for the last of them) before the
  canary's second (1.5 x 50 / 0.1 = 750): 2 of 17.
* The way back is the same in reverse, so the two never work against each other.
* Weight 0 gets no new worker; those that it has go first.
* A worker moves from one workergroup to another only if it would not move back: per weight, the
  taker with half a worker more has less than the giver with half a worker less, where both are
  measured by the largest worker of either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from stoker.autoscaler.planning.snapshot import GroupSnapshot


class Shares:
    """Capacity (active, or on its way) and workers of each workergroup."""

    def __init__(self, groups: Iterable[GroupSnapshot]) -> None:
        # A weight that is no weight counts as none: what is asked for is not known.
        self.weight = {g.id: g.weight if 0 < g.weight < math.inf else 0.0 for g in groups}
        self.capacity = dict.fromkeys(self.weight, 0.0)
        self.count = dict.fromkeys(self.weight, 0)

    def change(self, group_id: int | None, perf: float, by: int) -> None:
        """Count a worker of `perf` in (`by` = 1) or out (-1)."""
        if group_id in self.weight:
            assert group_id is not None
            self.count[group_id] += by
            left = self.capacity[group_id] + by * perf
            self.capacity[group_id] = left if self.count[group_id] > 0 else 0.0

    def fair(self, group_id: int) -> float:
        """The share of the endpoint's active capacity that its weight asks for, 0 to 1."""
        total = math.fsum(self.weight.values())
        return self.weight[group_id] / total if total > 0 else 0.0

    def into(self, group_id: int, perf: float) -> tuple[int, float]:
        """A key: the least gets the next worker, of `perf`."""
        weight = self.weight[group_id]
        if weight <= 0:
            return 2, 0.0
        if self.count[group_id] <= 0:
            return 0, -weight
        return 1, (self.capacity[group_id] + perf / 2) / weight

    def out_of(self, group_id: int | None) -> tuple[int, float]:
        """A key: the least loses the next worker."""
        weight = self.weight.get(group_id, 0.0) if group_id is not None else 0.0
        if weight <= 0 or group_id is None:
            return 0, 0.0
        count, capacity = self.count[group_id], self.capacity[group_id]
        if count > 1:
            return 1, -(capacity - capacity / count / 2) / weight
        return 2, weight

    def should_move(self, giver: int, taker: int, step: float) -> bool:
        """Whether a worker in `taker` is to take the place of one in `giver`.

        Args:
            giver: the workergroup that is to lose a worker.
            taker: the one that is to gain one.
            step: the largest perf of a worker in either.
        """
        to, frm = self.weight[taker], self.weight[giver]
        if to <= 0 or self.count[giver] <= 0:
            return False
        if frm <= 0:
            return True
        if self.count[taker] <= 0 or self.count[giver] <= 1:
            return self.count[taker] <= 0 and self.count[giver] > 1
        return (self.capacity[taker] + step / 2) / to < (self.capacity[giver] - step / 2) / frm
