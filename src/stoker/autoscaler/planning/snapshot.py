"""What the planner sees of an endpoint at one moment. Times are on the clock of its `now`.

Nothing changes these once they are made, except that the outlook is added. They are not frozen
dataclasses, because a frozen one takes four times as long to make, and one is made for each worker
in each round.
"""

from __future__ import annotations

from dataclasses import dataclass

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning.outlook import Outlook
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters


@dataclass(slots=True, kw_only=True)
class WorkerSnapshot:
    """One worker."""

    id: int
    workergroup_id: int | None
    state: WorkerState
    state_since: float
    perf: float = 0.0
    """Measured, load units per second; 0: not yet."""
    load: float = 0.0
    requests: int = 0
    """Requests that it has or may still get (`Router.in_flight`)."""
    idle_since: float | None = None
    """Since when it has had nothing to do; None: never had anything, or has something."""
    price: float = 0.0
    """Per hour."""
    attached: bool = False
    """Brought by a person: counted, never started, stopped or destroyed."""
    provider: str = ""
    offer_id: str = ""
    """What it was created from; its learnt perf is expected of it until it is measured."""
    lost: bool = False
    """Its provider says that its instance failed, so it will not recover by itself."""
    hardware: str = ""
    """Class of its machine: perf per price is learnt by it."""
    slots: int = 0
    """Requests that it works on at once; 0: not known."""
    revision: int = 0
    """Of its workergroup's settings, those that it runs."""
    leaves_at: float | None = None
    """When its provider takes the machine away (a spot offer's notice); None: not known to."""
    stoppable: bool = True
    """False: its provider cannot stop it, only destroy it."""
    coming_since: float | None = None
    """Since when it is being created or started; None: it is not, or nobody knows."""


@dataclass(slots=True, kw_only=True)
class OfferSnapshot:
    """One kind of machine that a provider has."""

    id: str
    provider: str = ""
    price: float = 0.0
    """Per hour."""
    available: int = 1
    perf: float = 0.0
    """Learnt from workers on it, load units per second; 0: not measured yet."""
    hardware: str = ""
    """Class of machine: perf per price is learnt by it."""
    spot: bool = False
    """Cheaper, and may be taken away at any time."""
    stoppable: bool = True
    """False: its workers can be destroyed, but not stopped."""
    failures: int = 0
    """Failures in a row of workers created from it."""
    last_failure_at: float | None = None


@dataclass(slots=True, kw_only=True)
class GroupSnapshot:
    """One workergroup and what it may recruit."""

    id: int
    max_workers: int | None = None
    """None: only the endpoint's cap applies."""
    min_cold_load: float = 0.0
    """Floor of this group's total capacity, load units per second."""
    offers: tuple[OfferSnapshot, ...] = ()
    """Those that fit its `search_params`."""
    no_offer: str = ""
    """Why there is none: which limit binds, and who holds the room."""
    perf: float = 0.0
    """Learnt from its workers, load units per second; 0: not yet."""
    create_seconds: float = 0.0
    """How long a created worker takes until it is ready; 0: not known."""
    start_seconds: float = 0.0
    """How long a stopped worker takes until it is ready; 0: not known."""
    failures: int = 0
    """Failures in a row to bring a worker up; a worker that becomes ready, and a change of the
    group's settings, set it back to 0."""
    last_failure_at: float | None = None
    weight: float = 1.0
    """Its share of the endpoint's active capacity, relative to those of the other groups."""
    revision: int = 0
    """Counts up when its settings change."""
    updating: bool = False
    """Its workers are to get the settings of `revision`, one after the other."""


@dataclass(slots=True, kw_only=True)
class EndpointSnapshot:
    """One endpoint."""

    endpoint_id: int
    name: str
    parameters: EndpointParameters
    demand: Demand
    workers: tuple[WorkerSnapshot, ...] = ()
    groups: tuple[GroupSnapshot, ...] = ()
    outlook: Outlook | None = None
    """What a `Forecaster` says of it; None: only the demand's own means are looked at."""
