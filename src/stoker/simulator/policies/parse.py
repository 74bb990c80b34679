"""From a name on the command line to a policy: ``knative:target=0.6``, ``fixed:6``.

After the colon come parameters, ``name=value`` with commas between; one without a name is the
policy's main figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stoker.autoscaler.planning import PlannerSettings
from stoker.simulator.figures import Figure, parse_figures, unknown
from stoker.simulator.policies.base import Policy
from stoker.simulator.policies.knative import Knative
from stoker.simulator.policies.planner import Planner
from stoker.simulator.policies.ray_serve import RayServe
from stoker.simulator.policies.runpod import QueueDelay, RequestCount
from stoker.simulator.policies.scaling import Counting, Scaled
from stoker.simulator.policies.simple import Fixed, TargetUtilisation
from stoker.simulator.policies.skyserve import TargetQps


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
        "so many workers, whatever comes; fixed:best finds the smallest number that will do",
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
    "knative": Kind(
        lambda f: _scaled(
            Knative(
                f["target"],
                concurrency=f["concurrency"],
                window=f["window"],
                panic_window=f["panic_window"],
                panic_threshold=f["panic_threshold"],
                up=f["up"],
                down=f["down"],
                grace=f["grace"],
                minimum=int(f["min"]),
            )
        ),
        "target",
        "Knative's pod autoscaler, on concurrency",
        {
            "target": Figure(0.7, 0.01, 1),
            "concurrency": Figure(0, 0, 1e6),
            "window": Figure(60, 6, 3600),
            "panic_window": Figure(0.1, 0.01, 1),
            "panic_threshold": Figure(2, 1.1, 10),
            "up": Figure(1000, 1.01, 1e6),
            "down": Figure(2, 1.01, 1e6),
            "grace": Figure(30, 0, 86400),
            "min": Figure(0, 0, 100_000, whole=True),
        },
    ),
    "ray_serve": Kind(
        lambda f: _scaled(
            RayServe(
                f["target"],
                upscale_delay=f["upscale_delay"],
                downscale_delay=f["downscale_delay"],
                look_back=f["look_back"],
                up_smoothing=f["up_smoothing"],
                down_smoothing=f["down_smoothing"],
                minimum=int(f["min"]),
            )
        ),
        "target",
        "Ray Serve, on ongoing requests",
        {
            "target": Figure(2, 0.01, 1e6),
            "upscale_delay": Figure(30, 0, 86400),
            "downscale_delay": Figure(600, 0, 86400),
            "look_back": Figure(30, 1, 86400),
            "up_smoothing": Figure(1, 0.01, 10),
            "down_smoothing": Figure(1, 0.01, 10),
            "min": Figure(1, 0, 100_000, whole=True),
        },
    ),
    "runpod_delay": Kind(
        lambda f: _scaled(
            QueueDelay(f["delay"], idle_timeout=f["idle_timeout"], minimum=int(f["min"]))
        ),
        "delay",
        "Runpod's queue delay",
        {
            "delay": Figure(4, 0, 86400),
            "idle_timeout": Figure(5, 0, 86400),
            "min": Figure(0, 0, 100_000, whole=True),
        },
    ),
    "runpod_count": Kind(
        lambda f: _scaled(
            RequestCount(f["requests"], idle_timeout=f["idle_timeout"], minimum=int(f["min"]))
        ),
        "requests",
        "Runpod's request count",
        {
            "requests": Figure(4, 0.01, 1e6),
            "idle_timeout": Figure(5, 0, 86400),
            "min": Figure(0, 0, 100_000, whole=True),
        },
    ),
    "target_qps": Kind(
        lambda f: _scaled(
            TargetQps(
                f["target"],
                upscale_delay=f["upscale_delay"],
                downscale_delay=f["downscale_delay"],
                window=f["window"],
                minimum=int(f["min"]),
            )
        ),
        "target",
        "SkyServe, on requests per second",
        {
            "target": Figure(0, 0, 1e6),
            "upscale_delay": Figure(300, 0, 86400),
            "downscale_delay": Figure(1200, 0, 86400),
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
        raise unknown("policy", name, POLICIES)
    figures = parse_figures(f"policy {name}", rest, kind.figures, kind.main)
    if name == "stoker":
        return Planner(planner)
    policy = kind.make(figures)
    policy.name = spec.strip() if rest else policy.name
    return policy
