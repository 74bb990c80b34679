"""What the router remembers of one request and of one worker. Sums are kept, never recomputed.

A worker's load has two parts, which never overlap:

* **reported**: what its last report said, less what was finished since;
* **unseen**: bookings that no report has named yet (the request is on its way to the worker).

A booking leaves "unseen" when a report names it (it is in "reported" from then on), when a finish
names it, when it is released, or when its ticket expires. So a lost report or finish costs accuracy
until the next report, and nothing leaks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

_NOTHING = 1e-6
"""Load below this is taken as none: sums of floats do not come back to 0.0 exactly."""


class Phase(Enum):
    """Where a request is."""

    HELD = "held"
    """Waits here for a worker."""
    BOOKED = "booked"
    """Assigned; the worker has not shown it."""
    WORKING = "working"
    """The worker has shown it."""
    OVER = "over"
    """Finished, or lost with its worker; kept a while so that a retry is recognised."""


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
    arrived: int
    """Second of its arrival, as `ArrivalWindow.add` returned it."""
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


@dataclass(slots=True, eq=False)
class WorkerBook:
    """The load of one worker."""

    worker_id: int
    endpoint_id: int
    next_reqnum: int
    perf: float
    url: str = ""
    available: bool = False
    reported: float = 0.0
    reported_requests: int = 0
    unseen_load: float = 0.0
    unseen: dict[int, Request] = field(default_factory=dict)
    working: dict[int, Request] = field(default_factory=dict)
    last_turn: int = 0
    """When it was last chosen, in turns: breaks ties."""
    idle_since: float = 0.0

    @property
    def load(self) -> float:
        """Booked and not finished, load units."""
        return self.reported + self.unseen_load

    @property
    def requests(self) -> int:
        """Requests that it has or is about to get."""
        return max(self.reported_requests, len(self.working)) + len(self.unseen)

    @property
    def idle(self) -> bool:
        """Nothing to do, and nothing on its way."""
        return not self.unseen and self.load <= _NOTHING

    def wait_after(self, cost: float) -> float:
        """Expected wait, in seconds, of a request of `cost` until it is finished here."""
        return (self.load + cost) / self.perf

    def book(self, request: Request) -> None:
        """Take `request` as assigned to this worker under a new number."""
        request.worker_id = self.worker_id
        request.reqnum = self.next_reqnum
        request.phase = Phase.BOOKED
        self.next_reqnum += 1
        self.unseen[request.idx] = request
        self.unseen_load += request.cost

    def see(self, request: Request) -> None:
        """A report names it: its load is in the reported figure."""
        self._drop_unseen(request)
        request.phase = Phase.WORKING
        self.working[request.idx] = request

    def let_go(self, request: Request, now: float) -> None:
        """It is finished, released or lost: its load goes, and it is OVER."""
        if request.idx in self.unseen:
            self._drop_unseen(request)
        elif self.working.pop(request.idx, None) is not None:
            self.reported = max(0.0, self.reported - request.cost)
            self.reported_requests = max(0, self.reported_requests - 1)
        request.phase = Phase.OVER
        if self.idle:
            self.idle_since = now

    def _drop_unseen(self, request: Request) -> None:
        if self.unseen.pop(request.idx, None) is not None:
            # Exactly 0 when none is left, so that rounding errors do not add up over months.
            left = max(0.0, self.unseen_load - request.cost)
            self.unseen_load = left if self.unseen else 0.0


@dataclass(frozen=True, slots=True)
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
