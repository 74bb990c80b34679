"""What is learnt of workers."""

from __future__ import annotations

from collections import deque

import pytest

from stoker.autoscaler.learnt import LEAST_SECONDS, MAX_OFFERS, Learnt, upper


@pytest.mark.parametrize(
    ("seconds", "figure"),
    [([], 0.0), ([10.0], 10.0), ([10.0, 20.0], 20.0), ([10.0, 11.0, 12.0, 60.0, 10.0], 12.0)],
)
def test_a_time_to_come_up_is_an_upper_quantile_that_one_slow_start_does_not_spoil(
    seconds: list[float], figure: float
) -> None:
    assert upper(deque(seconds)) == figure


def test_a_worker_that_came_at_once_took_a_moment() -> None:
    learnt = Learnt()
    learnt.came_in(0.0, again=True)
    assert (learnt.start_seconds, learnt.create_seconds) == (LEAST_SECONDS, 0.0)


def test_the_oldest_of_too_many_failing_offers_is_forgotten() -> None:
    learnt = Learnt()
    for number in range(MAX_OFFERS + 1):
        learnt.did_not_come(("provider", str(number)), float(number))
    assert len(learnt.offers) == MAX_OFFERS
    assert ("provider", "0") not in learnt.offers
    assert learnt.failures == MAX_OFFERS + 1
