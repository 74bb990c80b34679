from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from stoker.client.backoff import FIRST, MOST, Backoff


def test_pauses_grow_to_a_bound() -> None:
    backoff = Backoff(random.Random(1))
    pauses = [backoff.pause() for _ in range(30)]
    assert FIRST / 2 <= pauses[0] <= FIRST
    assert all(MOST / 2 <= pause <= MOST for pause in pauses[-5:])
    backoff.reset()
    assert backoff.pause() <= FIRST


def test_two_clients_do_not_pause_alike() -> None:
    one, two = Backoff(random.Random(1)), Backoff(random.Random(2))
    assert one.pause() != two.pause()


def test_a_longer_retry_after_is_honoured() -> None:
    assert 10.0 <= Backoff().pause("10") <= 15.0


@given(st.text())
def test_any_retry_after_gives_a_bounded_pause(text: str) -> None:
    assert 0.0 < Backoff().pause(text) <= 5400.0
