"""What a client that asks for a worker may be told."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.errors import StokerError


class RouterFullError(StokerError):
    """So many requests are held for the endpoint already that this one is refused."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """A request has a worker."""

    worker_id: int
    url: str
    cost: float
    reqnum: int
    request_idx: int
    assigned_at: float
    """When it was booked; its ticket lives for `ticket_lifetime` from then."""


@dataclass(frozen=True, slots=True)
class Held:
    """A request waits for a worker; its client is to ask again with `request_idx`."""

    request_idx: int
    deadline: float
    """When it is given up."""
    endpoint_id: int
