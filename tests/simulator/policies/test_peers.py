"""Each peer does what its public description says, on traffic that is told to it second by second.

The integral of the requests in the system is given directly, so that no simulation stands between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import EndpointSnapshot, GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import WorkerState
from stoker.simulator.policies.base import Traffic
from stoker.simulator.policies.knative import Knative
from stoker.simulator.policies.ray_serve import RayServe
from stoker.simulator.policies.runpod import QueueDelay, RequestCount
from stoker.simulator.policies.scaling import Counting
from stoker.simulator.policies.simple import TargetUtilisation
from stoker.simulator.policies.skyserve import TargetQps
from stoker.simulator.policies.windows import WindowMean
from stoker.simulator.sharing import Job
from stoker.wire import EndpointParameters


def snapshot(
    ready: int, *, idle_since: float | None = None, perf: float = 100.0
) -> EndpointSnapshot:
    workers = tuple(
        WorkerSnapshot(
            id=number,
            workergroup_id=1,
            state=WorkerState.READY,
            state_since=0.0,
            perf=perf,
            slots=10,
            idle_since=idle_since,
            requests=0 if idle_since is not None else 1,
        )
        for number in range(1, ready + 1)
    )
    return EndpointSnapshot(
        endpoint_id=1,
        name="e",
        parameters=EndpointParameters(max_workers=100),
        demand=Demand(),
        workers=workers,
        groups=(GroupSnapshot(id=1, perf=perf),),
    )


def follow(
    policy: Counting,
    seconds: int,
    in_system: Callable[[int], int],
    *,
    rate: float = 0.0,
    load: float = 100.0,
) -> list[int]:
    """What it wants in each second, when its wishes come true at once."""
    traffic, size, wishes = Traffic(), 1, []
    arrived = 0.0
    for second in range(seconds + 1):
        traffic.advance(second)
        if second:
            arrived += rate
            traffic.load += rate * load
            traffic.arrivals = int(arrived)
        size, _ = policy.wanted(snapshot(size), traffic, float(second))
        wishes.append(size)
        traffic.in_system = in_system(second)
        if traffic.in_system:
            traffic.last_request_at = float(second)
    return wishes


def test_a_window_means_what_grew_in_it() -> None:
    mean = WindowMean(10.0)
    values = [mean.of(2.0 * at, float(at)) for at in range(30)]
    assert values[0] == 0.0
    assert values[5:] == pytest.approx([2.0] * 25)
    # Now nothing more: after half a window, half of it is left.
    assert mean.of(58.0, 34.0) == pytest.approx(1.0)


def test_knative_settles_at_concurrency_over_seven_tenths_of_the_slots() -> None:
    # 35 requests, 7 for a replica of 10 slots: 5.
    wishes = follow(Knative(), 200, lambda _: 35)
    assert wishes[-1] == 5


def test_knative_panics_on_a_burst_and_does_not_shrink_for_a_stable_window() -> None:
    wishes = follow(Knative(), 400, lambda second: 70 if 200 <= second < 210 else 7)
    assert wishes[199] == 1
    # The panic window of 6 s sees it in seconds, where the stable one would need many.
    assert max(wishes[200:210]) >= 8
    assert min(wishes[210:255]) == max(wishes)
    assert wishes[-1] == 1


def test_knative_shrinks_to_a_half_at_most_in_one_step() -> None:
    wishes = follow(Knative(), 400, lambda second: 560 if second < 200 else 7)
    high = wishes[199]
    assert high == 80
    falls = [b / a for a, b in itertools.pairwise(wishes[200:]) if b < a]
    assert min(falls) >= 0.49


def test_knative_goes_to_zero_after_window_and_grace_and_comes_back_at_once() -> None:
    wishes = follow(Knative(), 300, lambda second: 5 if second < 100 or second > 290 else 0)
    # Quiet since 99; 60 + 30 s later, at its next decision.
    assert wishes[188] == 1
    assert wishes[191] == 0
    assert wishes[292] == 1


def test_ray_serve_waits_before_it_goes_up_and_longer_before_it_goes_down() -> None:
    wishes = follow(RayServe(), 1000, lambda second: 20 if 100 <= second < 300 else 2)
    # Above the target since 101, held for 30 s.
    assert wishes[129] == 1
    assert wishes[132] == 10
    # Fewer are wanted since 301, for 600 s.
    assert wishes[899] == 10
    assert wishes[905] == 1


def test_ray_serve_starts_its_delay_anew_when_the_wish_changes_its_direction() -> None:
    wishes = follow(RayServe(look_back=1.0), 400, lambda second: 10 if second % 20 < 10 else 0)
    assert set(wishes) == {1}


def test_ray_serve_smooths_its_steps() -> None:
    half = follow(RayServe(up_smoothing=0.5), 60, lambda _: 20)
    # 20 / 1 / 2 = 10 times the target; halfway to it from 1: 5.5, so 6.
    assert half[35] == 6


def test_runpods_queue_delay_adds_one_a_second_while_a_request_waits_too_long() -> None:
    traffic, policy = Traffic(), QueueDelay(4.0)
    job = Job(0, 10.0, 1.0)
    traffic.came(job, 10.0)
    wishes = [policy.wanted(snapshot(2), traffic, at)[0] for at in (13.9, 14.1, 14.2, 15.2)]
    assert wishes == [2, 3, 2, 3]
    job.begun = 15.3
    assert policy.wanted(snapshot(2), traffic, 20.0)[0] == 2


def test_runpod_lets_go_of_what_is_idle_for_five_seconds() -> None:
    policy = QueueDelay()
    assert policy.wanted(snapshot(3, idle_since=10.0), Traffic(), 14.9)[0] == 3
    assert policy.wanted(snapshot(3, idle_since=10.0), Traffic(), 15.1)[0] == 0


def test_runpods_request_count_has_a_worker_for_each_four() -> None:
    traffic, policy = Traffic(), RequestCount()
    traffic.in_system = 9
    assert policy.wanted(snapshot(0), traffic, 1.0)[0] == 3


def test_target_qps_follows_after_its_delays() -> None:
    policy = TargetQps(2.0)
    up = follow(policy, 400, lambda _: 1, rate=10.0)
    assert up[298] == 1
    assert up[305] == 5


def test_target_qps_without_a_target_takes_it_from_the_requests_so_far() -> None:
    # 100 load/s x 0.8 over 20 load: 4 requests/s each; 10 need 3.
    assert follow(TargetQps(), 400, lambda _: 1, rate=10.0, load=20.0)[-1] == 3


def test_target_utilisation_follows_the_mean_of_its_window() -> None:
    wishes = follow(TargetUtilisation(0.8), 200, lambda _: 1, rate=4.0, load=100.0)
    assert wishes[-1] == 5
