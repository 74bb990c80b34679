"""What the planner decided."""

from __future__ import annotations

from dataclasses import dataclass, field
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
    UPDATE = "update"
    """Have a ready worker wait for its turn in a rolling update; it serves until then."""
    REBOOT = "reboot"
    """Start a drained, empty worker anew with its workergroup's present settings."""


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


@dataclass(slots=True, kw_only=True)
class Explanation:
    """Why a plan is as it is, in figures; capacity and rates in load units per second."""

    anticipated: float = 0.0
    """Load that is expected over the time that a new worker takes to come."""
    target_util: float = 1.0
    needed: float = 0.0
    """Active capacity below which more is brought up."""
    kept: float = 0.0
    """Active capacity down to which workers are let go."""
    recurring: float = 0.0
    """Load that came at this time of the day or week before; 0: nothing recurs."""
    belief: float = 1.0
    """How far `recurring` is believed, from 0 (it is not followed) to 1."""
    active: float = 0.0
    coming: float = 0.0
    """Capacity of the workers on their way."""
    stopped: float = 0.0
    workers: dict[str, int] = field(default_factory=dict)
    """Number of workers by state."""
    held: int = 0
    backlog: float = 0.0
    """Load that waits or works, load units."""
    binds: str = ""
    """The constraint that decides, for example ``target_util`` or ``max_workers``."""
    why: str = ""
    """The same in one line, with its figures."""
    details: tuple[tuple[str, str], ...] = ()
    """More figures, as (name, text), in the order in which they are told."""


@dataclass(slots=True)
class Plan:
    """Actions in the order in which they matter."""

    actions: tuple[Action, ...] = ()
    summary: str = ""
    """Need and capacity in one line; changes whenever the figures do."""
    notes: tuple[str, ...] = ()
    """Why something needed is not done; worth telling when they change."""
    explanation: Explanation | None = None
    refusals: tuple[str, ...] = ()
    """What keeps workers from being created, each in one line."""
    withheld: tuple[Action, ...] = ()
    """What would be done if the control plane had not just started; never in `actions`."""
