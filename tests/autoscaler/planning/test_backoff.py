from __future__ import annotations

from stoker.autoscaler.planning import backoff_delay


def test_the_delay_doubles_from_one_second_to_five_minutes() -> None:
    assert [backoff_delay(n) for n in (0, 1, 2, 3, 9, 10)] == [0.0, 1.0, 2.0, 4.0, 256.0, 300.0]


def test_any_number_of_failures_has_a_delay() -> None:
    assert backoff_delay(10**9) == 300.0
