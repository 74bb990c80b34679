"""What comes at the same time each day."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.planning.history import LoadHistory
from stoker.autoscaler.planning.season import DAY, SLOT, SLOTS, DayProfile

JOB = range(24, 30)
"""Slots of a job from 2:00 to 2:30."""

BEFORE = JOB.start * SLOT - 900.0
"""A quarter of an hour before it."""


def pass_day(profile: DayProfile, day: int, busy: float, quiet: float = 0.0) -> None:
    for slot in range(SLOTS):
        profile.add(busy if slot in JOB else quiet, day * DAY + slot * SLOT, SLOT)


def days(*busy: float) -> DayProfile:
    """After as many days, with so much load while the job runs."""
    profile = DayProfile()
    for day, load in enumerate(busy):
        pass_day(profile, day, load)
    return profile


def tonight(profile: DayProfile, day: int, ahead: float = 1200.0) -> float:
    """What recurs within `ahead` seconds of a quarter of an hour before the job."""
    return profile.recurring(day * DAY + BEFORE, day * DAY + BEFORE + ahead)


def test_what_both_of_the_last_two_days_had_recurs() -> None:
    assert tonight(days(50.0, 40.0), 2) == 40.0
    assert tonight(days(40.0, 50.0), 2) == 40.0


def test_one_day_is_no_season() -> None:
    assert tonight(days(50.0), 1) == 0.0


def test_one_day_without_it_ends_it() -> None:
    assert tonight(days(50.0, 50.0, 0.0), 3) == 0.0


def test_it_is_seen_as_far_ahead_as_asked() -> None:
    profile = days(50.0, 50.0)
    assert tonight(profile, 2, ahead=899.0) == 0.0
    assert tonight(profile, 2, ahead=900.0) == 50.0
    end = 2 * DAY + JOB.stop * SLOT
    assert profile.recurring(end - 1, end + 600) == 50.0
    assert profile.recurring(end, end + 600) == 0.0


def test_it_is_seen_across_midnight() -> None:
    profile = DayProfile()
    for day in range(2):
        profile.add(7.0, day * DAY, SLOT)
        profile.add(0.0, day * DAY + SLOT, DAY - SLOT)
    assert profile.recurring(2 * DAY - 60, 2 * DAY + 60) == 7.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 2.0])
def test_what_comes_less_than_expected_is_believed_less(share: float) -> None:
    profile = DayProfile()
    for day in range(2):
        profile.add(100.0, day * DAY, DAY)
    for slot in range(24):  # two hours of the third day
        profile.add(100.0 * share, 2 * DAY + slot * SLOT, SLOT)
    now = 2 * DAY + 24 * SLOT
    assert profile.recurring(now, now) == pytest.approx(100.0 * min(1.0, share), abs=10.0)


def test_a_job_that_fails_to_appear_is_given_up_within_ten_minutes() -> None:
    profile = days(50.0, 50.0)
    for slot in range(JOB.start + 2):
        profile.add(0.0, 2 * DAY + slot * SLOT, SLOT)
    profile.add(0.0, 2 * DAY + (JOB.start + 2) * SLOT)
    now = 2 * DAY + (JOB.start + 2) * SLOT
    assert profile.recurring(now, now + 300) < 0.15 * 50.0


def test_chance_in_a_small_load_does_not_shake_the_belief_in_a_large_one() -> None:
    profile = DayProfile()
    for day in range(3):
        for slot in range(SLOTS if day < 2 else JOB.start):
            quiet = 1.0 if day < 2 else 0.5
            profile.add(50.0 if slot in JOB else quiet, day * DAY + slot * SLOT, SLOT)
    assert tonight(profile, 2) == pytest.approx(50.0, rel=0.1)


def test_a_surge_of_another_load_does_not_speak_for_the_season() -> None:
    profile = DayProfile()
    for day in range(2):
        pass_day(profile, day, 50.0, quiet=1.0)
    for slot in range(JOB.start + 2):
        surge = 500.0 if JOB.start - 4 <= slot < JOB.start else 0.0
        profile.add(surge, 2 * DAY + slot * SLOT, SLOT)
    profile.add(0.0, 2 * DAY + (JOB.start + 2) * SLOT)
    now = 2 * DAY + (JOB.start + 2) * SLOT
    assert profile.recurring(now, now + 300) < 0.15 * 50.0


def test_of_two_jobs_one_is_prepared_for_though_the_other_did_not_come() -> None:
    profile = DayProfile()
    for day in range(3):
        for slot in range(SLOTS if day < 2 else JOB.start):
            first = 1000.0 if JOB.start - 12 <= slot < JOB.start - 6 and day < 2 else 0.0
            profile.add(450.0 if slot in JOB else first, day * DAY + slot * SLOT, SLOT)
    assert tonight(profile, 2) > 0.5 * 450.0


def test_days_that_are_not_the_last_two_are_no_season() -> None:
    assert tonight(days(50.0, 50.0), 3) == 0.0
    profile = days(50.0)
    pass_day(profile, 2, 50.0)
    assert tonight(profile, 3) == 0.0


def test_one_night_that_is_seen_twice_is_no_season() -> None:
    profile = days(50.0)
    pass_day(profile, 0, 50.0)  # the clock was set back
    assert tonight(profile, 1) == 0.0


def test_a_slot_of_which_little_was_seen_says_nothing() -> None:
    profile = days(50.0, 50.0)
    start = 2 * DAY + JOB.start * SLOT
    profile.add(0.0, start - SLOT, SLOT)
    profile.add(0.0, start + SLOT - 2, 2.0)
    profile.add(50.0, start + SLOT, 10.0)
    assert profile.recurring(start + SLOT + 10, start + SLOT + 20) == 50.0


def after_restart(profile: DayProfile, now: float, later: float = 0.0) -> DayProfile:
    again = DayProfile()
    again.resume(profile.kept(now), now + later)
    return again


def test_a_slot_goes_on_after_a_restart() -> None:
    profile = days(50.0)
    start = DAY + JOB.start * SLOT
    profile.add(50.0, start, 140.0)
    again = after_restart(profile, start + 140)
    again.add(50.0, start + 160, 140.0)
    again.add(0.0, start + SLOT, SLOT)
    again.add(0.0, start + 2 * SLOT, DAY - SLOT)
    assert again.recurring(start + DAY, start + DAY) == pytest.approx(50.0)


def test_how_far_the_season_is_believed_outlives_a_restart_and_fades() -> None:
    profile = DayProfile()
    for day in range(2):
        profile.add(100.0, day * DAY, DAY)
    profile.add(30.0, 2 * DAY, 12 * SLOT)
    profile.add(30.0, 2 * DAY + 12 * SLOT)
    now = 2 * DAY + 12 * SLOT + 1
    before = profile.recurring(now, now)
    assert before < 45.0
    assert after_restart(profile, now).recurring(now, now) == pytest.approx(before)
    assert after_restart(profile, now, later=3600.0).recurring(now, now) > 90.0


@pytest.mark.parametrize("wrong", [{"latest": b""}, {"came": -1.0}, {"expected": float("inf")}])
def test_what_is_broken_changes_nothing(wrong: dict[str, object]) -> None:
    kept = msgspec.structs.replace(days(50.0, 50.0).kept(5.0), **wrong)
    profile = days(40.0, 40.0)
    with pytest.raises(ValueError, match="numbers|below 0"):
        profile.resume(kept, 5.0)
    assert tonight(profile, 2) == 40.0


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=30),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_never_more_recurs_than_each_day_had(
    loads: list[tuple[float, float]], begin: int, length: int
) -> None:
    profile = DayProfile()
    for day in range(2):
        for slot, load in enumerate(loads):
            profile.add(load[day], day * DAY + slot * SLOT, SLOT)
        profile.add(0.0, day * DAY + len(loads) * SLOT, DAY - len(loads) * SLOT)
    start = 2 * DAY + begin * SLOT
    found = profile.recurring(start, start + length * SLOT)
    part = loads[begin : begin + length + 1]
    for day in range(2):
        assert 0.0 <= found <= max((load[day] for load in part), default=0.0) * (1 + 1e-9)


def test_the_mean_of_both_days_is_expected() -> None:
    history = LoadHistory()
    second = 0.0
    for _ in range(2 * SLOTS):
        busy = 7200 <= second % DAY < 9000
        history.add(50.0 if busy else 0.0, 1, second, seconds=SLOT)
        second += SLOT
    before = 2 * DAY + 6900.0
    assert history.ahead(before, 1200.0, 0.0) == pytest.approx(50.0)
    assert history.ahead(before + 1800.0, 1800.0, 50.0) == pytest.approx(0.0)


def test_the_day_is_not_known_before_it_was_seen() -> None:
    profile = DayProfile()
    profile.add(5.0, 0.0, 3 * SLOT)
    assert profile.change(SLOT, SLOT + 7200) is None
