"""Where the next worker comes from, and which one is worth most.

Value is perf per price. A machine that costs nothing (one's own) is worth more than any that does;
among such, and where perf is not known, the faster, then the cheaper. What was not measured is
taken to be as fast as what was, so that a cheaper offer is tried once, and judged by its own
figures from then on.
"""

from __future__ import annotations

import math
from collections import Counter

from stoker.autoscaler.planning.backoff import backoff_delay
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
)
from stoker.autoscaler.states import EXISTS


def value(perf: float | None, price: float) -> tuple[float, float, float]:
    """A key to sort by: larger is better."""
    fast = perf or 0.0
    per_price = math.inf if price <= 0 else fast / price
    return per_price, fast, -price


class PerfEstimates:
    """Perf of each worker and offer, as well as it is known."""

    def __init__(self, snapshot: EndpointSnapshot) -> None:
        self._groups = {group.id: group.perf for group in snapshot.groups}
        self._offers = {
            (group.id, offer.provider, offer.id): offer.perf
            for group in snapshot.groups
            for offer in group.offers
        }
        measured = [worker.perf for worker in snapshot.workers if worker.perf > 0]
        measured += [perf for perf in self._groups.values() if perf > 0]
        self._mean = sum(measured) / len(measured) if measured else None

    def of_worker(self, worker: WorkerSnapshot) -> float | None:
        """Load units per second, or None if nothing is known at all."""
        if worker.workergroup_id is None:
            return worker.perf or self._mean
        group = worker.workergroup_id
        offer = self._offers.get((group, worker.provider, worker.offer_id), 0.0)
        return worker.perf or offer or self._groups.get(group, 0.0) or self._mean

    def of_offer(self, group: GroupSnapshot, offer: OfferSnapshot) -> float | None:
        """Load units per second, or None if nothing is known at all."""
        return offer.perf or group.perf or self._mean


class Recruiter:
    """Creates within the caps, one after the other; says why when it cannot."""

    def __init__(
        self,
        snapshot: EndpointSnapshot,
        now: float,
        settings: PlannerSettings,
        perf: PerfEstimates,
    ) -> None:
        self._cap = snapshot.parameters.max_workers
        self._groups = snapshot.groups
        self._now = now
        self._settings = settings
        self._perf = perf
        self._taken: Counter[tuple[str, str]] = Counter()
        existing = [worker for worker in snapshot.workers if worker.state in EXISTS]
        self.existing = len(existing)
        self._in_group = Counter(worker.workergroup_id for worker in existing)
        self.refusals: list[str] = []
        """Why there was none, by cause; each once."""

    def next(self, only: int | None = None) -> tuple[GroupSnapshot, OfferSnapshot] | None:
        """The best offer left, taken; None with a refusal.

        Args:
            only: a workergroup's id, to look at that one alone.
        """
        refusals: list[str] = []
        options: list[tuple[GroupSnapshot, OfferSnapshot]] = []
        if self.existing >= self._cap:
            refusals.append(f"max_workers {self._cap} is reached")
        elif not self._groups:
            refusals.append("the endpoint has no workergroup to create workers in")
        else:
            for group in self._groups:
                if only is None or group.id == only:
                    problem = self._problem(group)
                    if problem is not None:
                        refusals.append(problem)
                    else:
                        options += [(group, offer) for offer in self._offers(group)]
        if not options:
            self.refusals += [text for text in refusals if text not in self.refusals]
            return None
        # Ties go to the older group and the first offer: the same input gives the same plan.
        group, offer = max(
            options,
            key=lambda pair: (value(self._perf.of_offer(*pair), pair[1].price), -pair[0].id),
        )
        self._taken[self._key(offer)] += 1
        self._in_group[group.id] += 1
        self.existing += 1
        return group, offer

    def _problem(self, group: GroupSnapshot) -> str | None:
        where = f"workergroup {group.id}"
        if group.max_workers is not None and self._in_group[group.id] >= group.max_workers:
            return f"{where}: its max_workers {group.max_workers} is reached"
        if group.failures >= self._settings.failure_budget:
            return (
                f"{where}: {group.failures} workers failed in a row; none is created any more "
                "until the workergroup is changed"
            )
        if group.failures and group.last_failure_at is not None:
            rest = group.last_failure_at + backoff_delay(group.failures) - self._now
            if rest > 0:
                # Without the seconds that are left: the line would be a new one each time.
                return (
                    f"{where}: waits {backoff_delay(group.failures):g} s after "
                    f"{group.failures} failures in a row"
                )
        if not group.offers:
            return f"{where}: no provider has an offer that fits"
        if not self._offers(group):
            return f"{where}: all offers are taken"
        return None

    def _offers(self, group: GroupSnapshot) -> list[OfferSnapshot]:
        return [offer for offer in group.offers if self._taken[self._key(offer)] < offer.available]

    @staticmethod
    def _key(offer: OfferSnapshot) -> tuple[str, str]:
        # Two groups that see the same offer see the same machines.
        return offer.provider, offer.id
