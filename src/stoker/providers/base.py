"""What a provider is: where instances come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

InstanceStatus = Literal["creating", "running", "stopping", "stopped", "failed"]


class Offer(msgspec.Struct, frozen=True):
    """Something on which an instance can be created."""

    id: str
    provider: str
    hardware: str
    """Class of machine, for example ``2 CPUs``; what is learnt of one holds for its class."""
    price_per_hour: float
    """Dollars, for one instance."""
    available: int
    """How many instances it has room for now."""
    spot: bool = False
    """Cheaper, and may be taken away at any time."""
    stoppable: bool = True
    """False: its instances cannot be stopped, only destroyed."""
    capacity: int | None = None
    """How many instances it has room for in all, the present ones included; None: not known."""
    limit: str = ""
    """The setting that says so, for the people who can change it."""


class InstanceSpec(msgspec.Struct, frozen=True):
    """What an instance is to run."""

    worker_id: int
    mtoken: str
    """The worker's secret."""
    endpoint: str
    backend: str
    options: dict[str, Any]
    """Of the backend."""
    report_addr: str
    """Control planes, URLs with commas between them."""
    search_params: str = ""
    launch_args: str = ""
    revision: int = 0
    """Of the workergroup's settings; another one is another spec."""
    instance: dict[str, Any] = {}
    """More fields of the instance's manifest (`stoker.launcher.InstanceManifest`): steps,
    environment, certificates."""

    def __repr__(self) -> str:
        return f"InstanceSpec(worker {self.worker_id} of {self.endpoint!r}, {self.backend})"


class Instance(msgspec.Struct, frozen=True):
    """An instance as its provider sees it."""

    id: str
    provider: str
    worker_id: int
    status: InstanceStatus
    error: str = ""
    """Why it failed, or the last fault that it is recovering from; without secrets."""
    created_at: float = 0.0
    """Unix seconds."""
    endpoint: str = ""
    """Name of the endpoint that it was created for; empty: not known."""
    leaves_at: float | None = None
    """When the provider takes it away, Unix seconds; None: no notice was given."""
    address: str = ""
    """IP address or name under which clients reach its worker; empty: the provider does not know.
    The worker may be known by it, and gets a certificate for it."""


LOG_NAMES = ("launcher", "setup", "model", "worker")
"""Logs that an instance can have: of its launcher, of the steps before the start, of the model
server, and of the worker."""


class LogLine(msgspec.Struct, frozen=True):
    """One line of a log of an instance."""

    log: str
    """Which: one of `LOG_NAMES`."""
    text: str
    """Without its end, and without secrets; what its writer wrote, escape sequences included."""


class LogPart(msgspec.Struct, frozen=True):
    """Some lines of an instance's logs."""

    lines: list[LogLine]
    after: str
    """Where they end: what comes later follows it."""


class Provider(Protocol):
    """A source of instances.

    Every method raises `stoker.errors.ProviderError` when it cannot do what it is asked. Those that
    change something are idempotent, return at once, and `list` shows how far they got. What was
    asked for survives the end of the control plane, at any moment.
    """

    name: str

    async def offers(self, search_params: str = "") -> list[Offer]:
        """What can be had now."""
        ...

    async def create(self, offer_id: str, spec: InstanceSpec) -> Instance:
        """Create and start an instance; a second call for the same worker returns the first."""
        ...

    async def start(self, instance_id: str) -> None:
        """Start a stopped instance."""
        ...

    async def update(self, instance_id: str, spec: InstanceSpec) -> None:
        """Have an instance run another spec: drain it, end its processes, start it anew.

        What it has on disk stays. A second call with the same spec changes nothing; a stopped
        instance starts.
        """
        ...

    async def stop(self, instance_id: str) -> None:
        """Drain an instance and end its processes; what it has on disk stays."""
        ...

    async def destroy(self, instance_id: str) -> None:
        """Drain an instance, end its processes and remove all it has."""
        ...

    async def list(self) -> list[Instance]:
        """All instances."""
        ...

    async def read_logs(
        self, instance_id: str, logs: Sequence[str] = LOG_NAMES, *, tail: int = 100, after: str = ""
    ) -> LogPart:
        """Lines of an instance's logs, without secrets; bounded however long they are.

        Args:
            instance_id: whose.
            logs: which, of `LOG_NAMES`.
            tail: the last lines of each, at most.
            after: the `LogPart.after` of an earlier answer: what came since then.
        """
        ...

    async def close(self) -> None:
        """Let go; instances go on running."""
        ...
