"""``python -m benchmarks.planning [--endpoints N] [--workers N] [--rounds N] [--json]``.

CPU time of one round of planning over many endpoints, to build the snapshots, to step each one's
forecaster by a second, and to make the plans:

* **steady**: what is there is what is needed; the plans are empty.
* **rising**: load of 1.2 times the capacity; each endpoint creates or starts workers.
* **falling**: load of half the capacity; each endpoint drains workers.
* **updating**: a rolling update in two workergroups of different weights.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    Forecaster,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters

NOW = 10_000.0
PERF = 50.0
LIMIT = 2.0
"""Seconds of CPU that a round over 1,000 endpoints of 100 workers may take."""

OFFERS = 40
"""Kinds of machine on offer, seen by every workergroup."""


def demand(share: float, workers: int) -> Demand:
    """An endpoint that is asked for `share` of what its active workers can do."""
    rate = share * sum(PERF + number % 7 for number in range(workers * 3 // 4))
    return Demand(
        arrival_rate=rate,
        recent_rate=rate,
        peak_rate=rate,
        booked_load=rate,
        booked_count=workers,
        last_request_at=NOW,
    )


def snapshot(
    endpoint: int,
    workers: int,
    offers: tuple[OfferSnapshot, ...],
    share: float,
    *,
    updating: bool = False,
) -> EndpointSnapshot:
    """An endpoint of `workers` workers, three quarters of them ready, the others stopped."""
    active = workers * 3 // 4
    first = endpoint * workers
    groups = 2 if updating else 1
    return EndpointSnapshot(
        endpoint_id=endpoint,
        name=f"endpoint-{endpoint}",
        parameters=EndpointParameters(
            min_load=0.0, cold_workers=0, cold_mult=1.2, max_workers=2 * workers, target_util=0.9
        ),
        demand=demand(share, workers),
        workers=tuple(
            WorkerSnapshot(
                id=first + number,
                workergroup_id=endpoint * 2 + number % groups,
                state=WorkerState.READY if number < active else WorkerState.STOPPED,
                state_since=NOW - 1000.0 if number < active else NOW - 10.0,
                perf=PERF + number % 7,
                load=PERF if number < active else 0.0,
                requests=1 if number < active else 0,
                price=0.5 + number % 5 / 10,
                provider="local",
                offer_id="offer-0",
                hardware=f"gpu-{number % 5}",
            )
            for number in range(workers)
        ),
        groups=tuple(
            GroupSnapshot(
                id=endpoint * 2 + number,
                offers=offers,
                perf=PERF,
                create_seconds=120.0,
                start_seconds=5.0,
                weight=1.0 if number == 0 else 0.5,
                revision=int(updating),
                updating=updating,
            )
            for number in range(groups)
        ),
    )


def measure(
    forecasters: Sequence[Forecaster],
    workers: int,
    share: float,
    *,
    updating: bool,
    now: float = NOW,
) -> dict[str, float]:
    """CPU seconds of one round: snapshots, forecasts, plans; and the number of actions."""
    offers = tuple(
        OfferSnapshot(
            id=f"offer-{number}",
            provider="market",
            price=0.3 + number / 20,
            available=8,
            hardware=f"gpu-{number % 12}",
            spot=number % 3 == 0,
        )
        for number in range(OFFERS)
    )
    building = forecasting = planning = 0.0
    actions = 0
    clock: Callable[[], float] = time.process_time
    for endpoint, forecaster in enumerate(forecasters):
        start = clock()
        seen = snapshot(endpoint, workers, offers, share, updating=updating)
        built = clock()
        second = step(forecaster, seen, now)
        foreseen = clock()
        # Without the outlook: the fleet is what the case is about, not what was rehearsed.
        actions += len(plan(seen, NOW).actions)
        planning += clock() - foreseen
        forecasting += second
        building += built - start
    return {
        "building": building,
        "forecasting": forecasting,
        "planning": planning,
        "actions": actions,
    }


def step(forecaster: Forecaster, seen: EndpointSnapshot, now: float) -> float:
    """CPU seconds of one more second of the endpoint's load; the first ones only warm it up."""
    took = 0.0
    for ahead in range(6):
        told = replace(
            seen.demand,
            arrived_load=seen.demand.booked_load * (now + ahead),
            arrived_count=int(now + ahead),
        )
        snapshot = replace(seen, demand=told)
        start = time.process_time()
        forecaster.observe(snapshot, now + ahead)
        took = time.process_time() - start
    return took


def parts(figures: dict[str, float]) -> tuple[float, float, float]:
    """CPU seconds of the parts of a round."""
    return figures["building"], figures["forecasting"], figures["planning"]


ROUNDS: dict[str, tuple[float, bool]] = {
    "steady": (0.89, False),
    "rising": (1.08, False),
    "falling": (0.45, False),
    "updating": (0.89, True),
}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and fail where a round takes longer than it may."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.planning")
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(argv)
    results: dict[str, dict[str, float]] = {}
    forecasters = [Forecaster() for _ in range(options.endpoints)]
    now = NOW
    for name, (share, updating) in ROUNDS.items():
        rounds = []
        for number in range(options.rounds):
            if sys.stderr.isatty():
                print(f"\r{name}: round {number + 1} of {options.rounds}", end="", file=sys.stderr)
            gc.collect()
            now += 10
            measured = measure(forecasters, options.workers, share, updating=updating, now=now)
            rounds.append(measured)
        results[name] = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    if sys.stderr.isatty():
        print(file=sys.stderr)
    scaled = LIMIT * options.endpoints * options.workers / 100_000
    slowest = max(sum(parts(each)) for each in results.values())
    if options.json:
        print(json.dumps({"limit": scaled, "rounds": results}))
    else:
        print(f"{options.endpoints} endpoints of {options.workers} workers, CPU seconds a round")
        for name, each in results.items():
            total = sum(parts(each))
            print(
                f"  {name:9} {total:6.3f} = snapshots {each['building']:.3f} + forecasts "
                f"{each['forecasting']:.3f} + plans {each['planning']:.3f}   "
                f"({each['actions']:.0f} actions)"
            )
        print(f"  slowest {slowest:.3f} of {scaled:.3f} allowed")
    return int(slowest > scaled)


if __name__ == "__main__":
    sys.exit(main())
