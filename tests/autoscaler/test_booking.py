from __future__ import annotations

from stoker.autoscaler.booking import Phase, Request, WorkerBook


def a_request(idx: int, cost: float) -> Request:
    return Request(idx, 1, cost, deadline=100.0, poll_by=100.0, arrived=0)


def test_a_booking_counts_until_a_report_names_it_and_is_then_in_the_reported_load() -> None:
    worker = WorkerBook(1, 1, next_reqnum=5, perf=10.0)
    request = a_request(1, 30.0)
    worker.book(request)
    assert (worker.load, request.reqnum, worker.next_reqnum) == (30.0, 5, 6)
    assert worker.finish_after(20.0) == 5.0
    worker.see(request)
    assert worker.load == 0.0
    worker.reported = 30.0
    worker.let_go(request, 7.0)
    assert (worker.load, worker.idle_since, request.phase) == (0.0, 7.0, Phase.OVER)


def test_letting_go_twice_takes_the_load_off_once() -> None:
    worker = WorkerBook(1, 1, next_reqnum=0, perf=10.0)
    worker.reported = 100.0
    request = a_request(1, 30.0)
    worker.book(request)
    worker.see(request)
    worker.let_go(request, 1.0)
    worker.let_go(request, 2.0)
    assert worker.load == 70.0


def test_rounding_errors_of_many_bookings_leave_nothing() -> None:
    worker = WorkerBook(1, 1, next_reqnum=0, perf=10.0)
    for idx in range(1000):
        requests = [a_request(3 * idx + n, 0.1 * (n + 1)) for n in range(3)]
        for request in requests:
            worker.book(request)
        for request in requests:
            worker.let_go(request, 0.0)
    assert worker.load == 0.0
    assert worker.idle


def test_a_finish_takes_off_what_is_left_of_a_request_and_no_more() -> None:
    worker = WorkerBook(1, 1, next_reqnum=0, perf=10.0)
    requests = [a_request(idx, 100.0) for idx in range(2)]
    for request in requests:
        worker.book(request)
        worker.see(request)
    worker.reported, worker.reported_requests = 80.0, 2  # 120 of 200 are served
    worker.let_go(requests[0], 1.0)
    assert worker.load == 40.0
    worker.let_go(requests[1], 1.0)
    assert (worker.load, worker.requests) == (0.0, 0)


def test_a_finish_takes_off_its_cost_where_there_is_load_that_nobody_named() -> None:
    worker = WorkerBook(1, 1, next_reqnum=0, perf=10.0)
    request = a_request(1, 30.0)
    worker.book(request)
    worker.see(request)
    worker.reported, worker.reported_requests = 100.0, 2  # one of them is in a session
    worker.let_go(request, 1.0)
    assert worker.load == 70.0


def test_a_worker_with_a_free_slot_begins_at_once() -> None:
    worker = WorkerBook(1, 1, next_reqnum=0, perf=100.0, slots=4)
    worker.reported, worker.reported_requests = 800.0, 3
    assert worker.start_after() == 0.0
    worker.reported_requests = 4
    assert worker.start_after() == 2.0  # 1/4 of 8 s
    worker.reported_requests = 8
    assert worker.start_after() == 5.0  # 5/8 of 8 s


def test_what_is_unused_and_then_counts_for_nothing_is_taken_off_once() -> None:
    worker = WorkerBook(1, 1, 0, perf=10.0, slots=1)
    requests = [Request(idx, 1, 50.0, 0.0, 0.0) for idx in range(2)]
    for request in requests:
        worker.book(request)
    worker.miss(requests[0])
    assert (worker.start_after(), worker.start_after(used=True)) == (10.0, 5.0)
    worker.discount(requests[0])
    assert (worker.start_after(), worker.start_after(used=True)) == (5.0, 5.0)
    worker.let_go(requests[0], 1.0)
    assert (worker.unused, worker.unused_load) == (0, 0.0)
