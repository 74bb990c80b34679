"""Random histories: what must hold whatever is lost, repeated, reordered or taken away."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from stoker.autoscaler.router import Assigned, Held, Router
from stoker.wire import FinishedRequest, WorkerStatus

ENDPOINT = 1
TICKET_LIFETIME = 60.0
POLL_GRACE = 15.0
REPLAY_TIMEOUT = 40.0
COSTS = st.sampled_from([0.0, 0.1, 10.0, 33.3, 150.0]) | st.floats(0, 200)


class SimulatedWorker:
    """What a worker knows of itself."""

    def __init__(self, perf: float, slots: int) -> None:
        self.perf, self.slots = perf, slots
        self.requests: dict[int, float] = {}

    def status(self, worker_id: int) -> WorkerStatus:
        return WorkerStatus(
            id=worker_id,
            mtoken="",
            url=f"http://worker-{worker_id}",
            cur_load=sum(self.requests.values()),
            max_perf=self.perf,
            num_requests_working=len(self.requests),
            working_request_idxs=list(self.requests),
            slots=self.slots,
        )


class RouterHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.router = Router(
            1,
            ticket_lifetime=TICKET_LIFETIME,
            poll_grace=POLL_GRACE,
            on_assigned=self.note_handed_out,
        )
        self.router.add_endpoint(ENDPOINT, max_queue_time=20.0)
        self.workers: dict[int, SimulatedWorker] = {}
        self.available: set[int] = set()
        self.next_worker = 1
        self.tickets: list[Assigned] = []
        self.held: list[int] = []
        self.reqnums: dict[int, int] = {}
        self.late_reports: list[tuple[int, WorkerStatus]] = []
        self.late_finishes: list[tuple[int, FinishedRequest]] = []
        self.turn = 0
        self.queued: dict[int, int] = {}
        """request_idx -> when it was held, in turns."""

    @initialize()
    def begin_with_two_workers(self) -> None:
        self.add_worker(10.0, 0)
        self.add_worker(1.0, 2)

    # What the router answers is checked wherever it comes from.

    def note_handed_out(self, answer: Assigned) -> bool:
        self.check(answer)
        turn = self.queued.get(answer.request_idx)
        if turn is not None:
            waiting = self.router.held(ENDPOINT)
            assert all(self.queued.get(idx, turn) >= turn for idx in waiting), "first come first"
        return False

    def route(self, cost: float, idx: int) -> Assigned | Held:
        waited = idx in self.router.held(ENDPOINT) and self.router.held(ENDPOINT)
        answer = self.router.route(ENDPOINT, cost, idx, REPLAY_TIMEOUT, self.now)
        held = self.router.held(ENDPOINT)
        if isinstance(answer, Held) and not (waited and held[-1] != answer.request_idx):
            self.queued[answer.request_idx] = self.turn
        self.turn += 1
        return answer

    def check(self, answer: Assigned) -> None:
        assert answer.worker_id in self.available
        known = self.reqnums.get(answer.worker_id, -1)
        assert answer.reqnum > known, "the numbers of a worker count up"
        self.reqnums[answer.worker_id] = answer.reqnum

    def take(self, answer: Assigned | Held) -> None:
        if isinstance(answer, Assigned):
            self.tickets.append(answer)
            if answer.request_idx in self.held:
                self.held.remove(answer.request_idx)
        elif answer.request_idx not in self.held:
            self.held.append(answer.request_idx)

    # What clients do.

    @rule(cost=COSTS)
    def ask(self, cost: float) -> None:
        waiting = self.router.held(ENDPOINT)
        answer = self.route(cost, 0)
        if isinstance(answer, Assigned):
            self.check(answer)
            assert not self.router.held(ENDPOINT), "nothing overtakes what is held"
        else:
            still = [idx for idx in waiting if idx in self.router.held(ENDPOINT)]
            assert self.router.held(ENDPOINT) == [*still, answer.request_idx]
        self.take(answer)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), cost=COSTS)
    def poll(self, data: st.DataObject, cost: float) -> None:
        idx = data.draw(st.sampled_from(self.held))
        known = idx in self.router.held(ENDPOINT)
        before = self.router.demand(ENDPOINT, self.now)
        answer = self.route(cost, idx)
        assert answer.request_idx == idx or answer.fresh
        if answer.request_idx != idx:
            self.held.remove(idx)
        after = self.router.demand(ENDPOINT, self.now)
        if known and idx in self.router.held(ENDPOINT):
            assert after.held_count <= before.held_count
            assert after.arrival_rate <= before.arrival_rate
        self.take(answer)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        in_flight = sum(self.router.in_flight(w, self.now) for w in self.workers)
        waiting = len(self.router.held(ENDPOINT))
        answer = self.route(ticket.cost, ticket.request_idx)
        self.take(answer)
        assert answer.request_idx == ticket.request_idx or answer.fresh
        total = sum(self.router.in_flight(w, self.now) for w in self.workers)
        total += len(self.router.held(ENDPOINT))
        assert total <= in_flight + waiting + 1, "a retried request counts once"

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), reports=st.booleans())
    def use_ticket(self, data: st.DataObject, reports: bool) -> None:
        ticket = data.draw(st.sampled_from(self.tickets))
        self.tickets.remove(ticket)
        worker = self.workers.get(ticket.worker_id)
        if worker is not None:
            worker.requests[ticket.request_idx] = ticket.cost
            if reports:
                status = worker.status(ticket.worker_id)
                self.router.report(ticket.worker_id, status, self.now)

    @rule()
    def stream(self) -> None:
        for worker in self.workers.values():
            worker.requests = {idx: cost / 2 for idx, cost in worker.requests.items()}

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        idx = data.draw(st.sampled_from(self.held))
        self.held.remove(idx)
        self.router.give_up(idx, self.now)

    # What workers do.

    @rule(perf=st.sampled_from([0.0, 1.0, 10.0, 50.0]), slots=st.sampled_from([0, 1, 3]))
    def add_worker(self, perf: float, slots: int) -> None:
        worker_id, self.next_worker = self.next_worker, self.next_worker + 1
        self.workers[worker_id] = SimulatedWorker(perf, slots)
        self.router.add_worker(worker_id, ENDPOINT, reqnum_base=worker_id * 10**6)
        self.router.report(worker_id, self.workers[worker_id].status(worker_id), self.now)
        self.available.add(worker_id)
        self.router.set_available(worker_id, True, self.now)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), after=st.none() | st.sampled_from([-30.0, 0.0, 3.0, 15.0]))
    def expect(self, data: st.DataObject, after: float | None) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        self.router.expect(worker_id, None if after is None else self.now + after, self.now)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), available=st.booleans())
    def set_available(self, data: st.DataObject, available: bool) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        (self.available.add if available else self.available.discard)(worker_id)
        self.router.set_available(worker_id, available, self.now)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), returns=st.booleans())
    def lose_worker(self, data: st.DataObject, returns: bool) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        self.available.discard(worker_id)
        if returns:
            self.workers[worker_id].requests.clear()
            self.router.set_available(worker_id, False, self.now)
            self.router.restarted(worker_id, self.now)
            assert self.router.in_flight(worker_id, self.now) == 0
        else:
            del self.workers[worker_id]
            self.router.remove_worker(worker_id, self.now)

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "lost", "late"]))
    def report(self, data: st.DataObject, fate: str) -> None:
        worker_id = data.draw(st.sampled_from(sorted(self.workers)))
        status = self.workers[worker_id].status(worker_id)
        if fate == "arrives":
            self.router.report(worker_id, status, self.now)
        elif fate == "late":
            self.late_reports.append((worker_id, status))

    @precondition(lambda self: self.late_reports)
    @rule(data=st.data(), again=st.booleans())
    def report_late(self, data: st.DataObject, again: bool) -> None:
        late = data.draw(st.sampled_from(self.late_reports))
        if not again:
            self.late_reports.remove(late)
        self.router.report(*late, self.now)

    @precondition(lambda self: any(w.requests for w in self.workers.values()))
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "lost", "late"]))
    def finish(self, data: st.DataObject, fate: str) -> None:
        busy = [worker_id for worker_id, w in self.workers.items() if w.requests]
        worker_id = data.draw(st.sampled_from(busy))
        idx = data.draw(st.sampled_from(sorted(self.workers[worker_id].requests)))
        del self.workers[worker_id].requests[idx]
        if fate == "arrives":
            self.router.finished(worker_id, [FinishedRequest(idx)], self.now)
        elif fate == "late":
            self.late_finishes.append((worker_id, FinishedRequest(idx)))

    @precondition(lambda self: self.late_finishes)
    @rule(data=st.data(), again=st.booleans())
    def finish_late(self, data: st.DataObject, again: bool) -> None:
        worker_id, request = data.draw(st.sampled_from(self.late_finishes))
        if not again:
            self.late_finishes.remove((worker_id, request))
        self.router.finished(worker_id, [request], self.now)

    @rule(seconds=st.sampled_from([0.0, 0.2, 1.0, 7.0, 20.0, 65.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.router.tick(self.now)

    # What always holds.

    @invariant()
    def load_is_never_negative(self) -> None:
        demand = self.router.demand(ENDPOINT, self.now)
        assert demand.held_load >= 0
        assert demand.arrival_rate >= 0
        assert demand.held_count == len(self.router.held(ENDPOINT))
        for worker_id in self.workers:
            view = self.router.worker(worker_id)
            assert view is not None
            assert view.load >= 0
            assert view.requests >= 0
            assert view.available == (worker_id in self.available)

    @invariant()
    def nothing_is_held_in_two_places(self) -> None:
        held = Counter(self.router.held(ENDPOINT))
        assert all(count == 1 for count in held.values())

    @invariant()
    def nothing_is_held_while_a_slot_is_free(self) -> None:
        views = [self.router.worker(worker_id) for worker_id in self.available]
        free = [one for one in views if one is not None and 0 <= one.requests < one.slots]
        assert not (free and self.router.held(ENDPOINT))

    def teardown(self) -> None:
        """However it went: when all is finished and reported, nothing is left."""
        self.now += max(TICKET_LIFETIME, POLL_GRACE, REPLAY_TIMEOUT)
        self.router.tick(self.now)
        for worker_id, worker in self.workers.items():
            worker.requests.clear()
            self.router.report(worker_id, worker.status(worker_id), self.now)
        self.now += TICKET_LIFETIME
        self.router.tick(self.now)
        demand = self.router.demand(ENDPOINT, self.now)
        assert (demand.held_count, demand.held_load) == (0, 0.0)
        assert (demand.booked_count, demand.booked_load) == (0, 0.0)
        assert self.router.known_requests == 0, "no request is remembered for ever"


TestRouterHistory = RouterHistory.TestCase
TestRouterHistory.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
