"""The ranking beside the plain rule: look at every worker, and take the best."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler.booking import NOTHING, Request, WorkerBook
from stoker.autoscaler.ranking import PERF_STEP, Ranking, step_of

LIMIT = 30.0

ROUNDING = 1 + 1e-9

PERFS = st.sampled_from([1.0, 50.0, 52.0, 100.0, 400.0, 437.0]) | st.floats(0.01, 1e6)
LOADS = st.sampled_from([0.0, 1e-9, 1.0, 100.0, 5000.0]) | st.floats(0.0, 1e5)


def a_worker(
    worker_id: int, perf: float, load: float = 0.0, requests: int = 0, slots: int = 0
) -> WorkerBook:
    worker = WorkerBook(worker_id, 1, 0, perf, f"http://worker-{worker_id}", available=True)
    worker.reported, worker.reported_requests, worker.slots = load, requests, slots
    return worker


def has_slot(worker: WorkerBook) -> bool:
    return not 0 < worker.slots <= worker.requests


def check(
    ranking: Ranking, workers: list[WorkerBook], cost: float, avoid: WorkerBook | None = None
) -> None:
    """What is chosen, against every other worker; a load of NOTHING counts as none."""
    chosen = ranking.best(cost, LIMIT, avoid)
    others = [w for w in workers if w.in_rotation and w is not avoid and w.takes(LIMIT)]
    free = [worker for worker in others if has_slot(worker)]
    if not others and avoid is not None and avoid.in_rotation and avoid.takes(LIMIT):
        assert chosen is avoid
    if chosen is None or chosen is avoid:
        # Held, although somebody would have been let in: only ever within a step of the limit, or
        # for a full one that begins it no sooner than the full one that is next.
        assert all(w.load / w.perf * ROUNDING > LIMIT for w in free)
        assert all(worker.load > NOTHING for worker in free)
        return
    assert chosen in others
    if free:
        assert has_slot(chosen), "a free slot comes first"
        least = min(worker.finish_after(cost) for worker in free)
        assert chosen.finish_after(cost) <= least * PERF_STEP * ROUNDING + NOTHING / chosen.perf
    else:
        least = min(worker.start_after() for worker in others)
        assert chosen.start_after() <= least * (1 + 1 / 64) * ROUNDING + NOTHING / chosen.perf


@st.composite
def fleets(draw: st.DrawFn) -> list[WorkerBook]:
    slots = draw(st.sampled_from([(0,), (4,), (0, 1, 4)]))
    return [
        a_worker(
            worker_id,
            draw(PERFS),
            draw(LOADS),
            draw(st.integers(0, 8)),
            draw(st.sampled_from(slots)),
        )
        for worker_id in range(draw(st.integers(0, 12)))
    ]


@settings(max_examples=80, deadline=None)
@given(fleets(), st.lists(st.floats(0.0, 1e5), min_size=1, max_size=5), st.data())
def test_nobody_is_passed_over_who_would_have_begun_or_finished_much_sooner(
    workers: list[WorkerBook], costs: list[float], data: st.DataObject
) -> None:
    ranking = Ranking()
    for worker in workers:
        ranking.update(worker)
    for cost in costs:
        check(ranking, workers, cost)
        if workers:
            check(ranking, workers, cost, avoid=data.draw(st.sampled_from(workers)))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_stays_so_while_workers_come_and_go_and_change(data: st.DataObject) -> None:
    ranking, workers = Ranking(), [a_worker(n, 100.0 * (n % 3 + 1)) for n in range(8)]
    for worker in workers:
        ranking.update(worker)
    for turn in range(data.draw(st.integers(1, 40))):
        worker = data.draw(st.sampled_from(workers))
        match data.draw(st.sampled_from(["load", "perf", "slots", "leave", "book"])):
            case "load":
                worker.reported = data.draw(LOADS)
                worker.reported_requests = data.draw(st.integers(0, 6))
            case "perf":
                worker.perf = data.draw(PERFS)
            case "slots":
                worker.slots = data.draw(st.sampled_from([0, 1, 4]))
            case "leave":
                worker.available = not worker.available
            case "book":
                worker.book(Request(turn, 1, data.draw(LOADS), 1.0, 1.0, 0))
                worker.last_turn = turn + 1
        ranking.update(worker)
        check(ranking, workers, data.draw(LOADS))


@given(st.integers(1, 30), st.integers(1, 90), st.floats(0.0, 10.0))
def test_idle_workers_of_like_perf_are_used_in_turn(n: int, rounds: int, cost: float) -> None:
    # Perfs of one kind of machine, as measured: they differ by some percent.
    workers = [a_worker(worker_id, 400.0 + worker_id) for worker_id in range(n)]
    ranking, chosen = Ranking(), []
    for worker in workers:
        ranking.update(worker)
    for turn in range(rounds):
        best = ranking.best(cost, LIMIT)
        assert best is not None
        chosen.append(best.worker_id)
        best.last_turn = turn + 1
        ranking.update(best)
    counts = [chosen.count(worker.worker_id) for worker in workers]
    assert max(counts) - min(counts) <= 1


def test_a_small_request_goes_to_the_slow_idle_worker_and_a_large_one_to_the_fast_busy_one() -> (
    None
):
    slow, fast = a_worker(1, 10.0), a_worker(2, 100.0, load=100.0, requests=1)
    ranking = Ranking()
    ranking.update(slow)
    ranking.update(fast)
    assert ranking.best(5.0, LIMIT) is slow  # 0.5 s, or 1.05 s
    assert ranking.best(50.0, LIMIT) is fast  # 5 s, or 1.5 s


def test_a_free_slot_comes_before_an_earlier_finish() -> None:
    full = a_worker(1, 100.0, load=10.0, requests=2, slots=2)
    free = a_worker(2, 100.0, load=900.0, requests=1, slots=2)
    ranking = Ranking()
    ranking.update(full)
    ranking.update(free)
    assert ranking.best(10.0, LIMIT) is free
    free.available = False
    ranking.update(free)
    assert ranking.best(10.0, LIMIT) is full


def test_among_full_workers_the_one_whose_next_slot_is_free_first_is_taken() -> None:
    few_large = a_worker(1, 100.0, load=1000.0, requests=2, slots=2)  # 1/2 of 10 s
    many_small = a_worker(2, 100.0, load=1200.0, requests=20, slots=20)  # 1/20 of 12 s
    ranking = Ranking()
    ranking.update(few_large)
    ranking.update(many_small)
    assert ranking.best(1.0, LIMIT) is many_small


@given(st.floats(1e-6, 1e6), st.floats(1.0, 2.0))
def test_a_step_is_a_64th_at_most(seconds: float, factor: float) -> None:
    assert step_of(seconds) <= step_of(seconds * factor)
    if factor > 1 + 1 / 64:
        assert step_of(seconds) < step_of(seconds * factor)


def test_a_ranking_forgets_the_classes_and_steps_that_nobody_is_in() -> None:
    worker = a_worker(1, 1.0)
    ranking = Ranking()
    for number in range(2000):
        worker.perf, worker.reported = 1.1 ** (number % 300), float(number)
        ranking.update(worker)
        assert ranking.best(1.0, 1e9) is worker
    assert len(ranking._classes) == len(ranking._by_number) == 1
    worker.available = False
    ranking.update(worker)
    assert ranking.best(1.0, 1e9) is None
    assert not ranking._classes
