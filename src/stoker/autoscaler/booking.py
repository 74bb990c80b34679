"""What the router remembers of one request and of one worker. Sums are kept, never recomputed.

A worker's load has two parts, which never overlap:

* **reported**: what its last report said, less what was finished since;
* **unseen**: bookings that no report has named yet (the request is on its way to the worker).

A booking leaves "unseen" when a report names it (it is in "reported" from then on), when a finish
names it, when it is released, or when its ticket expires. So a lost report or finish costs accuracy
until the next report, and nothing leaks.

What is booked is a client's claim, as far as it is believed (`stoker.autoscaler.claims`). When the
worker tells its own estimate, that takes its place.

A report gives one figure for all its requests, and much of a request may be served before it ends.
So a finish takes its **share** off: where 40 load units of 100 are left of what was booked, 40% of
its cost; its cost where nothing was served yet, and never more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

NOTHING = 1e-6
"""Load below this is taken as none: sums of floats do not come back to 0.0 exactly."""

GRAIN = 2.0**-20
"""Sums over many workers are kept in whole grains of this many load units, so that they are exact
however long they are kept; each part is rounded to the nearest."""


def grains(load: float) -> int:
    """`load` in whole grains."""
    return round(load / GRAIN)


class Phase(Enum):
    """Where a request is."""

    HELD = "held"
    """Waits here for a worker."""
    BOOKED = "booked"
    """Assigned; the worker has not shown it."""
    WORKING = "working"
    """The worker has shown it."""
    OVER = "over"
    """Finished, lost with its worker, or never used; kept a while so that a retry is recognised."""


class Account(Protocol):
    """What is kept of the bookings that no worker has shown, by API key."""

    def add(self, request: Request) -> None:
        """It is booked."""

    def drop(self, request: Request) -> None:
        """It was shown, or is over."""


@dataclass(slots=True, eq=False)
class Request:
    """One request, by its `request_idx`."""

    idx: int
    endpoint_id: int
    cost: float
    deadline: float
    """When it is given up while held."""
    poll_by: float
    """When it is taken as abandoned, unless its client asks again."""
    arrived: int = 0
    """Second of its arrival, as `ArrivalWindow.add` returned it."""
    key: str = ""
    """Whose it is: held requests are served fairly among keys."""
    affinity: tuple[int, ...] = ()
    """What it shares with others (see `stoker.autoscaler.affinity`), the least first."""
    phase: Phase = Phase.HELD
    worker_id: int | None = None
    """The worker it is or was assigned to last."""
    reqnum: int = 0
    expires: float = 0.0
    """When its ticket does."""
    answered: bool = False
    """The client has been told of its worker."""
    turn: int = 0
    """Its place in the queue of held requests: when it came there, in turns."""
    avoid: int | None = None
    """A worker that failed it."""
    counted: float | None = None
    """The load that it was counted as arrived with; None: it was not yet."""
    shown: bool = False
    """A worker has seen it."""
    booked: float = 0.0
    """What it counts for at its worker, until that has shown it: `cost`, or 0 where another key
    needed the room."""
    booked_at: float = 0.0
    unused: bool = False
    """Its ticket was not used for so long that it counts among its worker's `unused`."""
    alias: tuple[str, int] | None = None
    """Key and number under which its client asked, where that number was none of its own."""
    retries: int = 0
    """Tickets that it was given after the first."""
    served: bool | None = None
    """It ended well, or because its client left; None: it has not ended, or nobody knows how."""
    charged: float = 0.0
    """What its key was charged in the queue."""
    claim: float | None = None
    """What its client said that it costs; None: nothing."""
    route: str = ""
    """Of the worker's routes, the one that it is for; "": not known."""
    estimate: float | None = None
    """What its worker took it for when it came; None: it was not told."""
    watched: float = float("inf")
    """When it is looked at next, as far as anybody waits for it."""


@dataclass(slots=True, eq=False)
class WorkerBook:
    """The load of one worker."""

    worker_id: int
    endpoint_id: int
    next_reqnum: int
    perf: float
    url: str = ""
    available: bool = False
    measured: float = 0.0
    """The perf that it told; 0: it has not."""
    slots: int = 0
    """Requests that it works on at once; 0: not known."""
    reported: float = 0.0
    reported_requests: int = 0
    has: dict[int, Request] = field(default_factory=dict)
    """Its requests, by `request_idx`: those that are BOOKED (unseen) and those that are WORKING."""
    unseen: int = 0
    """How many are BOOKED."""
    unseen_load: float = 0.0
    unused: int = 0
    unused_load: float = 0.0
    """Of those that are BOOKED, what was not used for longer than its client needs."""
    working_cost: float = 0.0
    """What those that are WORKING were booked with."""
    claimed: float = 0.0
    """What was claimed of requests that came to it and of which it tells no load one by one, since
    it last told the load of all that came."""
    last_turn: int = 0
    """When it was last chosen, in turns: breaks ties."""
    idle_since: float = 0.0
    heard_at: float = float("-inf")
    """When its last report came."""
    cache: int = 0
    """Names what it has in memory (prefix caches); a new one after each boot."""
    counted_grains: int = 0
    counted_requests: int = 0
    counted_perf: float = 0.0
    counted_measured: float = 0.0
    """What the sums of its endpoint have of it."""
    account: Account | None = None
    rank: Any = None
    rank_step: int = 0
    rank_turn: int = 0
    """Its place in `stoker.autoscaler.ranking`, which alone uses them."""

    @property
    def load(self) -> float:
        """Booked and not finished, load units."""
        return self.reported + self.unseen_load

    @property
    def requests(self) -> int:
        """Requests that it has or is about to get."""
        told, known = self.reported_requests + self.unseen, len(self.has)
        return told if told > known else known

    @property
    def idle(self) -> bool:
        """Nothing to do, and nothing on its way."""
        return not self.unseen and self.load <= NOTHING

    @property
    def in_rotation(self) -> bool:
        """It may get requests."""
        return self.available and bool(self.url)

    def finish_after(self, cost: float) -> float:
        """Expected seconds until a request of `cost` is finished here."""
        return (self.load + cost) / self.perf

    def start_after(self, *, used: bool = False) -> float:
        """Expected seconds until a request that comes now is begun here.

        0 with a free slot, or where the slots are not known. Else one of the requests before it
        must end for each that waits, and for itself: (requests - slots + 1) / requests of the load.
        E.g. 16 slots, 16 requests of 100 load units left in all, perf 50: 1/16 of 2 s.

        Args:
            used: bookings that are `unused` count for nothing.
        """
        requests, load = self.requests, self.load
        if used:
            requests, load = requests - self.unused, load - self.unused_load
        if not 0 < self.slots <= requests:
            return 0.0
        return (requests - self.slots + 1) / requests * load / self.perf

    def takes(self, max_queue_time: float) -> bool:
        """Whether `max_queue_time` lets another request in: seconds until it begins, at most.

        Where the slots are not known, that is taken to be when all load is done. What the request
        itself takes does not matter: a large one would wait for a worker that is all but idle, and
        all behind it with it.
        """
        if self.slots > 0:
            return self.start_after() <= max_queue_time
        return self.load <= NOTHING or self.load <= max_queue_time * self.perf

    def book(self, request: Request) -> None:
        """Take `request` as assigned to this worker under a new number."""
        request.worker_id = self.worker_id
        request.reqnum = self.next_reqnum
        request.phase = Phase.BOOKED
        request.booked = request.cost
        self.next_reqnum += 1
        self.has[request.idx] = request
        self.unseen += 1
        self.unseen_load += request.booked
        if self.account is not None:
            self.account.add(request)

    def discount(self, request: Request) -> None:
        """It stays booked, and counts for nothing from now on."""
        self.unseen_load = max(0.0, self.unseen_load - request.booked)
        if request.unused:
            self.unused_load = max(0.0, self.unused_load - request.booked)
        request.booked = 0.0

    def miss(self, request: Request) -> None:
        """It is booked here, and was not used for long."""
        request.unused = True
        self.unused += 1
        self.unused_load += request.booked

    def see(self, request: Request, load: float | None = None) -> None:
        """A report names it: its load is in the reported figure.

        Args:
            request: one that it has, or had.
            load: what is made of its worker's estimate, load units; None: it does not tell.
        """
        if request.phase is Phase.WORKING:
            return
        if request.phase is Phase.BOOKED:
            self._drop_unseen(request)
        if load is not None:
            request.cost = load
        self.has[request.idx] = request
        request.phase = Phase.WORKING
        self.working_cost += request.cost

    def grow(self, request: Request, load: float) -> None:
        """The worker has seen that one it works on needs `load` units in all, and not less."""
        self.working_cost += load - request.cost
        request.cost = load

    def let_go(self, request: Request, now: float) -> None:
        """It is finished, released or lost: its load goes, and it is OVER."""
        if self.has.pop(request.idx, None) is not None:
            if request.phase is Phase.BOOKED:
                self._drop_unseen(request)
            else:
                self.reported = max(0.0, self.reported - self._share(request))
                self.reported_requests = max(0, self.reported_requests - 1)
                left = max(0.0, self.working_cost - request.cost)
                self.working_cost = left if len(self.has) > self.unseen else 0.0
        request.phase = Phase.OVER
        if self.idle:
            self.idle_since = now

    def _share(self, request: Request) -> float:
        """What is left of a working request, as far as the reported figure can tell."""
        if self.reported >= self.working_cost:
            return request.cost
        return request.cost * self.reported / self.working_cost

    def _drop_unseen(self, request: Request) -> None:
        if self.account is not None:
            self.account.drop(request)
        self.unseen -= 1
        if request.unused:
            request.unused = False
            self.unused -= 1
            self.unused_load = max(0.0, self.unused_load - request.booked) if self.unused else 0.0
        # Exactly 0 when none is left, so that rounding errors do not add up over months.
        left = max(0.0, self.unseen_load - request.booked)
        self.unseen_load = left if self.unseen else 0.0


@dataclass(slots=True)
class WorkerView:
    """What the router knows of a worker, for the planner and for people."""

    worker_id: int
    url: str
    available: bool
    perf: float
    """Load units per second; the router's default while the worker has not told."""
    load: float
    requests: int
    idle_since: float
    """Since when it had nothing to do; meaningful while `requests` is 0."""
    slots: int = 0
    """Requests that it works on at once; 0: not known."""
