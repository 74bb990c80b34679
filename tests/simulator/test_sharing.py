"""The server of a simulated worker, against queueing theory and against a plain simulation."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.simulator.sharing import Job, Sharing


def run(server: Sharing, requests: list[tuple[float, float]]) -> dict[int, float]:
    """When each of (arrival, load) ends."""
    ends: dict[int, float] = {}
    waiting = [(at, number, load) for number, (at, load) in enumerate(requests, 1)]
    waiting.sort(reverse=True)
    while waiting or server.jobs:
        due = server.next_end()
        if waiting and waiting[-1][0] < due:
            at, number, load = waiting.pop()
            job = Job(number, at, load)
            job.number = number
            server.add(job, at)
        else:
            ended, _ = server.finish(due)
            assert ended
            ends.update({job.number: due for job in ended})
    return ends


def test_two_requests_share_what_one_would_have_alone() -> None:
    server = Sharing(perf=100, slots=16, share=100)
    assert run(server, [(0, 100), (0, 300)]) == pytest.approx({1: 2.0, 2: 4.0})


def test_one_request_gets_its_share_at_most() -> None:
    server = Sharing(perf=400, slots=16, share=100)
    assert run(server, [(0, 100), (5, 200)]) == pytest.approx({1: 1.0, 2: 7.0})


def test_what_finds_no_slot_waits_first_come_first_served() -> None:
    server = Sharing(perf=100, slots=1, share=100)
    assert run(server, [(0, 100), (0.1, 100), (0.2, 50)]) == pytest.approx({1: 1, 2: 2, 3: 2.5})


def test_what_is_left_falls_as_it_works_and_counts_what_waits() -> None:
    server = Sharing(perf=100, slots=1, share=100)
    for number in (1, 2):
        job = Job(number, 0.0, 100)
        job.number = number
        server.add(job, 0.0)
    assert server.left(0.0) == pytest.approx(200)
    assert server.left(0.5) == pytest.approx(150)


def test_clearing_returns_all_and_leaves_nothing() -> None:
    server = Sharing(perf=100, slots=1, share=100)
    for number in (1, 2):
        job = Job(number, 0.0, 100)
        job.number = number
        server.add(job, 0.0)
    assert [job.number for job in server.clear(0.5)] == [1, 2]
    assert server.left(0.5) == 0
    assert server.next_end() == math.inf


def by_steps(
    perf: float, slots: int, share: float, requests: list[tuple[float, float]]
) -> dict[int, float]:
    """The same by the definition: from one event to the next, each request by itself."""
    left: dict[int, float] = {}
    queue: list[tuple[int, float]] = []
    ends: dict[int, float] = {}
    waiting = sorted((at, number, load) for number, (at, load) in enumerate(requests, 1))
    now = 0.0
    while waiting or left:
        rate = min(perf / len(left), share) if left else 0.0
        due = now + min(left.values()) / rate if left else math.inf
        come = waiting[0][0] if waiting else math.inf
        then = min(due, come)
        left = {number: load - rate * (then - now) for number, load in left.items()}
        now = then
        if come < due:
            _, number, load = waiting.pop(0)
            queue.append((number, load))
        else:
            for number in [n for n, load in left.items() if load <= 1e-9]:
                ends[number] = now
                del left[number]
        while queue and len(left) < slots:
            number, load = queue.pop(0)
            left[number] = load
    return ends


@given(
    perf=st.floats(1, 1000),
    slots=st.integers(1, 6),
    share=st.floats(1, 1000),
    requests=st.lists(st.tuples(st.floats(0, 50), st.floats(0.5, 500)), min_size=1, max_size=25),
)
def test_it_does_what_the_definition_says(
    perf: float, slots: int, share: float, requests: list[tuple[float, float]]
) -> None:
    server = Sharing(perf, slots, share)
    expected = by_steps(perf, slots, share, requests)
    assert run(server, requests) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    # Work is conserved: what came was served, no more and no less.
    assert server.served == pytest.approx(sum(load for _, load in requests), rel=1e-6)


def poisson(rate: float, mean: float, count: int, seed: int) -> list[tuple[float, float]]:
    draws = random.Random(seed)
    at, requests = 0.0, []
    for _ in range(count):
        at += draws.expovariate(rate)
        requests.append((at, draws.expovariate(1 / mean)))
    return requests


def test_the_mean_time_of_processor_sharing_is_that_of_theory() -> None:
    # M/M/1-PS: E[T] = (E[S] / perf) / (1 - rho); here 1 s / (1 - 0.7).
    requests = poisson(rate=0.7, mean=100, count=40_000, seed=1)
    ends = run(Sharing(perf=100, slots=10**9, share=100), requests)
    mean = sum(ends[number] - at for number, (at, _) in enumerate(requests, 1)) / len(requests)
    assert mean == pytest.approx(1 / 0.3, rel=0.06)


def test_the_mean_time_in_a_queue_for_one_slot_is_that_of_theory() -> None:
    # M/D/1: E[W] = rho * S / (2 * (1 - rho)); here 0.7 * 1 / 0.6, and the service of 1 s.
    draws = random.Random(2)
    at, requests = 0.0, []
    for _ in range(40_000):
        at += draws.expovariate(0.7)
        requests.append((at, 100.0))
    ends = run(Sharing(perf=100, slots=1, share=100), requests)
    mean = sum(ends[number] - at for number, (at, _) in enumerate(requests, 1)) / len(requests)
    assert mean == pytest.approx(1 + 0.7 / 0.6, rel=0.06)


def test_shared_by_few_the_mean_time_is_that_of_many_servers() -> None:
    # A share of a quarter of the perf makes it M/M/4 in numbers: with Erlang's C for a = 2.8,
    # E[N] = a + C * rho / (1 - rho), and E[T] = E[N] / rate by Little's law.
    a, servers = 2.8, 4
    terms = [a**k / math.factorial(k) for k in range(servers)]
    last = a**servers / math.factorial(servers) / (1 - a / servers)
    erlang_c = last / (sum(terms) + last)
    rho = a / servers
    expected = (a + erlang_c * rho / (1 - rho)) / 2.8
    requests = poisson(rate=2.8, mean=100, count=40_000, seed=3)
    ends = run(Sharing(perf=400, slots=10**9, share=100), requests)
    mean = sum(ends[number] - at for number, (at, _) in enumerate(requests, 1)) / len(requests)
    assert mean == pytest.approx(expected, rel=0.05)
