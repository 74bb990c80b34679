"""What the simulated fleet learns is what the control plane learns; what it costs by state."""

from __future__ import annotations

import pytest

from stoker.autoscaler.experience import Experience
from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.planning import GroupSnapshot
from stoker.autoscaler.states import Event, WorkerState, next_state
from stoker.simulator.engine import Simulation
from stoker.simulator.fleet import GROUP, SimFleet, category
from stoker.simulator.generators import generate
from stoker.simulator.policies.planner import Planner
from stoker.simulator.settings import Hardware, SimulatorSettings
from stoker.store import WorkerRecord
from stoker.wire import EndpointParameters

STORY = [
    (Event.PROVIDER_RUNNING, 1.0),
    (Event.REPORT_LOADING, 20.0),
    (Event.REPORT_READY, 33.0),
    (Event.PLAN_DRAIN, 50.0),
    (Event.PLAN_START, 51.0),
    (Event.PLAN_DRAIN, 52.0),
    (Event.PLAN_STOP, 53.0),
    (Event.PROVIDER_STOPPED, 54.0),
    (Event.PLAN_START, 60.0),
    (Event.PROVIDER_FAILED, 62.0),
    (Event.REPORT_READY, 70.0),
    (Event.PLAN_DRAIN, 80.0),
    (Event.PLAN_STOP, 81.0),
    (Event.PROVIDER_STOPPED, 82.0),
    (Event.PLAN_START, 90.0),
    (Event.REPORT_READY, 94.0),
]


def test_it_learns_from_the_same_story_what_the_control_plane_does() -> None:
    settings = SimulatorSettings()
    fleet = SimFleet(settings, (0.0, 100.0))
    simulated = fleet.add(settings, WorkerState.CREATING, 0.0)
    simulated.coming_since = 0.0
    record = WorkerRecord(
        id=1,
        endpoint_id=1,
        workergroup_id=GROUP,
        provider="local",
        attached=False,
        created_at=0.0,
        nonce="n",
        offer_id=settings.name,
    )
    real = Worker(record, "token", WorkerState.CREATING, 0.0, coming_since=0.0)
    real.perf, real.instance_id = 400.0, "i"
    experience = Experience()
    for event, now in STORY:
        before = real.state
        real.state = next_state(before, event)
        if real.state is not before:
            experience.note(real, before, now)
        fleet.happen(simulated, event, now)
        learnt, group = experience.of(GROUP), fleet.group()
        assert simulated.state is real.state
        assert (group.create_seconds, group.start_seconds, group.perf) == pytest.approx(
            (learnt.create_seconds, learnt.start_seconds, learnt.perf)
        )
        assert (group.failures, group.last_failure_at) == (
            learnt.failures,
            learnt.last_failure_at,
        )
        trouble = learnt.offers.get(("local", settings.name))
        assert group.offers[0].failures == (trouble.failures if trouble else 0)
    assert fleet.group().start_seconds > 0


def test_every_state_has_its_price() -> None:
    assert category(WorkerState.STOPPED) == "inactive"
    assert category(WorkerState.STARTING) == "loading"
    assert category(WorkerState.DRAINING) == category(WorkerState.STOPPING) == "active"
    assert category(WorkerState.DESTROYED) is None


def test_a_second_of_a_dearer_machine_counts_as_its_price_is_to_the_main_one() -> None:
    dear = Hardware(name="dear", price=3.0, perf=800.0)
    settings = SimulatorSettings(price=2.0, hardware=[dear])
    fleet = SimFleet(settings, (0.0, 10.0))
    fleet.add(dear, WorkerState.READY, 0.0)
    fleet.settle(20.0)
    assert fleet.cost == pytest.approx(15.0)


def test_offers_are_what_is_left_of_each_kind_and_know_its_learnt_perf() -> None:
    other = Hardware(name="other", perf=100.0, available=1)
    settings = SimulatorSettings(available=3, hardware=[other])
    fleet = SimFleet(settings, (0.0, 10.0))
    assert [(o.id, o.available, o.perf) for o in fleet.group().offers] == [
        ("simulated", 3, 0.0),
        ("other", 1, 0.0),
    ]
    worker = fleet.add(other, WorkerState.LOADING, 0.0)
    fleet.happen(worker, Event.REPORT_READY, 5.0)
    offers = fleet.group().offers
    assert [(o.id, o.available) for o in offers] == [("simulated", 3)]
    fleet.happen(worker, Event.PLAN_DESTROY, 6.0)
    fleet.happen(worker, Event.PROVIDER_GONE, 6.0)
    assert [(o.id, o.perf) for o in fleet.group().offers] == [("simulated", 0.0), ("other", 100.0)]


def test_the_group_that_is_remembered_is_the_one_that_would_be_made_anew() -> None:
    class Watched(SimFleet):
        """Compares them each time that the planner looks."""

        looks = 0

        def group(self) -> GroupSnapshot:
            Watched.looks += 1
            found = super().group()
            assert found == self._see_group()
            return found

    settings = SimulatorSettings(
        failures_per_hour=30,
        boot_failures=0.3,
        preemptions_per_hour=10,
        update_at=100.0,
        available=5,
    )
    trace = generate("onoff:rate=8,on=20,off=60,duration=400", 1)
    simulation = Simulation(trace, Planner(), settings, EndpointParameters())
    simulation.fleet = simulation._lifecycle._fleet = Watched(settings, (0.0, trace.duration))
    simulation.run()
    assert simulation.fleet.counts.creations > 3
    assert Watched.looks > 300
