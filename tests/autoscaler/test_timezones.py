"""How far local time is ahead of UTC."""

from __future__ import annotations

import time
import zoneinfo
from datetime import UTC, datetime

import pytest

from stoker.autoscaler.timezones import utc_offsets
from stoker.errors import ConfigError


def at(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type,misc]


def test_a_zone_is_followed_to_the_second_in_which_its_clocks_are_changed() -> None:
    ahead = utc_offsets("Europe/Berlin")
    assert [ahead(at(2026, 3, 29, 0, 59, 59)), ahead(at(2026, 3, 29, 1))] == [3600.0, 7200.0]
    assert [ahead(at(2026, 10, 25, 0, 59, 59)), ahead(at(2026, 10, 25, 1))] == [7200.0, 3600.0]


def test_a_zone_of_three_quarters_of_an_hour_is_known() -> None:
    assert utc_offsets("Asia/Kathmandu")(at(2026, 1, 1)) == 5.75 * 3600


@pytest.fixture
def new_york(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("new_york")
def test_without_a_name_it_is_the_zone_of_this_machine() -> None:
    ahead = utc_offsets(None)
    assert [ahead(at(2026, 1, 1)), ahead(at(2026, 7, 1))] == [-5 * 3600.0, -4 * 3600.0]


@pytest.mark.parametrize("unix", [-1e18, 1e18, 3e11])
@pytest.mark.parametrize("name", [None, "Europe/Berlin"])
def test_no_moment_makes_it_fail(unix: float, name: str | None) -> None:
    assert abs(utc_offsets(name)(unix)) <= 86400.0


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Europe/Berln", "'Europe/Berln' is no time zone: did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("Europe", "'Europe' is no time zone"),
        ("", "'' is no time zone: name one such as 'Europe/Berlin'"),
        ("/etc/localtime", "is no time zone"),
        ("../zoneinfo/UTC", "is no time zone"),
        ("a\0b", "is no time zone"),
        ("x" * 5000, "is no time zone"),
        ("UTC+2", "is no time zone"),
    ],
)
def test_an_unknown_zone_is_named_with_the_field(name: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        utc_offsets(name)
    assert str(caught.value).startswith("server.timezone: ")
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_machine_without_time_zones_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(ConfigError, match="tzdata"):
        utc_offsets("Mars/Olympus")
