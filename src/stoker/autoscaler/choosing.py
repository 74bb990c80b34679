"""One endpoint's books: its workers, which of them a request gets, and the queue of those held."""

from __future__ import annotations

from stoker.autoscaler.affinity import CacheTable
from stoker.autoscaler.arrivals import ArrivalWindow
from stoker.autoscaler.booking import GRAIN, Request, WorkerBook, grains
from stoker.autoscaler.fairness import FairQueue
from stoker.autoscaler.ranking import Ranking


class EndpointBook:
    """What the router knows of one endpoint.

    Attributes:
        endpoint_id: its number.
        max_queue_time: seconds of expected wait above which a worker gets no more.
        workers: by their id. After each change of one, `settle` is to be called.
        held: requests that wait for a worker.
        arrivals: how much load came.
        last_request_at: when it was last asked for anything; None: never.
        booked_count: requests that its workers have or are about to get.
    """

    __slots__ = (
        "_booked",
        "_caches",
        "_ranking",
        "arrivals",
        "booked_count",
        "endpoint_id",
        "held",
        "last_request_at",
        "max_queue_time",
        "workers",
    )

    def __init__(self, endpoint_id: int, max_queue_time: float, caches: CacheTable) -> None:
        self.endpoint_id = endpoint_id
        self.max_queue_time = max_queue_time
        self.workers: dict[int, WorkerBook] = {}
        self.held = FairQueue()
        self.arrivals = ArrivalWindow()
        self.last_request_at: float | None = None
        self.booked_count = 0
        self._booked = 0
        self._ranking = Ranking()
        self._caches = caches

    @property
    def booked_load(self) -> float:
        """Load assigned to its workers and not finished."""
        return self._booked * GRAIN

    def settle(self, worker: WorkerBook) -> None:
        """The figures of a worker have changed: put right the sums and who is next."""
        load, requests = grains(worker.load), worker.requests
        self._booked += load - worker.counted_grains
        self.booked_count += requests - worker.counted_requests
        worker.counted_grains, worker.counted_requests = load, requests
        self._ranking.update(worker)

    def drop(self, worker: WorkerBook) -> None:
        """A worker is no more."""
        del self.workers[worker.worker_id]
        worker.available = False
        self._ranking.update(worker)
        self._booked -= worker.counted_grains
        self.booked_count -= worker.counted_requests
        worker.counted_grains = worker.counted_requests = 0

    def choose(self, request: Request) -> WorkerBook | None:
        """The one place that decides; see `stoker.autoscaler.ranking` and `...affinity`."""
        avoid = self.workers.get(request.avoid) if request.avoid is not None else None
        best = self._ranking.best(request.cost, self.max_queue_time, avoid)
        if best is not None and request.affinity:
            return self._caches.prefer(request, best, self.max_queue_time)
        return best
