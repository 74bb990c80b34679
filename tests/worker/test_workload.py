from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.sizes import COLD_LOAD, COLD_SECONDS, ENOUGH
from stoker.wire import MAX_COST
from stoker.worker import raw_calculator
from stoker.worker.calculators import Constant, LlmTokens
from stoker.worker.workload import Workload, outgrown

PAYLOAD = msgspec.Raw(b'{"max_tokens": 33}')


def load(calculator: Any) -> float:
    return Workload("/r", calculator).of(PAYLOAD)


def test_without_a_calculator_the_load_is_a_hundred() -> None:
    assert load(None) == 100.0


def test_a_calculator_gets_the_payload_as_a_dict() -> None:
    assert load(lambda payload: payload["max_tokens"]) == 33.0


def test_a_raw_calculator_gets_the_payload_as_it_came() -> None:
    assert load(raw_calculator(lambda raw: len(bytes(raw)))) == 18.0


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), None, "many", [1]])
def test_what_is_no_load_counts_as_a_hundred(wrong: Any) -> None:
    assert load(lambda _: wrong) == 100.0


def test_a_calculator_that_raises_counts_as_a_hundred_and_is_counted() -> None:
    workload = Workload("/r", lambda payload: payload["absent"])
    assert [workload.of(PAYLOAD) for _ in range(3)] == [100.0] * 3
    assert workload.failures == 3


def test_a_calculator_that_exits_counts_as_a_hundred() -> None:
    def leave(_payload: Any) -> float:
        raise SystemExit(3)

    assert load(leave) == 100.0


def test_nought_is_a_load_and_a_huge_one_is_bounded() -> None:
    assert load(lambda _: 0) == 0.0
    assert load(lambda _: 1e300) == MAX_COST


# --- what is believed


LLM = LlmTokens()


def seen(load: float, times: int = ENOUGH, calculator: Any = LLM) -> Workload:
    workload = Workload("/r", calculator)
    for _ in range(times):
        workload.learn(load)
    return workload


def test_at_first_no_claim_is_believed_to_keep_the_worker_busy_for_long() -> None:
    workload = Workload("/r", LlmTokens())
    assert workload.believed(1e9, 50.0) == COLD_SECONDS * 50.0
    assert workload.believed(1e9, 0.0) == COLD_LOAD
    assert workload.believed(400.0, 50.0) == 400.0


def test_at_first_what_was_really_served_is_believed_of_others() -> None:
    assert seen(3000.0, times=1).believed(3500.0, 50.0) == 3000.0


def test_a_claim_far_above_what_was_seen_is_cut_and_one_near_it_is_not() -> None:
    workload = seen(100.0)
    assert 8 * 100.0 <= workload.believed(1e9, 50.0) <= 8 * 142
    assert workload.believed(700.0, 50.0) == 700.0
    assert workload.believed(0.0, 50.0) == 0.0


@pytest.mark.parametrize(("calculator", "load"), [(None, 100.0), (Constant(300.0), 300.0)])
def test_a_load_that_the_operator_has_fixed_is_no_claim(calculator: Any, load: float) -> None:
    workload = seen(0.01, calculator=calculator)
    assert workload.believed(load, 1.0) == load
    assert workload.believed(1e9, 1.0) == load


def test_a_lie_that_is_served_makes_no_other_lie_believed() -> None:
    workload = Workload("/r", LlmTokens())
    for _ in range(500):
        assert workload.believed(1e9, 50.0) <= max(COLD_SECONDS * 50.0, 8 * 1.42 * 8.0)
        workload.learn(8.0)


def test_chats_and_a_few_long_documents_of_fifty_times_the_size_are_believed() -> None:
    chance = random.Random(7)
    workload = Workload("/r", LlmTokens())
    claimed = believed = 0.0
    for number in range(3000):
        size = chance.lognormvariate(5.0, 0.7)  # 148 in the middle
        if chance.random() < 0.02:
            size *= 50.0
        if number >= 200:
            claimed += size
            believed += workload.believed(size, 500.0)
        workload.learn(size)
    assert believed > 0.95 * claimed


@given(st.floats(0.0, 1e9), st.lists(st.floats(0.01, 1e6), max_size=50))
def test_a_request_that_goes_on_is_never_believed_to_be_all_but_over(
    claim: float, pieces: list[float]
) -> None:
    estimate, served = min(claim, 10.0), 0.0
    for piece in pieces:
        served += piece
        estimate = max(estimate, outgrown(served, claim))
        assert estimate >= min(2.0 * served, claim)
        if served > claim:
            assert estimate >= 2.0 * served
        else:
            assert estimate <= claim
