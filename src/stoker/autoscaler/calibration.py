"""How much of what was said of requests turned out to be so. Pure, in constant memory.

Two sayings are judged, each by what came later:

* what clients **claim** a request costs, by what its worker took it for when it came (by what was
  served, where the worker does not tell): by key and route, else by key, by route, by endpoint;
* what workers **estimate** when a request comes, by what was served in the end: by route, else by
  endpoint. A worker that counts no tokens tells its estimate in the end as well, so that changes
  nothing.

A claim times both is what a request is expected to need. E.g. a client says 100 of everything, and
what comes is estimated at 300 and served with 150: 100 x 3 x 0.5 = 150.

A ratio is that of the sums of both, so that what is expected of many requests is right in all,
whatever the single ones were. One request moves it by no more than if it were `FAR` times what was
expected. Before `FIRST` requests were seen it is their median instead, the word itself counting
as one: one outlier decides nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from statistics import median_low
from typing import TypeVar

from stoker.sizes import FAR, LEAST

FIRST = 5
"""Requests from which on the ratio of the sums is believed."""

MEMORY = 200.0
"""Weight of requests at which all weights are halved."""

MOVED = 1.25
"""Change of the ratio of an endpoint's claims, from which on what waits is judged anew."""

MAX_KEYS = 1000

MAX_ROUTES = 64

MAX_PAIRS = 2000
"""Keys with their routes."""

_Name = TypeVar("_Name", bound=Hashable)
_Kept = TypeVar("_Kept")


class Ratio:
    """What was, for what was said."""

    __slots__ = ("_early", "_said", "_was", "_weight", "value")

    def __init__(self) -> None:
        self.value = 1.0
        self._early: list[tuple[float, float]] | None = []
        self._said = self._was = self._weight = 0.0

    @property
    def known(self) -> bool:
        """Whether enough were seen to tell it from that of others."""
        return self._early is None

    def add(self, said: float, was: float) -> None:
        """A request was said to need `said` load units, and needed `was`; `said` is above 0."""
        if self._early is not None:
            self._early.append((said, was))
            self.value = median_low([1.0, *(was / said for said, was in self._early)])
            if len(self._early) >= FIRST:
                early, self._early = self._early, None
                for pair in early:
                    self._sum(*pair)
                self.value = self._was / self._said
            return
        self._sum(said, was)
        self.value = self._was / self._said
        if self._weight >= MEMORY:
            self._weight, self._said, self._was = self._weight / 2, self._said / 2, self._was / 2

    def _sum(self, said: float, was: float) -> None:
        self._weight += 1.0
        self._said += said
        self._was += min(was, FAR * said * max(self.value, LEAST))


class Calibration:
    """What one endpoint's clients claim and its workers estimate, and what came of it."""

    __slots__ = ("_all", "_estimates", "_estimates_all", "_keys", "_pairs", "_routes", "_told")

    def __init__(self) -> None:
        self._all, self._estimates_all = Ratio(), Ratio()
        self._keys: OrderedDict[str, Ratio] = OrderedDict()
        self._routes: OrderedDict[str, Ratio] = OrderedDict()
        self._pairs: OrderedDict[tuple[str, str], Ratio] = OrderedDict()
        self._estimates: OrderedDict[str, Ratio] = OrderedDict()
        self._told = 1.0

    def arrived(
        self, claim: float | None, estimate: float, *, key: str | None, route: str = ""
    ) -> None:
        """A worker has told what it takes a request to be.

        Args:
            claim: of its client; None: it said nothing.
            estimate: its worker's.
            key: whose it is; None: of several.
            route: that it took; "": not known.
        """
        if claim is None or claim < LEAST:
            return
        self._all.add(claim, estimate)
        if key is None:
            return
        kept_of(self._keys, key, MAX_KEYS, Ratio).add(claim, estimate)
        if route:
            kept_of(self._routes, route, MAX_ROUTES, Ratio).add(claim, estimate)
            kept_of(self._pairs, (key, route), MAX_PAIRS, Ratio).add(claim, estimate)

    def ended(self, estimate: float, served: float, *, route: str) -> None:
        """A worker has told what a request that it estimated has needed.

        Args:
            estimate: of its worker when it came.
            served: load units.
            route: that it took; "": not known.
        """
        if estimate < LEAST:
            return
        self._estimates_all.add(estimate, served)
        if route:
            kept_of(self._estimates, route, MAX_ROUTES, Ratio).add(estimate, served)

    def moved(self) -> bool:
        """Whether all in all a claim means something else by now than when this was last so."""
        present = self._all.value * self._estimates_all.value
        if self._told / MOVED < present < self._told * MOVED:
            return False
        self._told = max(present, LEAST)
        return True

    def of_claim(self, key: str, route: str) -> float:
        """By how much a claim is to be multiplied for what is served."""
        return self._claim(key, route).value * self.of_estimate(route)

    def of_estimate(self, route: str = "") -> float:
        """By how much a worker's estimate, or its load, is to be multiplied for what is served."""
        own = self._estimates.get(route)
        return own.value if own is not None and own.known else self._estimates_all.value

    def _claim(self, key: str, route: str) -> Ratio:
        for own in (self._pairs.get((key, route)), self._keys.get(key), self._routes.get(route)):
            if own is not None and own.known:
                return own
        return self._all


def kept_of(
    kept: OrderedDict[_Name, _Kept], name: _Name, limit: int, make: Callable[[], _Kept]
) -> _Kept:
    """What is kept of `name`, made where there is none; that used longest ago goes at the limit."""
    found = kept.get(name)
    if found is None:
        found = kept[name] = make()
        if len(kept) > limit:
            kept.popitem(last=False)
    else:
        kept.move_to_end(name)
    return found
