"""What it is worth to know what comes each day and each week, on loads of five weeks.

``python -m benchmarks.season`` prints a table: load by time, as a `LoadProfile` sees it, in steps
of five minutes. Capacity comes `--boot-seconds` after it was ordered. Whoever only reacts has what
came so long ago; whoever knows the season has also what was expected then. Each cell is of one
week: the share of the load that came before there was capacity for it, and the capacity as a
multiple of the load. The last column is capacity, and late load at 20, with the season as a share
of without it, in the last two weeks.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable

from stoker.autoscaler.planning.forecast import SEASON_LEAD
from stoker.autoscaler.planning.season import LATE_PRICE, SLOT, SLOTS, LoadProfile

WEEKS = 5
COUNT = WEEKS * 7 * SLOTS
DAYS = WEEKS * 7

Load = Callable[[int, float], float]
"""Load per second on a day (0 is a Monday) at an hour."""


def _busy(day: int, hour: float, days: int = 5) -> float:
    return 10.0 if day % 7 < days and 9 <= hour < 17 else 0.5


def _job(hour: float) -> float:
    return 10.0 if 2 <= hour < 2.5 else 0.1


def _patterns(draws: random.Random) -> dict[str, Load]:
    some = [draws.random() < 0.4 for _ in range(DAYS)]
    most = [draws.random() < 0.8 for _ in range(DAYS)]
    hours = [draws.random() * 23 for _ in range(DAYS)]
    return {
        "workdays 9 to 17": _busy,
        "the same, a holiday on the fourth Monday": lambda d, h: _busy(d, h) if d != 21 else 0.5,
        "the same, ended after three weeks": lambda d, h: _busy(d, h) if d < 21 else 0.5,
        "Monday, Wednesday, Friday": lambda d, h: _busy(0, h) if d % 7 in (0, 2, 4) else 0.5,
        "a job of Mondays": lambda d, h: _job(h) if d % 7 == 0 else 0.1,
        "a job each night": lambda _, h: _job(h),
        "the same, not on the fourth Wednesday": lambda d, h: _job(h) if d != 23 else 0.1,
        "the same, ended on the fourth Friday": lambda d, h: _job(h) if d < 25 else 0.1,
        "a job of 80% of the nights, by chance": lambda d, h: _job(h) if most[d] else 0.1,
        "a job of 40% of the nights, by chance": lambda d, h: _job(h) if some[d] else 0.1,
        "an hour a day, at any time": lambda d, h: 10.0 if 0 <= h - hours[d] < 1 else 0.1,
        "steady": lambda *_: 5.0,
        "steady, three requests in five minutes": lambda *_: 0.01,
    }


def _noisy(load: Load, draws: random.Random) -> list[float]:
    """With the chance of Poisson arrivals, of requests of one load unit."""
    found = []
    for number in range(COUNT):
        day, slot = divmod(number, SLOTS)
        mean = load(day, slot * SLOT / 3600) * SLOT
        # The normal distribution is near enough, but where there are few.
        count = draws.gauss(mean, math.sqrt(mean)) if mean > 50 else _poisson(mean, draws)
        found.append(max(0.0, count) / SLOT)
    return found


def _poisson(mean: float, draws: random.Random) -> int:
    count, product, least = 0, draws.random(), math.exp(-mean)
    while product > least:
        count, product = count + 1, product * draws.random()
    return count


def _bursts(on: float, off: float, draws: random.Random) -> list[float]:
    """Of 10 load units per second, at any time."""
    found = [0.0] * COUNT
    at = off * draws.uniform(0.5, 1.5)
    while at < COUNT * SLOT:
        end = min(at + on * draws.uniform(0.5, 1.5), COUNT * SLOT)
        while at < end:
            slot = min(COUNT - 1, int(at // SLOT))
            until = min(end, (slot + 1) * SLOT)
            found[slot] += 10.0 * (until - at) / SLOT
            at = max(until, math.nextafter(at, math.inf))
        at = end + off * draws.uniform(0.5, 1.5)
    return found


def weeks(loads: list[float], boot_seconds: float, *, season: bool) -> list[tuple[float, float]]:
    """Share of the load that was late, and capacity / load, of each week."""
    delay = max(1, math.ceil(boot_seconds / SLOT))
    profile, prepared = LoadProfile(), [0.0] * COUNT
    for number, load in enumerate(loads):
        at = number * SLOT
        profile.add(load, at, 1.0)
        if season:
            prepared[number] = profile.recurring(at, at + SEASON_LEAD * boot_seconds).load
        profile.add(load, at + 1.0, SLOT - 1.0)
    found = []
    for week in range(WEEKS):
        late = capacity = total = 0.0
        for number in range(max(delay, week * 7 * SLOTS), (week + 1) * 7 * SLOTS):
            load = loads[number]
            known = max(loads[number - delay], prepared[number - delay + 1])
            total, late = total + load, late + max(0.0, load - known)
            capacity += max(load, known)
        found.append((late / total, capacity / total) if total else (0.0, 0.0))
    return found


def _cells(found: list[tuple[float, float]]) -> str:
    return " | ".join(f"{late:6.2%} {cost:5.2f}x" for late, cost in found)


def _cost(found: list[tuple[float, float]]) -> float:
    return sum(LATE_PRICE * late + cost for late, cost in found[-2:])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boot-seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draws = random.Random(options.seed)
    loads = {name: _noisy(load, draws) for name, load in _patterns(draws).items()}
    for on, off in ((300, 1200), (600, 4500), (1800, 7200), (3600, 82_800)):
        loads[f"bursts of {on / 60:g} min each {(on + off) / 60:g} min"] = _bursts(on, off, draws)
    for name, load in loads.items():
        without, known = (
            weeks(load, options.boot_seconds, season=season) for season in (False, True)
        )
        print(f"{name:42} without {_cells(without)}")
        print(f"{'':42} with    {_cells(known)} | {_cost(known) / _cost(without):.2f}")


if __name__ == "__main__":
    main()
