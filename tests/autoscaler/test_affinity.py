from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler.affinity import MAX_HOLDERS, START_PATIENCE, CacheTable
from stoker.autoscaler.router import Assigned, Router
from stoker.wire import FinishedRequest, WorkerStatus

PERF = 100.0


def a_router(workers: int, *, patience: float = 1.0, slots: int = 0) -> Router:
    router = Router(1, affinity_patience=patience)
    router.add_endpoint(1, max_queue_time=30.0)
    for worker_id in range(1, workers + 1):
        add(router, worker_id, slots)
    return router


def add(router: Router, worker_id: int, slots: int = 0) -> None:
    router.add_worker(worker_id, 1, reqnum_base=0)
    url = f"http://worker-{worker_id}"
    status = WorkerStatus(id=worker_id, mtoken="", url=url, max_perf=PERF, slots=slots)
    router.report(worker_id, status, 0.0)
    router.set_available(worker_id, True, 0.0)


def route(router: Router, *names: str, cost: float = 10.0) -> Assigned:
    answer = router.route(1, cost, 0, 60.0, 0.0, affinity=names)
    assert isinstance(answer, Assigned)
    return answer


def end(router: Router, answer: Assigned) -> None:
    router.finished(answer.worker_id, [FinishedRequest(answer.request_idx)], 0.0)


def test_a_name_goes_where_it_was_before() -> None:
    router = a_router(10)
    homes = {name: route(router, name).worker_id for name in "abcdefghij"}
    assert len(set(homes.values())) == 10, "new names go where there is the least to do"
    for name in "jihgfedcba":
        assert route(router, name).worker_id == homes[name]


def test_the_longest_prefix_that_was_seen_decides() -> None:
    router = a_router(3)
    short = route(router, "system").worker_id
    long = route(router, "other", "other+question").worker_id
    assert long != short
    assert route(router, "system", "other+question").worker_id == long
    assert route(router, "system", "never seen").worker_id == short


def test_a_name_that_everybody_uses_spreads() -> None:
    router = a_router(10)
    counts = Counter(route(router, "system prompt").worker_id for _ in range(200))
    # 20 requests of 0.1 s each at each worker; a worker may be ahead of the best by 1 s.
    assert min(counts.values()) >= 10
    assert max(counts.values()) <= 31
    (holders,) = router._caches._holders.values()
    assert len(holders) == MAX_HOLDERS


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 8),
    st.sampled_from([0.0, 0.5, 3.0]),
    st.sampled_from([0, 3]),
    st.lists(
        st.tuples(st.lists(st.sampled_from("abcde"), max_size=3), st.floats(0.0, 400.0)),
        max_size=60,
    ),
    st.randoms(use_true_random=False),
)
def test_nobody_waits_longer_for_a_cache_than_the_patience(
    workers: int, patience: float, slots: int, asked: list[tuple[list[str], float]], rng: object
) -> None:
    router = a_router(workers, patience=patience, slots=slots)
    books = router._ledger.workers
    at_work: list[Assigned] = []
    for names, cost in asked:
        starts = {w: book.start_after() for w, book in books.items()}
        finishes = {w: book.finish_after(cost) for w, book in books.items()}
        plain = router._ledger.endpoints[1]._ranking.best(cost, 30.0)
        answer = router.route(1, cost, 0, 60.0, 0.0, affinity=names)
        if not isinstance(answer, Assigned):
            break
        at_work.append(answer)
        assert plain is not None
        chosen = answer.worker_id
        assert starts[chosen] <= starts[plain.worker_id] + min(patience, START_PATIENCE) + 1e-9
        assert finishes[chosen] <= finishes[plain.worker_id] + patience + 1e-9
        if rng.random() < 0.3:  # type: ignore[attr-defined]
            end(router, at_work.pop(0))


def test_a_worker_that_leaves_takes_only_its_own_names_with_it() -> None:
    router = a_router(10)
    homes = {}
    for number in range(100):
        answer = route(router, f"name-{number}")
        homes[f"name-{number}"] = answer.worker_id
        end(router, answer)
    router.remove_worker(3, 1.0)
    moved = set()
    for name, home in homes.items():
        answer = route(router, name)
        end(router, answer)
        if answer.worker_id != home:
            moved.add(name)
    assert moved == {name for name, home in homes.items() if home == 3}


def test_a_worker_that_comes_moves_no_name() -> None:
    router = a_router(5)
    homes = {f"name-{n}": route(router, f"name-{n}").worker_id for n in range(50)}
    add(router, 6)
    assert all(route(router, name, cost=0.0).worker_id == home for name, home in homes.items())


@pytest.mark.parametrize("boots", [True, False])
def test_a_worker_that_booted_anew_is_known_for_nothing(boots: bool) -> None:
    router = a_router(2)
    first = route(router, "a")
    end(router, first)
    home, other = first.worker_id, 3 - first.worker_id
    if boots:
        router.restarted(home, 1.0)
    # Half a second behind the other one: worth it for a cache, and only for that.
    busy = WorkerStatus(id=home, mtoken="", max_perf=PERF, cur_load=50.0, num_requests_working=1)
    router.report(home, busy, 1.0)
    assert route(router, "a").worker_id == (other if boots else home)
    assert len(router._caches._workers) == 2


def test_a_name_of_one_endpoint_says_nothing_about_another() -> None:
    table = CacheTable()
    assert table.names(1, ["a"]) != table.names(2, ["a"])


def test_a_retry_does_not_go_back_to_the_worker_that_failed_it_for_its_cache() -> None:
    router = a_router(2)
    first = route(router, "a")
    again = router.route(1, 10.0, first.request_idx, 60.0, 1.0, affinity=["a"])
    assert isinstance(again, Assigned)
    assert again.worker_id != first.worker_id


def test_a_worker_without_a_free_slot_is_not_waited_for_longer_than_the_patience() -> None:
    router = a_router(2, slots=1)
    first = route(router, "a", cost=150.0)  # 1.5 s
    assert route(router, "a", cost=1.0).worker_id != first.worker_id


@pytest.mark.parametrize(("seconds", "stays"), [(0.4, True), (0.6, False)])
def test_a_worker_that_knows_a_name_is_waited_for_half_a_second_at_most(
    seconds: float, stays: bool
) -> None:
    """However much later a request may finish there: a cache saves work, not waiting."""
    router = a_router(2, patience=3.0, slots=1)
    home = route(router, "a", cost=seconds * PERF).worker_id
    assert (route(router, "a", cost=1.0).worker_id == home) is stays


@pytest.mark.parametrize(("seconds", "stays"), [(2.9, True), (3.1, False)])
def test_a_request_finishes_three_seconds_later_at_most_for_a_cache(
    seconds: float, stays: bool
) -> None:
    router = Router(1)
    router.add_endpoint(1, max_queue_time=30.0)
    add(router, 1, slots=4)
    add(router, 2, slots=4)
    home = route(router, "a", cost=seconds * PERF).worker_id
    assert (route(router, "a", cost=1.0).worker_id == home) is stays


def test_the_names_that_are_remembered_are_bounded() -> None:
    router = a_router(8)
    router._caches._limit = 100
    for number in range(1000):
        end(router, route(router, "shared", f"name-{number}"))
    assert len(router._caches) == 100
    assert all(len(h) <= MAX_HOLDERS for h in router._caches._holders.values())


def test_workers_that_are_gone_are_not_remembered() -> None:
    router = a_router(3)
    for worker_id in range(10, 60):
        add(router, worker_id)
        route(router, "a")
        router.remove_worker(worker_id, 1.0)
    assert len(router._caches._workers) == 3


@pytest.mark.parametrize("names", [(), ("",)])
def test_without_a_name_it_is_as_ever(names: tuple[str, ...]) -> None:
    router = a_router(4)
    assert len({route(router).worker_id for _ in range(4)}) == 4
