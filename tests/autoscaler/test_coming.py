"""Requests that are held because a worker that is on its way would begin them sooner."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.autoscaler import test_router

from stoker.autoscaler.coming import HORIZON, MARGIN, RESCUE, Coming
from stoker.autoscaler.learnt import UNKNOWN_START_SECONDS, Learnt
from stoker.autoscaler.planning import PlannerSettings
from stoker.autoscaler.router import Assigned, Held, Router
from stoker.autoscaler.shares import GRACE
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.wire import FinishedRequest

ENDPOINT, PERF, QUEUE = 1, 10.0, 30.0
READY, STARTS, STARTS_TOO = 1, 2, 3
SOON = 2.0
"""Seconds until a worker is expected, in most tests."""


def a_router(*, slots: int = 1, **settings: float) -> Router:
    """A router with one ready worker of perf 10 and one that is known and not ready."""
    router = Router(1, **settings)  # type: ignore[arg-type]
    router.add_endpoint(ENDPOINT, max_queue_time=QUEUE)
    for worker_id in (READY, STARTS, STARTS_TOO):
        router.add_worker(worker_id, ENDPOINT, reqnum_base=0)
    become_ready(router, READY, 0.0, slots=slots)
    return router


def become_ready(router: Router, worker_id: int, now: float, *, slots: int = 1) -> None:
    report(router, worker_id, now, slots=slots)
    router.set_available(worker_id, True, now)


def report(
    router: Router, worker_id: int, now: float, *named: int, load: float = 0.0, slots: int = 1
) -> list[Assigned]:
    return test_router.report(router, worker_id, now, *named, load=load, perf=PERF, slots=slots)


def route(
    router: Router, seconds: float, now: float = 0.0, *, patience: float = 600.0, key: str = ""
) -> Assigned | Held:
    """Ask for a request that takes a worker so many seconds."""
    return router.route(ENDPOINT, seconds * PERF, 0, patience, now, wait=patience, key=key)


def where(answer: Assigned | Held) -> int | None:
    return answer.worker_id if isinstance(answer, Assigned) else None


# When a request is held.


def test_a_request_is_held_for_a_worker_that_would_begin_it_sooner() -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    assert where(route(router, 1.0)) is None


def test_a_request_is_not_held_where_it_would_gain_less_than_the_margin() -> None:
    router = a_router()
    route(router, SOON + 0.9 * MARGIN)
    router.expect(STARTS, SOON, 0.0)
    assert where(route(router, 1.0)) == READY
    assert where(route(router, 1.0)) is None  # it would wait for a second more than the one before


def test_the_busy_worker_has_work_until_the_other_one_is_there() -> None:
    router = a_router()
    router.expect(STARTS, SOON, 0.0)
    given = [where(route(router, 0.5)) for _ in range(20)]
    # One at work, and others for as long as it takes, with the margin.
    assert given == [READY] * (1 + round((SOON + MARGIN) / 0.5)) + [None] * (19 - 6)


def test_a_request_is_never_held_while_a_slot_is_free() -> None:
    router = a_router(slots=2)
    route(router, 20.0)
    router.expect(STARTS, 0.1, 0.0)
    assert where(route(router, 20.0)) == READY
    assert where(route(router, 20.0)) is None


def test_a_worker_whose_slots_are_not_known_counts_as_having_one_free() -> None:
    router = a_router(slots=0)
    route(router, 10.0)
    router.expect(STARTS, 0.1, 0.0)
    assert where(route(router, 1.0)) == READY


def test_nothing_overtakes_what_is_held_for_a_worker_on_its_way() -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    numbers = [route(router, 1.0).request_idx for _ in range(3)]
    assert router.held(ENDPOINT) == numbers


# When it is given a worker.


def test_what_is_held_is_handed_out_the_moment_that_the_worker_is_available() -> None:
    told: list[int] = []
    router = a_router(on_assigned=lambda answer: told.append(answer.request_idx) or True)  # type: ignore[arg-type]
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    numbers = [route(router, 1.0).request_idx for _ in range(3)]
    become_ready(router, STARTS, 1.0)
    assert told == numbers
    assert where(route(router, 1.0, 1.0)) == STARTS


def test_a_worker_that_is_ready_is_waited_for_until_it_has_its_url() -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    number = route(router, 1.0).request_idx
    assert router.set_available(STARTS, True, 1.0) == []
    assert [(one.request_idx, one.worker_id) for one in report(router, STARTS, 1.0)] == [
        (number, STARTS)
    ]


def test_two_that_come_share_what_is_held() -> None:
    given: dict[int, int] = {}
    router = a_router(
        on_assigned=lambda answer: given.update({answer.request_idx: answer.worker_id}) or True
    )  # type: ignore[arg-type]
    route(router, 10.0)
    router.expect(STARTS, 1.5, 0.0)
    router.expect(STARTS_TOO, 1.5, 0.0)
    for _ in range(8):
        route(router, 1.0)
    become_ready(router, STARTS, 1.5)
    assert list(given.values()) == [STARTS] * 2  # one at work, and one that begins in a second
    become_ready(router, STARTS_TOO, 1.7)
    assert sorted(given.values()) == [STARTS] * 4 + [STARTS_TOO] * 4


@pytest.mark.parametrize("how", ["fails", "removed"])
def test_a_worker_that_does_not_come_releases_what_is_held_for_it(how: str) -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    number = route(router, 1.0).request_idx
    if how == "fails":
        given = router.expect(STARTS, None, 1.0)
    else:
        given = router.remove_worker(STARTS, 1.0)
    assert [(one.request_idx, one.worker_id) for one in given] == [(number, READY)]


def test_a_worker_that_is_late_is_expected_to_be_as_late_again() -> None:
    router = a_router()
    busy = route(router, 5.0).request_idx
    router.expect(STARTS, SOON, 0.0)
    number = route(router, 1.0).request_idx
    for now in (SOON, 2.8):  # 2.2 s are left to do, and it is expected in 0.8 s
        report(router, READY, now, busy, load=PERF * (5.0 - now))
        assert router.held(ENDPOINT) == [number]
    given = report(router, READY, 3.1, busy, load=PERF * 1.9)  # 1.9 <= 1.1 + MARGIN
    assert [one.worker_id for one in given] == [READY]


def test_a_worker_that_never_comes_holds_nothing_for_long_though_the_ready_one_hangs() -> None:
    router = a_router()
    busy = route(router, 25.0).request_idx
    router.expect(STARTS, HORIZON, 0.0)
    route(router, 1.0)
    tenth = 0
    while router.held(ENDPOINT):
        tenth += 1
        report(router, READY, tenth / 10, busy, load=25.0 * PERF)
        router.tick(tenth / 10)
    assert tenth / 10 == pytest.approx(2 * HORIZON, abs=0.11)


def test_nothing_is_held_for_a_worker_that_comes_later_than_the_horizon() -> None:
    router = a_router()
    route(router, 25.0)
    router.expect(STARTS, HORIZON + 0.1, 0.0)
    assert where(route(router, 1.0, 0.0)) == READY
    assert where(route(router, 1.0, 0.2)) is None


def test_another_expectation_counts_from_when_it_is_told() -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    number = route(router, 1.0).request_idx
    given = router.expect(STARTS, 60.0, 1.0)
    assert [one.request_idx for one in given] == [number]


def test_a_worker_that_is_there_is_not_expected() -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(READY, 0.5, 0.0)
    assert where(route(router, 1.0)) == READY
    router.expect(99, 0.5, 0.0)  # unknown


# Clients whose time runs out.


@pytest.mark.parametrize(
    ("patience", "worker"), [(SOON + RESCUE, READY), (SOON + 2 * RESCUE, None)]
)
def test_a_client_whose_time_runs_out_before_is_not_held(patience: float, worker: int) -> None:
    router = a_router()
    route(router, 10.0)
    router.expect(STARTS, SOON, 0.0)
    assert where(route(router, 1.0)) is None
    assert where(route(router, 1.0, patience=patience)) == worker


def test_a_client_whose_time_runs_out_while_workers_are_late_gets_the_busy_one() -> None:
    told: list[int] = []
    router = a_router(on_assigned=lambda answer: told.append(answer.request_idx) or True)  # type: ignore[arg-type]
    busy = route(router, 28.0).request_idx
    router.expect(STARTS, SOON, 0.0)
    patient = route(router, 1.0).request_idx
    hasty = route(router, 1.0, patience=5.0).request_idx
    for tenth in range(50):
        # Another one is due each time, and none comes.
        router.expect(STARTS, tenth / 10 + 1.0, tenth / 10)
        report(router, READY, tenth / 10, busy, load=PERF * (28.0 - tenth / 10))
        router.tick(tenth / 10)
        if told:
            break
    assert (told, tenth) == ([hasty], round(10 * (5.0 - RESCUE)))
    assert router.held(ENDPOINT) == [patient]


def test_who_gets_the_busy_worker_early_is_charged_for_it_like_everybody() -> None:
    router = a_router()
    route(router, 8.0)
    router.expect(STARTS, SOON, 0.0)
    first = route(router, 1.0, key="hasty").request_idx
    second = route(router, 1.0, key="patient").request_idx
    assert router.held(ENDPOINT) == [first, second]
    assert where(route(router, 1.0, key="hasty", patience=3.0)) == READY
    assert router.held(ENDPOINT) == [second, first]


# Keys.


def test_unused_bookings_of_one_key_hold_no_other_for_longer_than_their_grace() -> None:
    router = a_router()
    for _ in range(6):
        assert where(route(router, 5.0, key="bad")) == READY
    router.expect(STARTS, GRACE, 0.0)
    number = route(router, 1.0, key="good").request_idx
    assert router.held(ENDPOINT) == [number]
    assert [one.request_idx for one in router.tick(GRACE)] == [number]


def test_an_unused_ticket_that_is_used_after_all_makes_its_worker_busy_again() -> None:
    router = a_router()
    late = route(router, 20.0, key="bad").request_idx
    for _ in range(3):  # another one comes each time, and what is missed is counted once
        router.expect(STARTS, GRACE + SOON, 0.0)
        assert where(route(router, 0.1, GRACE, key="good")) == READY
        router.expect(STARTS, None, GRACE)
    report(router, READY, GRACE, late, load=20.0 * PERF)
    router.expect(STARTS, GRACE + SOON, GRACE)
    assert where(route(router, 1.0, GRACE, key="good")) is None
    book = router._ledger.workers[READY]
    assert (book.unused, book.unused_load) == (0, 0.0)


def test_keys_have_a_fair_part_of_the_worker_that_comes() -> None:
    given: list[int] = []
    router = a_router(on_assigned=lambda answer: given.append(answer.request_idx) or True)  # type: ignore[arg-type]
    route(router, 29.0, key="a")
    router.expect(STARTS, SOON, 0.0)
    many = {route(router, 1.0, key="a").request_idx for _ in range(20)}
    few = {route(router, 1.0, key="b").request_idx for _ in range(2)}
    become_ready(router, STARTS, 1.0)
    assert few <= set(given[:4])
    assert set(given) <= many | few


# What the planner sees.


def test_what_is_held_for_a_worker_asks_for_as_much_as_if_it_were_booked() -> None:
    demands = []
    for expected in (None, SOON):
        router = a_router()
        router.expect(STARTS, expected, 0.0)
        for _ in range(10):
            route(router, 1.0)
        demands.append(router.demand(ENDPOINT, 0.0))
    booked, held = demands
    assert (booked.held_count, held.held_count) == (0, 6)
    assert booked.outstanding_load == held.outstanding_load
    assert booked.booked_count == held.booked_count + held.held_count
    assert (booked.arrived_load, booked.arrived_count) == (0.0, 0)
    assert held.arrived_count == 6


# What is expected.


MOMENTS = st.floats(0.0, 1000.0)


@given(known=st.dictionaries(st.integers(1, 20), MOMENTS), now=MOMENTS)
def test_the_next_worker_is_that_whose_moment_is_nearest(
    known: dict[int, float], now: float
) -> None:
    coming = Coming()
    for worker_id, at in known.items():
        coming.expect(worker_id, 0.5)
        assert coming.expect(worker_id, at) == (at != 0.5)
    assert sorted(known.values()) == coming.times
    assert coming.seconds(now) == min(
        (abs(at - now) for at in known.values()), default=float("inf")
    )
    for worker_id in known:
        assert coming.expect(worker_id, None)
        assert not coming.expect(worker_id, None)
    assert not coming.times


@dataclass
class Worker:
    state: WorkerState = WorkerState.STARTING
    goal: str = "run"
    lost: bool = False
    coming_since: float | None = 100.0
    was_ready: bool = True


def test_a_worker_is_expected_as_soon_as_others_came_lately() -> None:
    learnt = Learnt()
    assert learnt.ready_at(Worker()) == 100.0 + UNKNOWN_START_SECONDS
    assert learnt.ready_at(Worker(was_ready=False)) is None, "nobody knows"
    learnt.came_in(4.0, again=True)
    learnt.came_in(60.0, again=False)
    assert learnt.ready_at(Worker()) == 104.0
    assert learnt.ready_at(Worker(state=WorkerState.LOADING, was_ready=False)) == 160.0
    assert PlannerSettings().unknown_start_seconds == UNKNOWN_START_SECONDS


@pytest.mark.parametrize("state", WorkerState)
def test_only_a_worker_that_is_on_its_way_and_wanted_is_expected(state: WorkerState) -> None:
    learnt = Learnt()
    assert (learnt.ready_at(Worker(state=state)) is not None) == (state in LOADING_STATES)
    assert learnt.ready_at(Worker(state=state, goal="destroy")) is None
    assert learnt.ready_at(Worker(state=state, lost=True)) is None
    assert learnt.ready_at(Worker(state=state, coming_since=None)) is None, "it reboots"


# However wrong the expectations are.


@dataclass
class Server:
    """A worker of some slots, each of which works at the same rate; it reports each second."""

    slots: int
    busy: list[tuple[float, int]] = field(default_factory=list)
    """Heap of (when it ends, request_idx)."""
    queue: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


class Play:
    """One ready worker, requests that come, and what somebody says of a worker that never comes."""

    def __init__(self, slots: int) -> None:
        self.router = Router(1, on_assigned=self.deliver)
        self.router.add_endpoint(ENDPOINT, max_queue_time=QUEUE)
        for worker_id in (READY, STARTS):
            self.router.add_worker(worker_id, ENDPOINT, reqnum_base=0)
        self.server = Server(slots)
        self.seconds: dict[int, float] = {}
        self.came: dict[int, float] = {}
        self.begun: dict[int, float] = {}
        self.now = 0.0
        self.tell()
        self.router.set_available(READY, True, 0.0)

    def deliver(self, answer: Assigned) -> bool:
        self.server.queue.append(answer.request_idx)
        self.work()
        return True

    def work(self) -> None:
        server = self.server
        while server.busy and server.busy[0][0] <= self.now:
            server.ended.append(heapq.heappop(server.busy)[1])
        while server.queue and len(server.busy) < server.slots:
            idx = server.queue.pop(0)
            self.begun[idx] = self.now
            heapq.heappush(server.busy, (self.now + self.seconds[idx] * server.slots, idx))

    def ask(self, seconds: float) -> None:
        answer = self.router.route(ENDPOINT, seconds * PERF, 0, 600.0, self.now, wait=600.0)
        self.seconds[answer.request_idx] = seconds
        self.came[answer.request_idx] = self.now
        if isinstance(answer, Assigned):
            self.deliver(answer)

    def tell(self) -> None:
        server = self.server
        left = [(at - self.now) / server.slots for at, _ in server.busy]
        left += [self.seconds[idx] for idx in server.queue]
        named = [idx for _, idx in server.busy] + server.queue
        report(self.router, READY, self.now, *named, load=PERF * sum(left), slots=server.slots)
        ended, server.ended = server.ended, []
        self.router.finished(READY, [FinishedRequest(idx) for idx in ended], self.now)

    def pass_tenth(self, tenth: int) -> None:
        self.now = tenth / 10
        self.work()
        if tenth % 10 == 0:
            self.tell()
            self.router.tick(self.now)


CLAIMS = st.lists(
    st.tuples(st.integers(0, 400), st.none() | st.sampled_from([-1e9, -1.0, 0.0, 0.1, 3.0, 20.0])),
    max_size=12,
)
"""When something is said of the worker that never comes, in tenths of a second, and when it is to
be ready, counted from then."""


@settings(max_examples=60, deadline=None)
@given(
    slots=st.sampled_from([1, 2, 8]),
    arrivals=st.lists(st.integers(0, 300), min_size=1, max_size=40),
    seconds=st.sampled_from([0.2, 0.5, 1.0, 2.0]),
    claims=CLAIMS,
)
@example(slots=1, arrivals=[0] * 20, seconds=1.0, claims=[(t, 0.0) for t in range(0, 400, 2)])
def test_however_wrong_an_expectation_a_request_begins_hardly_later_than_without_it(
    slots: int, arrivals: list[int], seconds: float, claims: list[tuple[int, float | None]]
) -> None:
    begun = []
    for told in ([], claims):
        play = Play(slots)
        for tenth in range(1, 1500):
            play.pass_tenth(tenth)
            for at, after in told:
                if at == tenth:
                    when = None if after is None else play.now + after
                    play.router.expect(STARTS, when, play.now)
            for _ in range(arrivals.count(tenth - 1)):
                play.ask(seconds)
            if tenth > 400 and len(play.begun) == len(arrivals):
                break
        assert len(play.begun) == len(arrivals), "every request is served"
        begun.append(sorted(play.begun.values()))
    late = max(wrong - right for right, wrong in zip(*begun, strict=True))
    assert late <= MARGIN
