"""What is believed of a request before a worker has seen it. Pure.

The cost that a client gives is a claim. Rules:

* A claim counts for so many times itself as what was claimed by such requests turned out to be (see
  `...calibration`), so whoever claims four times what it needs, or always 100, is believed to need
  what it needs.
* **Seen** is what workers tell of requests that they served well: the model server's own count
  where there is one, else the worker's estimate; but no more than the worker can do in the time
  that it worked on it, `SPEEDUP` times over. What was only booked, cancelled or refused teaches
  nothing.
* What that gives is believed from 1/`FAR` of the smallest to `FAR` times the largest that was seen
  (both without the outermost 5%): of this key's own requests where `ENOUGH` of them were seen, else
  of the endpoint's. So what one key does moves what is believed of others only while they are new.
* Before that, no request is believed to keep a worker busy for more than 10 s; where perf is not
  known either, nor to be larger than 1000 load units (see `Sizes.most`).
* Who gives no cost gets the mean of what the requests of the same route were seen to need, else of
  the endpoint's; `stoker.wire.DEFAULT_LOAD` while nothing is known.

Bounded: `MAX_KEYS` keys and `MAX_ROUTES` routes of each endpoint.
"""

from __future__ import annotations

from collections import OrderedDict

from stoker.autoscaler.calibration import MAX_KEYS, MAX_ROUTES, Calibration, kept_of
from stoker.sizes import FAR, Sizes
from stoker.wire import DEFAULT_LOAD, MAX_COST

SPEEDUP = 8.0
"""A request is served at most so many times faster than a worker's perf (from a cache, say)."""


class Beliefs:
    """What one endpoint's requests were seen to need."""

    __slots__ = ("_all", "_keys", "_routes", "calibration")

    def __init__(self) -> None:
        self.calibration = Calibration()
        self._all = Sizes()
        self._keys: OrderedDict[str, Sizes] = OrderedDict()
        self._routes: OrderedDict[str, Sizes] = OrderedDict()

    def learn(
        self, load: float, *, key: str, route: str = "", perf: float = 0.0, seconds: float = 0.0
    ) -> None:
        """A request was served well.

        Args:
            load: that it needed, by its worker's word.
            key: whose it was.
            route: that it took; "": not known.
            perf: of its worker, load units per second; 0: not known.
            seconds: that the worker worked on it; 0: not known.
        """
        if not 0.0 <= load <= MAX_COST:
            return
        if perf > 0 and seconds > 0:
            load = min(load, SPEEDUP * perf * seconds)
        self._all.add(load)
        kept_of(self._keys, key, MAX_KEYS, Sizes).add(load)
        if route:
            kept_of(self._routes, route, MAX_ROUTES, Sizes).add(load)

    def expected(self, claimed: float, count: int, perf: float = 0.0) -> float:
        """The load to plan for of requests that no worker has seen yet.

        A claim is booked as far as it can be true, so that no worker gets too much. Many such
        claims at once are not all true: they are expected to need what requests need on average,
        or in all as much as one of them can.

        Args:
            claimed: load units that all of them together are booked with.
            count: how many there are.
            perf: of a worker, load units per second; 0: not known.
        """
        return min(claimed, max(count * self._all.typical, self._all.most(perf)))

    def believed(
        self, claim: float | None, *, key: str = "", route: str = "", perf: float = 0.0
    ) -> float:
        """The load that a request is booked with.

        Args:
            claim: what its client says; None: nothing.
            key: whose it is.
            route: that it is to take; "": not known.
            perf: of a worker, load units per second; 0: not known.
        """
        own = self._keys.get(key)
        seen = own if own is not None and own.known else self._all
        if claim is None:
            same = self._routes.get(route) or self._all
            claim = same.typical if same.count else DEFAULT_LOAD
        else:
            claim *= self.calibration.of_claim(key, route)
        if seen.known:
            claim = max(claim, seen.low / FAR)
        return min(claim, seen.most(perf))
