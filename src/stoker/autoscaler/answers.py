"""What a client that asks for a worker may be told."""

from __future__ import annotations

import msgspec

from stoker.errors import StokerError


class RouterFullError(StokerError):
    """So many requests are held for the endpoint already that this one is refused."""


class Assigned(msgspec.Struct, frozen=True):
    """A request has a worker."""

    worker_id: int
    url: str
    cost: float
    reqnum: int
    request_idx: int
    assigned_at: float
    """From when on its ticket lives for `ticket_lifetime`."""
    fresh: bool = False
    """It counts as a request that has just come: it is no poll, and no retry that adds nothing."""


class Held(msgspec.Struct, frozen=True):
    """A request waits for a worker; its client is to ask again with `request_idx`."""

    request_idx: int
    deadline: float
    """When it is given up."""
    endpoint_id: int
    cost: float
    """Load that it waits with."""
    fresh: bool = False
    """As in `Assigned`."""
