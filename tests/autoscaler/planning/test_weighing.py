from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.autoscaler.planning.conftest import NOW, decide, group, held, kinds, live, steady, worker

from stoker.autoscaler.planning import GroupSnapshot, OfferSnapshot, Plan, WorkerSnapshot
from stoker.autoscaler.planning.weighing import Shares
from stoker.autoscaler.states import WorkerState

MAIN = group()
CANARY = group(id=2, weight=0.1)


def in_group(decided: Plan) -> list[int | None]:
    return [action.group_id for action in decided.actions if action.kind == "create"]


def fleet(main: int, canary: int) -> list[WorkerSnapshot]:
    return [worker(n, workergroup_id=1 if n <= main else 2) for n in range(1, main + canary + 1)]


def divided(weights: dict[int, float], workers: int) -> Counter[int]:
    """Which groups so many workers of the same perf go to, one after the other."""
    shares = Shares([GroupSnapshot(id=n, weight=weight) for n, weight in weights.items()])
    for _ in range(workers):
        shares.change(min(weights, key=lambda n: (*shares.into(n, 50.0), n)), 50.0, 1)
    return Counter(shares.count)


def test_a_canary_gets_about_a_tenth_and_one_worker_at_least() -> None:
    assert divided({1: 1.0, 2: 0.1}, 1) == {1: 1, 2: 0}
    assert divided({1: 1.0, 2: 0.1}, 2) == {1: 1, 2: 1}
    assert divided({1: 1.0, 2: 0.1}, 16) == {1: 15, 2: 1}
    assert divided({1: 1.0, 2: 0.1}, 17) == {1: 15, 2: 2}
    assert divided({1: 1.0, 2: 0.1}, 110) == {1: 100, 2: 10}


@given(
    st.lists(st.floats(0.01, 100.0), min_size=2, max_size=5),
    st.lists(st.sampled_from([5.0, 50.0, 200.0]), max_size=40),
)
def test_workers_go_in_the_reverse_of_the_order_in_which_they_came(
    weights: list[float], perfs: list[float]
) -> None:
    groups = [GroupSnapshot(id=n, weight=weight) for n, weight in enumerate(weights)]
    shares = Shares(groups)
    for _ in perfs:
        to = min(shares.weight, key=lambda n: (*shares.into(n, 50.0), n))
        shares.change(to, 50.0, 1)
        frm = min(shares.weight, key=lambda n: (shares.count[n] == 0, shares.out_of(n), -n))
        tied = abs(shares.out_of(to)[1] - shares.out_of(frm)[1]) < 1e-9
        assert frm == to or tied


def test_new_workers_are_created_where_the_share_is_furthest_behind() -> None:
    assert in_group(decide(steady(90.0), groups=(MAIN, CANARY))) == [1, 2]
    assert in_group(decide(steady(130.0), groups=(MAIN, CANARY))) == [1, 2, 1]


def test_the_last_worker_is_that_of_the_heaviest_group() -> None:
    low = replace(steady(10.0), booked_count=1)
    assert kinds(decide(low, *fleet(2, 1), groups=(MAIN, CANARY))) == [("drain", 2), ("drain", 3)]


def test_a_group_of_weight_zero_gets_no_new_worker_and_loses_its_old_ones_first() -> None:
    old = group(weight=0.0)
    new = group(id=2)
    assert in_group(decide(steady(90.0), groups=(old, new))) == [2, 2]
    low = replace(steady(40.0), booked_count=1)
    assert kinds(decide(low, *fleet(1, 1), groups=(old, new))) == [("drain", 1)]
    # The load is met, but by the wrong one: a new one first, the old one goes when it is ready.
    assert in_group(decide(low, *fleet(1, 0), groups=(old, new))) == [2]
    decided = decide(held(1), groups=(old,))
    assert decided.actions == ()
    assert "its weight is 0" in decided.notes[0]


def test_the_others_take_the_share_of_a_group_that_cannot_and_the_plan_says_so() -> None:
    hopeless = replace(CANARY, failures=10, last_failure_at=0.0)
    decided = decide(steady(130.0), groups=(MAIN, hopeless))
    assert in_group(decided) == [1, 1, 1]
    decided = decide(steady(130.0), *fleet(3, 0), groups=(MAIN, hopeless))
    assert decided.actions == ()
    assert "workergroup 2 cannot take its share of 9%" in decided.notes[0]
    assert decided.notes[0].endswith("until the workergroup is changed; others take it")


def test_a_raised_weight_moves_one_worker_at_a_time_and_the_new_one_comes_first() -> None:
    equal = replace(CANARY, weight=1.0)
    decided = decide(steady(170.0), *fleet(4, 0), groups=(MAIN, equal))
    assert in_group(decided) == [2]
    assert decided.actions[0].reason.startswith(
        "create worker: workergroup 2 has 0% of the active capacity, weight 1 asks for 50%"
    )
    coming = worker(9, WorkerState.LOADING, workergroup_id=2, perf=0.0)
    assert kinds(decide(steady(170.0), *fleet(4, 0), coming, groups=(MAIN, equal))) == []
    there = worker(9, workergroup_id=2, state_since=NOW)
    assert kinds(decide(steady(170.0), *fleet(4, 0), there, groups=(MAIN, equal))) == [("drain", 4)]


def test_new_weights_are_reached_without_a_gap_and_kept() -> None:
    demand = steady(260.0)  # six workers of 50/s, at 0.9
    groups = (MAIN, replace(CANARY, weight=0.5))
    now: dict[int, WorkerSnapshot] = {}
    for now in live(demand, fleet(5, 1), groups):
        assert sum(one.state is WorkerState.READY for one in now.values()) >= 6
        assert len(now) <= 7
    assert Counter(one.workergroup_id for one in now.values()) == {1: 4, 2: 2}
    assert decide(demand, *now.values(), groups=groups).actions == ()


def test_a_group_of_weight_zero_hands_over_to_the_other() -> None:
    demand = steady(130.0)
    groups = (group(weight=0.0), group(id=2))
    now: dict[int, WorkerSnapshot] = {}
    for now in live(demand, fleet(3, 0), groups):
        assert sum(one.state is WorkerState.READY for one in now.values()) >= 3
    assert [one.workergroup_id for one in now.values()] == [2, 2, 2]


def test_shares_that_are_as_even_as_can_be_are_left_alone() -> None:
    equal = replace(CANARY, weight=1.0)
    for main, other in ((2, 2), (3, 2), (2, 3)):
        rate = 44.0 * (main + other)
        assert kinds(decide(steady(rate), *fleet(main, other), groups=(MAIN, equal))) == []


def test_a_group_without_offers_gives_its_turn_away() -> None:
    empty = replace(CANARY, offers=())
    assert in_group(decide(steady(90.0), groups=(MAIN, empty))) == [1, 1]


def test_the_caps_hold_whatever_the_weights() -> None:
    tight = replace(MAIN, max_workers=1)
    one = (OfferSnapshot(id="cpu", provider="local", available=3),)
    groups = (replace(tight, offers=one), replace(CANARY, offers=one))
    # Both see the same three machines.
    assert in_group(decide(steady(400.0), groups=groups)) == [1, 2, 2]
