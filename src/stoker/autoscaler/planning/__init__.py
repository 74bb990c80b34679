"""What to do about the fleet: (snapshot, now) -> plan with reasons. Pure: no clock, no I/O."""

from stoker.autoscaler.planning.backoff import backoff_delay
from stoker.autoscaler.planning.explaining import explain
from stoker.autoscaler.planning.forecast import Forecaster
from stoker.autoscaler.planning.outlook import Horizon, Outlook
from stoker.autoscaler.planning.plan import Action, ActionKind, Explanation, Plan
from stoker.autoscaler.planning.planner import plan
from stoker.autoscaler.planning.rehearsal import Candidate
from stoker.autoscaler.planning.season import Recurring, UtcOffset
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    WorkerSnapshot,
)

__all__ = [
    "Action",
    "ActionKind",
    "Candidate",
    "EndpointSnapshot",
    "Explanation",
    "Forecaster",
    "GroupSnapshot",
    "Horizon",
    "OfferSnapshot",
    "Outlook",
    "Plan",
    "PlannerSettings",
    "Recurring",
    "UtcOffset",
    "WorkerSnapshot",
    "backoff_delay",
    "explain",
    "plan",
]
