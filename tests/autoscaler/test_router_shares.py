"""One key does its worst, another asks for what it needs: what can the first take from it?

Both are served by workers with the real check of tickets. Workers report each second, as ours do.
Another worker is said to be on its way, now and then, and never comes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.autoscaler.coming import HORIZON, MARGIN
from stoker.autoscaler.router import Assigned, Held, Router
from stoker.autoscaler.shares import GRACE
from stoker.errors import TicketError
from stoker.sizes import COLD_SECONDS, FAR
from stoker.tickets import LIFETIME, Claims, TicketVerifier, mint
from stoker.wire import AuthData, FinishedRequest, WorkerStatus

ENDPOINT, PERF, QUEUE = 1, 10.0, 30.0
NEVER_COMES = 99
CLAIMS = st.sampled_from([0.0, 1e-9, 10.0, 100.0, 1e9, None])
LARGEST = 100.0
"""Load units of the largest request that is ever sent."""


@dataclass
class Worker:
    worker_id: int
    verifier: TicketVerifier
    left: dict[int, float] = field(default_factory=dict)
    """request_idx -> load units that are not served yet."""
    estimates: dict[int, float] = field(default_factory=dict)
    ended: list[FinishedRequest] = field(default_factory=list)
    told: float = 0.0
    """Load of the last report."""

    def report(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.worker_id,
            mtoken="",
            url=f"http://worker-{self.worker_id}",
            cur_load=sum(self.left.values()),
            max_perf=PERF,
            num_requests_working=len(self.left),
            working_request_idxs=list(self.left),
            working_loads=[self.estimates[idx] for idx in self.left],
            slots=1,
        )


class Rivals(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.router = Router(1, on_assigned=self.handed_out)
        self.router.add_endpoint(ENDPOINT, max_queue_time=QUEUE)
        self.workers: dict[int, Worker] = {}
        self.owner: dict[int, str] = {}
        """request_idx -> key."""
        self.told: list[tuple[Assigned, float]] = []
        """Tickets of the bad key that it may use, and when it got them."""
        self.unseen: dict[tuple[int, int], tuple[str, float, float]] = {}
        """(worker, reqnum) -> key, load and moment of what is booked and was not shown."""
        self.waiting: dict[str, list[int]] = {"bad": [], "good": []}
        self.counted: Counter[int] = Counter()
        self.used: Counter[int] = Counter()
        """How often a request was counted as come, and taken by a worker, by request_idx."""

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        for worker_id in range(1, count + 1):
            self.workers[worker_id] = Worker(worker_id, TicketVerifier(b"key", worker_id, ""))
            self.router.add_worker(worker_id, ENDPOINT, reqnum_base=0)
            self.router.report(worker_id, self.workers[worker_id].report(), self.now)
            self.router.set_available(worker_id, True, self.now)
        self.router.add_worker(NEVER_COMES, ENDPOINT, reqnum_base=0)
        self.expected: float | None = None

    # What clients are told.

    def handed_out(self, answer: Assigned) -> bool:
        self.take(answer)
        return True

    def take(self, answer: Assigned) -> None:
        key = self.owner[answer.request_idx]
        if answer.request_idx in self.waiting[key]:
            self.waiting[key].remove(answer.request_idx)
        self.unseen[answer.worker_id, answer.reqnum] = (key, answer.cost, self.now)
        if key == "bad":
            self.told.append((answer, self.now))
        else:
            assert self.use(answer, min(answer.cost or 1.0, LARGEST)), "the good key's is good"

    def ask(self, key: str, claim: float | None, idx: int = 0) -> Assigned | Held:
        answer = self.router.route(ENDPOINT, claim, idx, 600.0, self.now, wait=600.0, key=key)
        known = self.owner.setdefault(answer.request_idx, key)
        assert known == key, "a request belongs to the key that made it"
        self.counted[answer.request_idx] += answer.fresh
        if isinstance(answer, Assigned):
            self.take(answer)
        elif answer.request_idx not in self.waiting[key]:
            self.waiting[key].append(answer.request_idx)
        assert answer.cost <= max(COLD_SECONDS * PERF, 2 * FAR * LARGEST), "no claim is boundless"
        return answer

    def use(self, ticket: Assigned, load: float) -> bool:
        """Send the request; whether the worker takes it."""
        worker = self.workers[ticket.worker_id]
        expires_ms = int((ticket.assigned_at + LIFETIME) * 1000)
        idx, reqnum, cost = ticket.request_idx, ticket.reqnum, ticket.cost
        made = mint(b"key", Claims(ticket.worker_id, "", "e", idx, reqnum, cost, expires_ms))
        auth = AuthData("u", "", "e", cost, reqnum, idx, made)
        try:
            worker.verifier.verify(auth, self.now)
        except TicketError:
            return False
        worker.left[idx] = worker.estimates[idx] = load
        self.used[idx] += 1
        return True

    # What the bad key does.

    @rule(claim=CLAIMS, times=st.sampled_from([1, 5, 40]))
    def bad_books(self, claim: float | None, times: int) -> None:
        for _ in range(times):
            self.ask("bad", claim)

    @precondition(lambda self: self.told)
    @rule(data=st.data(), claim=CLAIMS, times=st.integers(1, 6))
    def bad_retries(self, data: st.DataObject, claim: float | None, times: int) -> None:
        ticket, _ = data.draw(st.sampled_from(self.told))
        for _ in range(times):
            self.ask("bad", claim, ticket.request_idx)

    @precondition(lambda self: self.told)
    @rule(load=st.sampled_from([0.0, 10.0, LARGEST]), count=st.integers(1, 10))
    def bad_uses_tickets(self, load: float, count: int) -> None:
        for _ in range(min(count, len(self.told))):
            self.use(self.told.pop(0)[0], load)

    @precondition(lambda self: any(w.left for w in self.workers.values()))
    @rule()
    def bad_cancels(self) -> None:
        for worker in self.workers.values():
            for idx in [idx for idx in worker.left if self.owner[idx] == "bad"]:
                del worker.left[idx]
                worker.ended.append(FinishedRequest(idx, False, "Cancelled"))

    @rule(claim=CLAIMS, number=st.integers(1, 60))
    def bad_asks_by_a_number_that_may_be_another_keys(
        self, claim: float | None, number: int
    ) -> None:
        if self.owner.get(number) == "bad":
            return
        place = self.router.held(ENDPOINT)
        held = [idx for idx in place if self.owner[idx] == "good"]
        self.ask("bad", claim, number)  # it gets one of its own, whether there is such a one or not
        after = self.router.held(ENDPOINT)
        assert [idx for idx in after if idx in held] == [idx for idx in held if idx in after]

    @precondition(lambda self: self.waiting["bad"])
    @rule()
    def bad_gives_up(self) -> None:
        self.router.give_up(self.waiting["bad"].pop(), self.now)

    # What the good key does.

    @rule(cost=st.sampled_from([1.0, 50.0]))
    def good_asks(self, cost: float) -> None:
        if self.waiting["good"]:
            return
        answer = self.ask("good", cost)
        if isinstance(answer, Assigned):
            return
        if self.expected is not None:
            begins = min(self.begins_after(worker) for worker in self.workers.values())
            after = abs(self.expected - self.now)
            if after <= HORIZON and begins > after + MARGIN - 1e-6:
                return  # it is held for the worker on its way
        capacity = sum(PERF * QUEUE for _ in self.workers)
        # What was cancelled since the last report is not known to be gone yet.
        real = sum(max(w.told, sum(w.left.values())) for w in self.workers.values())
        old = [load for _, load, at in self.unseen.values() if at <= self.now - GRACE]
        young = [load for _, load, at in self.unseen.values() if at > self.now - GRACE]
        taken = real + sum(young) + min(sum(old), capacity / 2)
        assert taken > capacity - 1e-6, "what a key has not claimed is its own"

    def begins_after(self, worker: Worker) -> float:
        """Seconds of work that a worker has, or that clients may still mean to bring."""
        young = [
            load
            for (worker_id, _), (_, load, at) in self.unseen.items()
            if worker_id == worker.worker_id and at > self.now - GRACE
        ]
        return (max(worker.told, sum(worker.left.values())) + sum(young)) / PERF

    @rule(after=st.sampled_from([None, -1.0, 0.0, 1.0, 2.0, 10.0]))
    def a_worker_is_on_its_way(self, after: float | None) -> None:
        self.expected = None if after is None else self.now + after
        self.router.expect(NEVER_COMES, self.expected, self.now)

    # Time passes.

    @rule(seconds=st.sampled_from([1, 1, 3, 11]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            for worker in self.workers.values():
                self.serve(worker)
                worker.told = sum(worker.left.values())
                self.router.report(worker.worker_id, worker.report(), self.now)
                ended, worker.ended = worker.ended, []
                self.router.finished(worker.worker_id, ended, self.now)
            self.router.tick(self.now)
            self.forget_what_was_shown()

    def serve(self, worker: Worker) -> None:
        left = PERF
        for idx in list(worker.left):
            done = min(left, worker.left[idx])
            worker.left[idx] -= done
            left -= done
            if worker.left[idx] <= 0:
                del worker.left[idx]
                worker.ended.append(FinishedRequest(idx, load=worker.estimates[idx]))

    def forget_what_was_shown(self) -> None:
        booked = {
            (request.worker_id, request.reqnum)
            for worker in self.router._ledger.workers.values()
            for request in worker.has.values()
            if request.phase.value == "booked"
        }
        self.unseen = {ticket: one for ticket, one in self.unseen.items() if ticket in booked}

    # What always holds.

    @invariant()
    def what_a_worker_takes_was_counted(self) -> None:
        assert all(self.used[idx] <= self.counted[idx] for idx in self.used)

    @invariant()
    def bookings_last_no_longer_than_tickets(self) -> None:
        for worker in self.router._ledger.workers.values():
            for request in worker.has.values():
                booked = request.phase.value == "booked"
                assert not (booked and request.expires < self.now - 1.0)

    def teardown(self) -> None:
        """Nothing of it stays: the good key finds all workers free."""
        while self.waiting["bad"]:
            self.bad_gives_up()
        for _ in range(4):  # what the good key had waiting may come to a worker meanwhile
            for worker in self.workers.values():
                worker.left.clear()
            self.time_passes(11)
        if not self.waiting["good"] and self.workers:
            assert isinstance(self.ask("good", 1.0), Assigned)


TestRivals = Rivals.TestCase
TestRivals.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
