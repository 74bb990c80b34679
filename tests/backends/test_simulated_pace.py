from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.backends.simulated_pace import Job, Pace


def pace(slots: int = 4, slot: float = 10.0, total: float = 1000.0, prompt: float = 100.0) -> Pace:
    return Pace(slots=slots, slot_speed=slot, total_speed=total, prompt_speed=prompt, now=0.0)


def run(found: Pace, job: Job, now: float = 0.0) -> Job:
    found.submit(job, now)
    return job


def test_a_prompt_is_read_and_then_tokens_come_at_the_speed_of_the_slot() -> None:
    found = pace()
    job = run(found, Job(prompt=50, tokens=10))
    found.advance(0.5)
    assert (job.produced, job.done) == (0, False)
    found.advance(0.6)
    assert job.produced == 1
    found.advance(1.0)
    assert job.produced == 5
    found.advance(1.5)
    assert (job.produced, job.done) == (10, True)


def test_two_slots_are_not_slowed_down_while_the_total_allows_it() -> None:
    found = pace(total=20.0)
    jobs = [run(found, Job(0, 10)) for _ in range(2)]
    found.advance(0.5)
    assert [job.produced for job in jobs] == [5, 5]


def test_beyond_the_total_all_slots_are_slowed_down_alike() -> None:
    found = pace(total=20.0)
    jobs = [run(found, Job(0, 10)) for _ in range(4)]
    found.advance(0.5)
    assert [job.produced for job in jobs] == [2, 2, 2, 2]
    found.advance(2.0)
    assert all(job.done for job in jobs)


def test_what_is_left_runs_faster_when_others_are_done() -> None:
    found = pace(slots=2, total=10.0)
    short, long = run(found, Job(0, 5)), run(found, Job(0, 10))
    # Both at 5 tokens/s until 1.0; then the long one alone at 10.
    found.advance(1.0)
    assert (short.done, long.produced) == (True, 5)
    found.advance(1.5)
    assert long.done


def test_a_long_pause_between_two_looks_changes_nothing() -> None:
    found = pace(slots=2, total=10.0)
    jobs = [run(found, Job(0, tokens)) for tokens in (5, 10, 10)]
    assert found.next_end() == 1.0
    found.advance(2.4)
    # The third began at 1.0; both ran at 5 tokens/s until 2.0, then it alone at 10.
    assert [job.done for job in jobs] == [True, True, False]
    assert jobs[2].produced == 9


def test_the_next_in_the_queue_starts_when_a_slot_is_free() -> None:
    found = pace(slots=1)
    first, second = run(found, Job(0, 10)), run(found, Job(0, 10))
    found.advance(0.9)
    assert (second.started, found.waiting) == (False, 1)
    found.advance(1.2)
    assert (first.done, second.started, second.produced) == (True, True, 2)


def test_a_cancelled_job_leaves_its_slot_to_the_next() -> None:
    found = pace(slots=1)
    first, second = run(found, Job(0, 10)), run(found, Job(0, 10))
    found.cancel(first, 0.5)
    assert (first.done, first.produced, second.started) == (True, 5, True)
    found.advance(1.5)
    assert second.done
    assert found.generated == 15


def test_a_job_can_be_cancelled_in_the_queue() -> None:
    found = pace(slots=1)
    first, second = run(found, Job(0, 10)), run(found, Job(0, 10))
    found.cancel(second, 0.5)
    assert (found.waiting, second.started, first.done) == (0, False, False)


def test_a_job_without_tokens_is_done_when_its_prompt_is_read() -> None:
    found = pace()
    job = run(found, Job(prompt=100, tokens=0))
    found.advance(0.9)
    assert not job.done
    found.advance(1.0)
    assert job.done


def test_nothing_runs_nothing_ends() -> None:
    found = pace()
    assert found.next_end() is None
    found.advance(100.0)
    job = run(found, Job(0, 10), now=100.0)
    found.advance(100.5)
    assert job.produced == 5


arrivals = st.lists(
    st.tuples(st.floats(0, 5), st.integers(0, 200), st.integers(0, 50), st.booleans()),
    min_size=1,
    max_size=25,
)


@given(arrivals, st.integers(1, 5), st.floats(5, 200))
def test_no_more_than_the_total_speed_is_ever_generated(
    asked: list[tuple[float, int, int, bool]], slots: int, total: float
) -> None:
    found = pace(slots=slots, slot=20.0, total=total)
    jobs: list[Job] = []
    now = 0.0
    for pause, prompt, tokens, leaves in asked:
        now += pause
        jobs.append(run(found, Job(prompt, tokens), now))
        assert len(found.running) <= slots
        if leaves:
            found.cancel(jobs[len(jobs) // 2], now)
        produced = sum(job.produced for job in jobs)
        assert produced <= now * min(total, slots * 20.0) + 1e-6
        assert all(0 <= job.produced <= job.tokens for job in jobs)
    found.advance(now + 10_000.0)
    assert all(job.done for job in jobs)
    assert found.generated == sum(job.produced for job in jobs)
    assert found.waiting == 0


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10), st.lists(st.floats(0.01, 3)))
def test_looking_more_often_gives_the_same_answer(tokens: list[int], looks: list[float]) -> None:
    often, once = pace(slots=3, total=15.0), pace(slots=3, total=15.0)
    watched = [run(often, Job(7, n)) for n in tokens]
    plain = [run(once, Job(7, n)) for n in tokens]
    now = 0.0
    for pause in looks:
        now += pause
        often.advance(now)
    often.advance(now)
    once.advance(now)
    for one, other in zip(watched, plain, strict=True):
        assert one.produced == pytest.approx(other.produced, abs=1)
