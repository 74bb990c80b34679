"""Ways to scale, rehearsed on the load as it comes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stoker.autoscaler.planning.rehearsal import Rehearsal, Surroundings, floors

AROUND = Surroundings(
    perf=100.0,
    slots=4.0,
    create_seconds=30.0,
    start_seconds=5.0,
    stoppable=False,
    target_util=0.9,
    patience=10.0,
    max_workers=16,
)


def rehearsal(**settings: float) -> Rehearsal:
    figures = {"late_after": 2.0, "late_price": 20.0, "memory": 3600.0, "release_cost": 5.0}
    return Rehearsal(2, 16, **(figures | settings))


def run(
    tried: Rehearsal, loads: list[float], around: Surroundings = AROUND, least: int = 0
) -> None:
    """A request has 100 load units; the predictions are the mean of a minute, and of 10 s."""
    for place, load in enumerate(loads):
        past = loads[: place + 1]
        minute, recent = past[-60:], past[-10:]
        predictions = [sum(minute) / len(minute), sum(recent) / len(recent)]
        tried.step(load, load / 100, 100.0, predictions, around, least=least)


def bursts(
    number: int, *, every: int = 120, seconds: int = 10, load: float = 1000.0
) -> list[float]:
    return ([0.0] * (every - seconds) + [load] * seconds) * number


def test_floors_are_exact_while_they_are_few_and_end_at_the_cap() -> None:
    assert floors(5) == [0, 1, 2, 3, 4, 5]
    assert floors(100)[:14] == [*range(13), 14]
    assert floors(100)[-1] == 100
    assert len(floors(100_000)) < 100


def test_headroom_is_held_for_bursts_that_are_shorter_than_a_boot() -> None:
    tried = rehearsal()
    run(tried, bursts(8))
    assert tried.leader.floor >= 4


def test_no_headroom_is_held_where_it_would_cost_more_than_the_waits() -> None:
    dear, cheap = rehearsal(), rehearsal(late_price=0.1)
    run(dear, bursts(8))
    run(cheap, bursts(8))
    assert cheap.leader.floor < dear.leader.floor


def test_a_burst_that_does_not_come_again_is_forgotten() -> None:
    tried = rehearsal(memory=600.0)
    run(tried, bursts(6))
    assert tried.leader.floor >= 4
    run(tried, [10.0] * 5000)
    assert tried.leader.floor <= 2


def test_less_is_held_where_stopped_workers_are_back_in_seconds() -> None:
    slow, fast = rehearsal(), rehearsal()
    load = bursts(8, every=300, seconds=120, load=600.0)
    run(slow, load)
    run(fast, load, replace(AROUND, stoppable=True))
    assert fast.leader.floor < slow.leader.floor


def test_no_candidate_has_more_than_the_cap() -> None:
    tried = rehearsal()
    run(tried, bursts(8, load=10_000.0), replace(AROUND, max_workers=3))
    assert tried.leader.floor <= 16
    assert float(tried._wanted.max()) <= 3


def test_headroom_that_the_season_brings_is_not_held_twice() -> None:
    alone, helped = rehearsal(), rehearsal()
    run(alone, bursts(8))
    run(helped, bursts(8), least=10)
    assert alone.leader.floor >= 4
    assert helped.leader.floor == 0


def test_a_way_to_scale_that_was_late_keeps_what_that_cost_then() -> None:
    tried = rehearsal()
    run(tried, bursts(2))
    before = float(tried._late.max())
    assert before > 0
    # The requests that come now are ten times smaller.
    tried.step(1.0, 0.1, 10.0, [1.0, 1.0], AROUND)
    assert float(tried._late.max()) == pytest.approx(before, rel=1e-3)


def test_the_wait_for_the_first_workers_is_held_against_nobody() -> None:
    tried = rehearsal()
    run(tried, [500.0] * 50)
    assert float(tried._late.sum()) == 0.0


@pytest.mark.parametrize("create_seconds", [0.5, 1.0, 30.0, 600.0, 3600.0])
def test_workers_take_as_long_to_come_as_real_ones_do(create_seconds: float) -> None:
    tried = rehearsal()
    around = replace(AROUND, create_seconds=create_seconds)
    run(tried, [0.0] * 100, around)
    tried._wanted[:] = 5.0
    took = 0
    tried._order(tried._wanted, around, 1.0)
    while float(tried._ready(tried._wanted, around).min()) < 5:
        tried._order(tried._wanted, around, 1.0)
        took += 1
        assert took < 4000
    assert took == pytest.approx(create_seconds, rel=0.1, abs=2)


@pytest.mark.parametrize("create_seconds", [30.0, 600.0, 3600.0])
def test_stopped_workers_come_in_their_seconds_however_long_others_boot(
    create_seconds: float,
) -> None:
    tried = rehearsal()
    around = replace(AROUND, create_seconds=create_seconds, start_seconds=5.0, stoppable=True)
    run(tried, [0.0] * 100, around)
    tried._wanted[:] = 5.0
    took = 0
    while float(tried._ready(tried._wanted, around).min()) < 5:
        tried._order(tried._wanted, around, 1.0)
        took += 1
        assert took < 4000
    assert took == pytest.approx(5, abs=1)


def test_what_comes_when_workers_are_due_in_time_is_not_late() -> None:
    """Workers come in 5 s and have 4 slots, one is there; 4 more come in 2 s."""
    around = replace(AROUND, start_seconds=5.0, stoppable=True)
    for ordered, late in ((1, True), (4, False)):
        tried = rehearsal()
        run(tried, [0.0] * 300, around)
        tried._wanted[:] = 5.0
        for _ in range(ordered):
            tried._order(tried._wanted, around, 1.0)
        tried.step(800.0, 16, 50.0, [0.0] * 2, around)
        assert bool(tried._late.any()) is late
