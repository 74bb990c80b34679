"""Parameters that mean nothing or contradict each other: what is made of them, in words."""

from __future__ import annotations

import math
from functools import lru_cache

import msgspec

from stoker.wire import MAX_COST, EndpointParameters

_LIMITS: dict[str, tuple[float, float, float]] = {
    # name: least, most, and what is taken where it is no number
    "min_load": (0.0, MAX_COST, 0.0),
    "min_cold_load": (0.0, MAX_COST, 0.0),
    "target_util": (0.01, 1.0, 0.9),
    "cold_mult": (1.0, 1000.0, 1.0),
    "cold_workers": (0, 100_000, 0),
    "max_workers": (0, 100_000, 0),
    "max_queue_time": (0.0, MAX_COST, 30.0),
    "target_queue_time": (0.0, MAX_COST, 10.0),
}


def clamped(parameters: EndpointParameters) -> tuple[EndpointParameters, list[str]]:
    """The nearest parameters that mean something, and a line for each that was changed.

    The front door refuses such values; this is for whoever drives the planner without it.
    """
    problems = _problems(parameters)
    if not problems:
        return parameters, []
    changes: dict[str, float | None] = {}
    notes = []
    for name, problem in problems.items():
        given = getattr(parameters, name)
        taken: float | None
        if name in _LIMITS:
            least, most, otherwise = _LIMITS[name]
            if isinstance(given, str) or math.isnan(given):
                taken = otherwise
            else:
                taken = min(max(given, least), most)
        elif name == "inactivity_timeout":
            taken = None
        else:
            continue  # a parameter of which this file knows nothing
        if taken == given:
            continue
        changes[name] = taken
        was = given if isinstance(given, str) else f"{given:g}"
        now = "absent" if taken is None else f"{taken:g}"
        notes.append(f"{name} {was} {problem}: taken as {now}")
    return msgspec.structs.replace(parameters, **changes), notes


@lru_cache(maxsize=4096)
def _problems(parameters: EndpointParameters) -> dict[str, str]:
    """Remembered, because each round asks twice and parameters seldom change; not to be changed."""
    return parameters.problems()


def contradictions(parameters: EndpointParameters) -> list[str]:
    """What was made of parameters that contradict each other, a line each."""
    notes = []
    most = parameters.max_workers
    if parameters.cold_workers != "auto" and parameters.cold_workers > most:
        notes.append(
            f"cold_workers {parameters.cold_workers} is above max_workers {most}: taken as {most}"
        )
    if parameters.target_queue_time > parameters.max_queue_time:
        notes.append(
            f"target_queue_time {parameters.target_queue_time:g} s is above max_queue_time "
            f"{parameters.max_queue_time:g} s: taken as {parameters.max_queue_time:g} s"
        )
    if most == 0 and parameters.min_load > 0:
        notes.append(f"min_load {parameters.min_load:g} has no effect: max_workers is 0")
    return notes
