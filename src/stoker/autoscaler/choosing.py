"""One endpoint's books: its workers, which of them a request gets, and the queue of those held."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from stoker.autoscaler.arrivals import ArrivalWindow
from stoker.autoscaler.booking import Request, WorkerBook


class HoldQueue:
    """Requests that wait for a worker, first come first served; any can be taken out."""

    __slots__ = ("_requests", "load")

    def __init__(self) -> None:
        self._requests: OrderedDict[int, Request] = OrderedDict()
        self.load = 0.0
        """Load units in all."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def first(self) -> Request:
        """Whose turn it is; there must be one."""
        return next(iter(self._requests.values()))

    def numbers(self) -> list[int]:
        """The `request_idx` of each, in order."""
        return list(self._requests)

    def append(self, request: Request) -> None:
        """Let it wait behind all others."""
        self._requests[request.idx] = request
        self.load += request.cost

    def remove(self, request: Request) -> None:
        """Take it out; no harm if it is not in."""
        if self._requests.pop(request.idx, None) is not None:
            left = max(0.0, self.load - request.cost)
            self.load = left if self._requests else 0.0

    def sort(self) -> None:
        """Bring requests that have returned back to their places, by `turn`."""
        in_order = sorted(self._requests.values(), key=lambda request: request.turn)
        self._requests = OrderedDict((request.idx, request) for request in in_order)


@dataclass(slots=True, eq=False)
class EndpointBook:
    """What the router knows of one endpoint."""

    endpoint_id: int
    max_queue_time: float
    workers: dict[int, WorkerBook] = field(default_factory=dict)
    held: HoldQueue = field(default_factory=HoldQueue)
    arrivals: ArrivalWindow = field(default_factory=ArrivalWindow)
    last_request_at: float | None = None

    def choose(self, request: Request) -> WorkerBook | None:
        """The one place that decides; it looks at each worker of the endpoint once."""
        best: WorkerBook | None = None
        best_rank: tuple[bool, float, int, int] | None = None
        for worker in self.workers.values():
            if not (worker.available and worker.url):
                continue
            wait = worker.wait_after(request.cost)
            if wait > self.max_queue_time and not worker.idle:
                continue
            # Equal waits happen (requests of no cost): then to the one with fewer requests, then
            # in turn, so that no worker gets them all.
            rank = (worker.worker_id == request.avoid, wait, worker.requests, worker.last_turn)
            if best_rank is None or rank < best_rank:
                best, best_rank = worker, rank
        return best
