"""The benchmark of the season counts what it says."""

from __future__ import annotations

import pytest
from benchmarks.season import WEEKS, weeks

from stoker.autoscaler.planning.season import SLOTS


def test_whoever_reacts_is_late_for_a_boot_and_whoever_knows_mondays_is_not() -> None:
    monday = [0.0] * 24 + [10.0] * 12 + [0.0] * (7 * SLOTS - 36)
    without, known = (weeks(monday * WEEKS, 600.0, season=season) for season in (False, True))
    assert without == [(pytest.approx(1 / 6), pytest.approx(7 / 6))] * WEEKS
    assert known[:2] == without[:2]
    assert [late for late, _ in known[2:]] == [0.0] * 3
    assert all(cost < 1.5 for _, cost in known)
