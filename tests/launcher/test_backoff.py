from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.launcher.backoff import Backoff


def test_each_failure_in_a_row_doubles_the_wait_up_to_the_maximum() -> None:
    backoff = Backoff(initial=0.5, maximum=5.0)
    waits = [backoff.failed(now) - now for now in range(100, 106)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_healthy_time_makes_it_forget() -> None:
    backoff = Backoff(initial=0.5, healthy_after=30.0)
    backoff.failed(0.0)
    backoff.failed(1.0)
    backoff.recovered(2.0)
    assert backoff.failed(32.0) == 32.5
    assert backoff.failures == 1


def test_a_short_healthy_time_does_not() -> None:
    backoff = Backoff(initial=0.5, healthy_after=30.0)
    backoff.failed(0.0)
    backoff.recovered(1.0)
    assert backoff.failed(30.9) == 31.9
    assert backoff.failures == 2


def test_health_counts_from_its_beginning() -> None:
    backoff = Backoff(healthy_after=30.0)
    backoff.failed(0.0)
    for now in range(1, 40):
        backoff.recovered(float(now))
        backoff.healthy(float(now))
    assert backoff.failures == 0


@given(st.lists(st.floats(0, 1e6), max_size=2000).map(sorted))
def test_the_wait_never_exceeds_the_maximum(times: list[float]) -> None:
    backoff = Backoff(initial=0.5, maximum=30.0)
    assert all(0 < backoff.failed(now) - now <= 30.001 for now in times)
