"""What a machine is worth: perf per price, learnt per class of hardware.

A machine that costs nothing (one's own) is worth more than any that does; among such, and where
perf is not known, the faster, then the cheaper.

Perf of an offer is the best of what is known, in this order: measured by workers of its own
workergroup on this offer, or on this class of hardware; the workergroup's mean; measured by another
workergroup on this class; the mean of all that was measured. The first two are **measured**; the
others are a guess, and the class is one to explore (see `recruiting`).

A **spot** machine is cheaper and taken away. Of a mean life of L seconds (`spot_lifetime`), as long
as its successor takes to come (C seconds) is lost twice: the successor is paid for C seconds before
it serves, and what the lost machine did is done for C seconds by spare capacity that has to be
paid as well. So of its perf it counts L / (L + 2 C). E.g. L = 7,200 and C = 300: 0.923, so spot at
0.30 an hour is worth as much as a machine that stays at 0.325.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
)

Value = tuple[float, float, float]
"""A key to sort by: larger is better."""


def value(perf: float | None, price: float) -> Value:
    """Perf per price, then perf, then cheapness."""
    fast = perf or 0.0
    per_price = math.inf if price <= 0 else fast / price
    return per_price, fast, -price


def spot_share(create_seconds: float, settings: PlannerSettings) -> float:
    """The part of a spot machine's perf that counts, in (0, 1]."""
    lost = 2 * (create_seconds or settings.unknown_create_seconds)
    return settings.spot_lifetime / (settings.spot_lifetime + lost)


def hardware_class(hardware: str, provider: str, offer_id: str) -> Hashable:
    """What perf is learnt by; an offer that names no hardware is a class of its own."""
    return hardware or (provider, offer_id)


class PerfEstimates:
    """Perf of each worker and offer, as well as it is known; nothing is computed before asked."""

    def __init__(self, snapshot: EndpointSnapshot, settings: PlannerSettings) -> None:
        self._snapshot = snapshot
        self._settings = settings
        self._groups = {group.id: group.perf for group in snapshot.groups}
        self._of_class: dict[tuple[int | None, Hashable], float] | None = None
        self._of_offer: dict[tuple[int, str, str], float] = {}
        self._anywhere: dict[Hashable, float] = {}
        self._mean: float | None = None

    def of_worker(self, worker: WorkerSnapshot) -> float | None:
        """Load units per second, or None if nothing is known at all."""
        if worker.perf > 0:
            return worker.perf
        of_class = self._learn()
        group = worker.workergroup_id
        if group is None:
            return self._mean
        kind = hardware_class(worker.hardware, worker.provider, worker.offer_id)
        return (
            self._of_offer.get((group, worker.provider, worker.offer_id))
            or of_class.get((group, kind))
            or self._groups.get(group)
            or self._anywhere.get(kind)
            or self._mean
        )

    def of_offer(self, group: GroupSnapshot, offer: OfferSnapshot) -> float | None:
        """Load units per second, or None if nothing is known at all."""
        if offer.perf > 0:
            return offer.perf
        of_class = self._learn()
        kind = hardware_class(offer.hardware, offer.provider, offer.id)
        return (
            of_class.get((group.id, kind)) or group.perf or self._anywhere.get(kind) or self._mean
        )

    def is_measured(self, group: GroupSnapshot, offer: OfferSnapshot) -> bool:
        """Whether this workergroup has seen what this class of hardware does."""
        kind = hardware_class(offer.hardware, offer.provider, offer.id)
        return offer.perf > 0 or (group.id, kind) in self._learn()

    def of_group(self, group: GroupSnapshot) -> float | None:
        """What one more worker of it is expected to do."""
        self._learn()
        return group.perf or self._mean

    def offer_value(self, group: GroupSnapshot, offer: OfferSnapshot) -> Value:
        """What an offer is worth to a workergroup."""
        perf = self.of_offer(group, offer)
        if offer.spot and perf:
            perf *= spot_share(group.create_seconds, self._settings)
        return value(perf, offer.price)

    def _learn(self) -> dict[tuple[int | None, Hashable], float]:
        if self._of_class is not None:
            return self._of_class
        within: dict[tuple[int | None, Hashable], list[float]] = {}
        anywhere: dict[Hashable, list[float]] = {}
        measured = [perf for perf in self._groups.values() if perf > 0]
        for worker in self._snapshot.workers:
            if worker.perf > 0:
                kind = hardware_class(worker.hardware, worker.provider, worker.offer_id)
                within.setdefault((worker.workergroup_id, kind), []).append(worker.perf)
                anywhere.setdefault(kind, []).append(worker.perf)
                measured.append(worker.perf)
        for group in self._snapshot.groups:
            for offer in group.offers:
                if offer.perf > 0:
                    self._of_offer[group.id, offer.provider, offer.id] = offer.perf
                    kind = hardware_class(offer.hardware, offer.provider, offer.id)
                    anywhere.setdefault(kind, []).append(offer.perf)
                    within.setdefault((group.id, kind), [offer.perf])
        self._of_class = {kind: _mean(perfs) for kind, perfs in within.items()}
        self._anywhere = {kind: _mean(perfs) for kind, perfs in anywhere.items()}
        self._mean = _mean(measured) if measured else None
        return self._of_class


def _mean(perfs: list[float]) -> float:
    return math.fsum(perfs) / len(perfs)
