from __future__ import annotations

import pytest

from stoker.autoscaler.router import Assigned, Held, Router, RouterFullError
from stoker.errors import NotFoundError
from stoker.sizes import ENOUGH
from stoker.wire import MAX_COST, FinishedRequest, WorkerStatus

ENDPOINT = 1


def a_router(*workers: int, max_queue_time: float = 30.0, **settings: float) -> Router:
    """A router with an endpoint and ready, idle workers of perf 10."""
    router = Router(100, **settings)  # type: ignore[arg-type]
    router.add_endpoint(ENDPOINT, max_queue_time=max_queue_time)
    for worker_id in workers:
        add(router, worker_id)
    return router


def add(router: Router, worker_id: int, perf: float = 10.0, now: float = 0.0) -> None:
    router.add_worker(worker_id, ENDPOINT, reqnum_base=1000 * worker_id)
    report(router, worker_id, now, perf=perf)
    router.set_available(worker_id, True, now)


def report(
    router: Router,
    worker_id: int,
    now: float,
    *named: int,
    load: float = 0.0,
    perf: float = 10.0,
    slots: int = 0,
) -> list[Assigned]:
    status = WorkerStatus(
        id=worker_id,
        mtoken="",
        url=f"http://worker-{worker_id}",
        cur_load=load,
        max_perf=perf,
        num_requests_working=len(named),
        working_request_idxs=list(named),
        slots=slots,
    )
    return router.report(worker_id, status, now)


def route(router: Router, cost: float = 10.0, idx: int = 0, now: float = 0.0) -> Assigned | Held:
    return router.route(ENDPOINT, cost, idx, 60.0, now)


def assigned(router: Router, cost: float = 10.0, idx: int = 0, now: float = 0.0) -> Assigned:
    answer = route(router, cost, idx, now)
    assert isinstance(answer, Assigned)
    return answer


def held(router: Router, cost: float = 10.0, idx: int = 0, now: float = 0.0) -> Held:
    answer = route(router, cost, idx, now)
    assert isinstance(answer, Held)
    return answer


def finish(
    router: Router, answer: Assigned, now: float = 0.0, status: str = "Success"
) -> list[Assigned]:
    one = FinishedRequest(answer.request_idx, status == "Success", status)
    return router.finished(answer.worker_id, [one], now)


def load(router: Router, worker_id: int) -> float:
    view = router.worker(worker_id)
    assert view is not None
    return view.load


# Choosing.


def test_a_request_goes_where_it_ends_first() -> None:
    router = a_router()
    add(router, 1, perf=10.0)
    add(router, 2, perf=50.0)
    report(router, 2, 0.0, 7, load=100.0, perf=50.0)
    # 50 load: 5.0 s on the idle slow one, (100 + 50) / 50 = 3.0 s on the busy fast one.
    assert assigned(router, 50.0).worker_id == 2
    # 10 load: 1.0 s on the slow one, (150 + 10) / 50 = 3.2 s on the fast one.
    assert assigned(router, 10.0).worker_id == 1


def test_equal_idle_workers_share_the_requests() -> None:
    router = a_router(1, 2)
    chosen = [assigned(router, 5.0).worker_id for _ in range(10)]
    assert chosen.count(1) == chosen.count(2) == 5


def test_requests_without_cost_are_shared_too() -> None:
    router = a_router(1, 2)
    chosen = []
    for _ in range(10):
        answer = assigned(router, 0.0)
        chosen.append(answer.worker_id)
        finish(router, answer)
    assert chosen.count(1) == chosen.count(2) == 5


def test_a_worker_over_max_queue_time_gets_nothing_more() -> None:
    router = a_router(1, max_queue_time=2.0)
    assigned(router, 10.0)
    assigned(router, 10.0)
    assigned(router, 1.0)  # waits for 2 s
    held(router, 1.0)


def test_an_idle_worker_gets_a_request_that_alone_exceeds_max_queue_time() -> None:
    router = a_router(1, max_queue_time=2.0)
    assert assigned(router, 1000.0).worker_id == 1
    held(router, 1.0)


def test_a_large_request_waits_for_no_emptier_worker_than_a_small_one() -> None:
    router = a_router(1, max_queue_time=10.0)
    assigned(router, 80.0)
    assert assigned(router, 1000.0).worker_id == 1


def test_with_max_queue_time_0_only_an_idle_worker_gets_a_request() -> None:
    router = a_router(1, 2, max_queue_time=0.0)
    assert {assigned(router).worker_id for _ in range(2)} == {1, 2}
    held(router)


def test_a_worker_without_known_perf_is_used_as_if_slow() -> None:
    router = a_router(default_perf=1.0, max_queue_time=30.0)
    add(router, 1, perf=0.0)
    assigned(router, 31.0)
    held(router, 1.0)


def test_a_worker_out_of_rotation_gets_nothing() -> None:
    router = a_router(1)
    router.set_available(1, False, 0.0)
    held(router)


def test_a_worker_whose_url_is_unknown_gets_nothing() -> None:
    router = a_router()
    router.add_worker(1, ENDPOINT, reqnum_base=0)
    router.set_available(1, True, 0.0)
    held(router)


def test_the_answer_carries_the_url_and_numbers_that_count_up() -> None:
    router = a_router(3)
    first, second = assigned(router, now=5.0), assigned(router)
    assert (first.url, first.cost, first.assigned_at) == ("http://worker-3", 10.0, 5.0)
    assert (first.reqnum, second.reqnum) == (3000, 3001)
    assert (first.request_idx, second.request_idx) == (100, 101)


def test_an_unknown_endpoint_is_not_found() -> None:
    with pytest.raises(NotFoundError, match="endpoint 9"):
        a_router().route(9, 1.0, 0, 60.0, 0.0)


# Booked load.


def test_a_booking_that_a_report_has_not_named_yet_still_counts() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    report(router, 1, 1.0, load=0.0)
    assert load(router, 1) == 40.0
    report(router, 1, 2.0, answer.request_idx, load=40.0)
    assert load(router, 1) == 40.0


def test_a_finish_takes_the_load_off_at_once() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    report(router, 1, 1.0, answer.request_idx, load=40.0)
    finish(router, answer, 1.5)
    assert load(router, 1) == 0.0


def test_a_finish_before_any_report_takes_the_booking_off() -> None:
    router = a_router(1)
    finish(router, assigned(router, 40.0))
    assert load(router, 1) == 0.0


def test_a_finish_that_comes_twice_counts_once() -> None:
    router = a_router(1)
    one, other = assigned(router, 40.0), assigned(router, 25.0)
    report(router, 1, 1.0, one.request_idx, other.request_idx, load=65.0)
    finish(router, one)
    finish(router, one)
    assert load(router, 1) == 25.0


def test_a_finish_from_another_worker_changes_nothing() -> None:
    router = a_router(1, 2)
    answer = assigned(router, 40.0)
    other = 3 - answer.worker_id
    router.finished(other, [FinishedRequest(answer.request_idx)], 0.0)
    assert load(router, answer.worker_id) == 40.0


def test_a_lost_finish_is_made_up_for_by_the_next_report() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    report(router, 1, 1.0, answer.request_idx, load=40.0)
    report(router, 1, 2.0, load=0.0)
    assert load(router, 1) == 0.0
    assert router.in_flight(1, 2.0) == 0


def test_streamed_tokens_reduce_the_load_as_they_pass() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    report(router, 1, 1.0, answer.request_idx, load=25.0)
    assert load(router, 1) == 25.0


def test_a_booking_that_is_never_seen_is_dropped_when_its_ticket_expires() -> None:
    router = a_router(1, ticket_lifetime=60.0)
    assigned(router, 40.0)
    router.tick(59.9)
    assert load(router, 1) == 40.0
    router.tick(60.0)
    assert load(router, 1) == 0.0
    assert router.in_flight(1, 60.0) == 0


def test_a_request_that_works_for_longer_than_its_ticket_lives_stays_booked() -> None:
    router = a_router(1, ticket_lifetime=60.0)
    answer = assigned(router, 40.0)
    report(router, 1, 1.0, answer.request_idx, load=40.0)
    router.tick(100.0)
    assert router.in_flight(1, 100.0) == 1
    finish(router, answer, 101.0)
    assert router.in_flight(1, 101.0) == 0


# Holding.


def test_held_requests_get_workers_in_the_order_in_which_they_came() -> None:
    router = a_router()
    waiting = [held(router, now=float(n)).request_idx for n in range(3)]
    router.add_worker(1, ENDPOINT, reqnum_base=0, url="http://worker-1")
    given = router.set_available(1, True, 3.0)
    assert [one.request_idx for one in given] == waiting


def test_a_small_new_request_does_not_overtake_a_held_one() -> None:
    router = a_router(1, max_queue_time=10.0)
    busy, more = assigned(router, 90.0), assigned(router, 20.0)
    first = held(router, 50.0)
    second = held(router, 1.0)
    given = router.finished(1, [FinishedRequest(one.request_idx) for one in (busy, more)], 0.0)
    assert [one.request_idx for one in given] == [first.request_idx, second.request_idx]


def test_a_poll_gets_the_worker_that_the_request_was_given() -> None:
    router = a_router()
    waiting = held(router)
    add(router, 1, now=1.0)
    answer = assigned(router, idx=waiting.request_idx, now=2.0)
    assert answer.request_idx == waiting.request_idx
    assert answer.assigned_at == 2.0, "its ticket lives from when its client is told"
    assert load(router, 1) == 10.0


def test_polling_adds_no_load() -> None:
    router = a_router()
    waiting = held(router, 30.0)
    for second in range(1, 5):
        held(router, 30.0, waiting.request_idx, float(second))
    demand = router.demand(ENDPOINT, 5.0)
    assert (demand.held_count, demand.held_load) == (1, 30.0)
    assert demand.arrival_rate == 30.0 / 60


def test_a_held_request_that_is_not_polled_for_is_forgotten() -> None:
    router = a_router(poll_grace=15.0)
    waiting = held(router, 30.0)
    held(router, 30.0, waiting.request_idx, now=10.0)
    router.tick(24.9)
    assert router.demand(ENDPOINT, 24.9).held_count == 1
    router.tick(25.0)
    demand = router.demand(ENDPOINT, 25.0)
    assert (demand.held_count, demand.held_load, demand.arrival_rate) == (0, 0.0, 0.0)


def test_a_client_that_waits_on_the_line_is_not_taken_as_gone() -> None:
    router = a_router(poll_grace=15.0)
    router.route(ENDPOINT, 1.0, 0, 60.0, 0.0, wait=30.0)
    router.tick(44.9)
    assert router.demand(ENDPOINT, 44.9).held_count == 1
    router.tick(45.0)
    assert router.demand(ENDPOINT, 45.0).held_count == 0


def test_a_held_request_is_given_up_at_its_deadline() -> None:
    router = a_router(poll_grace=15.0)
    waiting = router.route(ENDPOINT, 1.0, 0, 20.0, 0.0)
    assert isinstance(waiting, Held)
    assert waiting.deadline == 20.0
    held(router, idx=waiting.request_idx, now=10.0)
    router.tick(20.0)
    assert router.held(ENDPOINT) == []


def test_a_poll_after_the_deadline_waits_anew_at_the_end_of_the_queue() -> None:
    router = a_router()
    first = router.route(ENDPOINT, 1.0, 0, 5.0, 0.0)
    second = router.route(ENDPOINT, 1.0, 0, 60.0, 0.0)
    again = held(router, 1.0, first.request_idx, now=6.0)
    assert again.deadline == 66.0
    assert router.held(ENDPOINT) == [second.request_idx, first.request_idx]


def test_a_request_whose_client_went_away_is_given_up() -> None:
    router = a_router()
    waiting = held(router, 5.0)
    router.give_up(waiting.request_idx, 1.0)
    assert router.demand(ENDPOINT, 1.0).held_count == 0


def test_a_given_worker_is_freed_again_when_nobody_comes_to_ask() -> None:
    router = a_router(poll_grace=15.0, ticket_lifetime=60.0)
    held(router, 30.0)
    add(router, 1, now=1.0)
    assert load(router, 1) == 30.0
    router.tick(15.0)
    assert load(router, 1) == 0.0


def test_too_many_held_requests_are_refused() -> None:
    router = a_router(max_held=2)
    held(router)
    held(router)
    with pytest.raises(RouterFullError, match="2 requests"):
        route(router)
    assert router.demand(ENDPOINT, 0.0).arrival_rate == 20.0 / 60


def test_clients_on_the_line_are_told_and_their_next_call_is_a_retry() -> None:
    told: list[Assigned] = []

    def tell(answer: Assigned) -> bool:
        told.append(answer)
        return True

    router = Router(on_assigned=tell)
    router.add_endpoint(ENDPOINT, max_queue_time=30.0)
    waiting = held(router)
    add(router, 1, now=1.0)
    assert [one.request_idx for one in told] == [waiting.request_idx]
    again = assigned(router, idx=waiting.request_idx, now=2.0)
    assert again.reqnum > told[0].reqnum
    assert load(router, 1) == 10.0


# Retries.


def test_a_retry_counts_once_and_goes_to_another_worker() -> None:
    router = a_router(1, 2)
    first = assigned(router, 40.0)
    finish(router, first, status="Rejected")
    again = assigned(router, 40.0, first.request_idx, now=1.0)
    assert again.request_idx == first.request_idx
    assert again.worker_id != first.worker_id
    assert load(router, first.worker_id) == 0.0
    assert load(router, again.worker_id) == 40.0
    report(router, again.worker_id, 2.0, again.request_idx, load=40.0)
    assert router.demand(ENDPOINT, 2.0).arrival_rate == 40.0 / 60


def test_a_retry_with_only_one_worker_gets_a_new_number_there() -> None:
    router = a_router(1)
    first = assigned(router)
    again = assigned(router, idx=first.request_idx, now=1.0)
    assert again.worker_id == 1
    assert again.reqnum == first.reqnum + 1
    assert load(router, 1) == 10.0


def test_a_retry_after_a_failed_finish_adds_no_arrival() -> None:
    router = a_router(1, 2)
    first = assigned(router, 40.0)
    finish(router, first, 1.0, status="Error")
    again = assigned(router, 40.0, first.request_idx, now=2.0)
    assert again.worker_id != first.worker_id
    assert router.demand(ENDPOINT, 2.0).arrival_rate == 40.0 / 60


def test_a_report_that_names_a_retried_request_does_not_touch_its_new_booking() -> None:
    router = a_router(1, 2)
    first = assigned(router, 40.0)
    again = assigned(router, 40.0, first.request_idx)
    report(router, first.worker_id, 1.0, first.request_idx, load=40.0)
    assert load(router, again.worker_id) == 40.0
    finish(router, first, 2.0)
    assert load(router, again.worker_id) == 40.0


def test_a_number_that_is_not_known_is_replaced_and_good_for_further_polls() -> None:
    router = a_router()
    waiting = [held(router, idx=42, now=float(n)).request_idx for n in range(3)]
    assert waiting == [100, 100, 100]
    add(router, 1, now=3.0)
    assert assigned(router, idx=42, now=3.0).request_idx == 100


def test_a_number_that_was_never_given_is_replaced() -> None:
    router = a_router(1)
    assert assigned(router, idx=10**12).request_idx == 100


def test_a_number_of_another_endpoint_is_replaced() -> None:
    router = a_router(1)
    router.add_endpoint(2, max_queue_time=30.0)
    waiting = router.route(2, 10.0, 0, 60.0, 0.0)
    answer = assigned(router, idx=waiting.request_idx)
    assert answer.request_idx != waiting.request_idx
    assert router.demand(2, 0.0).held_count == 1


# Workers leave.


def test_what_was_promised_to_a_worker_that_leaves_goes_back_to_the_head_of_the_queue() -> None:
    router = a_router(max_queue_time=1.5)
    first, second, third = (held(router) for _ in range(3))
    add(router, 1, now=1.0)  # takes two of them
    assert router.held(ENDPOINT) == [third.request_idx]
    router.set_available(1, False, 2.0)
    assert router.held(ENDPOINT) == [w.request_idx for w in (first, second, third)]
    assert load(router, 1) == 0.0


def test_a_draining_worker_is_not_empty_while_a_client_with_a_ticket_may_come() -> None:
    router = a_router(1)
    answer = assigned(router)
    router.set_available(1, False, 1.0)
    assert router.in_flight(1, 1.0) == 1
    finish(router, answer, 2.0)
    assert router.in_flight(1, 2.0) == 0


def test_a_removed_worker_takes_its_load_with_it_and_its_requests_can_be_retried() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    router.remove_worker(1, 1.0)
    assert router.demand(ENDPOINT, 1.0).booked_load == 0.0
    add(router, 2, now=2.0)
    again = assigned(router, 40.0, answer.request_idx, now=3.0)
    assert (again.worker_id, again.request_idx) == (2, answer.request_idx)


def test_a_restarted_worker_has_none_of_what_it_was_given() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    assigned(router, 20.0)
    report(router, 1, 1.0, answer.request_idx, load=40.0)
    router.restarted(1, 2.0)
    assert load(router, 1) == 0.0
    assert router.in_flight(1, 2.0) == 0


def test_a_removed_endpoint_leaves_nothing_behind() -> None:
    router = a_router(1)
    assigned(router)
    router.remove_endpoint(ENDPOINT, 1.0)
    assert router.worker(1) is None
    router.tick(1000.0)
    with pytest.raises(NotFoundError):
        router.demand(ENDPOINT, 1.0)


def test_a_worker_is_idle_since_its_last_request_ended() -> None:
    router = a_router(1)
    answer = assigned(router, now=5.0)
    report(router, 1, 6.0, answer.request_idx, load=10.0)
    finish(router, answer, 9.0)
    report(router, 1, 12.0)
    view = router.worker(1)
    assert view is not None
    assert (view.requests, view.idle_since) == (0, 9.0)


def test_demand_sums_up_what_is_held_and_booked() -> None:
    router = a_router(1, max_queue_time=1.0)
    assigned(router, 20.0)
    held(router, 50.0, now=2.0)
    demand = router.demand(ENDPOINT, 2.0)
    assert (demand.held_count, demand.held_load) == (1, 50.0)
    assert (demand.booked_count, demand.booked_load) == (1, 20.0)
    assert demand.last_request_at == 2.0
    assert demand.recent_rate == 50.0 / 5, "what no worker has seen has not arrived"


def test_a_finish_after_most_tokens_were_streamed_takes_off_no_more_than_is_left() -> None:
    router = a_router(1)
    answer = assigned(router, 40.0)
    report(router, 1, 1.0, answer.request_idx, load=5.0)
    finish(router, answer)
    assert load(router, 1) == 0.0
    assert assigned(router, 10.0).worker_id == 1
    assert load(router, 1) == 10.0


def test_requests_that_return_from_two_workers_keep_the_order_in_which_they_came() -> None:
    router = a_router(max_queue_time=1.0)
    first, second = held(router, 100.0), held(router, 100.0)
    add(router, 1, now=1.0)
    add(router, 2, now=1.0)
    router.set_available(1, False, 2.0)  # the first returns
    router.set_available(2, False, 3.0)  # the second returns, and does not overtake it
    assert router.held(ENDPOINT) == [first.request_idx, second.request_idx]


# Claims, shares and ownership.


def by(router: Router, key: str, cost: float | None = 10.0, idx: int = 0, now: float = 0.0):
    return router.route(ENDPOINT, cost, idx, 60.0, now, key=key)


def test_the_workers_estimate_replaces_the_claim_when_it_is_told() -> None:
    router = a_router(1)
    answer = assigned(router, 90.0)
    status = WorkerStatus(
        id=1,
        mtoken="",
        url="http://worker-1",
        cur_load=8.0,
        max_perf=10.0,
        working_request_idxs=[answer.request_idx],
        working_loads=[8.0],
    )
    router.report(1, status, 1.0)
    assert load(router, 1) == 8.0
    assert router.demand(ENDPOINT, 1.0).arrived_load == 8.0


def tell(router: Router, now: float, idx: int, load: float) -> None:
    """Worker 1 reports that it works on a request, and what it takes it for."""
    status = WorkerStatus(
        id=1,
        mtoken="",
        cur_load=load,
        max_perf=10.0,
        num_requests_working=1,
        working_request_idxs=[idx],
        working_loads=[load],
    )
    router.report(1, status, now)


@pytest.mark.parametrize("estimate", [-5.0, 2 * MAX_COST, float("inf"), float("nan")])
def test_an_estimate_that_is_no_load_leaves_what_was_booked(estimate: float) -> None:
    router = a_router(1)
    idx = assigned(router, 10.0).request_idx
    status = WorkerStatus(
        id=1,
        mtoken="",
        cur_load=10.0,
        max_perf=10.0,
        working_request_idxs=[idx],
        working_loads=[estimate],
    )
    router.report(1, status, 1.0)
    assert router.demand(ENDPOINT, 1.0).arrived_load == 10.0


def test_what_was_estimated_wrongly_is_put_right_when_it_ends() -> None:
    for turned_out in (200.0, 40.0, 5.0):
        router = a_router(1)
        idx = assigned(router, 90.0).request_idx
        tell(router, 1.0, idx, 90.0)
        router.finished(1, [FinishedRequest(idx, load=turned_out)], 2.0)
        demand = router.demand(ENDPOINT, 2.0)
        assert demand.arrived_load + sum(demand.revised.values()) == turned_out


def believed(router: Router) -> float:
    """What is believed of a request that claims to be boundless, and is given up at once."""
    answer = assigned(router, MAX_COST)
    finish(router, answer, status="Cancelled")
    return answer.cost


@pytest.mark.parametrize(
    ("status", "most"), [("Success", 8 * 14.2), ("Cancelled", 1000.0), ("Error", 1000.0)]
)
def test_only_what_was_served_well_teaches_what_to_believe(status: str, most: float) -> None:
    router = a_router()
    add(router, 1, perf=100.0)
    for _ in range(ENOUGH):
        answer = assigned(router)
        ended = FinishedRequest(answer.request_idx, status == "Success", status, load=10.0)
        router.finished(1, [ended], 1.0)
    assert most / 2 < believed(router) <= most


def test_a_key_pays_in_the_queue_for_what_its_worker_takes_its_requests_for() -> None:
    router = a_router(max_queue_time=0.0)
    owners = {}
    for _ in range(4):
        for key in ("liar", "honest"):
            owners[by(router, key, 1.0 if key == "liar" else 10.0).request_idx] = key
    add(router, 1, now=1.0)
    order = []
    while router.worker(1).requests:  # type: ignore[union-attr]
        (idx,) = router._ledger.workers[1].has
        order.append(owners[idx])
        by(router, owners[idx], idx=idx, now=1.0)
        tell(router, 1.0, idx, 35.0 if owners[idx] == "liar" else 10.0)
        router.finished(1, [FinishedRequest(idx)], 1.0)
    assert order[:5] == ["liar", "honest", "honest", "honest", "honest"]


def test_what_grows_at_its_worker_is_counted_as_arrived_when_it_came() -> None:
    router = a_router(1)
    idx = assigned(router, 10.0).request_idx
    tell(router, 1.0, idx, 10.0)
    tell(router, 2.0, idx, 40.0)
    tell(router, 2.5, idx, 20.0)  # overtaken
    demand = router.demand(ENDPOINT, 2.5)
    assert demand.arrived_load + sum(demand.revised.values()) == 40.0
    assert demand.arrived_count == 1
    assert router.finished(1, [FinishedRequest(idx, load=90.0)], 3.0) == []
    demand = router.demand(ENDPOINT, 3.0)
    assert demand.arrived_load + sum(demand.revised.values()) == 90.0
    assert demand.revised == {1: 80.0}
    assert demand.booked_load == 0.0


def test_a_booking_that_is_never_used_never_arrives() -> None:
    router = a_router(1, max_queue_time=1000.0)
    for now in range(100):
        assigned(router, 1e9, now=float(now))
        router.tick(float(now))
    demand = router.demand(ENDPOINT, 100.0)
    assert (demand.arrived_load, demand.arrived_count, demand.peak_rate) == (0.0, 0, 0.0)
    assert demand.booked_count == 10, "those of the last 10 s"


def test_what_waited_and_then_did_not_use_its_ticket_is_taken_back() -> None:
    router = a_router()
    waiting = held(router, 30.0)
    add(router, 1, now=1.0)
    assigned(router, 30.0, waiting.request_idx, now=1.5)
    assert router.demand(ENDPOINT, 2.0).arrival_rate == 30.0 / 60
    router.tick(11.5)
    demand = router.demand(ENDPOINT, 11.5)
    assert demand.arrival_rate == 0.0
    assert (demand.arrived_load, sum(demand.revised.values())) == (30.0, -30.0)


def test_what_waited_counts_as_what_its_worker_takes_it_for() -> None:
    router = a_router()
    waiting = held(router, 1e9)
    believed = router.demand(ENDPOINT, 0.0).held_load
    add(router, 1, now=1.0)
    answer = assigned(router, idx=waiting.request_idx, now=1.0)
    told = [FinishedRequest(answer.request_idx, load=8.0)]
    router.finished(1, told, 2.0)
    demand = router.demand(ENDPOINT, 2.0)
    assert demand.arrived_load + sum(demand.revised.values()) == 8.0
    assert demand.arrived_load == believed == 1000.0


def test_a_key_gets_neither_the_request_of_another_nor_its_place() -> None:
    router = a_router()
    mine = by(router, "a")
    other = by(router, "b", idx=mine.request_idx)
    unknown = by(router, "b", idx=mine.request_idx - 50)
    assert len({mine.request_idx, other.request_idx, unknown.request_idx}) == 3
    assert (other.fresh, unknown.fresh) == (True, True), "no way to tell one from the other"
    assert router.held(ENDPOINT)[0] == mine.request_idx
    assert by(router, "a", idx=mine.request_idx, now=1.0).request_idx == mine.request_idx


def test_who_polls_by_a_number_of_another_key_finds_what_it_was_given_instead() -> None:
    router = a_router()
    mine = by(router, "a")
    numbers = {by(router, "b", idx=mine.request_idx, now=float(n)).request_idx for n in range(5)}
    assert len(numbers) == 1
    assert router.demand(ENDPOINT, 5.0).held_count == 2


def test_a_retry_elsewhere_leaves_the_earlier_ticket_booked_until_it_expires() -> None:
    router = a_router(1, 2)
    first = assigned(router, 40.0)
    again = assigned(router, 40.0, first.request_idx)
    assert again.fresh, "both can be used"
    assert (load(router, first.worker_id), load(router, again.worker_id)) == (40.0, 40.0)
    for worker_id in (1, 2):
        report(router, worker_id, 1.0, first.request_idx, load=40.0)
    assert router.demand(ENDPOINT, 1.0).arrived_count == 2, "and both were"


def test_retries_under_one_number_are_bounded() -> None:
    router = a_router(1)
    first = assigned(router, 1.0)
    numbers = [assigned(router, 1.0, first.request_idx).request_idx for _ in range(9)]
    assert numbers.count(first.request_idx) == 3
    assert len(set(numbers)) == 3


@pytest.mark.parametrize("status", ["Success", "Cancelled"])
def test_a_request_that_was_served_or_given_up_is_no_retry(status: str) -> None:
    router = a_router(1)
    first = assigned(router)
    finish(router, first, status=status)
    again = assigned(router, idx=first.request_idx)
    assert again.request_idx != first.request_idx
    assert again.fresh


def test_a_request_that_is_at_work_is_not_given_a_second_ticket() -> None:
    router = a_router(1)
    first = assigned(router)
    report(router, 1, 1.0, first.request_idx, load=10.0)
    assert assigned(router, idx=first.request_idx, now=1.0).request_idx != first.request_idx


def test_unused_bookings_of_one_key_keep_no_other_out_for_longer_than_their_grace() -> None:
    router = a_router(1, 2, max_queue_time=30.0)
    while isinstance(by(router, "bad", 1e9), Assigned):
        pass
    waiting = by(router, "good")
    assert isinstance(waiting, Held)
    assert isinstance(by(router, "good", idx=waiting.request_idx, now=2.0), Assigned)


def test_a_key_with_more_than_its_share_unused_gets_nothing_of_another_such_key() -> None:
    router = a_router(1, max_queue_time=30.0)
    for key in ("a", "b", "a", "b"):
        assert isinstance(by(router, key, 80.0), Assigned)  # 160 each, where a share is 150
    assert isinstance(by(router, "a", 10.0, now=3.0), Held)
    assert isinstance(by(router, "c", 10.0, now=3.0), Assigned)


def test_a_share_is_a_part_of_one_typical_request_for_each_worker_at_least() -> None:
    router = a_router(1, max_queue_time=0.0)
    assert isinstance(by(router, "a", 40.0), Assigned)  # a share is half of 100
    assert isinstance(by(router, "b", 40.0, now=3.0), Held)
    router = a_router(1, max_queue_time=0.0)
    assert isinstance(by(router, "a", 60.0), Assigned)
    assert isinstance(by(router, "b", 40.0, now=3.0), Assigned)


def test_a_key_that_has_an_endpoint_for_itself_may_fill_it() -> None:
    router = a_router(1, max_queue_time=30.0)
    answers = [by(router, "a", 30.0) for _ in range(11)]
    assert all(isinstance(answer, Assigned) for answer in answers)


def test_a_promise_is_kept_for_a_client_that_polls_slowly() -> None:
    router = a_router(poll_grace=15.0, ticket_lifetime=10.0)
    waiting = held(router)
    add(router, 1, now=1.0)
    router.tick(14.0)
    answer = assigned(router, idx=waiting.request_idx, now=14.0)
    assert (answer.request_idx, answer.assigned_at) == (waiting.request_idx, 14.0)


def test_claims_that_no_worker_has_seen_are_booked_in_full_and_planned_for_once() -> None:
    router = a_router(1)
    answers = [assigned(router, 1e9) for _ in range(3)]
    demand = router.demand(ENDPOINT, 0.0)
    assert demand.booked_load == 3 * 100.0  # each as what keeps a worker of perf 10 busy for 10 s
    assert demand.outstanding_load == 100.0
    # The worker has seen two of them, and takes them for so large too.
    report(router, 1, 1.0, *[one.request_idx for one in answers[:2]], load=200.0)
    demand = router.demand(ENDPOINT, 1.0)
    assert (demand.booked_load, demand.outstanding_load) == (300.0, 300.0)


def served(router: Router, claim: float, load: float, now: float, times: int = 5) -> None:
    """Worker 1 serves requests that are claimed to be `claim` and are `load`."""
    for _ in range(times):
        idx = assigned(router, claim, now=now).request_idx
        router.finished(1, [FinishedRequest(idx, load=load)], now)


def test_what_is_booked_counts_for_what_such_claims_turned_out_to_be() -> None:
    router = a_router(1)
    served(router, 40.0, 10.0, 1.0)
    assert assigned(router, 40.0, now=2.0).cost == pytest.approx(10.0)
    assert load(router, 1) == pytest.approx(10.0)


def test_what_waits_counts_for_what_such_claims_turned_out_to_be() -> None:
    router = a_router(1)
    served(router, 40.0, 10.0, 1.0)
    router.set_available(1, False, 2.0)
    assert held(router, 80.0, now=2.0).cost == pytest.approx(20.0)
    assert router.demand(ENDPOINT, 2.0).held_load == pytest.approx(20.0, rel=1e-5)


def test_what_waited_before_that_was_known_is_put_right() -> None:
    router = a_router(max_queue_time=1.0)
    first = [held(router, 40.0, now=1.0).request_idx for _ in range(10)]
    assert router.demand(ENDPOINT, 1.0).held_load == 400.0
    add(router, 1, now=2.0)
    for now, idx in enumerate(first[:5], 2):
        router.tick(float(now))
        assert isinstance(route(router, 40.0, idx, float(now)), Assigned)
        router.finished(1, [FinishedRequest(idx, load=10.0)], float(now))
    router.tick(8.0)
    demand = router.demand(ENDPOINT, 8.0)
    left = demand.held_count + demand.booked_count
    assert demand.held_load + demand.booked_load <= 10.0 * left + 30.0
    assert demand.held_load == pytest.approx(10.0 * demand.held_count, rel=1e-5)


def test_of_a_worker_that_tells_no_loads_one_by_one_the_sum_of_what_came_judges_the_claims() -> (
    None
):
    router = a_router(1)
    for now in range(1, 7):
        idx = assigned(router, 100.0, now=float(now)).request_idx
        status = WorkerStatus(
            id=1,
            mtoken="",
            cur_load=25.0,
            new_load=25.0,
            max_perf=10.0,
            num_requests_working=1,
            working_request_idxs=[idx],
        )
        router.report(1, status, float(now))
        router.finished(1, [FinishedRequest(idx)], now + 0.5)
    assert assigned(router, 100.0, now=9.0).cost == pytest.approx(25.0)


def test_the_sum_that_a_worker_of_ours_tells_judges_no_claim_of_a_session() -> None:
    router = a_router(1)
    for now in range(1, 7):
        idx = assigned(router, 100.0, now=float(now)).request_idx
        for named, loads in (([idx], [None]), ([], [])):
            status = WorkerStatus(
                id=1,
                mtoken="",
                new_load=5.0,  # of the requests in the session
                max_perf=10.0,
                working_request_idxs=named,
                working_loads=loads,
                boot_id="a",
            )
            router.report(1, status, float(now))
    assert assigned(router, 100.0, now=9.0).cost == 100.0


def test_a_worker_that_estimates_four_times_too_much_is_believed_to_have_a_quarter() -> None:
    router = a_router(1)
    for now in range(1, 7):
        idx = assigned(router, 100.0, now=float(now)).request_idx
        tell(router, float(now), idx, 100.0)
        router.finished(1, [FinishedRequest(idx, load=25.0)], now + 0.5)
    idx = assigned(router, 100.0, now=9.0).request_idx
    tell(router, 9.5, idx, 100.0)
    assert load(router, 1) == pytest.approx(25.0)
    demand = router.demand(ENDPOINT, 9.5)
    assert demand.arrived_load + sum(demand.revised.values()) == pytest.approx(7 * 25.0)


def test_a_worker_with_a_free_slot_takes_a_request_however_much_it_has() -> None:
    router = a_router(max_queue_time=5.0)
    router.add_worker(1, ENDPOINT, reqnum_base=1)
    status = WorkerStatus(id=1, mtoken="", url="http://worker-1", max_perf=10.0, slots=2)
    router.report(1, status, 0.0)
    router.set_available(1, True, 0.0)
    assigned(router, 100.0)
    assert load(router, 1) > 5.0 * 10.0
    assigned(router, 100.0)
    held(router, 1.0)
