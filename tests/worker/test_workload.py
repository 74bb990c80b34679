from __future__ import annotations

from typing import Any

import msgspec
import pytest

from stoker.wire import MAX_COST
from stoker.worker import raw_calculator
from stoker.worker.workload import Workload

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


def test_nought_is_a_load_and_a_huge_one_is_bounded() -> None:
    assert load(lambda _: 0) == 0.0
    assert load(lambda _: 1e300) == MAX_COST
