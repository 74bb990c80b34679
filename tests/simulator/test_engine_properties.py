"""Whatever is thrown at it, every request ends once, and nothing costs what it must not."""

from __future__ import annotations

import math

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.simulator import SimulatorSettings, Trace
from stoker.simulator.engine import Simulation
from stoker.simulator.policies import parse_policy
from stoker.wire import EndpointParameters

PARAMETERS = st.builds(
    EndpointParameters,
    min_load=st.sampled_from([0.0, 1.0, 500.0]),
    target_util=st.floats(0.1, 1.0),
    cold_mult=st.sampled_from([1.0, 3.0]),
    cold_workers=st.integers(0, 4),
    max_workers=st.integers(1, 8),
    max_queue_time=st.sampled_from([0.5, 5.0, 30.0]),
    target_queue_time=st.sampled_from([0.0, 2.0, 10.0]),
    inactivity_timeout=st.sampled_from([None, 0.0, 20.0, -1.0]),
)

SETTINGS = st.builds(
    SimulatorSettings,
    perf=st.floats(50, 500),
    slots=st.integers(1, 6),
    boot_seconds=st.floats(0, 40),
    load_seconds=st.sampled_from([0.0, 15.0]),
    start_seconds=st.floats(0, 10),
    boot_spread=st.sampled_from([0.0, 0.5]),
    stoppable=st.booleans(),
    available=st.integers(1, 10),
    failures_per_hour=st.sampled_from([0.0, 60.0]),
    boot_failures=st.sampled_from([0.0, 0.3, 1.0]),
    preemptions_per_hour=st.sampled_from([0.0, 60.0]),
    preemption_notice=st.sampled_from([0.0, 20.0]),
    initial_workers=st.integers(0, 3),
    patience=st.sampled_from([5.0, 120.0]),
    seed=st.integers(0, 5),
    warm_up=st.just(0.0),
    update_at=st.sampled_from([None, 60.0]),
)

TRACES = st.lists(st.tuples(st.floats(0, 200), st.floats(0, 2000)), min_size=1, max_size=60).map(
    lambda requests: Trace.of("any", requests, 250.0)
)

POLICIES = st.sampled_from(
    ["stoker", "stoker", "fixed:2", "target_util:0.7", "knative", "ray_serve", "runpod_delay:1"]
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trace=TRACES, given_settings=SETTINGS, parameters=PARAMETERS, policy=POLICIES)
def test_every_request_ends_once_and_the_books_are_empty_afterwards(
    trace: Trace, given_settings: SimulatorSettings, parameters: EndpointParameters, policy: str
) -> None:
    run = Simulation(trace, parse_policy(policy), given_settings, parameters)
    result = run.run()
    finished = sum(not math.isnan(at) for at in run.finished)
    assert finished + result.lost == len(trace)
    assert all(0 <= wait <= 1e4 for wait in run.waits)
    assert run.traffic.in_system == 0
    # Nobody has a request any more, and none is held.
    assert all(not worker.server.jobs for worker in run.fleet.workers.values())
    assert run.router.held(1) == []
    assert result.cut == 0
    # Little's law, with those that gave up counted until they did.
    times = sum(
        (run.waits[place] if math.isnan(end) else end - trace.arrivals[place])
        for place, end in enumerate(run.finished)
    )
    assert math.isclose(run.traffic.system_seconds, times, rel_tol=1e-9, abs_tol=1e-6)


@settings(max_examples=20, deadline=None)
@given(trace=TRACES, given_settings=SETTINGS, parameters=PARAMETERS, policy=POLICIES)
def test_no_more_is_paid_for_than_there_can_be_and_no_less_than_was_done(
    trace: Trace, given_settings: SimulatorSettings, parameters: EndpointParameters, policy: str
) -> None:
    run = Simulation(trace, parse_policy(policy), given_settings, parameters)
    result = run.run()
    limit = max(given_settings.available, given_settings.initial_workers)
    total = result.active_seconds + result.loading_seconds + result.inactive_seconds
    assert total <= limit * trace.duration + 1e-6
    assert result.peak_workers <= limit
    priced = result.active_seconds + result.loading_seconds
    priced += given_settings.inactive_price * result.inactive_seconds
    assert math.isclose(result.cost, priced, rel_tol=1e-9, abs_tol=1e-9)
