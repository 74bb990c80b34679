"""What comes at the same time each day, and each week."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler.planning.history import LoadHistory
from stoker.autoscaler.planning.keeping import KeptDay, halved, packed
from stoker.autoscaler.planning.season import DAY, ROWS, SLOT, SLOTS, LoadProfile

JOB = range(24, 30)
"""Slots of a job from 2:00 to 2:30."""

BEFORE = JOB.start * SLOT - 900.0
"""A quarter of an hour before it."""


def pass_day(profile: LoadProfile, day: int, busy: float, quiet: float = 0.0) -> None:
    for slot in range(SLOTS):
        profile.add(busy if slot in JOB else quiet, day * DAY + slot * SLOT, SLOT)


def days(*busy: float) -> LoadProfile:
    """After as many days, with so much load while the job runs."""
    profile = LoadProfile()
    for day, load in enumerate(busy):
        pass_day(profile, day, load)
    return profile


def tonight(profile: LoadProfile, day: int, ahead: float = 1200.0) -> float:
    """What recurs within `ahead` seconds of a quarter of an hour before the job."""
    return profile.recurring(day * DAY + BEFORE, day * DAY + BEFORE + ahead).load


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
    assert profile.recurring(end - 1, end + 600).load == 50.0
    assert profile.recurring(end, end + 600).load == 0.0


def test_it_is_seen_across_midnight() -> None:
    profile = LoadProfile()
    for day in range(2):
        profile.add(7.0, day * DAY, SLOT)
        profile.add(0.0, day * DAY + SLOT, DAY - SLOT)
    assert profile.recurring(2 * DAY - 60, 2 * DAY + 60).load == 7.0


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 2.0])
def test_what_comes_less_than_expected_is_believed_less(share: float) -> None:
    profile = LoadProfile()
    for day in range(2):
        profile.add(100.0, day * DAY, DAY)
    for slot in range(24):  # two hours of the third day
        profile.add(100.0 * share, 2 * DAY + slot * SLOT, SLOT)
    now = 2 * DAY + 24 * SLOT
    found = profile.recurring(now, now + 600.0)
    assert found.load == pytest.approx(100.0 * min(1.0, share), abs=10.0)
    assert found.belief == pytest.approx(min(1.0, share), abs=0.1)


def test_a_job_that_fails_to_appear_is_given_up_within_ten_minutes() -> None:
    profile = days(50.0, 50.0)
    for slot in range(JOB.start + 2):
        profile.add(0.0, 2 * DAY + slot * SLOT, SLOT)
    profile.add(0.0, 2 * DAY + (JOB.start + 2) * SLOT)
    now = 2 * DAY + (JOB.start + 2) * SLOT
    assert profile.recurring(now, now + 300).load < 0.15 * 50.0


def test_chance_in_a_small_load_does_not_shake_the_belief_in_a_large_one() -> None:
    profile = LoadProfile()
    for day in range(3):
        for slot in range(SLOTS if day < 2 else JOB.start):
            quiet = 1.0 if day < 2 else 0.5
            profile.add(50.0 if slot in JOB else quiet, day * DAY + slot * SLOT, SLOT)
    assert tonight(profile, 2) == pytest.approx(50.0, rel=0.1)


def test_a_surge_of_another_load_does_not_speak_for_the_season() -> None:
    profile = LoadProfile()
    for day in range(2):
        pass_day(profile, day, 50.0, quiet=1.0)
    for slot in range(JOB.start + 2):
        surge = 500.0 if JOB.start - 4 <= slot < JOB.start else 0.0
        profile.add(surge, 2 * DAY + slot * SLOT, SLOT)
    profile.add(0.0, 2 * DAY + (JOB.start + 2) * SLOT)
    now = 2 * DAY + (JOB.start + 2) * SLOT
    assert profile.recurring(now, now + 300).load < 0.15 * 50.0


def test_of_two_jobs_one_is_prepared_for_though_the_other_did_not_come() -> None:
    profile = LoadProfile()
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
    assert profile.recurring(start + SLOT + 10, start + SLOT + 20).load == 50.0


def after_restart(profile: LoadProfile, now: float, later: float = 0.0) -> LoadProfile:
    again = LoadProfile()
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
    assert again.recurring(start + DAY, start + DAY).load == pytest.approx(50.0)


def test_how_far_the_season_is_believed_outlives_a_restart_and_fades() -> None:
    profile = LoadProfile()
    for day in range(2):
        profile.add(100.0, day * DAY, DAY)
    profile.add(30.0, 2 * DAY, 12 * SLOT)
    profile.add(30.0, 2 * DAY + 12 * SLOT)
    now = 2 * DAY + 12 * SLOT + 1
    end = now + 600.0
    before = profile.recurring(now, end).load
    assert before < 45.0
    assert after_restart(profile, now).recurring(now, end).load == pytest.approx(before)
    assert after_restart(profile, now, later=3600.0).recurring(now, end).load > 90.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"days": {1: b""}},
        {"days": {10**15: halved([0.0] * SLOTS)}},
        {"days": {day: halved([0.0] * SLOTS) for day in range(ROWS + 1)}},
        {"slot": -(10**15)},
        {"came": [-1.0, 0.0]},
        {"errors": [0.0]},
        {"load": 1e300},
    ],
)
def test_what_is_broken_changes_nothing(wrong: dict[str, object]) -> None:
    kept = msgspec.structs.replace(days(50.0, 50.0).kept(5.0), **wrong)
    profile = days(40.0, 40.0)
    with pytest.raises(ValueError, match="numbers|below 0|sources|no clock|days"):
        profile.resume(kept, 5.0)
    assert tonight(profile, 2) == 40.0


WORKDAYS = [100.0] * 5 + [0.0] * 2


def weeks(*busy: float, quiet: float = 0.0) -> LoadProfile:
    """As `days`, from a Monday on."""
    profile = LoadProfile()
    for day, load in enumerate(busy):
        pass_day(profile, day, load, quiet)
    return profile


@pytest.mark.parametrize("monday", [7, 14, 21])
def test_monday_is_prepared_for_from_the_second_on(monday: int) -> None:
    found = weeks(*(WORKDAYS * 3)[:monday]).recurring(monday * DAY + BEFORE, monday * DAY + 1e4)
    assert (found.load, found.source) == (100.0, "week")


@pytest.mark.parametrize("day", [8, 9, 10, 11, 15, 18])
def test_every_workday_of_the_second_week_is_prepared_for(day: int) -> None:
    assert tonight(weeks(*(WORKDAYS * 3)[:day]), day) == 100.0


def test_a_weekend_is_not_prepared_for_once_two_went_without() -> None:
    loads = WORKDAYS * 4
    assert tonight(weeks(*loads[:5]), 5) == 100.0
    for saturday in (19, 26):
        assert tonight(weeks(*loads[:saturday]), saturday) == 0.0
        assert tonight(weeks(*loads[: saturday + 1]), saturday + 1) == 0.0


def test_a_job_of_one_weekday_is_prepared_for_after_two() -> None:
    loads = [100.0, *[0.0] * 6] * 3
    assert tonight(weeks(*loads[:7]), 7) == 0.0
    assert tonight(weeks(*loads[:14]), 14) == 100.0
    assert [tonight(weeks(*loads[:day]), day) for day in range(15, 21)] == [0.0] * 6


def test_a_monday_without_does_not_keep_the_next_one_from_being_prepared_for() -> None:
    loads = WORKDAYS * 4
    loads[14] = 0.0
    assert tonight(weeks(*loads[:15]), 15) == 100.0
    assert tonight(weeks(*loads[:21]), 21) == 100.0


def test_one_night_without_a_nightly_job_does_not_end_it_where_weeks_had_it() -> None:
    loads = [100.0] * 20
    loads[16] = 0.0
    assert tonight(weeks(*loads[:17]), 17) == 100.0
    assert tonight(weeks(*loads[:18]), 18) == 100.0


def test_two_nights_without_end_it() -> None:
    loads = [100.0] * 16 + [0.0] * 10
    assert tonight(weeks(*loads[:17]), 17) == 100.0
    assert [tonight(weeks(*loads[:day]), day) for day in range(18, 26)] == [0.0] * 8


def test_a_day_on_which_nobody_looked_is_no_day_without() -> None:
    profile = LoadProfile()
    for day in [*range(14), *range(16, 18)]:
        pass_day(profile, day, 100.0)
    assert tonight(profile, 16) == 100.0
    assert tonight(profile, 18) == 100.0


def test_a_job_that_is_new_is_prepared_for_though_no_week_had_it() -> None:
    assert tonight(weeks(*[0.0] * 16, 100.0, 100.0), 18) == 100.0


def test_a_week_that_does_not_come_is_given_up_within_ten_minutes() -> None:
    profile = weeks(*WORKDAYS * 3)
    for slot in range(JOB.start + 2):
        profile.add(0.0, 21 * DAY + slot * SLOT, SLOT)
    now = 21 * DAY + (JOB.start + 2) * SLOT
    profile.add(0.0, now)
    found = profile.recurring(now, now + 300)
    assert found.expected == 100.0
    assert found.belief < 0.15


def by_chance(seed: int, count: int) -> list[float]:
    """An hour of load in ten, at any time; mean load per second by slot."""
    draws = random.Random(seed)
    loads: list[float] = []
    while len(loads) < count:
        busy = draws.random() < 0.1
        loads += [100.0 if busy else 0.0] * 12
    return loads[:count]


@pytest.mark.parametrize("seed", range(3))
def test_what_recurs_by_chance_is_followed_only_while_that_pays(seed: int) -> None:
    profile, held, needed = LoadProfile(), 0.0, 0.0
    loads = by_chance(seed, 6 * 7 * SLOTS)
    for number, load in enumerate(loads):
        at = number * SLOT
        profile.add(load, at, 1.0)
        if number > 2 * 7 * SLOTS:
            held += profile.recurring(at, at + 40.0).load
            needed += load
        profile.add(load, at + 1.0, SLOT - 1.0)
    # It recurs in 3% of the time; two sources would hold for a third of what comes.
    assert held < 0.1 * needed


def test_what_is_worth_preparing_for_depends_on_how_long_capacity_takes_to_come() -> None:
    profile, loads = LoadProfile(), by_chance(0, 4 * 7 * SLOTS)
    for number, load in enumerate(loads):
        profile.add(load, number * SLOT, SLOT)
    start = len(loads) * SLOT
    profile.add(0.0, start)
    at = next(
        start + slot * SLOT
        for slot in range(6 * SLOTS)
        if profile.recurring(start + slot * SLOT, start + slot * SLOT + 1.0).expected == 100.0
    )
    free = profile.recurring(at, at + 2.0, 0.0)
    assert (free.load, free.belief, free.expected) == (0.0, 0.0, 100.0)
    # Within the same slot, and asked after the other.
    assert profile.recurring(at, at + 200.0, 1000.0).load == pytest.approx(100.0)


def test_a_source_that_was_given_up_is_followed_again_when_it_proves_right() -> None:
    profile = LoadProfile()
    loads = by_chance(1, 4 * 7 * SLOTS)
    for number, load in enumerate(loads):
        profile.add(load, number * SLOT, SLOT)
    for day in range(28, 36):
        pass_day(profile, day, 100.0)
    assert tonight(profile, 36) == 100.0


def test_the_usual_load_is_told_by_the_week_where_that_was_nearer() -> None:
    profile = weeks(*WORKDAYS * 3, 100.0)
    monday = 21 * DAY
    assert weeks(*WORKDAYS * 3).change(monday + BEFORE, monday + BEFORE + 1200) == 100.0
    # On Tuesday, the mean of Sunday and Monday would be 50.
    tuesday = monday + DAY
    assert profile.change(tuesday + BEFORE, tuesday + BEFORE + 1200) == 100.0


def test_no_more_days_are_remembered_than_are_looked_back_for() -> None:
    profile = LoadProfile()
    for day in range(100):
        profile.add(1.0, day * DAY, DAY)
    assert len(profile._rows) == ROWS
    assert min(profile._rows) == 100 - ROWS


def test_a_clock_that_was_far_ahead_for_a_moment_costs_no_more_than_a_day() -> None:
    profile = weeks(*WORKDAYS * 2)
    profile.add(5.0, 30 * 365 * DAY, 10 * SLOT)
    assert tonight(profile, 14) == 100.0


def test_what_an_earlier_version_kept_is_read() -> None:
    latest = [50.0 if slot in JOB else 0.0 for slot in range(SLOTS)]
    former = [40.0 if slot in JOB else math.nan for slot in range(SLOTS)]
    kept = KeptDay(
        at=2 * DAY,
        latest=packed(latest),
        former=packed(former),
        day=packed([1.0] * SLOTS),
        slot=2 * SLOTS - 1,
        load=0.0,
        seconds=SLOT,
        came=0.0,
        expected=0.0,
    )
    profile = LoadProfile()
    profile.resume(kept, 2 * DAY)
    assert tonight(profile, 2) == 40.0


@given(
    st.lists(st.sampled_from([0.0, 1.0, 50.0, 100.0]), min_size=1, max_size=24),
    st.floats(0, 3000),
)
@settings(max_examples=20, deadline=None)
def test_what_recurs_is_never_more_than_two_of_the_days_before_had(
    busy: list[float], ahead: float
) -> None:
    day = len(busy)
    found = weeks(*busy, quiet=0.5).recurring(day * DAY + BEFORE, day * DAY + BEFORE + ahead)
    second = sorted([0.5, 0.5, *busy])[-2]
    assert 0.0 <= found.load <= found.expected <= second
    assert 0.0 <= found.belief <= 1.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40), st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_a_restart_changes_nothing(busy: list[float], into: int) -> None:
    profile, days_seen = LoadProfile(), len(busy) // 2 + 1
    for number, load in enumerate(busy):
        profile.add(load, number * DAY / 2, DAY / 2)
    now = days_seen * DAY + into * SLOT
    again = after_restart(profile, now)
    for ahead in (60.0, 3000.0):
        before, after = profile.recurring(now, now + ahead), again.recurring(now, now + ahead)
        assert after.load == pytest.approx(before.load, rel=0.01)
        assert after.source == before.source


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=30),
    st.integers(0, 20),
    st.integers(0, 20),
)
def test_never_more_recurs_than_each_day_had(
    loads: list[tuple[float, float]], begin: int, length: int
) -> None:
    profile = LoadProfile()
    for day in range(2):
        for slot, load in enumerate(loads):
            profile.add(load[day], day * DAY + slot * SLOT, SLOT)
        profile.add(0.0, day * DAY + len(loads) * SLOT, DAY - len(loads) * SLOT)
    start = 2 * DAY + begin * SLOT
    found = profile.recurring(start, start + length * SLOT).load
    part = loads[begin : begin + length + 1]
    for day in range(2):
        assert 0.0 <= found <= max((load[day] for load in part), default=0.0) * (1 + 1e-6)


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
    profile = LoadProfile()
    profile.add(5.0, 0.0, 3 * SLOT)
    assert profile.change(SLOT, SLOT + 7200) is None


def test_who_asks_a_day_ahead_changes_nothing_of_what_recurs() -> None:
    profiles = LoadProfile(), LoadProfile()
    start = 3 * DAY + 3600.0
    for minute in range(int(start / 60)):
        second = 60.0 * minute
        for profile in profiles:
            profile.add(100.0 if second % DAY < 7200 else 1.0, second, 60.0)
        profiles[1].change(second, second + DAY)
    assert profiles[1].recurring(start, start + 60).load == 100
    assert profiles[0].recurring(start, start + 60) == profiles[1].recurring(start, start + 60)
    ahead = start + 7200
    assert profiles[0].change(start, ahead) == profiles[1].change(start, ahead) == -99
