"""The simulation as a whole: deterministic, conserving, and agreeing with theory."""

from __future__ import annotations

import functools
import math
import random
from array import array

import msgspec
import pytest

from stoker.autoscaler.planning import Action, ActionKind, EndpointSnapshot, PlannerSettings
from stoker.errors import ConfigError
from stoker.simulator import Result, SimulatorSettings, Trace, simulate
from stoker.simulator.engine import Simulation
from stoker.simulator.policies import Traffic, parse_policy
from stoker.wire import EndpointParameters

LAZY = EndpointParameters(cold_workers=0, cold_mult=1.0)


def poisson(rate: float, load: float, seconds: float, seed: int = 1) -> Trace:
    draws = random.Random(seed)
    at, requests = 0.0, []
    while (at := at + draws.expovariate(rate)) < seconds:
        requests.append((at, draws.expovariate(1 / load)))
    return Trace.of("poisson", requests, seconds)


def settings(**changes: object) -> SimulatorSettings:
    return msgspec.structs.replace(SimulatorSettings(warm_up=0.0), **changes)


def simulation(
    trace: Trace, policy: str, given: SimulatorSettings, parameters: EndpointParameters = LAZY
) -> Simulation:
    return Simulation(trace, parse_policy(policy), given, parameters)


def same(one: Result, other: Result) -> bool:
    alike = [msgspec.structs.replace(r, cpu_seconds=0.0) for r in (one, other)]
    return alike[0] == alike[1]


def test_the_same_seed_gives_the_same_result_and_another_one_does_not() -> None:
    trace = poisson(5, 100, 600)
    given = settings(
        failures_per_hour=20.0, boot_failures=0.2, preemptions_per_hour=10.0, boot_spread=0.3
    )
    first = simulate(trace, "stoker", given, LAZY)
    assert same(first, simulate(trace, "stoker", given, LAZY))
    other = simulate(trace, "stoker", msgspec.structs.replace(given, seed=1), LAZY)
    assert not same(first, other)


@pytest.mark.parametrize("policy", ["stoker", "fixed:3", "target_util:0.7"])
def test_every_request_is_served_once_and_none_is_cut(policy: str) -> None:
    trace = poisson(6, 120, 900)
    run = simulation(trace, policy, settings())
    result = run.run()
    assert result.requests == len(trace)
    assert (result.lost, result.cut, result.retries) == (0, 0, 0)
    assert all(not math.isnan(at) for at in run.finished)
    assert all(wait >= 0 for wait in run.waits)


@pytest.mark.parametrize("policy", ["stoker", "target_util:0.7"])
def test_requests_in_the_system_are_rate_times_time(policy: str) -> None:
    # Little's law, exactly: the integral of the number in the system is the sum of their times.
    trace = poisson(6, 120, 900)
    run = simulation(trace, policy, settings())
    run.run()
    times = sum(end - at for at, end in zip(trace.arrivals, run.finished, strict=True))
    assert run.traffic.system_seconds == pytest.approx(times, rel=1e-9)


def test_one_slot_waits_as_theory_says_and_at_the_router_a_report_longer_at_most() -> None:
    # M/M/1: E[W] = rho / (1 - rho) x S; 0.7 / 0.3 x 1 s, when the router may send all at once.
    trace = poisson(0.7, 100, 10_000, seed=7)
    one = settings(perf=100.0, slots=1, max_share=100.0, patience=1e6)
    patient = msgspec.structs.replace(LAZY, max_queue_time=1e6, max_workers=1)
    at_worker = simulate(trace, "fixed:1", one, patient)
    assert at_worker.wait_mean == pytest.approx(0.7 / 0.3, rel=0.1)
    assert at_worker.ratio == pytest.approx(1 / 0.7, rel=0.02)
    # Above max_queue_time they are held, and handed out as the worker reports, each second.
    held = msgspec.structs.replace(patient, max_queue_time=3.0)
    at_router = simulate(trace, "fixed:1", one, held)
    assert -1e-9 <= at_router.wait_mean - at_worker.wait_mean <= 1.0


def test_a_fixed_fleet_costs_its_size_times_the_time_that_is_scored() -> None:
    trace = poisson(5, 100, 600)
    result = simulate(trace, "fixed:4", SimulatorSettings(warm_up=100.0), LAZY)
    assert result.cost == pytest.approx(4 * 500)
    assert result.active_seconds == pytest.approx(4 * 500)
    assert (result.creations, result.peak_workers) == (3, 4)


def test_boots_count_as_loading_and_stopped_workers_at_their_price() -> None:
    trace = Trace.of("none", [(0.5, 1.0)], 100.0)
    booting = simulate(trace, "fixed:2", settings(boot_seconds=40.0), LAZY)
    assert booting.loading_seconds == pytest.approx(40)
    assert booting.active_seconds == pytest.approx(100 + 60)
    pool = settings(initial_workers=1, initial_stopped=3)
    stopped = simulate(trace, "fixed:1", pool, LAZY)
    assert stopped.inactive_seconds == pytest.approx(300)
    assert stopped.cost == pytest.approx(100 + 0.05 * 300)


def test_a_stopped_worker_is_started_before_one_is_created() -> None:
    trace = poisson(5, 100, 100)
    result = simulate(trace, "fixed:3", settings(initial_stopped=2), LAZY)
    assert (result.starts, result.creations) == (2, 0)
    assert result.loading_seconds == pytest.approx(2 * 5.0)


def test_what_cannot_be_stopped_is_destroyed() -> None:
    burst = Trace.of("burst", [(0.1 * n, 400.0) for n in range(300)], 900.0)
    pool = simulate(burst, "target_util:0.5", settings(stoppable=True), LAZY)
    none = simulate(burst, "target_util:0.5", settings(stoppable=False), LAZY)
    assert pool.stops > 0
    assert pool.inactive_seconds > 0
    assert (none.stops, none.inactive_seconds) == (0, 0.0)
    assert none.destroyed == pool.stops
    assert none.cut == pool.cut == 0


def test_requests_of_a_worker_that_fails_are_sent_again_and_served() -> None:
    trace = poisson(6, 250, 1200)
    run = simulation(trace, "fixed:8", settings(failures_per_hour=30.0))
    result = run.run()
    assert result.failures > 5
    assert result.retries > 0
    assert result.lost == 0
    assert all(not math.isnan(at) for at in run.finished)
    assert result.creations >= 7 + result.failures - 1


def test_a_preempted_worker_is_told_of_and_then_gone() -> None:
    told: list[float] = []

    class Watching:
        name = "watching"

        def __init__(self) -> None:
            self.fixed = parse_policy("fixed:4")

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            leaving = [w.leaves_at - now for w in snapshot.workers if w.leaves_at is not None]
            told.extend(leaving)
            return list(self.fixed.decide(snapshot, traffic, now))

    given = settings(preemptions_per_hour=30.0, preemption_notice=20.0)
    result = simulate(poisson(6, 100, 900), Watching, given, LAZY)
    assert result.preemptions > 3
    assert result.lost == 0
    assert max(told) == pytest.approx(20.0, abs=0.2)
    assert min(told) >= 0


def test_boots_that_fail_are_counted_and_told_to_the_planner() -> None:
    trace = poisson(3, 100, 900)
    seen: list[int] = []

    class Watching:
        name = "watching"

        def __init__(self) -> None:
            self.planner = parse_policy("stoker", PlannerSettings(failure_budget=3))

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            seen.append(snapshot.groups[0].failures)
            return list(self.planner.decide(snapshot, traffic, now))

    given = settings(boot_failures=1.0, initial_workers=0, patience=100.0)
    result = simulate(trace, Watching, given, LAZY)
    assert result.boot_failures == max(seen) >= 3
    assert result.lost == len(trace)
    assert result.over_limit == 1.0


def test_times_to_create_and_to_start_are_learnt_and_unknown_at_first() -> None:
    seen: list[tuple[float, float]] = []

    class Waves:
        name = "waves"

        def __init__(self) -> None:
            self.few, self.many = parse_policy("fixed:1"), parse_policy("fixed:2")

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            seen.append((snapshot.groups[0].create_seconds, snapshot.groups[0].start_seconds))
            policy = self.few if 100 < now < 200 else self.many
            return list(policy.decide(snapshot, traffic, now))

    given = settings(boot_seconds=20.0, load_seconds=10.0, start_seconds=4.0)
    simulate(poisson(1, 50, 300), Waves, given, LAZY)
    assert seen[0] == (0.0, 0.0)
    assert seen[-1] == (pytest.approx(30.0), pytest.approx(4.0))


def test_what_comes_just_before_stopped_workers_are_back_does_not_queue_on_the_busy_one() -> None:
    class Surge:
        name = "surge"

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            # One is started first, so that it is known how long that takes; all others at 100 s.
            stopped = [w for w in snapshot.workers if w.state == "stopped"]
            wanted = stopped if now >= 100 else stopped[14:]
            return [Action(ActionKind.START, "start", worker_id=w.id) for w in wanted]

    # 20 requests of 1 s come each second, until the others are about to be back.
    burst = [(100.5 + number / 20, 400.0) for number in range(90)]
    trace = Trace.of("burst", burst, 160.0)
    given = settings(
        initial_workers=1, initial_stopped=15, start_seconds=5.0, slots=1, max_share=400.0
    )
    run = Simulation(trace, Surge(), given, LAZY)
    run.run()
    # They are back at 105 s. What came until 102 s is queued on the two, for up to 15 s. The other
    # 60 requests are 4 s of work for all; on the two they would begin until 134 s.
    assert max(at + wait for (at, _), wait in zip(burst, run.waits, strict=True) if at > 102) < 110
    assert max(run.waits) < 15


def test_a_worker_that_is_stopped_with_work_is_a_fault_that_is_counted() -> None:
    class Rash:
        name = "rash"

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            busy = [w for w in snapshot.workers if w.state == "ready" and w.requests]
            return [Action(ActionKind.STOP, "stop", worker_id=w.id) for w in busy[:1]]

    given = settings(initial_workers=2, patience=5.0)
    result = simulate(Trace.of("two", [(0.5, 4000.0), (0.6, 4000.0)], 60.0), Rash, given, LAZY)
    # The first on its own worker, then both on the other one.
    assert result.cut == 3


def test_clients_that_nobody_serves_give_up_when_their_patience_ends() -> None:
    run = simulation(
        Trace.of("some", [(1.0, 10.0), (2.0, 10.0)]),
        "fixed:0",
        settings(initial_workers=0, patience=30.0),
    )
    result = run.run()
    assert (result.lost, result.over_limit) == (2, 1.0)
    assert list(run.waits) == pytest.approx([30.0, 30.0])


def test_requests_before_the_end_of_the_warm_up_are_not_scored() -> None:
    trace = Trace.of("two", [(1.0, 1000.0), (50.0, 100.0)], 100.0)
    result = simulate(trace, "fixed:1", SimulatorSettings(warm_up=20.0), LAZY)
    assert result.requests == 1
    assert result.fluid_seconds == pytest.approx(100 / 400)


def test_the_timeline_holds_the_load_that_came() -> None:
    trace = poisson(5, 100, 300)
    timeline = simulate(trace, "fixed:3", settings(), LAZY, timeline=True).timeline
    assert timeline is not None
    assert sum(timeline.load) * timeline.step == pytest.approx(trace.load)
    assert max(timeline.active) == pytest.approx(1200)
    assert max(timeline.coming) == pytest.approx(800)
    assert len({len(timeline.load), len(timeline.active), len(timeline.max_wait)}) == 1


def test_progress_is_told_and_reaches_the_end() -> None:
    told: list[float] = []
    simulate(poisson(1, 50, 100), "fixed:1", settings(), LAZY, on_progress=told.append)
    assert told == sorted(told)
    assert told[-1] >= 0.99


def test_a_setting_that_is_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match=r"simulator\.slots: must be at least 1"):
        simulate(poisson(1, 50, 10), "fixed:1", settings(slots=0))


def test_an_update_is_told_and_a_rebooted_worker_runs_the_new_settings() -> None:
    revisions: list[tuple[bool, set[int]]] = []

    class Updating:
        name = "updating"

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            group, workers = snapshot.groups[0], snapshot.workers
            revisions.append((group.updating, {w.revision for w in workers}))
            old = [w for w in workers if w.revision < group.revision]
            drained = [w for w in old if w.state == "draining" and not w.requests]
            if drained:
                return [Action(ActionKind.REBOOT, "reboot", worker_id=drained[0].id)]
            ready = [w for w in workers if w.state == "ready"]
            if len(ready) == len(workers) and old:
                return [Action(ActionKind.DRAIN, "drain", worker_id=old[0].id)]
            return []

    given = settings(initial_workers=3, update_at=60.0)
    result = simulate(poisson(5, 100, 300), Updating, given, LAZY)
    assert revisions[0] == (False, {0})
    assert revisions[-1] == (True, {1})
    assert (result.cut, result.lost, result.retries) == (0, 0, 0)
    assert result.creations == 0
    assert result.loading_seconds == pytest.approx(3 * 5.0)


def test_without_an_inactivity_timeout_the_last_worker_goes_after_two_minutes() -> None:
    """docs/scaling.md says so."""
    parameters = EndpointParameters(min_load=0, cold_workers=0, cold_mult=1.0, max_workers=1)
    one = Trace.of("one", [(0.0, 4.0)], 400.0)
    result = simulate(one, "stoker", settings(perf=400.0, boot_seconds=3.0), parameters)
    assert 118 < result.active_seconds < 126


@functools.cache
def claimed(cost_error: str | float = 1.0, estimate_error: float = 1.0) -> Result:
    given = settings(
        stoppable=False, warm_up=60.0, cost_error=cost_error, estimate_error=estimate_error
    )
    return simulate(poisson(4, 100, 600), "stoker", given, LAZY)


@pytest.mark.parametrize(
    ("cost_error", "estimate_error"), [(4.0, 1.0), ("constant:1024", 1.0), (0.25, 4.0)]
)
def test_what_clients_claim_and_workers_estimate_moves_neither_the_fleet_nor_the_waits(
    cost_error: str | float, estimate_error: float
) -> None:
    honest, other = claimed(), claimed(cost_error, estimate_error)
    assert other.ratio <= 1.05 * honest.ratio
    assert other.over_limit <= honest.over_limit + 0.005


def test_of_two_keys_neither_waits_for_the_lie_of_the_other() -> None:
    """More load than the fleet can do, so that both have requests waiting all the time."""
    trace = poisson(6, 100, 600)
    waits = []
    for cost_error in ("1+1", "10+1"):
        run = simulation(trace, "fixed:1", settings(cost_error=cost_error))
        run.run()
        waits.append([sum(run.waits[key::2]) / len(run.waits[key::2]) for key in (0, 1)])
    honest, lying = waits
    assert lying == pytest.approx(honest, rel=0.15)


def test_rounds_come_each_second_alone_where_none_is_hurried() -> None:
    class Watcher:
        name = "watcher"

        def __init__(self) -> None:
            self.times: list[float] = []

        def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> list[Action]:
            self.times.append(now)
            return []

    watcher = Watcher()
    trace = Trace("t", array("d", [0.3, 2.8]), array("d", [1.0, 1.0]), 5.0)
    given = settings(initial_workers=0, hurried_rounds=False, round_offset=0.5, patience=4.0)
    Simulation(trace, watcher, given, LAZY).run()
    assert watcher.times[:5] == [0.5, 1.5, 2.5, 3.5, 4.5]
