"""Stoker's own planner, unchanged, as the policy."""

from __future__ import annotations

from collections.abc import Sequence

from stoker.autoscaler.planning import Action, EndpointSnapshot, PlannerSettings, plan
from stoker.simulator.policies.base import Traffic


class Planner:
    """Calls `stoker.autoscaler.planning.plan`."""

    def __init__(self, settings: PlannerSettings | None = None, name: str = "stoker") -> None:
        self.name = name
        self._settings = settings or PlannerSettings()

    def decide(self, snapshot: EndpointSnapshot, traffic: Traffic, now: float) -> Sequence[Action]:
        """What to do now; `traffic` is for the others."""
        return plan(snapshot, now, self._settings).actions
