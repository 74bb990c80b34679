"""From what happened to the figures of a `Result`."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.simulator.fleet import SimFleet
from stoker.simulator.result import Result, Timeline, percentile
from stoker.simulator.trace import Trace


def score(
    trace: Trace,
    waited: Sequence[float],
    fleet: SimFleet,
    *,
    policy: str,
    lost: int,
    cut: int,
    retries: int,
    cpu_seconds: float,
    timeline: Timeline | None,
) -> Result:
    """Add up a run that has ended; what came during the warm-up is left out.

    Args:
        trace: the requests.
        waited: seconds that each of them waited.
        fleet: settled.
        policy: its name.
        lost: scored requests that were given up.
        cut: see `Result`.
        retries: see `Result`.
        cpu_seconds: that the run took.
        timeline: figures over time, where they were kept.
    """
    settings = fleet.settings
    scored = [place for place in range(len(trace)) if trace.arrivals[place] >= settings.warm_up]
    waits = sorted(waited[place] for place in scored)
    over = sum(wait > settings.limit for wait in waits)
    load = sum(trace.loads[place] for place in scored)
    best = min(
        (k.price / settings.price if settings.price > 0 else 1.0) / k.perf for k in settings.kinds
    )
    fluid = load * best
    return Result(
        trace=trace.name,
        policy=policy,
        requests=len(scored),
        lost=lost,
        cost=fleet.cost,
        active_seconds=fleet.seconds["active"],
        loading_seconds=fleet.seconds["loading"],
        inactive_seconds=fleet.seconds["inactive"],
        fluid_seconds=fluid,
        ratio=fleet.cost / fluid if fluid > 0 else 0.0,
        price=fleet.cost * settings.price / 3600,
        wait_mean=sum(waits) / len(waits) if waits else 0.0,
        wait_p50=percentile(waits, 0.5),
        wait_p95=percentile(waits, 0.95),
        wait_p99=percentile(waits, 0.99),
        wait_max=waits[-1] if waits else 0.0,
        limit=settings.limit,
        over_limit=over / len(waits) if waits else 0.0,
        creations=fleet.counts.creations,
        starts=fleet.counts.starts,
        stops=fleet.counts.stops,
        destroyed=fleet.counts.destroyed,
        failures=fleet.counts.failures,
        boot_failures=fleet.counts.boot_failures,
        preemptions=fleet.counts.preemptions,
        cut=cut,
        retries=retries,
        peak_workers=fleet.peak,
        duration=max(0.0, trace.duration - settings.warm_up),
        cpu_seconds=cpu_seconds,
        timeline=timeline,
    )
