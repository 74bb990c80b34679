"""What the planner decided."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ActionKind(StrEnum):
    """What to do."""

    CREATE = "create"
    """Ask a provider for an instance."""
    START = "start"
    """Start a stopped worker; put a draining one back into rotation."""
    DRAIN = "drain"
    """Send it nothing new; it keeps running."""
    STOP = "stop"
    """Stop a worker that is drained and empty; its model stays on disk."""
    DESTROY = "destroy"
    """Destroy a worker that has nothing in flight."""


@dataclass(frozen=True, slots=True)
class Action:
    """One step, and why."""

    kind: ActionKind
    reason: str
    """One line, with the figures that led to it."""
    worker_id: int | None = None
    """None for CREATE."""
    group_id: int | None = None
    offer_id: str | None = None
    """For CREATE."""
    provider: str = ""
    """For CREATE."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions in the order in which they matter."""

    actions: tuple[Action, ...] = ()
    summary: str = ""
    """Need and capacity in one line; changes whenever the figures do."""
    notes: tuple[str, ...] = ()
    """Why something needed is not done; worth telling when they change."""
