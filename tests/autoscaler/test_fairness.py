from __future__ import annotations

import contextlib
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.autoscaler import fairness
from stoker.autoscaler.booking import Request
from stoker.autoscaler.fairness import MIN_CHARGE, FairQueue
from stoker.autoscaler.router import Held, Router, RouterFullError
from stoker.wire import FinishedRequest

COSTS = st.sampled_from([0.0, 1.0, 10.0, 1000.0]) | st.floats(0.0, 500.0)


class Crowd:
    """A queue, and numbers for those in it."""

    def __init__(self) -> None:
        self.queue = FairQueue()
        self.turn = 0

    def come(self, key: str, cost: float = 10.0) -> Request:
        self.turn += 1
        request = Request(self.turn, 1, cost, 100.0, 100.0, 0, key, turn=self.turn)
        self.queue.append(request)
        return request

    def next(self) -> Request:
        first = self.queue.first
        self.queue.take(first)
        return first


def charge(request: Request) -> float:
    return max(request.cost, MIN_CHARGE)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), COSTS), min_size=1, max_size=60),
    st.integers(0, 60),
    COSTS,
)
def test_a_key_that_comes_waits_for_at_most_one_request_of_each_other_key(
    others: list[tuple[str, float]], served: int, cost: float
) -> None:
    crowd = Crowd()
    for key, each in others:
        crowd.come(key, each)
    for _ in range(min(served, len(others) - 1)):
        crowd.next()
    mine = crowd.come("mine", cost)
    before = []
    while (request := crowd.next()) is not mine:
        before.append(request.key)
    assert len(before) == len(set(before))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), COSTS), min_size=2, max_size=80), st.data())
def test_keys_that_both_wait_get_loads_that_differ_by_a_request_of_each_at_most(
    asked: list[tuple[str, float]], data: st.DataObject
) -> None:
    crowd = Crowd()
    largest: dict[str, float] = defaultdict(float)
    for key, cost in asked:
        largest[key] = max(largest[key], charge(crowd.come(key, cost)))
    got: dict[str, float] = defaultdict(float)
    while crowd.queue:
        waiting = [key for key in "abc" if crowd.queue.held_by(key)]
        for one in waiting:
            for other in waiting:
                assert abs(got[one] - got[other]) <= largest[one] + largest[other] + 1e-6
        request = crowd.next()
        got[request.key] += charge(request)
        if data.draw(st.booleans()):
            crowd.come(request.key, data.draw(st.floats(0.0, largest[request.key])))
        if crowd.turn > 200:
            break


@given(st.lists(st.tuples(st.sampled_from("abc"), COSTS), max_size=40))
def test_within_a_key_it_is_first_come_first_served(asked: list[tuple[str, float]]) -> None:
    crowd = Crowd()
    for key, cost in asked:
        crowd.come(key, cost)
    turns: dict[str, list[int]] = defaultdict(list)
    while crowd.queue:
        request = crowd.next()
        turns[request.key].append(request.turn)
    assert all(order == sorted(order) for order in turns.values())


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_it_counts_and_orders_whatever_leaves_and_returns(data: st.DataObject) -> None:
    crowd, inside, outside = Crowd(), [], []
    for _ in range(data.draw(st.integers(1, 60))):
        match data.draw(st.sampled_from(["come", "come", "next", "remove", "back"])):
            case "come":
                inside.append(crowd.come(data.draw(st.sampled_from("ab")), data.draw(COSTS)))
            case "next" if inside:
                assert crowd.queue.first.idx == crowd.queue.numbers()[0]
                outside.append(crowd.next())
                inside.remove(outside[-1])
            case "remove" if inside:
                gone = data.draw(st.sampled_from(inside))
                inside.remove(gone)
                crowd.queue.remove(gone)
                crowd.queue.remove(gone)  # no harm
            case "back" if outside:
                back = outside.pop(data.draw(st.integers(0, len(outside) - 1)))
                crowd.queue.give_back(back)
                inside.append(back)
        assert len(crowd.queue) == len(inside)
        assert sorted(crowd.queue.numbers()) == sorted(request.idx for request in inside)
        assert crowd.queue.load == pytest.approx(sum(r.cost for r in inside), abs=1e-3)
    assert sum(map(crowd.queue.held_by, "ab")) == len(inside)


def test_a_key_with_thousands_waiting_does_not_starve_the_one_request_of_another() -> None:
    crowd = Crowd()
    for _ in range(5000):
        crowd.come("many", 10.0)
    for _ in range(100):
        crowd.next()
    mine = crowd.come("one", 10.0)
    assert mine in (crowd.next(), crowd.next())


def test_a_key_does_not_save_up_a_claim_while_it_asks_for_nothing() -> None:
    crowd = Crowd()
    crowd.come("late")
    crowd.next()
    for _ in range(1000):
        crowd.come("busy")
    for _ in range(500):
        crowd.next()
    for _ in range(100):
        crowd.come("late")
    keys = [crowd.next().key for _ in range(20)]
    assert keys.count("late") == keys.count("busy") == 10


def test_large_requests_get_no_more_than_small_ones() -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.come("large", 100.0)
    for _ in range(1000):
        crowd.come("small", 10.0)
    got: dict[str, float] = defaultdict(float)
    for _ in range(220):
        request = crowd.next()
        got[request.key] += request.cost
    assert abs(got["large"] - got["small"]) <= 110.0


def test_requests_without_cost_count_too() -> None:
    crowd = Crowd()
    for _ in range(100):
        crowd.come("free", 0.0)
    crowd.come("other", 1.0)
    assert "other" in [crowd.next().key for _ in range(2)]


def test_what_returns_from_a_worker_that_left_is_next_and_costs_its_key_nothing() -> None:
    crowd = Crowd()
    first = crowd.come("a", 100.0)
    crowd.come("b", 100.0)
    crowd.come("a", 100.0)
    assert crowd.next() is first
    crowd.queue.give_back(first)
    assert [crowd.next().key for _ in range(3)] == ["a", "b", "a"]


def test_what_is_remembered_of_keys_that_ask_for_nothing_more_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fairness, "MAX_SURPLUS", 50)
    crowd = Crowd()
    crowd.come("stays", 1e9)
    for number in range(1000):
        crowd.come(f"key-{number}", 10.0)
        crowd.next()
    assert len(crowd.queue._lines) <= 52
    assert len(crowd.queue._order) <= 2 * 52 + fairness.SLACK


def test_one_key_may_hold_the_limit_and_another_still_finds_room() -> None:
    router = Router(1, max_held=10)
    router.add_endpoint(1, max_queue_time=1.0)

    def hold(key: str) -> None:
        assert isinstance(router.route(1, 1.0, 0, 60.0, 0.0, key=key), Held)

    for _ in range(10):
        hold("greedy")
    with pytest.raises(RouterFullError, match="10 requests"):
        hold("greedy")
    for _ in range(5):
        hold("another")
    with pytest.raises(RouterFullError):
        hold("another")


def test_a_key_with_nothing_waiting_finds_room_and_all_is_bounded() -> None:
    router, refused = Router(1, max_held=10), 0
    router.add_endpoint(1, max_queue_time=1.0)
    for number in range(500):
        try:
            router.route(1, 1.0, 0, 60.0, 0.0, key=f"key-{number % 25}")
        except RouterFullError:
            refused += 1
    assert refused == 500 - 25
    for number in range(100):
        with contextlib.suppress(RouterFullError):
            router.route(1, 1.0, 0, 60.0, 0.0, key=f"other-{number}")
    assert router.demand(1, 0.0).held_count == 30


def test_held_requests_are_given_workers_fairly() -> None:
    router = Router(1)
    router.add_endpoint(1, max_queue_time=1.0)
    many = [router.route(1, 10.0, 0, 60.0, 0.0, key="many").request_idx for _ in range(50)]
    one = router.route(1, 10.0, 0, 60.0, 0.0, key="one").request_idx
    router.add_worker(1, 1, reqnum_base=0, url="http://worker-1")
    given_first = [router.set_available(1, True, 0.0)[0].request_idx]
    for _ in range(3):
        ended = FinishedRequest(given_first[-1])
        given_first += [a.request_idx for a in router.finished(1, [ended], 1.0)]
    assert given_first[:2] == [many[0], one]
    assert given_first[2:] == many[1:3]


def test_a_key_pays_for_what_it_said_too_little_of() -> None:
    crowd = Crowd()
    for _ in range(10):
        crowd.come("liar", 0.0)
        crowd.come("honest", 10.0)
    order = []
    for _ in range(10):
        given = crowd.next()
        order.append(given.key)
        if given.key == "liar":
            crowd.queue.correct("liar", 100.0 - given.charged)
    assert order.count("liar") == 1, "100 load units, where the other has 10"


def test_who_said_too_much_gets_nothing_back() -> None:
    crowd = Crowd()
    for _ in range(3):
        crowd.come("boaster", 100.0)
        crowd.come("honest", 10.0)
    assert crowd.next().key == "boaster"
    crowd.queue.correct("boaster", -99.0)
    assert [crowd.next().key for _ in range(3)] == ["honest"] * 3
