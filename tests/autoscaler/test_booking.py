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
