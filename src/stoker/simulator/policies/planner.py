"""Stoker's own planner, unchanged, as the policy."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.autoscaler.planning import (
    Action,
    EndpointSnapshot,
    Forecaster,
    PlannerSettings,
    plan,
)
from stoker.simulator.policies.base import Traffic


class Planner:
    """Calls `stoker.autoscaler.planning.plan` with the outlook of a `Forecaster`."""

    def __init__(self, settings: PlannerSettings | None = None, name: str = "stoker") -> None:
        self.name = name
        self._settings = settings or PlannerSettings()
        self._forecaster = Forecaster(self._settings)

    def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> Sequence[Action]:
        """What to do now; `traffic` is for the others."""
        snapshot.outlook = self._forecaster.observe(snapshot, now)
        return plan(snapshot, now, self._settings, explain=False).actions
