"""Which worker gets a request. Pure: no clock, no I/O.

Rules:

* A request goes to the available worker of its endpoint that would begin and finish it first,
  counting what is booked there already, and is booked at once (`stoker.autoscaler.ranking` says
  which that is; `...affinity` when another one is taken for the sake of its cache). Workers where
  it would begin after more than the endpoint's `max_queue_time` are left out, however large or
  small the request is: one that is too large for every worker is still served.
* When there is none, it is **held** in its endpoint's queue, and nothing overtakes it but what is
  due before it: first come first served within an API key, fair among keys (`...fairness`). Its
  client polls with the `request_idx`, or waits (see `on_assigned`).
* When there is one that would begin it later than a worker that is on its way, it is held as well
  (`...coming`), unless its time may be over before that.
* A cost is a claim: what is booked is what can be believed of it (`...claims`) until the worker has
  seen the request, and tells its own estimate. Bookings that are not used keep no other key out
  (`...shares`).
* A request belongs to the key that made it. Another key that asks by its number is answered as if
  there was none: with a request of its own, under a number of its own.
* A client that asks again before it was told of a worker polls: it gets the worker it was given.
  A client that was told and asks again **retries**: its ticket is used up or its worker failed it,
  so it gets another ticket, for another worker if there is one. (To repeat the old answer would
  send it back to the same worker with a ticket that is refused as replayed.) Neither adds load.
* Each ticket that can be used is booked. A worker takes one of the tickets of a request; where a
  retry is sent to another worker, the earlier ticket stays booked there until it expires. After
  `MAX_RETRIES`, or once it was served or is at work, who asks again makes a new request.
* A held request is forgotten at its deadline, or when its client stops polling. A booking that its
  worker never shows is dropped when its ticket expires (`...ledger`, where bookings are kept);
  a ticket lives from the moment that its client is told.
* A worker that leaves rotation gets nothing new. Requests that were promised to it and whose
  clients do not know yet go back to their place in the queue. Those whose clients know may still
  arrive there, so they stay booked: a drain waits for them. If it left because nothing was heard of
  it, they are over.

Each call costs O(log n) in the workers of an endpoint and the requests held, and a report in the
requests that it names.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence

from stoker.autoscaler.affinity import PATIENCE, CacheTable
from stoker.autoscaler.answers import Assigned, Held, RouterFullError
from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.booking import Phase, Request, WorkerBook, WorkerView
from stoker.autoscaler.choosing import EndpointBook
from stoker.autoscaler.coming import HORIZON, RESCUE
from stoker.autoscaler.ledger import Ledger
from stoker.autoscaler.pace import REPORT_DEADLINE
from stoker.tickets import LIFETIME
from stoker.wire import FinishedRequest, WorkerStatus

__all__ = ["TICKET_LIFETIME", "Assigned", "Held", "Router", "RouterFullError"]

TICKET_LIFETIME = LIFETIME
"""Seconds for which a client may show its ticket, and for which its booking is kept for it."""

JUDGE_EVERY = 1.0
"""Seconds between two looks at all that waits, where what is believed of claims has changed."""

MAX_RETRIES = 3
"""Tickets under one number after the first."""


class Router:
    """Assigns requests to workers, and holds those for which there is none."""

    def __init__(
        self,
        first_request_idx: int = 1,
        *,
        ticket_lifetime: float = TICKET_LIFETIME,
        poll_grace: float = 15.0,
        max_held: int = 10_000,
        default_perf: float = 1.0,
        silence: float = REPORT_DEADLINE,
        affinity_patience: float = PATIENCE,
        on_assigned: Callable[[Assigned], bool] | None = None,
    ) -> None:
        """Make a router without endpoints.

        Args:
            first_request_idx: numbers count up from here; above all that an earlier router gave.
            ticket_lifetime: seconds for which a worker may take a request after its client was
                told of it.
            poll_grace: seconds after which a held request is forgotten unless it is polled for.
            max_held: requests held per endpoint and key, at most; see `...fairness` for
                the bound on all keys.
            default_perf: load units per second of a worker that has not told its perf.
            silence: seconds without a report after which a worker that is taken out of rotation is
                taken as lost.
            affinity_patience: seconds that a request may finish later for a cache.
            on_assigned: called when a held request gets a worker, unless the call that returns it
                is its own `route`. The answer says whether the client was told (it waited); if
                not, its next poll gets the worker. It must not call the router.
        """
        self._next_idx = max(1, first_request_idx)
        self._ticket_lifetime = ticket_lifetime
        self._poll_grace = poll_grace
        self._max_held = max_held
        self.on_assigned = on_assigned
        self._caches = CacheTable(patience=affinity_patience)
        self._ledger = Ledger(
            ticket_lifetime=ticket_lifetime,
            silence=silence,
            default_perf=default_perf,
            caches=self._caches,
        )
        self._polls_due: list[tuple[float, int, Request]] = []  # heap of (when, order, request)
        self._order = 0

    # Endpoints and workers come and go.

    def add_endpoint(self, endpoint_id: int, *, max_queue_time: float) -> None:
        """Start to route for an endpoint; a second call updates it."""
        if endpoint_id in self._ledger.endpoints:
            self.update_endpoint(endpoint_id, max_queue_time=max_queue_time)
        else:
            book = EndpointBook(endpoint_id, max_queue_time, self._caches)
            self._ledger.endpoints[endpoint_id] = book

    def update_endpoint(self, endpoint_id: int, *, max_queue_time: float) -> None:
        """Change the expected wait, in seconds, above which a worker gets no more.

        Raises:
            NotFoundError: when it is unknown.
        """
        self._ledger.endpoint(endpoint_id).max_queue_time = max_queue_time

    def remove_endpoint(self, endpoint_id: int, now: float) -> None:
        """Forget an endpoint with its workers and requests; no harm if it is unknown."""
        endpoint = self._ledger.endpoints.get(endpoint_id)
        if endpoint is None:
            return
        for worker in list(endpoint.workers.values()):
            self._ledger.remove_worker(worker, now)
        del self._ledger.endpoints[endpoint_id]
        requests, aliases = self._ledger.requests, self._ledger.aliases
        for idx in [i for i, r in requests.items() if r.endpoint_id == endpoint_id]:
            del requests[idx]
        for name in [name for name, idx in aliases.items() if idx not in requests]:
            del aliases[name]

    def expect_perf(self, endpoint_id: int, perf: float) -> None:
        """What a worker of an endpoint will do while it has none; no harm if it is unknown.

        Args:
            endpoint_id: the endpoint.
            perf: load units per second; 0: not known.
        """
        endpoint = self._ledger.endpoints.get(endpoint_id)
        if endpoint is not None:
            endpoint.group_perf = perf

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
        self._ledger.add_worker(worker_id, self._ledger.endpoint(endpoint_id), reqnum_base, url)

    def remove_worker(self, worker_id: int, now: float) -> list[Assigned]:
        """Forget a worker, and its load with it; no harm if it is unknown.

        Returns:
            Held requests that got another worker at once.
        """
        worker = self._ledger.workers.get(worker_id)
        if worker is None:
            return []
        endpoint = self._leave(worker, now)
        self._ledger.remove_worker(worker, now)
        return self._hand_out(endpoint, now)

    def expect(self, worker_id: int, at: float | None, now: float) -> list[Assigned]:
        """Say when a worker that boots or starts will be ready; no harm if it is unknown.

        It is expected until requests can be sent to it, or it is removed.

        Args:
            worker_id: which.
            at: the moment that is expected, on the clock of `now`; None: it does not come.
            now: seconds.

        Returns:
            Held requests that got a worker thereby: it is no use to wait for this one.
        """
        worker = self._ledger.workers.get(worker_id)
        if worker is None:
            return []
        endpoint = self._ledger.endpoint_of(worker)
        if worker.in_rotation or not endpoint.expect(worker_id, at):
            return []
        return self._hand_out(endpoint, now)

    def set_available(self, worker_id: int, available: bool, now: float) -> list[Assigned]:
        """Put a worker in rotation (ready, not draining, reporting), or take it out.

        One that is taken out after a silence is taken as lost, see `Router`'s `silence`.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._ledger.workers.get(worker_id)
        if worker is None:
            return []
        silent = not available and self._ledger.is_silent(worker, now)
        if worker.available == available and not silent:
            return []
        if not available:
            endpoint = self._leave(worker, now)
            if silent:
                self._ledger.lose(worker, now)
        else:
            worker.available = True
            if worker.idle:
                worker.idle_since = now
            endpoint = self._ledger.endpoint_of(worker)
            endpoint.settle(worker)
        return self._hand_out(endpoint, now)

    def restarted(self, worker_id: int, now: float) -> list[Assigned]:
        """A worker booted anew: what it had or was about to get is lost; no harm if unknown.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._ledger.workers.get(worker_id)
        if worker is None:
            return []
        endpoint = self._return_promised(worker, now)
        self._ledger.lose(worker, now)
        self._caches.boot(worker)
        return self._hand_out(endpoint, now)

    # A request asks for a worker.

    def route(
        self,
        endpoint_id: int,
        cost: float | None,
        request_idx: int,
        replay_timeout: float,
        now: float,
        *,
        wait: float = 0.0,
        key: str = "",
        affinity: Sequence[str] = (),
        path: str = "",
    ) -> Assigned | Held:
        """Find a worker for a request, or hold it.

        Args:
            endpoint_id: what it asks for.
            cost: the load that its client claims, checked by the caller (`stoker.wire.check_cost`);
                None: it says nothing.
            request_idx: 0 for a new request, else the number that it was given.
            replay_timeout: seconds for which it is held at most, counted from its first call.
            now: seconds; any clock that does not jump far.
            wait: seconds for which the client keeps waiting for this answer (long polling), so
                that it is not taken as gone.
            key: who asks, by a short id: owns the request, and has a fair share.
            affinity: names for what it shares with others (a session, or a growing prefix, the
                shortest first), checked by the caller (`stoker.wire.check_affinity`).
            path: of the worker's routes, the one that it is for; "": not known.

        Raises:
            NotFoundError: when the endpoint is unknown.
            RouterFullError: when too many requests are held.
        """
        endpoint = self._ledger.endpoint(endpoint_id)
        endpoint.last_request_at = now
        poll_by = now + wait + self._poll_grace
        request = self._find(endpoint_id, key, request_idx) if request_idx > 0 else None
        idx = 0
        if request is not None and request.phase is Phase.HELD and request.deadline <= now:
            self._ledger.forget(request, now)  # Its time is over: it asks as one just come.
            idx, request = request.idx, None
        if request is not None and not request.answered and request.phase is not Phase.OVER:
            return self._poll(endpoint, request, poll_by, now)
        names = self._caches.names(endpoint_id, affinity) if affinity else ()
        believed = endpoint.beliefs.believed(cost, key=key, route=path, perf=endpoint.perf)
        earlier = None
        if request is not None:
            if request.phase is Phase.WORKING or request.served or request.retries >= MAX_RETRIES:
                request = None
            elif request.phase is Phase.BOOKED:
                earlier = request
        fresh = request is None
        if request is None or earlier is not None:
            request = Request(
                earlier.idx if earlier is not None else idx or self._take_idx(),
                endpoint_id,
                believed,
                now + replay_timeout,
                poll_by,
                key=key,
                affinity=names,
                claim=cost,
                route=path,
            )
            if earlier is not None:
                self._ledger.leave_behind(earlier, request)
            elif request_idx not in (0, request.idx):
                # Its client may go on to ask by the number that it has.
                self._ledger.name(request, request_idx)
            self._ledger.requests[request.idx] = request
        else:
            request.avoid, request.answered = request.worker_id, False
            request.cost, request.affinity = believed, names
            request.claim, request.route, request.estimate = cost, path, None
            request.deadline, request.poll_by = now + replay_timeout, poll_by
            request.retries += 1
        self._place(endpoint, request, now)
        if earlier is not None and earlier.phase is Phase.BOOKED:
            fresh = True  # There are two tickets that can be used, at two workers.
        return self._answer(request, fresh=fresh)

    def _find(self, endpoint_id: int, key: str, request_idx: int) -> Request | None:
        """The request that a client means by a number; None where it has none of that number."""
        ledger = self._ledger
        request = ledger.requests.get(ledger.aliases.get((key, request_idx), request_idx))
        if request is None or request.key != key or request.endpoint_id != endpoint_id:
            return None
        return request

    def give_up(self, request_idx: int, now: float) -> None:
        """The client of a held request is gone; no harm if it is unknown or has its worker."""
        request = self._ledger.requests.get(request_idx)
        if request is not None and not request.answered and request.phase is not Phase.OVER:
            self._ledger.forget(request, now)
            self._hand_out(self._ledger.endpoints[request.endpoint_id], now)

    def hung_up(self, request_idx: int, now: float) -> None:
        """A client that waited on the line is gone: it has `poll_grace` to come back.

        No harm if the request is unknown or has its worker.
        """
        request = self._ledger.requests.get(request_idx)
        if request is not None and request.phase is Phase.HELD:
            # The queue looks at it when the request gets to its front (`_hand_out`, `tick`).
            request.poll_by = min(request.poll_by, now + self._poll_grace)

    # Workers tell.

    def is_outdated(self, worker_id: int, status: WorkerStatus) -> bool:
        """Whether a report comes from a boot of the worker that has ended: then it says nothing.

        To be asked once for each report, as a boot that goes on reporting has not ended.
        """
        return self._ledger.is_outdated(worker_id, status.boot_id)

    def report(self, worker_id: int, status: WorkerStatus, now: float) -> list[Assigned]:
        """Take a worker's own figures; no harm if it is unknown, or the report `is_outdated`.

        `working_request_idxs` is to name every request whose load is in `cur_load`.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._ledger.workers.get(worker_id)
        if worker is None or self._ledger.is_outdated(worker_id, status.boot_id):
            return []
        self._ledger.report(worker, status, now)
        return self._hand_out(self._ledger.endpoint_of(worker), now)

    def finished(
        self, worker_id: int, requests: Iterable[FinishedRequest], now: float
    ) -> list[Assigned]:
        """Take note that requests left a worker, whatever became of them.

        Returns:
            Held requests that got a worker thereby.
        """
        worker = self._ledger.workers.get(worker_id)
        if worker is None:
            return []
        endpoint = self._ledger.endpoint_of(worker)
        if self._ledger.finished(worker, requests, now):
            endpoint.last_request_at = now
        return self._hand_out(endpoint, now)

    def tick(self, now: float) -> list[Assigned]:
        """Forget what is due, and hand out what can be; call it a few times a second.

        Returns:
            Held requests that got a worker thereby.
        """
        given: list[Assigned] = []
        while self._polls_due and self._polls_due[0][0] <= now:
            when, _, request = heapq.heappop(self._polls_due)
            if request.watched != when:
                continue  # it has been watched for something earlier
            request.watched = math.inf
            known = self._ledger.requests.get(request.idx) is request
            if not known or request.answered or request.phase is Phase.OVER:
                continue
            if request.phase is Phase.HELD and min(request.deadline, request.poll_by) > now:
                given += self._rescue(request, now)
                if request.answered:
                    continue
            due = self._due(request, now)
            if due <= now:
                if request.phase is not Phase.HELD:
                    self._ledger.unused(request, now)
                self._ledger.forget(request, now)
            else:
                self._watch(request, due)
        self._ledger.expire(now)
        for endpoint in self._ledger.endpoints.values():
            if endpoint.held:
                self._judge_held(endpoint, now)
                given += self._hand_out(endpoint, now)
        return given

    # What others want to know.

    def demand(self, endpoint_id: int, now: float) -> Demand:
        """What is asked of an endpoint.

        Raises:
            NotFoundError: when it is unknown.
        """
        endpoint = self._ledger.endpoint(endpoint_id)
        mean, recent, peak = endpoint.arrivals.rates(now)
        return Demand(
            arrival_rate=mean,
            recent_rate=recent,
            peak_rate=peak,
            held_load=endpoint.held.load,
            held_count=len(endpoint.held),
            booked_load=endpoint.booked_load,
            overstated_load=endpoint.overstated_load,
            booked_count=endpoint.booked_count,
            last_request_at=endpoint.last_request_at,
            arrived_load=endpoint.arrivals.total_load,
            arrived_count=endpoint.arrivals.total_count,
            second=endpoint.arrivals.second,
            arrived=endpoint.arrivals.arrived,
            revisions=endpoint.arrivals.revisions,
            revised=endpoint.arrivals.revised,
            seen=endpoint.seen,
        )

    def worker(self, worker_id: int) -> WorkerView | None:
        """What the router knows of a worker."""
        worker = self._ledger.workers.get(worker_id)
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
            worker.slots,
        )

    def set_url(self, worker_id: int, url: str) -> None:
        """Requests are sent to a worker by another URL from now on; empty: by none."""
        worker = self._ledger.workers.get(worker_id)
        if worker is not None:
            worker.url = url

    def in_flight(self, worker_id: int, now: float) -> int:
        """Requests that a worker has or may still get; 0 if it is unknown."""
        self._ledger.expire(now)
        worker = self._ledger.workers.get(worker_id)
        return worker.requests if worker is not None else 0

    @property
    def known_requests(self) -> int:
        """Requests in memory: held, at work, or over for less than a ticket's lifetime."""
        return len(self._ledger.requests)

    def held(self, endpoint_id: int) -> list[int]:
        """The numbers of the requests that are held, the next one first."""
        return self._ledger.endpoint(endpoint_id).held.numbers()

    # Inside.

    def _take_idx(self) -> int:
        self._next_idx += 1
        return self._next_idx - 1

    def _place(self, endpoint: EndpointBook, request: Request, now: float) -> None:
        if endpoint.held:
            self._hand_out(endpoint, now)
        worker = None
        if not endpoint.held:
            worker = endpoint.choose(request, now) or endpoint.make_room(request, now)
        if worker is not None:
            request.answered = True
            self._ledger.book(request, worker, now)
            return
        if endpoint.held.room(request.key, self._max_held) <= 0:
            waiting = endpoint.held.held_by(request.key) or len(endpoint.held)
            self._ledger.forget(request, now)
            raise RouterFullError(f"{waiting} requests wait for a worker already: try again later")
        self._ledger.turn += 1
        request.turn = self._ledger.turn
        self._hold(request, now)
        endpoint.held.append(request)
        if request.counted is None:
            request.arrived = endpoint.arrivals.add(request.cost, now)
            request.counted = request.cost
        if endpoint.shares.old(now):
            # It may be entitled to a worker that those who wait before it are not.
            self._hand_out(endpoint, now, asking=request)
        if endpoint.coming.times and request.phase is Phase.HELD:
            self._rescue(request, now, asking=request)
        if request.phase is Phase.BOOKED:
            self._tell(request, now)

    def _poll(
        self, endpoint: EndpointBook, request: Request, poll_by: float, now: float
    ) -> Assigned | Held:
        request.poll_by = poll_by
        if request.phase is Phase.HELD:
            self._hand_out(endpoint, now, asking=request)
        if request.phase is not Phase.HELD:
            self._tell(request, now)
        return self._answer(request)

    def _tell(self, request: Request, now: float) -> None:
        """The client of a promised request has come to ask."""
        request.answered = True
        self._ledger.lend(request, now)

    def _answer(self, request: Request, *, fresh: bool = False) -> Assigned | Held:
        if request.worker_id is None:
            return Held(request.idx, request.deadline, request.endpoint_id, request.cost, fresh)
        return self._assigned(request, self._ledger.workers[request.worker_id], fresh=fresh)

    def _assigned(self, request: Request, worker: WorkerBook, *, fresh: bool = False) -> Assigned:
        return Assigned(
            worker.worker_id,
            worker.url,
            request.cost,
            request.reqnum,
            request.idx,
            request.expires - self._ticket_lifetime,
            fresh,
        )

    def _hold(self, request: Request, now: float) -> None:
        request.phase, request.worker_id, request.answered = Phase.HELD, None, False
        self._watch(request, self._due(request, now))

    def _due(self, request: Request, now: float) -> float:
        """When a request that waits, or whose client does not know of its worker, is looked at."""
        if request.phase is not Phase.HELD:
            return request.poll_by
        rescue = request.deadline - RESCUE
        return min(rescue if rescue > now else request.deadline, request.poll_by)

    def _rescue(
        self, request: Request, now: float, *, asking: Request | None = None
    ) -> list[Assigned]:
        """Give a worker to a held request whose time may be over before that which comes.

        Those before it in the queue would rather wait: so it takes nothing that they want.
        """
        endpoint = self._ledger.endpoints[request.endpoint_id]
        seconds = endpoint.coming.seconds(now)
        if seconds > HORIZON or not endpoint.is_urgent(request, seconds, now):
            return []
        worker = endpoint.choose(request, now)
        if worker is None:
            return []
        given = [self._give(endpoint, request, worker, now)]
        self._announce(given, asking, now)
        return given

    def _watch(self, request: Request, due: float) -> None:
        if due < request.watched:
            request.watched = due
            self._order += 1
            heapq.heappush(self._polls_due, (due, self._order, request))

    def _hand_out(
        self, endpoint: EndpointBook, now: float, *, asking: Request | None = None
    ) -> list[Assigned]:
        """Give workers to held requests, each in its turn, until the first that finds none.

        `asking` is told by its own call, so not by `on_assigned`.
        """
        given: list[Assigned] = []
        held = endpoint.held
        while held:
            request = held.first
            if min(request.deadline, request.poll_by) <= now:
                self._ledger.forget(request, now)
                continue
            worker = endpoint.choose(request, now) or endpoint.make_room(request, now)
            if worker is None and endpoint.shares.old(now):
                request, worker = self._entitled(endpoint, request, now)
            if worker is None:
                break
            given.append(self._give(endpoint, request, worker, now))
        self._announce(given, asking, now)
        return given

    def _give(
        self, endpoint: EndpointBook, request: Request, worker: WorkerBook, now: float
    ) -> Assigned:
        endpoint.held.take(request)
        self._ledger.book(request, worker, now)
        return self._assigned(request, worker)

    def _announce(self, given: list[Assigned], asking: Request | None, now: float) -> None:
        if self.on_assigned is None:
            return
        for assigned in given:
            request = self._ledger.requests[assigned.request_idx]
            if request is not asking and self.on_assigned(assigned):
                request.answered = True
                self._ledger.lend(request, now)

    def _judge_held(self, endpoint: EndpointBook, now: float) -> None:
        """What waits was believed to be what was known when it came."""
        if now - endpoint.judged_at < JUDGE_EVERY or not endpoint.beliefs.calibration.moved():
            return
        endpoint.judged_at = now
        changed = endpoint.held.judge(
            lambda one: endpoint.beliefs.believed(
                one.claim, key=one.key, route=one.route, perf=endpoint.perf
            )
        )
        for request, change in changed:
            if request.counted is not None:
                endpoint.arrivals.revise(change, request.arrived, now)
                request.counted += change

    def _entitled(
        self, endpoint: EndpointBook, first: Request, now: float
    ) -> tuple[Request, WorkerBook | None]:
        """Of the other keys whose requests wait, one for which there is room if it is made.

        `first` is next, and there is none for it: its key has too many unused bookings itself.
        """
        for request in endpoint.held.others(first.key):
            if min(request.deadline, request.poll_by) > now:
                worker = endpoint.make_room(request, now)
                if worker is not None:
                    return request, worker
        return first, None

    def _leave(self, worker: WorkerBook, now: float) -> EndpointBook:
        """Out of rotation; what its clients do not know of goes back to the queue."""
        worker.available = False
        endpoint = self._return_promised(worker, now)
        endpoint.settle(worker)
        return endpoint

    def _return_promised(self, worker: WorkerBook, now: float) -> EndpointBook:
        endpoint = self._ledger.endpoint_of(worker)
        for request in list(worker.has.values()):
            if request.answered or request.phase is not Phase.BOOKED:
                continue
            worker.let_go(request, now)
            self._hold(request, now)
            endpoint.held.give_back(request)
        return endpoint
