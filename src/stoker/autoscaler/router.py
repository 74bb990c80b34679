"""Which worker gets a request. Pure: no clock, no I/O; everything that books load is in this file.

Rules:

* A request goes to the available worker of its endpoint that would finish it first, counting what
  is booked there already, and is booked at once. Workers that it would keep waiting for more than
  the endpoint's `max_queue_time` are left out, unless they are idle: a request that is too large
  for every worker is still served.
* When there is none, it is **held** in its endpoint's queue, first come first served, and nothing
  overtakes it. Its client polls with the `request_idx`, or waits (see `on_assigned`).
* A client that asks again before it was told of a worker polls: it gets the worker it was given.
  A client that was told and asks again **retries**: its ticket is used up or its worker failed it,
  so the old booking is released and a new one made, on another worker if there is one. (To repeat
  the old answer would send it back to the same worker with a ticket that is refused as replayed.)
  Neither adds load.
* A held request is forgotten at its deadline, or when its client stops polling. A booking that its
  worker never shows is dropped when its ticket expires.
* A worker that leaves rotation gets nothing new. Requests that were promised to it and whose
  clients do not know yet go back to their place in the queue. Those whose clients know may still
  arrive there, so they stay booked: a drain waits for them.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable

from stoker.autoscaler.answers import Assigned, Held, RouterFullError
from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.booking import Phase, Request, WorkerBook, WorkerView
from stoker.autoscaler.choosing import EndpointBook
from stoker.errors import NotFoundError
from stoker.wire import FinishedRequest, WorkerStatus

__all__ = ["Assigned", "Held", "Router", "RouterFullError"]


class Router:
    """Assigns requests to workers, and holds those for which there is none."""

    def __init__(
        self,
        first_request_idx: int = 1,
        *,
        ticket_lifetime: float = 60.0,
        poll_grace: float = 15.0,
        max_held: int = 10_000,
        default_perf: float = 1.0,
        on_assigned: Callable[[Assigned], bool] | None = None,
    ) -> None:
        """Make a router without endpoints.

        Args:
            first_request_idx: numbers count up from here; above all that an earlier router gave.
            ticket_lifetime: seconds for which a worker may take a request after it was assigned.
            poll_grace: seconds after which a held request is forgotten unless it is polled for.
            max_held: requests held per endpoint, at most.
            default_perf: load units per second of a worker that has not told its perf.
            on_assigned: called when a held request gets a worker, unless the call that returns it
                is its own `route`. The answer says whether the client was told (it waited); if
                not, its next poll gets the worker. It must not call the router.
        """
        self._next_idx = max(1, first_request_idx)
        self._ticket_lifetime = ticket_lifetime
        self._poll_grace = poll_grace
        self._max_held = max_held
        self._default_perf = default_perf
        self.on_assigned = on_assigned
        self._endpoints: dict[int, EndpointBook] = {}
        self._workers: dict[int, WorkerBook] = {}
        self._requests: dict[int, Request] = {}
        self._expiries: deque[tuple[float, int, int]] = deque()  # (when, idx, reqnum)
        self._polls_due: list[tuple[float, int]] = []  # heap of (when, idx)
        self._turn = 0

    # Endpoints and workers come and go.

    def add_endpoint(self, endpoint_id: int, *, max_queue_time: float) -> None:
        """Start to route for an endpoint; a second call updates it."""
        if endpoint_id in self._endpoints:
            self.update_endpoint(endpoint_id, max_queue_time=max_queue_time)
        else:
            self._endpoints[endpoint_id] = EndpointBook(endpoint_id, max_queue_time)

    def update_endpoint(self, endpoint_id: int, *, max_queue_time: float) -> None:
        """Change the expected wait, in seconds, above which a worker gets no more.

        Raises:
            NotFoundError: when it is unknown.
        """
        self._endpoint(endpoint_id).max_queue_time = max_queue_time

    def remove_endpoint(self, endpoint_id: int, now: float) -> None:
        """Forget an endpoint with its workers and requests; no harm if it is unknown."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            return
        for worker_id in list(endpoint.workers):
            self.remove_worker(worker_id, now)
        del self._endpoints[endpoint_id]
        for idx in [i for i, r in self._requests.items() if r.endpoint_id == endpoint_id]:
            del self._requests[idx]

    def add_worker(
        self, worker_id: int, endpoint_id: int, *, reqnum_base: int, url: str = ""
    ) -> None:
        """Know a worker; it is out of rotation until `set_available`. A second call does nothing.

        Args:
            worker_id: unique over all endpoints.
            endpoint_id: whose requests it serves.
            reqnum_base: its requests are numbered from here; above all that it was ever given.
            url: where clients reach it; taken from its reports otherwise.

        Raises:
            NotFoundError: when the endpoint is unknown.
        """
        endpoint = self._endpoint(endpoint_id)
        if worker_id not in self._workers:
            book = WorkerBook(worker_id, endpoint_id, reqnum_base, self._default_perf, url)
            self._workers[worker_id] = endpoint.workers[worker_id] = book

    def remove_worker(self, worker_id: int, now: float) -> list[Assigned]:
        """Forget a worker, and its load with it; no harm if it is unknown.

        Returns:
            Held requests that got another worker at once.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        worker.available = False
        given = self.restarted(worker_id, now)
        del self._workers[worker_id]
        del self._endpoints[worker.endpoint_id].workers[worker_id]
        return given

    def set_available(self, worker_id: int, available: bool, now: float) -> list[Assigned]:
        """Put a worker in rotation (ready, not draining, reporting), or take it out.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._workers.get(worker_id)
        if worker is None or worker.available == available:
            return []
        worker.available = available
        endpoint = self._endpoints[worker.endpoint_id]
        if available and worker.idle:
            worker.idle_since = now
        if not available:
            self._return_promised(worker, endpoint, now)
        return self._hand_out(endpoint, now)

    def restarted(self, worker_id: int, now: float) -> list[Assigned]:
        """A worker booted anew: what it had or was about to get is lost; no harm if unknown.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        endpoint = self._endpoints[worker.endpoint_id]
        self._return_promised(worker, endpoint, now)
        for request in [*worker.unseen.values(), *worker.working.values()]:
            self._end(request, worker, now)
        worker.reported, worker.reported_requests = 0.0, 0
        return self._hand_out(endpoint, now)

    # A request asks for a worker.

    def route(
        self,
        endpoint_id: int,
        cost: float,
        request_idx: int,
        replay_timeout: float,
        now: float,
        *,
        wait: float = 0.0,
    ) -> Assigned | Held:
        """Find a worker for a request, or hold it.

        Args:
            endpoint_id: what it asks for.
            cost: its load, checked by the caller (`stoker.wire.check_cost`).
            request_idx: 0 for a new request, else the number that it was given.
            replay_timeout: seconds for which it is held at most, counted from its first call.
            now: seconds; any clock that does not jump far.
            wait: seconds for which the client keeps waiting for this answer (long polling), so
                that it is not taken as gone.

        Raises:
            NotFoundError: when the endpoint is unknown.
            RouterFullError: when too many requests are held.
        """
        endpoint = self._endpoint(endpoint_id)
        endpoint.last_request_at = now
        poll_by = now + wait + self._poll_grace
        request = self._requests.get(request_idx) if request_idx > 0 else None
        if request is not None and request.endpoint_id != endpoint_id:
            request, request_idx = None, 0
        if request is not None and request.phase is Phase.HELD and request.deadline <= now:
            self._forget(request, now)  # Its time is over: it asks as one that has just come.
            request = None
        if request is not None and not request.answered and request.phase is not Phase.OVER:
            return self._poll(endpoint, request, poll_by, now)
        if request is None:
            # A number that we do not know, but that may have been given: the router was restarted,
            # or has forgotten. One that was not given yet would meet its owner some day.
            plausible = 0 < request_idx < self._next_idx
            request = Request(
                request_idx if plausible else self._take_idx(),
                endpoint_id,
                cost,
                now + replay_timeout,
                poll_by,
                endpoint.arrivals.add(cost, now),
            )
            self._requests[request.idx] = request
        else:
            self._release_for_retry(request, now)
            request.cost = cost
            request.deadline, request.poll_by = now + replay_timeout, poll_by
        return self._place(endpoint, request, now)

    def give_up(self, request_idx: int, now: float) -> None:
        """The client of a held request is gone; no harm if it is unknown or has its worker."""
        request = self._requests.get(request_idx)
        if request is not None and not request.answered and request.phase is not Phase.OVER:
            self._forget(request, now)
            self._hand_out(self._endpoints[request.endpoint_id], now)

    def hung_up(self, request_idx: int, now: float) -> None:
        """A client that waited on the line is gone: it has `poll_grace` to come back.

        No harm if the request is unknown or has its worker.
        """
        request = self._requests.get(request_idx)
        if request is not None and request.phase is Phase.HELD:
            # The queue looks at it when the request gets to its front (`_hand_out`, `tick`).
            request.poll_by = min(request.poll_by, now + self._poll_grace)

    # Workers tell.

    def report(self, worker_id: int, status: WorkerStatus, now: float) -> list[Assigned]:
        """Take a worker's own figures; no harm if it is unknown.

        `working_request_idxs` is to name every request whose load is in `cur_load`.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        was_idle = worker.idle
        worker.url = status.url or worker.url
        worker.perf = status.max_perf if status.max_perf > 0 else self._default_perf
        named = set(status.working_request_idxs)
        for idx in [i for i in worker.working if i not in named]:
            # It has gone without a finish, which may be lost or follow.
            self._end(worker.working[idx], worker, now)
        for idx in named:
            request = worker.unseen.get(idx)
            if request is not None:
                worker.see(request)
        worker.reported = max(0.0, status.cur_load)
        worker.reported_requests = max(0, status.num_requests_working)
        if worker.idle and not was_idle:
            worker.idle_since = now
        return self._hand_out(self._endpoints[worker.endpoint_id], now)

    def finished(
        self, worker_id: int, requests: Iterable[FinishedRequest], now: float
    ) -> list[Assigned]:
        """Take note that requests left a worker, whatever became of them.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._workers.get(worker_id)
        if worker is None:
            return []
        endpoint = self._endpoints[worker.endpoint_id]
        for one in requests:
            request = worker.unseen.get(one.request_idx) or worker.working.get(one.request_idx)
            if request is not None:
                endpoint.last_request_at = now
                self._end(request, worker, now)
        return self._hand_out(endpoint, now)

    def tick(self, now: float) -> list[Assigned]:
        """Forget what is due, and hand out what can be; call it a few times a second.

        Returns:
            Held requests that got a worker thereby.
        """
        while self._polls_due and self._polls_due[0][0] <= now:
            _, idx = heapq.heappop(self._polls_due)
            request = self._requests.get(idx)
            if request is None or request.answered or request.phase is Phase.OVER:
                continue
            held = request.phase is Phase.HELD
            due = min(request.deadline, request.poll_by) if held else request.poll_by
            if due <= now:
                self._forget(request, now)
            else:
                heapq.heappush(self._polls_due, (due, idx))
        self._expire(now)
        given: list[Assigned] = []
        for endpoint in self._endpoints.values():
            if endpoint.held:
                given += self._hand_out(endpoint, now)
        return given

    def _expire(self, now: float) -> None:
        while self._expiries and self._expiries[0][0] <= now:
            _, idx, reqnum = self._expiries.popleft()
            request = self._requests.get(idx)
            if request is None or request.reqnum != reqnum:
                continue
            if request.phase in (Phase.BOOKED, Phase.OVER):
                self._forget(request, now)

    # What others want to know.

    def demand(self, endpoint_id: int, now: float) -> Demand:
        """What is asked of an endpoint; costs as much as it has workers.

        Raises:
            NotFoundError: when it is unknown.
        """
        endpoint = self._endpoint(endpoint_id)
        mean, recent, peak = endpoint.arrivals.rates(now)
        workers = endpoint.workers.values()
        return Demand(
            arrival_rate=mean,
            recent_rate=recent,
            peak_rate=peak,
            held_load=endpoint.held.load,
            held_count=len(endpoint.held),
            booked_load=sum(worker.load for worker in workers),
            booked_count=sum(worker.requests for worker in workers),
            last_request_at=endpoint.last_request_at,
        )

    def worker(self, worker_id: int) -> WorkerView | None:
        """What the router knows of a worker."""
        worker = self._workers.get(worker_id)
        if worker is None:
            return None
        return WorkerView(
            worker.worker_id,
            worker.url,
            worker.available,
            worker.perf,
            worker.load,
            worker.requests,
            worker.idle_since,
        )

    def in_flight(self, worker_id: int, now: float) -> int:
        """Requests that a worker has or may still get; 0 if it is unknown."""
        self._expire(now)
        worker = self._workers.get(worker_id)
        return worker.requests if worker is not None else 0

    @property
    def known_requests(self) -> int:
        """Requests in memory: held, at work, or over for less than a ticket's lifetime."""
        return len(self._requests)

    def held(self, endpoint_id: int) -> list[int]:
        """The numbers of the requests that are held, the next one first."""
        return self._endpoint(endpoint_id).held.numbers()

    # Inside.

    def _endpoint(self, endpoint_id: int) -> EndpointBook:
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            raise NotFoundError(f"there is no endpoint {endpoint_id}")
        return endpoint

    def _take_idx(self) -> int:
        self._next_idx += 1
        return self._next_idx - 1

    def _place(self, endpoint: EndpointBook, request: Request, now: float) -> Assigned | Held:
        if endpoint.held:
            self._hand_out(endpoint, now)
        worker = None if endpoint.held else endpoint.choose(request)
        if worker is not None:
            request.answered = True
            return self._book(request, worker, now)
        if len(endpoint.held) >= self._max_held:
            self._forget(request, now)
            raise RouterFullError(
                f"{len(endpoint.held)} requests wait for a worker already: try again later"
            )
        self._turn += 1
        request.turn = self._turn
        self._hold(endpoint, request)
        return Held(request.idx, request.deadline, endpoint.endpoint_id)

    def _poll(
        self, endpoint: EndpointBook, request: Request, poll_by: float, now: float
    ) -> Assigned | Held:
        request.poll_by = poll_by
        if request.phase is Phase.HELD:
            self._hand_out(endpoint, now, asking=request)
        if request.phase is Phase.HELD or request.worker_id is None:
            return Held(request.idx, request.deadline, endpoint.endpoint_id)
        request.answered = True
        return self._answer(request)

    def _answer(self, request: Request) -> Assigned:
        assert request.worker_id is not None
        url = self._workers[request.worker_id].url
        at = request.expires - self._ticket_lifetime
        return Assigned(request.worker_id, url, request.cost, request.reqnum, request.idx, at)

    def _book(self, request: Request, worker: WorkerBook, now: float) -> Assigned:
        worker.book(request)
        self._turn += 1
        worker.last_turn = self._turn
        request.avoid = None
        request.expires = now + self._ticket_lifetime
        self._expiries.append((request.expires, request.idx, request.reqnum))
        return self._answer(request)

    def _hold(self, endpoint: EndpointBook, request: Request) -> None:
        request.phase, request.worker_id, request.answered = Phase.HELD, None, False
        endpoint.held.append(request)
        due = min(request.deadline, request.poll_by)
        heapq.heappush(self._polls_due, (due, request.idx))

    def _hand_out(
        self, endpoint: EndpointBook, now: float, *, asking: Request | None = None
    ) -> list[Assigned]:
        """Give workers to held requests, first come first served, until the first that finds none.

        `asking` is told by its own call, so not by `on_assigned`.
        """
        given: list[Assigned] = []
        while endpoint.held:
            request = endpoint.held.first
            if min(request.deadline, request.poll_by) <= now:
                self._forget(request, now)
                continue
            worker = endpoint.choose(request)
            if worker is None:
                break
            endpoint.held.remove(request)
            given.append(self._book(request, worker, now))
        if self.on_assigned is not None:
            for assigned in given:
                request = self._requests[assigned.request_idx]
                if request is not asking:
                    request.answered = self.on_assigned(assigned)
        return given

    def _end(self, request: Request, worker: WorkerBook, now: float) -> None:
        """It has left its worker; remembered for a while, in case it is retried."""
        worker.let_go(request, now)
        request.avoid = worker.worker_id
        if now >= request.expires:
            # The entry from its booking is used up: it worked for longer than a ticket lives.
            request.expires = now + self._ticket_lifetime
            self._expiries.append((request.expires, request.idx, request.reqnum))

    def _release_for_retry(self, request: Request, now: float) -> None:
        worker = self._workers.get(request.worker_id) if request.worker_id is not None else None
        if worker is not None and request.phase in (Phase.BOOKED, Phase.WORKING):
            worker.let_go(request, now)
        request.avoid = request.worker_id
        request.answered = False

    def _return_promised(self, worker: WorkerBook, endpoint: EndpointBook, now: float) -> None:
        promised = [request for request in worker.unseen.values() if not request.answered]
        for request in promised:
            worker.let_go(request, now)
            self._hold(endpoint, request)
        if promised:
            endpoint.held.sort()

    def _forget(self, request: Request, now: float) -> None:
        """Nobody waits for it any more."""
        endpoint = self._endpoints[request.endpoint_id]
        if request.phase is Phase.HELD:
            endpoint.held.remove(request)
            endpoint.arrivals.take_back(request.cost, request.arrived, now)
        elif request.worker_id in self._workers and request.phase is not Phase.OVER:
            self._workers[request.worker_id].let_go(request, now)
        self._requests.pop(request.idx, None)
