"""Failures that users of other systems report of their routers, and that cannot happen here."""

from __future__ import annotations

from collections import Counter

import pytest

from stoker.autoscaler.pace import REPORT_DEADLINE
from stoker.autoscaler.router import Assigned, Held, Router
from stoker.autoscaler.states import WorkerState
from stoker.wire import FinishedRequest, WorkerStatus

ENDPOINT = 1


def a_router(*workers: int, perf: float = 100.0, **settings: float) -> Router:
    router = Router(1, **settings)  # type: ignore[arg-type]
    router.add_endpoint(ENDPOINT, max_queue_time=30.0)
    for worker_id in workers:
        router.add_worker(worker_id, ENDPOINT, reqnum_base=0)
        report(router, worker_id, 0.0, perf=perf)
        router.set_available(worker_id, True, 0.0)
    return router


def report(
    router: Router, worker_id: int, now: float, *at_work: tuple[int, float], perf: float = 100.0
) -> None:
    status = WorkerStatus(
        id=worker_id,
        mtoken="",
        url=f"http://worker-{worker_id}",
        max_perf=perf,
        cur_load=sum(load for _, load in at_work),
        num_requests_working=len(at_work),
        working_request_idxs=[idx for idx, _ in at_work],
    )
    router.report(worker_id, status, now)


def route(router: Router, cost: float = 10.0, now: float = 0.0, idx: int = 0) -> Assigned:
    answer = router.route(ENDPOINT, cost, idx, 60.0, now)
    assert isinstance(answer, Assigned)
    return answer


@pytest.mark.parametrize("fate", ["fails", "never arrives", "is retried", "its worker dies"])
def test_the_count_of_a_request_that_fails_does_not_leak(fate: str) -> None:
    """SkyServe issue 10444: a request in flight was counted off only after it had succeeded."""
    router = a_router(1, ticket_lifetime=60.0)
    now = 0.0
    for _ in range(200):
        answer = route(router, now=now)
        match fate:
            case "fails":
                failed = FinishedRequest(answer.request_idx, success=False, status="Error")
                router.finished(1, [failed], now)
            case "never arrives":
                now += 60.0
                router.tick(now)
            case "is retried":
                again = route(router, now=now, idx=answer.request_idx)
                assert router.in_flight(1, now) == 1
                router.finished(1, [FinishedRequest(again.request_idx)], now)
            case "its worker dies":
                router.restarted(1, now)
        assert router.in_flight(1, now) == 0
    demand = router.demand(ENDPOINT, now)
    assert (demand.booked_count, demand.booked_load) == (0, 0.0)


def test_a_worker_that_leaves_and_returns_is_not_flooded() -> None:
    """SkyServe issue 10444: what ended after its replica had left was counted off all the same.

    The count of the replica was -1 when it came back, so it was taken for the least busy one.
    """
    router = a_router(1, 2)
    before = [route(router) for _ in range(20)]
    mine = [answer for answer in before if answer.worker_id == 1]
    router.remove_worker(1, 1.0)
    router.finished(1, [FinishedRequest(answer.request_idx) for answer in mine], 2.0)
    router.add_worker(1, ENDPOINT, reqnum_base=1000)
    report(router, 1, 3.0)
    router.set_available(1, True, 3.0)
    router.finished(1, [FinishedRequest(answer.request_idx) for answer in mine], 4.0)
    view = router.worker(1)
    assert view is not None
    assert (view.requests, view.load) == (0, 0.0)
    # The other one still has ten. The one that returned catches up with it, and from then on they
    # share: it never has more than two above the other.
    for _ in range(30):
        route(router, now=5.0)
        assert router.in_flight(1, 5.0) <= router.in_flight(2, 5.0) + 2
    assert abs(router.in_flight(1, 5.0) - router.in_flight(2, 5.0)) <= 1


def test_a_worker_that_was_cut_off_returns_with_what_it_still_has() -> None:
    """SkyServe issue 10444: the returning replica looked empty, or less than that."""
    router = a_router(1, 2)
    at_work = [(route(router, 100.0).request_idx, 100.0) for _ in range(2)]
    mine = [one for one in at_work if router._ledger.requests[one[0]].worker_id == 1]
    report(router, 1, 1.0, *mine)
    router.set_available(1, False, 15.0)
    assert router.demand(ENDPOINT, 15.0).booked_load == 100.0, "its load is returned"
    report(router, 1, 20.0, *mine)
    router.set_available(1, True, 20.0)
    assert router.in_flight(1, 20.0) == 1
    router.finished(1, [FinishedRequest(mine[0][0])], 21.0)
    assert router.in_flight(1, 21.0) == 0


@pytest.mark.parametrize("cost", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("slots", [0, 4])
@pytest.mark.parametrize("spread", [0.0, 0.03])
def test_no_worker_gets_all_requests_while_others_idle(
    cost: float, slots: int, spread: float
) -> None:
    """runpod-python issue 432: every request went to the same one of several idle workers."""

    def five_workers() -> Router:
        router = a_router()
        for worker_id in range(1, 6):
            router.add_worker(worker_id, ENDPOINT, reqnum_base=0)
            url, perf = f"http://worker-{worker_id}", 100.0 * (1 + spread * worker_id / 5)
            status = WorkerStatus(id=worker_id, mtoken="", url=url, max_perf=perf, slots=slots)
            router.report(worker_id, status, 0.0)
            router.set_available(worker_id, True, 0.0)
        return router

    router = five_workers()
    asked = 50 if cost < 100.0 else 20  # all within max_queue_time
    at_once = Counter(route(router, cost).worker_id for _ in range(asked))
    assert min(at_once.values()) >= asked / 5 - 1
    one_by_one: Counter[int] = Counter()
    router = five_workers()
    for _ in range(50):
        answer = route(router, cost)
        one_by_one[answer.worker_id] += 1
        router.finished(answer.worker_id, [FinishedRequest(answer.request_idx)], 0.0)
    assert set(one_by_one.values()) == {10}


def test_a_burst_between_two_reports_is_spread() -> None:
    """vLLM issue 49538: within the age of the figures, all went to who had looked least busy."""
    router = a_router(*range(1, 11))
    for worker_id in range(2, 11):
        report(router, worker_id, 0.0, (10_000 + worker_id, 10.0))
    counts: Counter[int] = Counter()
    for number in range(100):
        if number % 10 == 0:
            # Figures that were made before any of this was sent arrive now.
            report(router, 1, 0.1)
            for worker_id in range(2, 11):
                report(router, worker_id, 0.1, (10_000 + worker_id, 10.0))
        counts[route(router, 10.0, now=0.1).worker_id] += 1
    assert max(counts.values()) - min(counts.values()) <= 2


def test_requests_count_by_their_size() -> None:
    """vLLM router issue 51: two requests of 10,000 tokens were less than five of 100."""
    router = a_router(1, 2, perf=1000.0)
    report(router, 1, 0.0, (90_001, 10_000.0), (90_002, 10_000.0), perf=1000.0)
    report(router, 2, 0.0, *[(80_000 + n, 100.0) for n in range(5)], perf=1000.0)
    sizes = [100.0] * 100 + [10_000.0]
    assert all(route(router, cost).worker_id == 2 for cost in sizes)
    loads = [view.load for w in (1, 2) if (view := router.worker(w))]
    assert loads == [20_000.0, 20_500.0]


def test_a_key_with_thousands_of_held_requests_does_not_starve_another() -> None:
    router = a_router(max_held=10_000)
    for _ in range(10_000):
        assert isinstance(router.route(ENDPOINT, 10.0, 0, 60.0, 0.0, key="many"), Held)
    one = router.route(ENDPOINT, 10.0, 0, 60.0, 0.0, key="one").request_idx
    assert router.held(ENDPOINT).index(one) <= 1


# At the level of the control plane.


async def test_a_silent_worker_leaves_within_3_s_of_its_deadline_and_its_load_is_returned(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    answer = await house.route(cost=40.0)
    await house.report(worker, cur_load=40.0, working_request_idxs=[answer["request_idx"]])
    router, quiet = house.plane.router, 10.0  # seconds within which a worker reports

    async def pass_time(seconds):
        """The control plane listens all the while."""
        for _ in range(round(seconds / 0.5)):
            house.clock.seconds += 0.5
            house.plane.reconciler.hearing.beat(house.plane.now())
            await house.plane.step()

    await pass_time(quiet)
    assert worker.available
    assert router.demand(record.id, house.plane.now()).booked_load >= 40.0
    await pass_time(3.5)
    assert quiet + 3.0 == REPORT_DEADLINE
    assert not worker.available
    view = router.worker(worker.id)
    assert (view.available, view.load, view.requests) == (False, 0.0, 0)
    assert router.demand(record.id, house.plane.now()).booked_load == 0.0
    assert worker.state is WorkerState.ERROR


async def test_a_worker_that_drains_and_falls_silent_has_nothing_booked_either(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    answer = await house.route(cost=40.0)
    await house.report(worker, cur_load=40.0, working_request_idxs=[answer["request_idx"]])
    house.plane.reconciler.release(worker, "destroy", house.plane.now(), "destroy worker 1: test")
    house.clock.seconds += 5.0
    await house.settle()
    assert router_load(house, record) == 40.0, "a drain waits for what is at work"
    house.clock.seconds += 9.0
    await house.settle()
    assert router_load(house, record) == 0.0


def router_load(house, record):
    return house.plane.router.demand(record.id, house.plane.now()).booked_load


def test_a_late_report_of_a_former_boot_changes_nothing() -> None:
    router = a_router(1)
    old = WorkerStatus(id=1, mtoken="", cur_load=500.0, max_perf=1.0, boot_id="old")
    new = WorkerStatus(id=1, mtoken="", cur_load=10.0, max_perf=100.0, boot_id="new")
    router.report(1, old, 0.0)
    router.restarted(1, 1.0)
    router.report(1, new, 1.0)
    assert router.is_outdated(1, old)
    router.report(1, old, 2.0)
    view = router.worker(1)
    assert view is not None
    assert (view.load, view.perf) == (10.0, 100.0)


def test_a_boot_that_goes_on_reporting_is_believed() -> None:
    router = a_router(1)
    # The old boot's report came late, and is the first that we heard of it (we were away).
    real = WorkerStatus(id=1, mtoken="", cur_load=10.0, max_perf=100.0, boot_id="real")
    ghost = WorkerStatus(id=1, mtoken="", cur_load=500.0, max_perf=1.0, boot_id="ghost")
    router.report(1, real, 0.0)
    router.report(1, ghost, 1.0)
    for second in range(2, 7):
        router.report(1, real, float(second))
    view = router.worker(1)
    assert view is not None
    assert view.perf == 100.0
