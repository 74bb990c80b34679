"""Traffic that is made up: Poisson arrivals whose rate changes with time, by a seed.

``onoff:rate=20,on=60,off=300`` names a kind of traffic and its figures. Every kind has `duration`
(seconds) and the sizes of its requests: log-normal with the mean `load` and the standard deviation
`sigma` of their logarithm (0: all alike), or, where `tail` is above 1, Pareto with that shape (the
smaller, the heavier the tail; 2 and below have no variance). `most` cuts them off.

Arrivals are thinned from a Poisson process of the highest rate (Lewis and Shedler, Naval Research
Logistics 26(3), 1979).
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from stoker.errors import ConfigError
from stoker.simulator.figures import Figure, parse_figures, unknown
from stoker.simulator.trace import MAX_REQUESTS, Trace
from stoker.wire import MAX_COST

Rate = Callable[[float], float]
"""Requests per second at a time."""


@dataclass(frozen=True, slots=True)
class Generator:
    """One kind of traffic."""

    make: Callable[[dict[str, float], random.Random], tuple[Rate, float]]
    """From its figures: the rate over time, and the highest one."""
    about: str
    figures: dict[str, Figure]


_SIZES = {
    "load": Figure(300.0, 1e-6, 1e6, about="mean load of a request"),
    "sigma": Figure(1.0, 0, 5, about="spread of the sizes (log-normal); 0: all alike"),
    "tail": Figure(0.0, 0, 100, about="above 1: Pareto sizes of this shape instead"),
    "most": Figure(
        MAX_COST, 1e-6, MAX_COST, about="the largest request; larger ones are cut to it"
    ),
}
_RATE = Figure(5.0, 0, 1e6, about="requests per second")


def _duration(default: float) -> dict[str, Figure]:
    return {"duration": Figure(default, 1, 1e8, about="seconds")}


def _poisson(f: dict[str, float], draws: random.Random) -> tuple[Rate, float]:
    return lambda _: f["rate"], f["rate"]


def _daily(f: dict[str, float], draws: random.Random) -> tuple[Rate, float]:
    def rate(at: float) -> float:
        # Begins at the lowest point: midnight.
        return f["rate"] * (1 - f["swing"] * math.cos(2 * math.pi * at / f["period"]))

    return rate, f["rate"] * (1 + f["swing"])


def _weekly(f: dict[str, float], draws: random.Random) -> tuple[Rate, float]:
    base, height, length = f["base"], f["rate"] - f["base"], 3600 * f["hours"]
    slope = max(1e-9, min(3600 * f["rise"], length / 2))

    def rate(at: float) -> float:
        # Begins on Monday, at midnight.
        day, since = divmod(at - 3600 * f["start"], 86_400)
        if day % 7 >= f["days"] or since >= length:
            return base
        return base + height * min(1.0, since / slope, (length - since) / slope)

    return rate, max(f["rate"], base)


def _onoff(f: dict[str, float], draws: random.Random) -> tuple[Rate, float]:
    edges: list[float] = []
    """When it goes on, off, on, ..."""
    at, on = 0.0, False
    while at < f["duration"]:
        length = f["on"] if on else f["off"]
        at += length * (1 + f["jitter"] * draws.uniform(-1, 1))
        edges.append(at)
        on = not on
    place = 0

    def rate(at: float) -> float:  # it is asked in the order of time
        nonlocal place
        while place < len(edges) and edges[place] <= at:
            place += 1
        return f["rate"] if place % 2 else f["base"]

    return rate, max(f["rate"], f["base"])


def _ramp(f: dict[str, float], draws: random.Random) -> tuple[Rate, float]:
    start, end = f["start"], f["end"]
    return lambda at: start + (end - start) * at / f["duration"], max(start, end)


def _flash(f: dict[str, float], draws: random.Random) -> tuple[Rate, float]:
    peak = f["rate"] * f["times"]

    def rate(at: float) -> float:
        since = at - f["at"]
        if since < 0:
            return f["rate"]
        if since < f["rise"]:
            return f["rate"] + (peak - f["rate"]) * since / f["rise"]
        fading = max(0.0, since - f["rise"] - f["lasts"])
        return f["rate"] + (peak - f["rate"]) * math.exp(-fading / max(f["fade"], 1e-9))

    return rate, max(f["rate"], peak)


GENERATORS: dict[str, Generator] = {
    "poisson": Generator(
        _poisson, "the same rate all the time", {"rate": _RATE, **_duration(3600), **_SIZES}
    ),
    "daily": Generator(
        _daily,
        "a sine from night to day",
        {
            "rate": _RATE,
            "swing": Figure(0.8, 0, 1, about="share of the mean by which it rises and falls"),
            "period": Figure(86_400, 1, 1e8, about="seconds"),
            **_duration(86_400),
            **_SIZES,
        },
    ),
    "weekly": Generator(
        _weekly,
        "workdays and weekends; days=1: a job of Mondays",
        {
            "rate": Figure(5.0, 0, 1e6, about="requests per second while it is busy"),
            "base": Figure(0.5, 0, 1e6, about="requests per second else"),
            "days": Figure(5, 0, 7, about="days of the week that are busy, from Monday on"),
            "start": Figure(9, 0, 24, about="hour at which it gets busy"),
            "hours": Figure(8, 0, 24, about="hours for which it is busy"),
            "rise": Figure(1, 0, 12, about="hours in which it rises, and falls"),
            **_duration(4 * 604_800),
            **_SIZES,
        },
    ),
    "onoff": Generator(
        _onoff,
        "silence, then a burst, again and again",
        {
            "rate": Figure(20.0, 0, 1e6, about="requests per second of a burst"),
            "base": Figure(0.0, 0, 1e6, about="requests per second between bursts"),
            "on": Figure(30.0, 0.1, 1e7, about="mean length of a burst, seconds"),
            "off": Figure(180.0, 0.1, 1e7, about="mean silence, seconds"),
            "jitter": Figure(0.5, 0, 0.99, about="share by which both vary"),
            **_duration(3600),
            **_SIZES,
        },
    ),
    "ramp": Generator(
        _ramp,
        "from one rate to another",
        {
            "start": Figure(1.0, 0, 1e6, about="requests per second"),
            "end": Figure(10.0, 0, 1e6, about="requests per second"),
            **_duration(3600),
            **_SIZES,
        },
    ),
    "flash": Generator(
        _flash,
        "a flash crowd: many times the rate within seconds, fading slowly",
        {
            "rate": Figure(2.0, 0, 1e6, about="requests per second before it"),
            "times": Figure(10.0, 1, 1e4, about="times the rate at its peak"),
            "at": Figure(1200, 0, 1e8, about="when it begins, seconds"),
            "rise": Figure(20, 0, 1e7, about="seconds to its peak"),
            "lasts": Figure(120, 0, 1e7, about="seconds at its peak"),
            "fade": Figure(300, 0, 1e7, about="seconds in which it falls to a third (1/e)"),
            **_duration(3600),
            **_SIZES,
        },
    ),
}


def generate(spec: str, seed: int = 0) -> Trace:
    """Make a trace up.

    Args:
        spec: such as ``onoff:rate=20,on=60``; see `GENERATORS`.
        seed: the same one gives the same trace.

    Raises:
        ConfigError: names what is unknown, out of range, or comes to too many requests.
    """
    name, _, rest = spec.strip().partition(":")
    kind = GENERATORS.get(name)
    if kind is None:
        raise unknown("generator", name, GENERATORS)
    figures = parse_figures(
        f"generator {name}", rest, kind.figures, "rate" if "rate" in kind.figures else ""
    )
    draws = random.Random(f"{seed}/{name}")
    rate, highest = kind.make(figures, draws)
    duration = figures["duration"]
    if highest * duration > MAX_REQUESTS:
        raise ConfigError(
            f"generator {name}", f"comes to more than {MAX_REQUESTS:,} requests: lower the rate"
        )
    size = _sizes(figures, draws)
    arrivals, loads = array("d"), array("d")
    at = 0.0
    while highest > 0:
        at += draws.expovariate(highest)
        if at >= duration:
            break
        if draws.random() * highest < rate(at):
            arrivals.append(at)
            loads.append(size())
    return Trace(spec.strip(), arrivals, loads, duration)


def _sizes(figures: dict[str, float], draws: random.Random) -> Callable[[], float]:
    mean, sigma, shape = figures["load"], figures["sigma"], figures["tail"]
    most = figures["most"]
    if shape > 1:
        smallest = mean * (shape - 1) / shape
        return lambda: min(most, smallest * draws.paretovariate(shape))
    if 0 < shape <= 1:
        raise ConfigError("generator.tail", "must be 0 or above 1: else the mean is infinite")
    if sigma == 0:
        return lambda: min(most, mean)
    middle = math.log(mean) - sigma**2 / 2
    return lambda: min(most, draws.lognormvariate(middle, sigma))
