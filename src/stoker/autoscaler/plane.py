"""What the parts of the control plane ask of the whole: the reconciler, the metrics, the snapshot.

They name this, and not `stoker.autoscaler.controlplane`, which is made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from stoker.autoscaler.experience import Experience
from stoker.autoscaler.fleet import Fleet, Worker
from stoker.autoscaler.journal import Journal
from stoker.autoscaler.planning import Forecaster
from stoker.autoscaler.router import Router
from stoker.autoscaler.states import Event
from stoker.autoscaler.writer import Writer
from stoker.providers import Provider
from stoker.store import Store, WorkerRecord


class Plane(Protocol):
    """A control plane, seen from its parts."""

    store: Store
    providers: dict[str, Provider]
    fleet: Fleet
    experience: Experience
    router: Router
    forecasters: dict[int, Forecaster]
    journal: Journal
    writer: Writer
    report_addr: str
    loaded_at: float

    def now(self) -> float:
        """Monotonic seconds: what every decision is based on."""
        ...

    def wall(self, at: float | None = None) -> float:
        """Unix seconds, now or at a moment of `now`."""
        ...

    def ticket_time(self, at: float | None = None) -> float:
        """Unix seconds that never jump, now or at a moment of `now`."""
        ...

    def new_forecaster(self) -> Forecaster:
        """The memory of an endpoint's load, of which nothing is known yet."""
        ...

    def day_time(self, at: float | None = None) -> float:
        """Unix seconds for what depends on the time of day, now or at a moment of `now`."""
        ...

    def wake(self) -> None:
        """Have the next round come soon."""
        ...

    def changed_state(self, worker: Worker, event: Event, now: float) -> None:
        """Apply an event and say so in the endpoint's log."""
        ...

    def expect(self, worker: Worker, now: float) -> None:
        """Tell the router when a worker that boots or starts will be ready."""
        ...

    def adopt(self, record: WorkerRecord, now: float) -> Worker:
        """Take a worker's row into the fleet."""
        ...

    def forget(self, worker: Worker, then: Callable[[], None] = ...) -> None:
        """Drop a worker whose instance is gone; `then` is called when it is dropped."""
        ...

    def drop(self, worker: Worker) -> None:
        """Take a worker out of the fleet that never came to be."""
        ...

    async def changed(self) -> None:
        """Endpoints or workergroups were written: read them again."""
        ...

    def is_empty(self, worker: Worker, now: float) -> bool:
        """Whether a worker has nothing to do."""
        ...
