"""Where the next worker comes from: within the caps, from a healthy offer, the best value first.

Rules:

* **Caps**: `max_workers` of the endpoint and of the workergroup are never exceeded.
* **Failures**: a workergroup rests after failures in a row. From `failure_doubt` of them on it
  creates one worker at a time, and after `failure_budget` no more: a model that cannot start costs
  its owner ten workers, not a hundred.
* **Quarantine**: an offer whose workers failed is passed over while there is another one that
  fits (`quarantine_delay`); where there is none, it is tried again after `backoff_delay`, so a
  laptop with one offer is back after a second, and one bad machine of many does not stop anyone.
* **Best value first**: among what was measured, the best perf per price (see `valuing`).
* **Exploring**: hardware that was not measured yet is tried, the cheapest first, one worker at a
  time, if its price is at most `exploration_share` of what the endpoint then spends, and if it is
  not the only capacity that comes for requests that are held. Where nothing that was measured is
  to be had, what is expected decides, and all of it may be taken.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from stoker.autoscaler.planning.backoff import backoff_delay, quarantine_delay
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot, GroupSnapshot, OfferSnapshot
from stoker.autoscaler.planning.valuing import PerfEstimates, Value
from stoker.autoscaler.states import BILLED, EXISTS, LOADING_STATES, WorkerState

COLD_LOADING = frozenset(
    {
        WorkerState.CREATING,
        WorkerState.CREATED,
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
    }
)
"""Loads for the first time: nothing is lost but time if it is given up."""


@dataclass(frozen=True, slots=True)
class Found:
    """An offer to create a worker from."""

    group: GroupSnapshot
    offer: OfferSnapshot
    explores: bool
    """Its hardware was not measured yet, although other hardware was."""


class Recruiter:
    """Finds one offer after the other; says why when it cannot."""

    def __init__(
        self,
        snapshot: EndpointSnapshot,
        now: float,
        settings: PlannerSettings,
        perf: PerfEstimates,
    ) -> None:
        self._snapshot = snapshot
        self._cap = snapshot.parameters.max_workers
        self._now = now
        self._settings = settings
        self._perf = perf
        self._taken: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.existing = 0
        self._in_group: defaultdict[int | None, int] = defaultdict(int)
        for worker in snapshot.workers:
            if worker.state in EXISTS:
                self.existing += 1
                self._in_group[worker.workergroup_id] += 1
        self._worth_of: dict[int, dict[tuple[str, str], tuple[bool, Value]]] = {}
        self._orders: set[int] = set()
        """Workergroups that were given a worker by this plan."""
        self._explorers: bool | None = None
        self._known_coming = False
        self._serving = False
        self._spend = 0.0
        self.refusals: dict[str, str] = {}
        """Why there was none: text -> which constraint that is."""

    def cap_problem(self) -> tuple[str, str] | None:
        """Why no workergroup may create one: (constraint, text)."""
        if self.existing >= self._cap:
            return "max_workers", f"max_workers {self._cap} is reached"
        if not self._snapshot.groups:
            return "no workergroup", "the endpoint has no workergroup to create workers in"
        return None

    def problem(self, group: GroupSnapshot, *, stoppable: bool = False) -> tuple[str, str] | None:
        """Why `group` cannot create one: (constraint, text)."""
        where = f"workergroup {group.id}"
        if not 0 < group.weight < math.inf:
            return "weight", f"{where}: its weight is {group.weight:g}"
        if group.max_workers is not None and self._in_group[group.id] >= group.max_workers:
            return "max_workers of workergroup", (
                f"{where}: its max_workers {group.max_workers} is reached"
            )
        if group.failures >= self._settings.failure_budget:
            return "failure budget", (
                f"{where}: {group.failures} workers failed in a row; none is created any more "
                "until the workergroup is changed"
            )
        if group.failures and group.last_failure_at is not None:
            delay = backoff_delay(group.failures)
            if self._now < group.last_failure_at + delay:
                # Without the seconds that are left: the line would be a new one each time.
                return "back-off", (
                    f"{where}: waits {delay:g} s after {group.failures} failures in a row"
                )
        if group.failures >= self._settings.failure_doubt and self._tries(group):
            return "back-off", (
                f"{where}: brings up one worker at a time after {group.failures} failures in a row"
            )
        return self._offer_problem(group, where, stoppable=stoppable)

    def _offer_problem(
        self, group: GroupSnapshot, where: str, *, stoppable: bool
    ) -> tuple[str, str] | None:
        if not group.offers:
            why = group.no_offer or "no provider has an offer that fits"
            return "no offers", f"{where}: {why}"
        left = self._left(group)
        if not left:
            return "no offers", f"{where}: all offers are taken"
        if stoppable and not any(offer.stoppable for offer in left):
            return "not stoppable", (
                f"{where}: its workers cannot be stopped, so none is held in reserve"
            )
        if not self._healthy(left):
            return "back-off", f"{where}: all offers rest after failures"
        return None

    def find(self, group: GroupSnapshot, *, stoppable: bool = False) -> Found | None:
        """The best offer for `group`, or None, with a refusal.

        Args:
            group: the workergroup.
            stoppable: whether it must be one whose worker can be stopped.
        """
        problem = self.cap_problem() or self.problem(group, stoppable=stoppable)
        if problem is not None:
            self.refuse(problem)
            return None
        offers = self._healthy(
            [offer for offer in self._left(group) if offer.stoppable or not stoppable]
        )
        if not offers:
            self.refuse(("back-off", f"workergroup {group.id}: all offers rest after failures"))
            return None
        worths = self._worths(group)
        known = [offer for offer in offers if worths[offer.provider, offer.id][0]]
        if known and len(known) < len(offers):
            unknown = [offer for offer in offers if not worths[offer.provider, offer.id][0]]
            explored = min(unknown, key=lambda offer: offer.price)
            if self._may_explore(explored):
                return Found(group, explored, explores=True)
        # max takes the first of equals: the same input gives the same plan.
        best = max(known or offers, key=lambda offer: worths[offer.provider, offer.id][1])
        return Found(group, best, explores=False)

    def _worths(self, group: GroupSnapshot) -> dict[tuple[str, str], tuple[bool, Value]]:
        """Whether each offer was measured, and what it is worth; the same for all of a plan."""
        found = self._worth_of.get(group.id)
        if found is None:
            found = self._worth_of[group.id] = {
                (offer.provider, offer.id): (
                    self._perf.is_measured(group, offer),
                    self._perf.offer_value(group, offer),
                )
                for offer in group.offers
            }
        return found

    def refuse(self, problem: tuple[str, str]) -> None:
        """Remember why there was none."""
        cause, text = problem
        self.refusals.setdefault(text, cause)

    def take(self, found: Found) -> None:
        """Count a worker that is created."""
        self._taken[found.offer.provider, found.offer.id] += 1
        self._in_group[found.group.id] += 1
        self._orders.add(found.group.id)
        self.existing += 1
        self._spend += found.offer.price
        if found.explores:
            self._explorers = True
        else:
            self._known_coming = True

    def _tries(self, group: GroupSnapshot) -> bool:
        """Whether a worker of it is being created."""
        return group.id in self._orders or any(
            worker.workergroup_id == group.id and worker.state in COLD_LOADING
            for worker in self._snapshot.workers
        )

    def _left(self, group: GroupSnapshot) -> list[OfferSnapshot]:
        # Two groups that see the same offer see the same machines.
        return [
            offer
            for offer in group.offers
            if self._taken[offer.provider, offer.id] < offer.available
        ]

    def _healthy(self, offers: list[OfferSnapshot]) -> list[OfferSnapshot]:
        """Those without a recent failure; else those that may be tried again all the same."""
        at_ease = [offer for offer in offers if not self._rests(offer, quarantine=True)]
        return at_ease or [offer for offer in offers if not self._rests(offer, quarantine=False)]

    def _rests(self, offer: OfferSnapshot, *, quarantine: bool) -> bool:
        if not offer.failures or offer.last_failure_at is None:
            return False
        delay = (
            quarantine_delay(offer.failures, self._settings)
            if quarantine
            else backoff_delay(offer.failures)
        )
        return self._now < offer.last_failure_at + delay

    def _may_explore(self, offer: OfferSnapshot) -> bool:
        share = self._settings.exploration_share
        if share <= 0:
            return False
        if self._explorers is None:
            self._survey()
        if self._explorers:
            return False
        if not self._known_coming and (self._snapshot.demand.held_count or not self._serving):
            return False
        return offer.price <= 0 or offer.price <= share * (self._spend + offer.price)

    def _survey(self) -> None:
        """What the endpoint spends, and whether hardware is being explored already."""
        groups = {group.id: group for group in self._snapshot.groups}
        self._explorers = False
        for worker in self._snapshot.workers:
            if worker.state in BILLED:
                self._spend += worker.price
            if worker.state in LOADING_STATES and not worker.attached:
                group = groups.get(worker.workergroup_id) if worker.workergroup_id else None
                offer = OfferSnapshot(
                    id=worker.offer_id, provider=worker.provider, hardware=worker.hardware
                )
                known = worker.perf > 0
                known = known or (group is not None and self._perf.is_measured(group, offer))
                self._known_coming |= known
                self._explorers |= not known
            elif worker.perf > 0:
                self._serving |= worker.state in BILLED
