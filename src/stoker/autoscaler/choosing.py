"""One endpoint's books: its workers, which of them a request gets, and the queue of those held."""

from __future__ import annotations

from stoker.autoscaler.affinity import CacheTable
from stoker.autoscaler.arrivals import ArrivalWindow
from stoker.autoscaler.booking import GRAIN, Request, WorkerBook, grains
from stoker.autoscaler.claims import Beliefs
from stoker.autoscaler.coming import HORIZON, MARGIN, RESCUE, Coming
from stoker.autoscaler.fairness import FairQueue
from stoker.autoscaler.ranking import Ranking
from stoker.autoscaler.shares import Shares


class EndpointBook:
    """What the router knows of one endpoint.

    Attributes:
        endpoint_id: its number.
        max_queue_time: seconds of expected wait above which a worker gets no more.
        workers: by their id. After each change of one, `settle` is to be called.
        coming: workers that are on their way.
        held: requests that wait for a worker.
        arrivals: how much load came.
        beliefs: what its requests were seen to need.
        shares: what is booked that no worker has shown, by key.
        group_perf: perf that its workers will have, where there is none; 0: not known.
        last_request_at: when it was last asked for anything; None: never.
        seen: a worker has seen one of its requests.
        judged_at: when what is held was last believed to be something else.
        booked_count: requests that its workers have or are about to get.
    """

    __slots__ = (
        "_booked",
        "_caches",
        "_in_rotation",
        "_measured",
        "_measured_perf",
        "_perf",
        "_ranking",
        "arrivals",
        "beliefs",
        "booked_count",
        "coming",
        "endpoint_id",
        "group_perf",
        "held",
        "judged_at",
        "last_request_at",
        "max_queue_time",
        "seen",
        "shares",
        "workers",
    )

    def __init__(self, endpoint_id: int, max_queue_time: float, caches: CacheTable) -> None:
        self.endpoint_id = endpoint_id
        self.max_queue_time = max_queue_time
        self.workers: dict[int, WorkerBook] = {}
        self.coming = Coming()
        self.held = FairQueue()
        self.arrivals = ArrivalWindow()
        self.beliefs = Beliefs()
        self.shares = Shares()
        self.group_perf = 0.0
        self.last_request_at: float | None = None
        self.seen = False
        self.judged_at = float("-inf")
        self.booked_count = 0
        self._booked = 0
        self._in_rotation = 0
        self._measured = 0
        self._perf = self._measured_perf = 0.0
        self._ranking = Ranking()
        self._caches = caches

    @property
    def booked_load(self) -> float:
        """Load assigned to its workers and not finished."""
        return self._booked * GRAIN

    @property
    def overstated_load(self) -> float:
        """What of it is claimed alone, and more than is to be expected of so many requests."""
        unseen = self.shares.total
        if not unseen:
            return 0.0
        return unseen - self.beliefs.expected(unseen, len(self.shares), self.perf)

    def settle(self, worker: WorkerBook) -> None:
        """The figures of a worker have changed: put right the sums and who is next."""
        load, requests = grains(worker.load), worker.requests
        self._booked += load - worker.counted_grains
        self.booked_count += requests - worker.counted_requests
        worker.counted_grains, worker.counted_requests = load, requests
        if worker.in_rotation:
            self._count_perf(worker, worker.perf, worker.measured)
        else:
            self._count_perf(worker, 0.0, 0.0)
        self._ranking.update(worker)

    def expect(self, worker_id: int, at: float | None) -> bool:
        """Set when a worker is expected to be ready; None: not at all. Whether that is news."""
        news = self.coming.expect(worker_id, at)
        if news and not self.coming.times:
            self.shares.forget_missed()
        return news

    def drop(self, worker: WorkerBook) -> None:
        """A worker is no more."""
        del self.workers[worker.worker_id]
        self.expect(worker.worker_id, None)
        worker.available = False
        self._ranking.update(worker)
        self._count_perf(worker, 0.0, 0.0)
        self._booked -= worker.counted_grains
        self.booked_count -= worker.counted_requests
        worker.counted_grains = worker.counted_requests = 0

    def _count_perf(self, worker: WorkerBook, perf: float, measured: float) -> None:
        if worker.counted_perf == perf and worker.counted_measured == measured:
            return
        if perf > 0 and self.coming.times:  # it is there
            self.expect(worker.worker_id, None)
        self._in_rotation += (perf > 0) - (worker.counted_perf > 0)
        self._measured += (measured > 0) - (worker.counted_measured > 0)
        # Sums of floats drift; with nobody there the truth is known.
        self._perf = self._perf + perf - worker.counted_perf if self._in_rotation else 0.0
        total = self._measured_perf + measured - worker.counted_measured
        self._measured_perf = total if self._measured else 0.0
        worker.counted_perf, worker.counted_measured = perf, measured

    @property
    def perf(self) -> float:
        """Of one worker, as measured, load units per second; 0: not known."""
        return self._measured_perf / self._measured if self._measured else self.group_perf

    @property
    def capacity(self) -> float:
        """Load units that its workers take in all; a typical request each, at least."""
        typical = self.beliefs.believed(None, perf=self.perf)
        return max(self.max_queue_time * self._perf, self._in_rotation * typical)

    def make_room(self, request: Request, now: float) -> WorkerBook | None:
        """A worker for one that `choose` has none for, at the expense of unused bookings.

        See `stoker.autoscaler.shares` for whose.
        """
        shares = self.shares
        if not shares.old(now):
            return None
        share, mine = shares.share(request.key, self.capacity), shares.load(request.key)
        if mine > 0 and mine + request.cost > share:
            return None  # so it is not above its share, and nothing of its own is taken
        found = None
        while found is None and (taken := shares.excess(share, now)) is not None:
            assert taken.worker_id is not None
            worker = self.workers[taken.worker_id]
            shares.drop(taken)
            worker.discount(taken)
            self.settle(worker)
            found = self.choose(request, now)
        return found

    def choose(self, request: Request, now: float) -> WorkerBook | None:
        """The one place that decides; see `stoker.autoscaler.ranking`, `...coming`, `...affinity`.

        None: there is no worker, or it is better to wait for one that is on its way.
        """
        avoid = self.workers.get(request.avoid) if request.avoid is not None else None
        best = self._ranking.best(request.cost, self.max_queue_time, avoid)
        if best is None:
            return None
        if self.coming.times and best.start_after() > MARGIN and self._gains(request, best, now):
            return None
        if request.affinity:
            return self._caches.prefer(request, best, self.max_queue_time)
        return best

    def _gains(self, request: Request, best: WorkerBook, now: float) -> bool:
        """Whether a request does better to wait for a worker that is on its way."""
        seconds = self.coming.seconds(now)
        if seconds > HORIZON:
            return False
        for booking in self.shares.missed(now):
            if booking.worker_id is not None:
                self.workers[booking.worker_id].miss(booking)
        gains = best.start_after(used=True) > seconds + MARGIN
        return gains and not self.is_urgent(request, seconds, now)

    def is_urgent(self, request: Request, seconds: float, now: float) -> bool:
        """Whether the time of a request may be over before a worker that comes in `seconds`."""
        return request.deadline - now <= seconds + RESCUE
