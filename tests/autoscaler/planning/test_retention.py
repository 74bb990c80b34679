"""For how long a stopped worker is kept: what it costs to be without it is learnt."""

import pytest

from stoker.autoscaler.planning.rehearsal import SETTLING, Surroundings
from stoker.autoscaler.planning.retention import PRIOR, Retention, keeping_pays_for
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


def late(retention: Retention) -> float:
    return retention.late_per_worker(30.0, 5.0)


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
    assert keeping_pays_for(SETTINGS, 30.0, late(retention)) < 1200


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
    assert keeping_pays_for(SETTINGS, 30.0, late(retention)) > 3600


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


def test_it_is_kept_no_shorter_and_no_longer_than_the_limits() -> None:
    assert keeping_pays_for(SETTINGS, 0.0, 0.0) == SETTINGS.cold_retention
    assert keeping_pays_for(SETTINGS, 1e9, 0.0) == SETTINGS.cold_retention_limit
    free = PlannerSettings(stopped_price=0.0)
    assert keeping_pays_for(free, 30.0, 0.0) == free.cold_retention_limit
