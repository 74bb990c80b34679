"""What each API key has booked that no worker has shown, and how much of that others must respect.

A booking is a promise that a client has not kept yet. Rules:

* It counts at its worker like load that is there, for as long as its ticket lives.
* The **share** of a key is the load that the endpoint's workers in rotation take within
  `max_queue_time` (at least a typical request each), divided by the keys that have something booked
  or want something now.
* When a key that is within its share finds no worker, what others have booked beyond theirs counts
  for nothing from then on: the oldest first, and nothing that is younger than `GRACE`. It stays
  booked, and its ticket good: its client may still come, and then counts like everybody.

So keys that have an endpoint for themselves may fill it, and nobody's unused bookings keep another
key out for longer than `GRACE`. Each booking is discounted once, so all of this costs
O(keys with bookings) when somebody finds no worker while old bookings are about, and O(1) else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from stoker.autoscaler.booking import NOTHING, Request

GRACE = 2.0
"""Seconds. A client that means it is at its worker by then, and was named in a report."""


class Shares:
    """Bookings of one endpoint that no worker has shown and that count, by key."""

    __slots__ = ("_bookings", "_keys", "_loads", "_young")

    def __init__(self) -> None:
        self._bookings: OrderedDict[Request, None] = OrderedDict()
        """All of them, the oldest first."""
        self._young: OrderedDict[Request, None] | None = None
        """Those that `missed` has not told of; None: nobody asks for them."""
        self._keys: dict[str, OrderedDict[Request, None]] = {}
        self._loads: dict[str, float] = {}

    def add(self, request: Request) -> None:
        """It is booked."""
        self._bookings[request] = None
        if self._young is not None:
            self._young[request] = None
        self._keys.setdefault(request.key, OrderedDict())[request] = None
        self._loads[request.key] = self._loads.get(request.key, 0.0) + request.booked

    def drop(self, request: Request) -> None:
        """It was shown, is over, or counts for nothing; no harm if it is not in."""
        if request not in self._bookings:
            return
        del self._bookings[request]
        if self._young is not None:
            self._young.pop(request, None)
        bookings = self._keys[request.key]
        del bookings[request]
        if bookings:
            self._loads[request.key] = max(0.0, self._loads[request.key] - request.booked)
        else:
            del self._keys[request.key], self._loads[request.key]

    def load(self, key: str) -> float:
        """Load units that a key has booked unseen."""
        return self._loads.get(key, 0.0)

    @property
    def total(self) -> float:
        """Load units booked unseen, of all keys."""
        return sum(self._loads.values())

    def __len__(self) -> int:
        """How many bookings there are."""
        return len(self._bookings)

    def by_key(self) -> dict[str, float]:
        """Load units booked unseen, of each key that has some."""
        return dict(self._loads)

    def old(self, now: float) -> bool:
        """Whether any booking is older than `GRACE`."""
        return bool(self._bookings) and next(iter(self._bookings)).booked_at <= now - GRACE

    def missed(self, now: float) -> Iterator[Request]:
        """Each booking once, when it is older than `GRACE`."""
        if self._young is None:
            self._young = OrderedDict((one, None) for one in self._bookings if not one.unused)
        young = self._young
        while young and (oldest := next(iter(young))).booked_at <= now - GRACE:
            del young[oldest]
            yield oldest

    def forget_missed(self) -> None:
        """Nobody asks what was `missed` any more."""
        self._young = None

    def share(self, key: str, capacity: float) -> float:
        """Load units that each key may have booked while `key` wants something.

        Args:
            key: who wants something.
            capacity: load units that all workers take.
        """
        return capacity / (len(self._keys) + (key not in self._keys))

    def excess(self, share: float, now: float) -> Request | None:
        """The oldest booking, past its grace, of the key that is furthest above its share.

        Args:
            share: see `share`.
            now: seconds.
        """
        found, most = None, share + NOTHING
        for key, load in self._loads.items():
            if load <= most:
                continue
            oldest = next(iter(self._keys[key]))
            if oldest.booked_at <= now - GRACE:
                found, most = oldest, load
        return found
