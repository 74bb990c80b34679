"""For how long a stopped worker is kept: what it costs to be without it is learnt."""

import pytest

from stoker.autoscaler.planning.rehearsal import SETTLING, Surroundings
from stoker.autoscaler.planning.retention import MAX_RANKS, PRIOR, Retention
from stoker.autoscaler.planning.settings import PlannerSettings

SETTINGS = PlannerSettings()
GUESS = 20 * 25.0
AROUND = Surroundings(
    perf=400.0,
    slots=16.0,
    create_seconds=30.0,
    start_seconds=5.0,
    stoppable=True,
    target_util=0.9,
    patience=10.0,
    max_workers=16,
)


def late(retention: Retention, rank: int = 2) -> float:
    retention._fade()
    found = retention._late_per_worker(25.0)
    return float(found[min(rank, len(found)) - 1])


def kept_for(retention: Retention, rank: int) -> float:
    times = retention.seconds(30.0, 5.0)
    return times[min(rank, len(times)) - 1]


def pass_time(retention: Retention, wanted: int, seconds: int, load: float = 0.0) -> None:
    """Without anything that is late, where `load` is 0."""
    for _ in range(seconds):
        retention.step(load, load / 300.0, 300.0, wanted, AROUND)


def settled() -> Retention:
    retention = Retention(SETTINGS)
    for _ in range(int(SETTLING)):
        retention.step(300.0, 1.0, 300.0, 1, AROUND)
    return retention


def test_until_more_was_asked_for_all_that_a_boot_is_slower_than_a_start_is_late() -> None:
    assert late(Retention(SETTINGS)) == GUESS
    assert late(settled()) == GUESS


def test_what_it_took_to_begin_with_one_worker_is_not_judged() -> None:
    retention = Retention(SETTINGS)
    for second in range(60):
        retention.step(3000.0, 10.0, 300.0, min(8, 1 + second), AROUND)
    assert late(retention) == GUESS


def test_where_new_workers_come_in_time_a_stopped_one_is_kept_for_what_its_boot_costs() -> None:
    retention = settled()
    for _ in range(20):
        for wanted in (1, 2):
            for _ in range(100):
                retention.step(300.0, 1.0, 300.0, wanted, AROUND)
    assert late(retention) == pytest.approx(PRIOR * GUESS / (PRIOR + 20), rel=0.05)
    assert kept_for(retention, 2) < 1200


def test_where_bursts_are_late_without_stopped_workers_they_stay_for_hours() -> None:
    retention = settled()
    for _ in range(5):
        for _ in range(580):
            retention.step(0.0, 0.0, 300.0, 1, AROUND)
        for _ in range(20):
            retention.step(3600.0, 12.0, 300.0, 10, AROUND)
    # Twelve requests a second for the 15 s or so in which only those that boot are missing, priced.
    expected = 15 * 12 * 20 * 300 / 400 / 9
    assert late(retention) == pytest.approx(expected, rel=0.35)
    assert kept_for(retention, 10) > 580


def test_in_a_silence_passed_in_steps_as_much_is_done_as_second_by_second() -> None:
    found = []
    for step in (1, 10):
        retention = settled()
        for _ in range(20):
            retention.step(3600.0, 12.0, 300.0, 10, AROUND)
        for _ in range(100 // step):
            retention.step(0.0, 0.0, 300.0, 2, AROUND, seconds=step)
        # What was left of the burst would make these late.
        for _ in range(10):
            retention.step(600.0, 2.0, 300.0, 2, AROUND)
        found.append(late(retention))
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_what_was_seen_fades_towards_the_first_guess() -> None:
    retention = settled()
    for wanted in (1, 2) * 20:
        for _ in range(60):
            retention.step(300.0, 1.0, 300.0, wanted, AROUND)
    before = late(retention)
    for _ in range(10 * 24):
        retention.step(0.0, 0.0, 300.0, 1, AROUND, seconds=3600.0)
    assert before < GUESS / 10 < 0.9 * GUESS < late(retention) < GUESS


def test_where_nothing_was_seen_a_worker_is_kept_until_it_cost_what_its_loss_is_worth() -> None:
    worth = (30.0 + GUESS) / SETTINGS.stopped_price
    assert 0.7 * worth < kept_for(Retention(SETTINGS), 1) < 1.3 * worth


def test_the_worker_that_is_wanted_again_in_time_is_kept_and_the_one_that_is_not_goes() -> None:
    retention = settled()
    for _ in range(4):
        pass_time(retention, 3, 60)
        for _ in range(8):
            pass_time(retention, 1, 300)
            pass_time(retention, 2, 60)
    assert 300 < kept_for(retention, 2) < 600
    # It comes back after 2,880 s each time, when it would have cost more than a boot.
    assert kept_for(retention, 3) < 300


def test_a_worker_is_not_kept_for_a_return_that_comes_when_it_has_cost_more_than_a_boot() -> None:
    retention = settled()
    for _ in range(20):
        pass_time(retention, 2, 60)
        pass_time(retention, 1, 3000)
    assert kept_for(retention, 2) < 200


def test_small_changes_at_the_top_say_nothing_of_the_ranks_below_them() -> None:
    retention = settled()
    pass_time(retention, 7, 60, 300.0)
    for _ in range(20):
        pass_time(retention, 9, 60, 300.0)
        pass_time(retention, 7, 60, 300.0)
    pass_time(retention, 1, 60, 300.0)
    # Nothing was late while the load moved between seven workers and nine; from one, it may be.
    assert max(late(retention, 9), late(retention, 12)) < 0.1 * GUESS
    assert late(retention, 2) > 0.4 * GUESS


def test_what_other_ranks_saw_counts_for_one_that_was_never_wanted_again() -> None:
    retention = settled()
    before = kept_for(retention, 9)
    for _ in range(40):
        pass_time(retention, 2, 30)
        pass_time(retention, 1, 300)
    assert kept_for(retention, 9) < before
    assert kept_for(retention, 9) == kept_for(retention, 3)


def test_gaps_that_are_older_than_a_few_days_are_forgotten() -> None:
    retention = settled()
    for _ in range(20):
        pass_time(retention, 2, 30)
        pass_time(retention, 1, 100)
    before = kept_for(retention, 2)
    for _ in range(20 * 24):
        retention.step(0.0, 0.0, 300.0, 1, AROUND, seconds=3600.0)
    fresh = kept_for(Retention(SETTINGS), 2)
    assert before < kept_for(retention, 2) == fresh


def test_it_is_kept_no_shorter_and_no_longer_than_the_limits() -> None:
    shortest = Retention(SETTINGS).seconds(0.0, 0.0)[-1]
    assert SETTINGS.cold_retention <= shortest < 2 * SETTINGS.cold_retention
    assert Retention(SETTINGS).seconds(1e9, 0.0)[-1] == SETTINGS.cold_retention_limit
    free = PlannerSettings(stopped_price=0.0)
    assert Retention(free).seconds(30.0, 5.0)[-1] == free.cold_retention_limit


def test_a_huge_number_of_workers_takes_no_more_room_than_some_hundreds() -> None:
    retention = settled()
    for _ in range(3):
        pass_time(retention, 100_000, 2)
        pass_time(retention, 1, 100)
    assert len(retention.seconds(30.0, 5.0)) == MAX_RANKS + 1
