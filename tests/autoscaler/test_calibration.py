from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.calibration import (
    FIRST,
    MAX_KEYS,
    MAX_PAIRS,
    MAX_ROUTES,
    MOVED,
    Calibration,
    Ratio,
)
from stoker.sizes import FAR


def claimed(
    calibration: Calibration, factor: float, *, key: str = "a", route: str = "", times: int = FIRST
) -> None:
    for _ in range(times):
        calibration.arrived(factor * 10.0, 10.0, key=key, route=route)


@given(st.floats(0.01, 100), st.integers(2, 500))
def test_from_the_second_request_on_a_constant_factor_is_known(factor: float, count: int) -> None:
    ratio = Ratio()
    for _ in range(count):
        ratio.add(factor * 10, 10)
    assert ratio.value == pytest.approx(1 / factor)


def test_sizes_that_a_claim_says_nothing_of_are_right_in_all() -> None:
    ratio, source = Ratio(), random.Random(1)
    sizes = [source.lognormvariate(5, 1) for _ in range(5000)]
    for size in sizes:
        ratio.add(100, size)
    assert 100 * ratio.value == pytest.approx(sum(sizes) / len(sizes), rel=0.2)


@pytest.mark.parametrize("place", range(1, 30, 4))
def test_one_outlier_moves_it_by_no_more_than_a_few_requests_would(place: int) -> None:
    ratio = Ratio()
    for number in range(30):
        ratio.add(10, 1e9 if number == place else 20)
        assert ratio.value <= 2 * (1 + FAR / (number + 1))
    assert ratio.value == pytest.approx(2, rel=FAR / 30 + 0.01)


def test_a_first_request_that_is_an_outlier_is_not_believed() -> None:
    ratio = Ratio()
    ratio.add(10, 1e9)
    assert ratio.value == 1.0


def test_it_follows_when_what_is_claimed_changes_its_meaning() -> None:
    ratio = Ratio()
    for _ in range(1000):
        ratio.add(10, 10)
    for _ in range(1000):
        ratio.add(40, 10)
    assert ratio.value == pytest.approx(0.25, rel=0.1)


def test_each_key_is_judged_by_its_own_requests_once_they_are_known() -> None:
    calibration = Calibration()
    claimed(calibration, 10.0, key="liar", times=50)
    claimed(calibration, 1.0, key="honest", times=FIRST)
    assert calibration.of_claim("liar", "") == pytest.approx(0.1)
    assert calibration.of_claim("honest", "") == pytest.approx(1.0)


def test_a_key_may_mean_something_else_on_another_route() -> None:
    calibration = Calibration()
    claimed(calibration, 1.0, route="/chat")
    claimed(calibration, 5.0, route="/embed")
    assert calibration.of_claim("a", "/chat") == pytest.approx(1.0)
    assert calibration.of_claim("a", "/embed") == pytest.approx(0.2)


def test_a_new_key_is_judged_by_the_route_and_then_by_all() -> None:
    calibration = Calibration()
    claimed(calibration, 4.0, route="/chat", times=20)
    assert calibration.of_claim("new", "/chat") == pytest.approx(0.25)
    assert calibration.of_claim("new", "/other") == pytest.approx(0.25)


def test_what_workers_estimate_is_judged_by_what_was_served() -> None:
    calibration = Calibration()
    claimed(calibration, 2.0)
    for _ in range(FIRST):
        calibration.ended(100.0, 50.0, route="/chat")
        calibration.ended(100.0, 10.0, route="/embed")
    assert calibration.of_estimate("/chat") == pytest.approx(0.5)
    assert calibration.of_estimate("/embed") == pytest.approx(0.1)
    assert calibration.of_claim("a", "/chat") == pytest.approx(0.25)


def test_who_claims_nothing_teaches_nothing() -> None:
    calibration = Calibration()
    for claim in (None, 0.0):
        calibration.arrived(claim, 100.0, key="a", route="/chat")
    assert calibration.of_claim("a", "/chat") == 1.0


def test_what_waits_is_to_be_judged_anew_when_all_in_all_claims_mean_something_else() -> None:
    calibration = Calibration()
    assert not calibration.moved()
    claimed(calibration, 4.0)
    assert calibration.moved()
    assert not calibration.moved()
    claimed(calibration, 4.0 * (MOVED + 1) / 2, times=1000)
    assert not calibration.moved()


def test_keys_and_routes_are_remembered_within_bounds() -> None:
    calibration = Calibration()
    for number in range(2 * MAX_PAIRS):
        calibration.arrived(1.0, 1.0, key=str(number), route=str(number))
        calibration.ended(1.0, 1.0, route=str(number))
    kept = (calibration._keys, calibration._routes, calibration._pairs, calibration._estimates)
    assert [len(one) for one in kept] == [MAX_KEYS, MAX_ROUTES, MAX_PAIRS, MAX_ROUTES]
