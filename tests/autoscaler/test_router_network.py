"""Workers behind a network that loses, delays, repeats and reorders what they tell, and the truth.

The model knows what every worker really has. The router hears of it through messages that may
arrive in any order, twice, or never.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.autoscaler.router import Assigned, Router
from stoker.wire import FinishedRequest, WorkerStatus

ENDPOINT = 1
TICKET_LIFETIME = 60.0
COSTS = st.sampled_from([0.0, 0.5, 10.0, 300.0])


@dataclass
class TrueWorker:
    """What is really the case at a worker."""

    worker_id: int
    slots: int
    boot: int = 1
    left: dict[int, float] = field(default_factory=dict)
    """request_idx -> load units that are not served yet."""

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.worker_id,
            mtoken="",
            url=f"http://worker-{self.worker_id}",
            cur_load=sum(self.left.values()),
            max_perf=10.0,
            num_requests_working=len(self.left),
            working_request_idxs=list(self.left),
            boot_id=f"boot-{self.worker_id}-{self.boot}",
            slots=self.slots,
        )


class Network(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.router = Router(1, ticket_lifetime=TICKET_LIFETIME, on_assigned=self.hand_out)
        self.router.add_endpoint(ENDPOINT, max_queue_time=60.0)
        self.workers: dict[int, TrueWorker] = {}
        self.known_boots: dict[int, str] = {}
        self.messages: list[WorkerStatus | tuple[int, FinishedRequest]] = []
        self.tickets: list[tuple[float, Assigned]] = []

    @initialize(slots=st.sampled_from([0, 2]))
    def begin(self, slots: int) -> None:
        for worker_id in (1, 2, 3):
            self.workers[worker_id] = TrueWorker(worker_id, slots)
            self.router.add_worker(worker_id, ENDPOINT, reqnum_base=0)
            self.deliver(self.workers[worker_id].status())

    def hand_out(self, answer: Assigned) -> bool:
        self.tickets.append((self.now, answer))
        return True

    # What the control plane does with a message.

    def deliver(self, message: WorkerStatus | tuple[int, FinishedRequest]) -> None:
        if isinstance(message, tuple):
            self.router.finished(message[0], [message[1]], self.now)
            return
        if self.router.is_outdated(message.id, message):
            return
        if self.known_boots.get(message.id, message.boot_id) != message.boot_id:
            self.router.restarted(message.id, self.now)
        self.known_boots[message.id] = message.boot_id
        self.router.report(message.id, message, self.now)
        self.router.set_available(message.id, True, self.now)

    # What clients do.

    @rule(cost=COSTS, key=st.sampled_from("ab"), name=st.sampled_from(["", "x"]))
    def ask(self, cost: float, key: str, name: str) -> None:
        names = [name] if name else []
        answer = self.router.route(ENDPOINT, cost, 0, 60.0, self.now, key=key, affinity=names)
        if isinstance(answer, Assigned):
            self.hand_out(answer)

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def use_ticket(self, data: st.DataObject) -> None:
        at, ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        if self.now - at < TICKET_LIFETIME:
            self.workers[ticket.worker_id].left[ticket.request_idx] = ticket.cost

    @precondition(lambda self: self.tickets)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        _, ticket = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        answer = self.router.route(ENDPOINT, ticket.cost, ticket.request_idx, 60.0, self.now)
        if isinstance(answer, Assigned):
            self.hand_out(answer)

    # What happens at workers.

    @rule(share=st.sampled_from([0.1, 0.5, 1.0]))
    def serve(self, share: float) -> None:
        for worker in self.workers.values():
            worker.left = {idx: left * (1 - share) for idx, left in worker.left.items()}

    @precondition(lambda self: any(w.left for w in self.workers.values()))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w in self.workers.values() if w.left]))
        idx = data.draw(st.sampled_from(sorted(worker.left)))
        del worker.left[idx]
        self.messages.append((worker.worker_id, FinishedRequest(idx)))

    @rule(data=st.data())
    def reboot(self, data: st.DataObject) -> None:
        worker = data.draw(
            st.sampled_from(sorted(self.workers.values(), key=lambda w: w.worker_id))
        )
        worker.boot += 1
        worker.left.clear()

    @rule(worker_id=st.integers(1, 3))
    def send_report(self, worker_id: int) -> None:
        self.messages.append(self.workers[worker_id].status())

    # What the network does.

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), fate=st.sampled_from(["arrives", "arrives", "twice", "lost"]))
    def network(self, data: st.DataObject, fate: str) -> None:
        at = data.draw(st.integers(0, len(self.messages) - 1))
        message = self.messages[at] if fate == "twice" else self.messages.pop(at)
        if fate != "lost":
            self.deliver(message)

    @rule(worker_id=st.integers(1, 3))
    def fall_silent_and_return(self, worker_id: int) -> None:
        self.now += 14.0
        for other in self.workers.values():
            if other.worker_id != worker_id:
                self.deliver(other.status())
        self.router.set_available(worker_id, False, self.now)
        view = self.router.worker(worker_id)
        assert view is not None
        assert (view.load, view.requests) == (0.0, 0), "its booked load is returned"
        self.fresh_report(worker_id)

    @rule(worker_id=st.integers(1, 3))
    def fresh_report(self, worker_id: int) -> None:
        """One that arrives as it is sent: the router knows all that is there, at least."""
        truth = self.workers[worker_id]
        status = truth.status()
        for _ in range(4):  # until it is clear that this boot lives, if an older one was heard late
            self.deliver(status)
        view = self.router.worker(worker_id)
        assert view is not None
        assert view.requests >= len(truth.left)
        assert view.load >= sum(truth.left.values()) - 1e-6

    @rule(seconds=st.sampled_from([0.5, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.router.tick(self.now)

    # What always holds.

    @invariant()
    def figures_are_possible_and_sums_are_right(self) -> None:
        demand = self.router.demand(ENDPOINT, self.now)
        views = [self.router.worker(worker_id) for worker_id in self.workers]
        assert all(view is not None and view.load >= 0 and view.requests >= 0 for view in views)
        assert demand.booked_count == sum(view.requests for view in views if view)
        assert demand.booked_load == pytest.approx(sum(v.load for v in views if v), abs=1e-5)
        assert demand.held_load >= 0

    def teardown(self) -> None:
        """After a ticket's lifetime and one report from each, the router knows the truth."""
        for worker in self.workers.values():
            self.router.set_available(worker.worker_id, False, self.now)
        self.now += TICKET_LIFETIME
        self.router.tick(self.now)
        for worker_id, worker in self.workers.items():
            for _ in range(4):
                status = worker.status()
                if not self.router.is_outdated(worker_id, status):
                    if self.known_boots[worker_id] != status.boot_id:
                        self.router.restarted(worker_id, self.now)
                        self.known_boots[worker_id] = status.boot_id
                    self.router.report(worker_id, status, self.now)
            view = self.router.worker(worker_id)
            assert view is not None
            assert view.requests == len(worker.left)
            assert view.load == pytest.approx(sum(worker.left.values()), abs=1e-5)


TestNetwork = Network.TestCase
TestNetwork.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
