"""Forecaster and planner together, over a fleet in which all goes well: nothing swings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import msgspec
import pytest
from tests.autoscaler.planning.conftest import EVENTS

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    ActionKind,
    EndpointSnapshot,
    Forecaster,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import ACTIVE, LOADING_STATES, WorkerState, next_state
from stoker.wire import EndpointParameters

BARE = EndpointParameters(cold_workers=0, cold_mult=1, max_workers=30)
REQUEST = 50.0
"""Load units."""


@dataclass(frozen=True)
class Machine:
    name: str = "a"
    perf: float = 400.0
    slots: int = 16
    price: float = 1.0
    stoppable: bool = True
    available: int = 30


class Loop:
    """An endpoint whose workers do in each second what they can."""

    def __init__(
        self,
        *machines: Machine,
        parameters: EndpointParameters = BARE,
        create_seconds: float = 30.0,
        start_seconds: float = 5.0,
    ) -> None:
        self.machines = {one.name: one for one in machines or (Machine(),)}
        self.parameters = parameters
        self.seconds_to = {WorkerState.STARTING: start_seconds}
        self.group = GroupSnapshot(id=1, create_seconds=create_seconds, start_seconds=start_seconds)
        self.forecaster = Forecaster()
        self.now = self.last_request = 1000.0
        self.workers: dict[int, WorkerSnapshot] = {}
        self.born = 0
        self.came: list[float] = [0.0] * 60
        self.arrived = self.waits = 0.0
        self.count = 0
        self.ups: list[tuple[float, str]] = []
        """When workers were created or started, and why."""
        self.order(next(iter(self.machines)))
        self.settle(1, WorkerState.READY)

    def order(self, name: str) -> None:
        self.born += 1
        machine = self.machines[name]
        self.workers[self.born] = WorkerSnapshot(
            id=self.born,
            workergroup_id=1,
            state=WorkerState.CREATING,
            state_since=self.now,
            price=machine.price,
            offer_id=name,
            hardware=name,
            stoppable=machine.stoppable,
        )

    def settle(self, worker_id: int, state: WorkerState) -> None:
        one = self.workers[worker_id]
        machine = self.machines[one.offer_id]
        self.workers[worker_id] = replace(
            one,
            state=state,
            state_since=self.now,
            perf=machine.perf,
            slots=machine.slots,
            idle_since=self.now,
        )

    def snapshot(self, load: float) -> EndpointSnapshot:
        used = [one.offer_id for one in self.workers.values()]
        offers = tuple(
            OfferSnapshot(
                id=name,
                hardware=name,
                price=machine.price,
                stoppable=machine.stoppable,
                available=machine.available - used.count(name),
            )
            for name, machine in self.machines.items()
        )
        demand = Demand(
            arrival_rate=sum(self.came) / 60,
            recent_rate=sum(self.came[-5:]) / 5,
            peak_rate=max(sum(self.came[n : n + 5]) / 5 for n in range(56)),
            held_load=self.waits,
            held_count=math.ceil(self.waits / REQUEST),
            booked_load=load,
            booked_count=math.ceil(load / REQUEST),
            last_request_at=self.last_request,
            arrived_load=self.arrived,
            arrived_count=self.count,
        )
        return EndpointSnapshot(
            endpoint_id=1,
            name="e",
            parameters=self.parameters,
            demand=demand,
            workers=tuple(self.workers.values()),
            groups=(replace(self.group, offers=offers),),
        )

    def second(self, load: float) -> None:
        self.now += 1
        self.came = [*self.came[1:], load]
        self.arrived += load
        self.count += math.ceil(load / REQUEST)
        if load > 0:
            self.last_request = self.now
        self.waits = max(0.0, self.waits + load - self.capacity())
        seen = self.snapshot(load)
        seen = replace(seen, outlook=self.forecaster.observe(seen, self.now))
        for action in plan(seen, self.now).actions:
            if action.kind in (ActionKind.CREATE, ActionKind.START):
                self.ups.append((self.now, action.reason))
            if action.kind is ActionKind.CREATE:
                assert action.offer_id is not None
                self.order(action.offer_id)
                continue
            assert action.worker_id is not None
            one = self.workers[action.worker_id]
            self.workers[one.id] = replace(
                one, state=next_state(one.state, EVENTS[action.kind]), state_since=self.now
            )
        for one in list(self.workers.values()):
            takes = self.seconds_to.get(one.state, self.group.create_seconds)
            if one.state in LOADING_STATES and self.now - one.state_since >= takes:
                self.settle(one.id, WorkerState.READY)
            elif one.state is WorkerState.STOPPING:
                self.settle(one.id, WorkerState.STOPPED)
            elif one.state is WorkerState.DESTROYING:
                del self.workers[one.id]

    def run(self, loads: list[float]) -> None:
        for load in loads:
            self.second(load)

    def capacity(self) -> float:
        return sum(one.perf for one in self.workers.values() if one.state in ACTIVE)

    def ups_since(self, moment: float) -> list[tuple[float, str]]:
        return [up for up in self.ups if up[0] > moment]


def calm_after_a_flash(loop: Loop, rest: float) -> list[tuple[float, str]]:
    """What is brought up when the load has been steady for five minutes."""
    loop.run([100.0] * 300 + [3000.0] * 60 + [100.0] * 300 + [rest] * 300)
    calm = loop.now
    loop.run([rest] * 400)
    assert loop.waits == 0.0
    return loop.ups_since(calm)


@pytest.mark.parametrize(
    ("other", "create_seconds"),
    [(Machine("b", 400.0, 1, 0.5), 120.0), (Machine("b", 100.0, 4, 0.5), 2.0)],
)
def test_a_worker_is_not_let_go_for_whose_slots_it_is_called_back(
    other: Machine, create_seconds: float
) -> None:
    loop = Loop(Machine(available=2, slots=4), other, create_seconds=create_seconds)
    assert len(calm_after_a_flash(loop, 350.0)) <= 1


@pytest.mark.parametrize("stoppable", [True, False])
def test_headroom_is_a_number_of_workers_whatever_their_perf(stoppable: bool) -> None:
    """Small ones that come lower the mean, and raise it when they go."""
    machines = (Machine(available=2), Machine("b", 50.0, 16, 0.2))
    loop = Loop(*[replace(one, stoppable=stoppable) for one in machines])
    assert calm_after_a_flash(loop, 350.0) == []


def bursts(number: int, load: float) -> list[float]:
    """Ten seconds of `load`, then 190 of silence."""
    return ([load] * 10 + [0.0] * 190) * number


def to_zero(timeout: float | None) -> EndpointParameters:
    return msgspec.structs.replace(BARE, min_load=0, inactivity_timeout=timeout, max_workers=16)


def test_bursts_between_silences_do_not_create_the_same_workers_each_time() -> None:
    """No `inactivity_timeout`: that is to destroy nothing, the forecast and the pool decide."""
    loop = Loop(parameters=to_zero(None))
    loop.run(bursts(6, 3000.0))
    learnt = loop.now
    loop.run(bursts(6, 3000.0))
    # Stopped ones are started again.
    assert [why for _, why in loop.ups_since(learnt) if why.startswith("create")] == []


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0, 300.0])
def test_headroom_keeps_no_endpoint_from_zero(timeout: float | None) -> None:
    loop = Loop(parameters=to_zero(timeout))
    loop.run(bursts(6, 3000.0))
    if timeout == 300.0:
        assert loop.capacity() > 0
    if timeout is None:  # until the bursts are forgotten, and a stopped worker costs more than new
        while loop.workers and loop.now < 20_000.0:
            loop.run([0.0] * 100)
    else:
        loop.run([0.0] * int(10 + timeout))
    assert not loop.workers
    before = len(loop.ups)
    loop.second(REQUEST)
    assert len(loop.ups) > before


def test_an_endpoint_that_is_never_to_be_at_zero_is_not() -> None:
    loop = Loop(parameters=to_zero(-1.0))
    loop.run([REQUEST] * 100 + [0.0] * 1000)
    assert loop.capacity() > 0
