"""``python -m benchmarks.simulating [--tenth] [--pool yes|no] [--json]``.

CPU seconds that `stoker simulate` takes for a day of 43,200 requests, with the planner and the
parameters of an endpoint in ``stoker.toml``. Traffic of several kinds, each of 0.5 requests a
second on average.
"""

from __future__ import annotations

import argparse
import json

import msgspec

from stoker.simulator import SimulatorSettings, generate, simulate
from stoker.wire import FILE_DEFAULTS, EndpointParameters

DAY = 86400.0

LIMIT = 10.0
"""CPU seconds that a day is to take."""

TRAFFIC = {
    "steady": "poisson:rate=0.5,duration={seconds:g}",
    "daily": "daily:rate=0.5,duration={seconds:g},period={seconds:g}",
    "bursts": "onoff:rate=15,on=12,off=348,duration={seconds:g}",
    "heavy-tailed": "poisson:rate=0.5,tail=1.5,duration={seconds:g}",
}


def measure(spec: str, seconds: float, *, pool: bool) -> float:
    """CPU seconds of a simulated day of this traffic, of which `seconds` are simulated."""
    trace = generate(spec.format(seconds=seconds), 0)
    parameters = msgspec.structs.replace(EndpointParameters(), **FILE_DEFAULTS)
    result = simulate(trace, "stoker", SimulatorSettings(stoppable=pool), parameters)
    return result.cpu_seconds * DAY / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.simulating")
    parser.add_argument("--tenth", action="store_true", help="simulate a tenth of a day, times ten")
    parser.add_argument("--pool", choices=("yes", "no"), help="only with, only without a pool")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    seconds = DAY / 10 if options.tenth else DAY
    pools = [True, False] if options.pool is None else [options.pool == "yes"]
    found = {
        f"{name}, {'with' if pool else 'without'} a pool": measure(spec, seconds, pool=pool)
        for name, spec in TRAFFIC.items()
        for pool in pools
    }
    if options.json:
        print(json.dumps({"limit": LIMIT, "cpu_seconds": found}))
        return
    print(f"CPU seconds for a day of 43,200 requests; at most {LIMIT:g} are wanted")
    for name, cost in found.items():
        print(f"  {name:28} {cost:6.1f}")


if __name__ == "__main__":
    main()
