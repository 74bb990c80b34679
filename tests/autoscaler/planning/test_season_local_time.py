"""What comes at the same local time, where the clocks are changed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler.planning.season import DAY, SLOT, LoadProfile
from stoker.autoscaler.timezones import utc_offsets

BERLIN = ZoneInfo("Europe/Berlin")
FORWARD = datetime(2026, 3, 29, tzinfo=BERLIN)
"""From 2:00 to 3:00; a Sunday."""
BACK = datetime(2026, 10, 25, tzinfo=BERLIN)
"""From 3:00 to 2:00; a Sunday."""
LEAD = 750.0


def passed(
    until: datetime, days: int, runs: Callable[[datetime], bool], zone: str = "Europe/Berlin"
) -> LoadProfile:
    """What was seen of so many days: a job that runs when it says so, told local time."""
    profile = LoadProfile(utc_offsets(zone))
    end = until.timestamp()
    at = end - days * DAY
    while at < end:
        local = datetime.fromtimestamp(at, BERLIN)
        profile.add(100.0 if runs(local) else 1.0, at, SLOT)
        at += SLOT
    return profile


def cron(hour: int, minute: int = 0, weekday: int | None = None) -> Callable[[datetime], bool]:
    """For half an hour; what falls into the hour that is left out runs when it is over."""

    def runs(local: datetime) -> bool:
        day = weekday is None or local.weekday() == weekday
        begin = local.replace(hour=hour, minute=minute, fold=0)
        if begin.astimezone(UTC).astimezone(BERLIN).replace(fold=0) != begin:
            begin = local.replace(hour=hour + 1, minute=0)
        return day and begin <= local < begin + timedelta(minutes=30) and not local.fold

    return runs


def expected(profile: LoadProfile, local: datetime) -> float:
    """Of what is prepared for five minutes before a local time."""
    at = local.timestamp() - SLOT
    return profile.recurring(at, at + LEAD).load


@pytest.mark.parametrize("change", [FORWARD, BACK])
@pytest.mark.parametrize("day", range(-1, 4))
def test_a_job_at_a_local_time_is_prepared_for_over_a_change_of_the_clocks(
    change: datetime, day: int
) -> None:
    tonight = change + timedelta(days=day, hours=4)
    profile = passed(tonight - timedelta(hours=1), 16, cron(4))
    assert expected(profile, tonight) == pytest.approx(100.0, abs=1.0)
    for hours in (-1, 1):
        assert expected(profile, tonight + timedelta(hours=hours)) < 10.0


@pytest.mark.parametrize("minute", [0, 30])
@pytest.mark.parametrize("days", [5, 16])
@pytest.mark.parametrize("day", [1, 2, 3])
def test_a_job_in_the_hour_that_was_left_out_is_prepared_for_afterwards(
    minute: int, days: int, day: int
) -> None:
    tonight = FORWARD + timedelta(days=day, hours=2, minutes=minute)
    profile = passed(tonight - timedelta(hours=1), days, cron(2, minute))
    assert expected(profile, tonight) == pytest.approx(100.0, abs=1.0)


def test_a_job_in_the_hour_that_is_left_out_is_prepared_for_when_that_is_over() -> None:
    profile = passed(FORWARD + timedelta(hours=1), 16, cron(2, 30))
    assert expected(profile, FORWARD + timedelta(hours=3)) == pytest.approx(100.0, abs=1.0)


@pytest.mark.parametrize("day", [1, 2])
def test_a_job_in_the_hour_that_came_twice_is_prepared_for_afterwards(day: int) -> None:
    tonight = BACK + timedelta(days=day, hours=2)
    profile = passed(tonight - timedelta(hours=1), 16, cron(2))
    assert expected(profile, tonight) == pytest.approx(100.0, abs=1.0)


def test_nothing_fails_in_the_hour_that_comes_twice() -> None:
    first = (BACK + timedelta(hours=2)).timestamp()
    profile = passed(BACK + timedelta(hours=2), 16, cron(2))
    for minutes in range(0, 130, 5):
        profile.recurring(first + 60 * minutes, first + 60 * minutes + 4500)
        assert profile.change(first + 60 * minutes, first + 60 * minutes + 3600) is not None
        profile.add(1.0, first + 60 * minutes, SLOT)


@pytest.mark.parametrize("change", [FORWARD, BACK])
@pytest.mark.parametrize("weeks", [0, 1])
def test_a_job_of_mondays_is_prepared_for_over_a_change_of_the_clocks(
    change: datetime, weeks: int
) -> None:
    monday = change + timedelta(days=1 + 7 * weeks, hours=9)
    profile = passed(monday - timedelta(hours=1), 17, cron(9, weekday=0))
    assert expected(profile, monday) == pytest.approx(100.0, abs=1.0)
    assert expected(profile, monday + timedelta(hours=1)) < 10.0
    assert expected(profile, monday + timedelta(days=-1)) < 10.0


def test_another_time_zone_forgets_nothing() -> None:
    before = passed(FORWARD + timedelta(days=-1), 16, cron(4), "UTC")
    profile = LoadProfile(utc_offsets("Europe/Berlin"))
    now = FORWARD.timestamp() - DAY
    profile.resume(before.kept(now), now)
    assert expected(profile, FORWARD + timedelta(hours=4)) == pytest.approx(100.0, abs=1.0)


def test_a_day_that_an_island_left_out_breaks_nothing() -> None:
    # Samoa went from Thursday, 29 December 2011 to Saturday.
    profile = LoadProfile(utc_offsets("Pacific/Apia"))
    start = datetime(2011, 12, 15, tzinfo=UTC).timestamp()
    for number in range(20 * 288):
        at = start + number * SLOT
        profile.add(50.0, at, SLOT)
        found = profile.recurring(at + SLOT, at + SLOT + LEAD)
        assert 0.0 <= found.load <= 50.0
    assert found.load == pytest.approx(50.0, abs=1.0)


offsets = st.integers(-14 * 4, 14 * 4).map(lambda quarters: quarters * 900.0)


@given(
    st.lists(st.tuples(st.floats(0, 20 * DAY), offsets), max_size=5),
    st.lists(st.floats(0, 1e6), min_size=1, max_size=60),
    st.floats(0, 20 * DAY),
)
@settings(max_examples=40, deadline=None)
def test_no_changes_of_the_clocks_make_more_of_what_came(
    changes: list[tuple[float, float]], loads: list[float], asked: float
) -> None:
    def ahead(unix: float) -> float:
        return max((one for one in changes if one[0] <= unix), default=(0.0, 0.0))[1]

    profile = LoadProfile(ahead)
    for number, load in enumerate(loads):
        profile.add(load, number * DAY / 3, DAY / 3)
    found = profile.recurring(asked, asked + LEAD)
    assert 0.0 <= found.load <= found.expected <= max(loads) * (1 + 1e-6)
