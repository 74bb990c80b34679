"""What the console asks of the control plane; whoever serves the app brings it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from stoker.autoscaler.identity import Principal
from stoker.autoscaler.keys import Keys
from stoker.providers import LogPart
from stoker.store import EndpointRecord, LogEntry
from stoker.wire import Recorded, WorkerInfo


class Control(Protocol):
    """The control plane as the console sees it."""

    keys: Keys
    """Makes and ends API keys."""

    async def changed(self) -> None:
        """Endpoints, workergroups or templates were written."""
        ...

    def authenticate(self, key: str) -> Principal | None:
        """Who `key` belongs to; None when nobody."""
        ...

    def is_worker(self, worker_id: int, token: str) -> bool:
        """Whether `token` is the mtoken of that worker."""
        ...

    def endpoint_key(self, record: EndpointRecord) -> str:
        """The API key that routes to this endpoint alone."""
        ...

    def backend_names(self) -> Sequence[str]:
        """Backends that a workergroup can name."""
        ...

    def check_options(self, backend: str, options: Mapping[str, Any]) -> None:
        """Say what is wrong with the options of a backend.

        Raises:
            ConfigError: names the option.
        """
        ...

    def workers(self, endpoint_id: int) -> Sequence[WorkerInfo]:
        """The workers of an endpoint, as they are now."""
        ...

    def status(self) -> Mapping[str, Any]:
        """All endpoints, workers and providers, as plain values."""
        ...

    async def log(
        self, endpoint_id: int, level: str, *, tail: int, after: int = 0
    ) -> Sequence[LogEntry]:
        """The newest lines of an endpoint's log, after the one with the id `after`.

        Raises:
            InvalidMessageError: no such level.
            NotFoundError: no such endpoint.
        """
        ...

    async def worker_logs(
        self, worker_id: int, logs: Sequence[str], *, tail: int, after: str = ""
    ) -> LogPart:
        """Lines of a worker's own logs.

        Raises:
            NotFoundError: no such worker, or its logs are not here.
            ProviderError: its provider cannot read them.
        """
        ...

    def recorded(self, endpoint_id: int, seconds: float | None) -> Recorded:
        """The requests that came to an endpoint in the last `seconds`; None: all that is known."""
        ...

    def explain(self, endpoint_id: int) -> Mapping[str, Any]:
        """The last plan for an endpoint and what led to it, as plain values.

        Raises:
            NotFoundError: when there is no such endpoint.
        """
        ...

    def hosts_of(self, worker_id: int, peer: str) -> Sequence[str]:
        """Hosts that a worker may have a certificate for, besides its own machine.

        Raises:
            NotFoundError: when there is no such worker.
        """
        ...

    def sign_unproven(self, worker_id: int) -> str:
        """The address that one who shows no mtoken gets a certificate for, once a boot.

        Raises:
            NotFoundError: when no such worker waits for one.
        """
        ...

    async def attach(self, endpoint_name: str, address: str = "") -> Mapping[str, str]:
        """Make the identity of a worker that somebody brings; returns its environment.

        Raises:
            NotFoundError: when there is no such endpoint.
        """
        ...

    async def detach(self, worker_id: int) -> None:
        """Drain an attached worker and forget it.

        Raises:
            NotFoundError: when there is no such attached worker.
        """
        ...
