from __future__ import annotations

import pytest

from stoker.autoscaler.claims import (
    MAX_KEYS,
    MAX_ROUTES,
    SPEEDUP,
    Beliefs,
)
from stoker.sizes import COLD_LOAD, COLD_SECONDS, ENOUGH
from stoker.wire import DEFAULT_LOAD, MAX_COST


def seen(load: float, key: str = "a", route: str = "", times: int = ENOUGH) -> Beliefs:
    beliefs = Beliefs()
    more(beliefs, load, key, route, times)
    return beliefs


def more(beliefs: Beliefs, load: float, key: str, route: str = "", times: int = ENOUGH) -> None:
    for _ in range(times):
        beliefs.learn(load, key=key, route=route)


def test_with_nothing_seen_no_request_is_believed_to_need_a_worker_for_long() -> None:
    beliefs = Beliefs()
    assert beliefs.believed(1e9, perf=50.0) == COLD_SECONDS * 50.0
    assert beliefs.believed(1e9) == COLD_LOAD
    assert beliefs.believed(20.0, perf=50.0) == 20.0
    assert beliefs.believed(None, perf=50.0) == DEFAULT_LOAD


def test_many_claims_that_no_worker_has_seen_are_expected_to_need_what_requests_usually_do() -> (
    None
):
    beliefs = Beliefs()
    assert beliefs.expected(4 * 500.0, 4, perf=50.0) == COLD_SECONDS * 50.0  # as much as one
    assert beliefs.expected(4 * 20.0, 4, perf=50.0) == 80.0  # they claim no more
    beliefs = seen(100.0)
    assert beliefs.expected(100 * 800.0, 100, perf=50.0) == pytest.approx(100 * 100.0)
    assert beliefs.expected(2 * 90.0, 2, perf=50.0) == 180.0


def test_a_claim_far_above_what_was_seen_is_cut_and_one_near_it_is_not() -> None:
    beliefs = seen(100.0)
    assert beliefs.believed(1e9) <= 8 * 142
    assert beliefs.believed(700.0) == 700.0


def test_a_claim_far_below_what_was_seen_is_raised() -> None:
    assert seen(100.0).believed(0.0) >= 70 / 8


def test_one_huge_request_that_was_served_makes_no_other_believed() -> None:
    beliefs = seen(100.0, times=ENOUGH - 1)
    more(beliefs, MAX_COST, "a", times=1)
    assert beliefs.believed(1e9) <= 8 * 142


def test_a_first_huge_request_makes_no_other_believed() -> None:
    beliefs = seen(MAX_COST, times=1)
    assert beliefs.believed(1e9, perf=50.0) == COLD_SECONDS * 50.0


def test_what_one_key_really_sends_does_not_move_what_is_believed_of_another() -> None:
    beliefs = seen(100.0, "good")
    more(beliefs, 1e6, "bad", times=500)
    assert beliefs.believed(1e9, key="good") <= 8 * 142
    more(beliefs, 0.001, "bad", times=5000)
    assert beliefs.believed(500.0, key="good") == 500.0


def test_no_request_is_learnt_to_be_larger_than_its_worker_can_have_done_meanwhile() -> None:
    beliefs = Beliefs()
    for _ in range(ENOUGH):
        beliefs.learn(1e9, key="a", perf=10.0, seconds=0.5)
    assert beliefs.believed(1e9, key="a") <= 8 * 1.42 * SPEEDUP * 10.0 * 0.5
    assert beliefs.believed(1e9, key="a") < 500.0


def test_who_says_nothing_gets_what_requests_of_the_same_route_needed() -> None:
    beliefs = seen(10.0, route="/embed")
    more(beliefs, 80.0, "a", "/chat")
    assert beliefs.believed(None, route="/embed") == pytest.approx(10)
    assert beliefs.believed(None, route="/chat") == pytest.approx(80)
    assert 10 < beliefs.believed(None, route="/other") < 80


@pytest.mark.parametrize("load", [-1.0, float("nan"), float("inf"), 2 * MAX_COST])
def test_what_is_no_load_teaches_nothing(load: float) -> None:
    beliefs = seen(load, times=100)
    assert beliefs.believed(None) == DEFAULT_LOAD


def test_keys_and_routes_are_remembered_within_bounds() -> None:
    beliefs = Beliefs()
    for number in range(2 * MAX_KEYS):
        beliefs.learn(1.0, key=str(number), route=str(number))
        beliefs.learn(1.0, key="steady", route="/steady")
    assert (len(beliefs._keys), len(beliefs._routes)) == (MAX_KEYS, MAX_ROUTES)
    for steady in (beliefs._keys["steady"], beliefs._routes["/steady"]):
        assert steady.count == 2 * MAX_KEYS, "what is used again and again is not forgotten"
