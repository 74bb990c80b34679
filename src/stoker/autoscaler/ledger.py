"""Who has which request: bookings, and what reports and finishes make of them. Pure.

Reports and finishes cross a network: each may be lost, late, repeated, or overtaken by another.
What makes the books right all the same:

* A booking counts from the moment it is made; no report takes it away. It goes when a report has
  named it and another does not any more, when a finish names it, when it is released, or when its
  ticket expires unseen. So each is taken off once, and none stays longer than its ticket's lifetime
  and one report.
* What a worker shows counts as arrived, once, with the worker's own estimate; what waited for a
  worker was counted then, and is put right (`...arrivals`). Both are put right once more when it
  ends, by what it needed.
* A worker's estimates, and the load that it reports, count for so many times themselves as what was
  estimated turned out to be (`...calibration`).
* A finish is believed at once, and so is a report that does not name a request any more. If another
  report names it after that, one of the two was overtaken: it is at work again, until the next
  report. So a message that is late may make a worker look busier than it is for as long as that,
  and never idler than its latest report said: a worker is not flooded by mistake.
* A report of a boot that is known to have ended says nothing about the present one (`is_outdated`).
* A worker that has been silent for `silence` seconds when it is taken out of rotation is taken as
  lost, and its load with it. When it comes back, its own report says what it has.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from stoker.autoscaler.affinity import CacheTable
from stoker.autoscaler.booking import Phase, Request, WorkerBook
from stoker.autoscaler.choosing import EndpointBook
from stoker.errors import NotFoundError
from stoker.wire import MAX_COST, MAX_ROUTE, FinishedRequest, WorkerStatus

MAX_LATE = 3
"""Reports of a former boot that are ignored: a worker tries each three times."""

MAX_BOOTS = 8
"""Former boots of a worker that are remembered, to know their reports when they come late."""


class Ledger:
    """Endpoints, workers and requests, and who has what.

    Attributes:
        endpoints: by id.
        workers: of all endpoints, by id.
        requests: held, at work, or over for less than a ticket's lifetime; by `request_idx`. Not
            here are earlier tickets of a request that was sent elsewhere since; their workers have
            them.
        aliases: `request_idx` by key and number under which a client asks, where that number was
            none of its own.
        caches: what the workers have seen before.
    """

    def __init__(
        self, *, ticket_lifetime: float, silence: float, default_perf: float, caches: CacheTable
    ) -> None:
        self._ticket_lifetime = ticket_lifetime
        self._silence = silence
        self._default_perf = default_perf
        self.caches = caches
        self.endpoints: dict[int, EndpointBook] = {}
        self.workers: dict[int, WorkerBook] = {}
        self.requests: dict[int, Request] = {}
        self.aliases: dict[tuple[str, int], int] = {}
        self._boots: dict[int, deque[str]] = {}
        self._late: dict[int, int] = {}
        self._expiries: deque[tuple[float, Request, int]] = deque()  # (when, request, reqnum)
        self.turn = 0

    # Endpoints and workers come and go.

    def endpoint(self, endpoint_id: int) -> EndpointBook:
        """The books of an endpoint.

        Raises:
            NotFoundError: when it is unknown.
        """
        endpoint = self.endpoints.get(endpoint_id)
        if endpoint is None:
            raise NotFoundError(f"there is no endpoint {endpoint_id}")
        return endpoint

    def endpoint_of(self, worker: WorkerBook) -> EndpointBook:
        """Whose requests a worker serves."""
        return self.endpoints[worker.endpoint_id]

    def add_worker(
        self, worker_id: int, endpoint: EndpointBook, reqnum_base: int, url: str
    ) -> None:
        """Know a worker; nothing if it is known."""
        if worker_id in self.workers:
            return
        book = WorkerBook(worker_id, endpoint.endpoint_id, reqnum_base, self._default_perf, url)
        book.account = endpoint.shares
        self.workers[worker_id] = endpoint.workers[worker_id] = book
        self.caches.boot(book)
        endpoint.settle(book)

    def remove_worker(self, worker: WorkerBook, now: float) -> None:
        """Forget a worker; what it had is over."""
        self.lose(worker, now)
        self.endpoint_of(worker).drop(worker)
        self.caches.leave(worker)
        self._boots.pop(worker.worker_id, None)
        self._late.pop(worker.worker_id, None)
        del self.workers[worker.worker_id]

    def is_silent(self, worker: WorkerBook, now: float) -> bool:
        """Whether nothing was heard of a worker for so long that it is taken as lost."""
        return now - worker.heard_at > self._silence

    def lose(self, worker: WorkerBook, now: float) -> None:
        """What a worker had, or was to get, is lost."""
        for request in list(worker.has.values()):
            self.end(request, worker, now)
        worker.reported, worker.reported_requests = 0.0, 0
        self.endpoint_of(worker).settle(worker)

    # A request gets a worker, and leaves it.

    def book(self, request: Request, worker: WorkerBook, now: float) -> None:
        """Assign a request to a worker."""
        earlier = worker.has.get(request.idx)
        if earlier is not None:
            # A worker takes one ticket of a request: the later one, if none was used.
            worker.let_go(earlier, now)
        request.booked_at, request.served = now, None
        request.expires = now + self._ticket_lifetime
        worker.book(request)
        self.turn += 1
        worker.last_turn = self.turn
        request.avoid = None
        if request.answered:
            self.lend(request, now)
        if request.affinity:
            self.caches.note(request, worker)
        self.endpoint_of(worker).settle(worker)

    def lend(self, request: Request, now: float) -> None:
        """Its client is told of its worker: its ticket lives from now on."""
        request.expires = now + self._ticket_lifetime
        self._expiries.append((request.expires, request, request.reqnum))

    def end(self, request: Request, worker: WorkerBook, now: float) -> None:
        """It has left its worker; remembered for a while, in case it is retried.

        The endpoint is to be told afterwards (`EndpointBook.settle`).
        """
        worker.let_go(request, now)
        request.avoid = worker.worker_id
        if now >= request.expires or not request.answered:
            # The entry from its booking is used up: it worked for longer than a ticket lives.
            self.lend(request, now)

    def leave_behind(self, earlier: Request, request: Request) -> None:
        """The client of `earlier` gets another ticket, as `request`.

        The earlier one can still be used, so it stays booked where it is until it expires, unless
        the other one is for the same worker; where both are used, both have arrived.
        """
        request.avoid, request.retries = earlier.worker_id, earlier.retries + 1
        request.counted, request.arrived = earlier.counted, earlier.arrived
        request.alias, earlier.alias = earlier.alias, None
        earlier.counted = None

    def name(self, request: Request, number: int) -> None:
        """Its client may ask for it by `number`."""
        request.alias = (request.key, number)
        self.aliases[request.alias] = request.idx

    def _unname(self, request: Request) -> None:
        if request.alias is not None and self.aliases.get(request.alias) == request.idx:
            del self.aliases[request.alias]

    def release(self, request: Request, now: float) -> None:
        """Take it from its worker, if it has one."""
        worker = self.workers.get(request.worker_id) if request.worker_id is not None else None
        if worker is not None and request.phase in (Phase.BOOKED, Phase.WORKING):
            worker.let_go(request, now)
            self.endpoint_of(worker).settle(worker)

    def forget(self, request: Request, now: float) -> None:
        """Nobody waits for it any more."""
        if request.phase is Phase.HELD:
            endpoint = self.endpoints[request.endpoint_id]
            endpoint.held.remove(request)
            endpoint.arrivals.take_back(request.counted or 0.0, request.arrived, now)
        else:
            self.release(request, now)
        if self.requests.get(request.idx) is request:
            del self.requests[request.idx]
            self._unname(request)

    def expire(self, now: float) -> None:
        """Drop the bookings whose tickets have expired unseen, and what is over long enough."""
        while self._expiries and self._expiries[0][0] <= now:
            _, request, reqnum = self._expiries.popleft()
            if request.reqnum != reqnum or request.expires > now:
                continue
            if request.phase is Phase.BOOKED:
                self.unused(request, now)
            elif request.phase is Phase.OVER:
                self.forget(request, now)

    # Workers tell.

    def is_outdated(self, worker_id: int, boot_id: str) -> bool:
        """Whether `boot_id` is one that a worker had before its present one.

        The dead do not go on reporting: after `MAX_LATE` of its reports in a row it is believed, so
        that a single late report of a former boot never shuts the present one out.
        """
        boots = self._boots.get(worker_id)
        if not boot_id or boots is None:
            return False
        if boot_id == boots[-1] or boot_id not in boots:
            self._late.pop(worker_id, None)
            return False
        late = self._late[worker_id] = self._late.get(worker_id, 0) + 1
        return late <= MAX_LATE

    def report(self, worker: WorkerBook, status: WorkerStatus, now: float) -> None:
        """Take a worker's own figures."""
        self._note_boot(worker, status.boot_id)
        was_idle = worker.idle
        worker.heard_at = now
        worker.url = status.url or worker.url
        if status.max_perf > 0:  # else as it said last: some report 0 while they are idle
            worker.perf = worker.measured = status.max_perf
        worker.slots = max(0, status.slots)
        named = dict.fromkeys(status.working_request_idxs)
        if len(status.working_loads) == len(status.working_request_idxs):
            named = dict(zip(status.working_request_idxs, status.working_loads, strict=True))
        endpoint = self.endpoint_of(worker)
        calibration = endpoint.beliefs.calibration
        for request in [one for idx, one in worker.has.items() if idx not in named]:
            if request.phase is Phase.WORKING:
                # It has gone without a finish, which may be lost or follow.
                self.end(request, worker, now)
        for idx, load in named.items():
            known = worker.has.get(idx) or self.requests.get(idx)
            # One that was assigned elsewhere meanwhile, or is held, is no longer this worker's.
            if known is None or known.worker_id != worker.worker_id:
                continue
            estimate = load if load is not None and 0 <= load <= MAX_COST else None
            grown = estimate is not None and estimate > (known.estimate or 0)
            if known.phase is Phase.WORKING and not grown:
                continue
            believed = None
            if estimate is not None:
                believed = estimate * calibration.of_estimate(known.route)
            if known.phase is not Phase.WORKING:
                worker.see(known, believed)
                self._came(worker, known, estimate)
                self._arrived(endpoint, known, now)
            elif believed is not None:
                worker.grow(known, believed)
                known.estimate = estimate
                self._arrived(endpoint, known, now)
        if not status.boot_id:  # it is none of ours, and tells no loads one by one
            self._total(endpoint, worker, status.new_load)
        worker.reported = max(0.0, status.cur_load) * calibration.of_estimate()
        worker.reported_requests = max(0, status.num_requests_working)
        if worker.idle and not was_idle:
            worker.idle_since = now
        endpoint.settle(worker)

    def _came(self, worker: WorkerBook, request: Request, estimate: float | None) -> None:
        """A worker has told of a request for the first time: what was claimed of it is judged."""
        if estimate is None:
            worker.claimed += request.claim or 0.0
            return
        request.estimate = estimate
        self.endpoint_of(worker).beliefs.calibration.arrived(
            request.claim, estimate, key=request.key, route=request.route
        )

    def _total(self, endpoint: EndpointBook, worker: WorkerBook, new_load: float) -> None:
        """A worker that tells no loads one by one tells that of all that came since it last did."""
        if worker.claimed > 0 and 0 < new_load <= MAX_COST:
            endpoint.beliefs.calibration.arrived(worker.claimed, new_load, key=None)
            worker.claimed = 0.0

    def _arrived(self, endpoint: EndpointBook, request: Request, now: float) -> None:
        """A worker has seen it, and takes its load to be `request.cost`."""
        arrivals, load = endpoint.arrivals, request.cost
        endpoint.seen = request.shown = True
        if request.counted is None:
            request.arrived = arrivals.add(load, now)
        else:
            arrivals.revise(load - request.counted, request.arrived, now)
        request.counted = load
        if request.charged:
            endpoint.held.correct(request.key, load - request.charged)
            request.charged = load

    def unused(self, request: Request, now: float) -> None:
        """It had a worker and was never seen there: if it waited before, that was no load.

        It may have been used at the last moment, so it is remembered for a while: then a report
        still names it.
        """
        worker = self.workers.get(request.worker_id) if request.worker_id is not None else None
        if worker is None:
            return
        self.end(request, worker, now)
        endpoint = self.endpoint_of(worker)
        endpoint.settle(worker)
        if request.counted:
            endpoint.arrivals.revise(-request.counted, request.arrived, now)
            request.counted = 0.0

    def _note_boot(self, worker: WorkerBook, boot_id: str) -> None:
        if not boot_id:
            return
        boots = self._boots.setdefault(worker.worker_id, deque(maxlen=MAX_BOOTS))
        if boot_id in boots:
            boots.remove(boot_id)
        boots.append(boot_id)

    def finished(self, worker: WorkerBook, requests: Iterable[FinishedRequest], now: float) -> bool:
        """Take note that requests left a worker; whether any of them was there."""
        found = False
        for one in requests:
            request = worker.has.get(one.request_idx)
            if request is not None:
                found = True
                self._learn(worker, request, one, now)
                self.end(request, worker, now)
                continue
            request = self.requests.get(one.request_idx)  # a report without it was first
            if (
                request is not None
                and request.worker_id == worker.worker_id
                and request.phase is Phase.OVER
                and request.served is None
            ):
                self._learn(worker, request, one, now)
        if found:
            self.endpoint_of(worker).settle(worker)
        return found

    def _learn(
        self, worker: WorkerBook, request: Request, told: FinishedRequest, now: float
    ) -> None:
        """What a request turned out to be."""
        endpoint = self.endpoint_of(worker)
        # A client that gave it up has no claim on another ticket for it.
        request.served = told.status in ("Success", "Cancelled")
        load = told.load if told.load is not None and 0 <= told.load <= MAX_COST else None
        if not request.shown:
            # It came and went between two reports.
            self._came(worker, request, load)
            if load is not None:
                request.cost = load
            self._arrived(endpoint, request, now)
        elif load is not None and request.counted is not None and load != request.counted:
            endpoint.arrivals.revise(load - request.counted, request.arrived, now)
            request.counted = load
        if told.status != "Success" or load is None:
            return
        if request.estimate is not None:
            endpoint.beliefs.calibration.ended(
                request.estimate, load, route=request.route or told.route[:MAX_ROUTE]
            )
        began, ended = told.work_started_at, told.work_completed_at
        seconds = ended - began if began is not None and ended is not None else 0.0
        endpoint.beliefs.learn(
            load,
            key=request.key,
            route=told.route[:MAX_ROUTE],
            perf=worker.perf,
            seconds=seconds,
        )
