"""From a name on the command line to a policy: ``knative:target=0.6``, ``fixed:6``.

After the colon come parameters, ``name=value`` with commas between; one without a name is the
policy's main figure.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from stoker.autoscaler.planning import PlannerSettings
from stoker.errors import ConfigError
from stoker.simulator.policies.base import Policy
from stoker.simulator.policies.planner import Planner
from stoker.simulator.policies.scaling import Counting, Scaled
from stoker.simulator.policies.simple import Fixed, TargetUtilisation


@dataclass(frozen=True, slots=True)
class Figure:
    """One parameter of a policy."""

    default: float
    low: float = 0.0
    high: float = math.inf
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of policy."""

    make: Callable[[dict[str, float]], Policy]
    main: str
    about: str
    figures: dict[str, Figure] = field(default_factory=dict)


def _scaled(counting: Counting, *, capped: bool = True) -> Policy:
    return Scaled(counting, capped=capped)


POLICIES: dict[str, Kind] = {
    "stoker": Kind(lambda _: Planner(), "", "Stoker's own planner"),
    "fixed": Kind(
        lambda figures: _scaled(Fixed(int(figures["workers"])), capped=False),
        "workers",
        "so many workers, whatever comes",
        {"workers": Figure(1, 0, 100_000, whole=True)},
    ),
    "target_util": Kind(
        lambda f: _scaled(TargetUtilisation(f["util"], window=f["window"], minimum=int(f["min"]))),
        "util",
        "mean load of the last minute / (util x perf)",
        {
            "util": Figure(0.8, 0.01, 10),
            "window": Figure(60, 1, 86400),
            "min": Figure(1, 0, 100_000, whole=True),
        },
    ),
}


def parse_policy(spec: str, planner: PlannerSettings | None = None) -> Policy:
    """Make a policy from its name and parameters.

    Args:
        spec: for example ``fixed:6``.
        planner: the planner's own figures, for ``stoker``.

    Raises:
        ConfigError: names the policy or parameter that is unknown or out of range.
    """
    name, _, rest = spec.strip().partition(":")
    kind = POLICIES.get(name)
    if kind is None:
        near = difflib.get_close_matches(name, POLICIES, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(POLICIES)}"
        raise ConfigError("policy", f"there is no policy {name[:40]!r}; {hint}")
    if name == "stoker" and not rest:
        return Planner(planner)
    figures = {key: figure.default for key, figure in kind.figures.items()}
    for part in filter(None, rest.split(",")):
        key, equals, text = part.partition("=")
        key, text = (key.strip(), text) if equals else (kind.main, key)
        if key not in kind.figures:
            known = ", ".join(kind.figures) or "none"
            raise ConfigError(f"policy {name}", f"has no parameter {key[:40]!r}; known: {known}")
        figures[key] = _value(f"policy {name}.{key}", text, kind.figures[key])
    policy = kind.make(figures)
    policy.name = spec.strip() if rest else policy.name
    return policy


def _value(where: str, text: str, figure: Figure) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(where, f"is no number: {text[:40]!r}") from None
    if not (math.isfinite(value) and figure.low <= value <= figure.high):
        high = "" if math.isinf(figure.high) else f" to {figure.high:g}"
        raise ConfigError(where, f"must be from {figure.low:g}{high}")
    if figure.whole and value != int(value):
        raise ConfigError(where, "must be a whole number")
    return value
