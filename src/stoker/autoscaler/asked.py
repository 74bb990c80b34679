"""What people ask of the control plane, by the front door and the console."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from stoker import wire
from stoker.autoscaler.addresses import host_of, in_url, known_hosts, normal
from stoker.autoscaler.explain import explain
from stoker.autoscaler.identity import Identity, Keyring, Principal
from stoker.autoscaler.journal import LEVELS
from stoker.autoscaler.keys import Keys
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.reconciler import Reconciler
from stoker.autoscaler.recording import Recordings
from stoker.autoscaler.states import LOADING_STATES, WorkerState
from stoker.autoscaler.status import status
from stoker.autoscaler.updating import request_update
from stoker.autoscaler.waiting import waiting_reason
from stoker.backends import get as get_backend
from stoker.backends import names as backend_names
from stoker.errors import InvalidMessageError, NotFoundError, ProviderError
from stoker.providers import Instance, LogPart
from stoker.store import EndpointRecord, LogEntry

LOGS_LIMIT = 20.0
"""Seconds that a provider may take to read logs: less than a client waits for the answer."""


class Asked(Plane):
    """The part of `stoker.autoscaler.controlplane.ControlPlane` that answers people."""

    identity: Identity
    keyring: Keyring
    keys: Keys
    reconciler: Reconciler
    recordings: Recordings
    loaded_at: float

    def authenticate(self, key: str) -> Principal | None:
        """The bearer of an API key."""
        return self.keyring.authenticate(key)

    def endpoint_key(self, record: EndpointRecord) -> str:
        """The API key that routes to that endpoint alone."""
        return self.identity.endpoint_key(record.id, record.key_nonce)

    def is_worker(self, worker_id: int, token: str) -> bool:
        """Whether `token` is the mtoken of that worker."""
        return self.fleet.is_worker(worker_id, token)

    def backend_names(self) -> list[str]:
        """The backends that a workergroup may name."""
        return backend_names()

    def check_options(self, backend: str, options: Mapping[str, Any]) -> None:
        """Say what is wrong with the options of a backend.

        Raises:
            ConfigError: names the option, or the backend when nobody knows it.
        """
        get_backend(backend).parse(dict(options))

    def waiting_reason(self, endpoint_id: int) -> str:
        """Why requests of an endpoint wait, fit for every client of it; empty: not known."""
        decided, _ = self.reconciler.plans.get(endpoint_id, (None, 0.0))
        return waiting_reason(self, endpoint_id, decided)

    def status(self) -> dict[str, Any]:
        """All endpoints, workers and providers, for people."""
        return status(self, self.reconciler)

    def workers(self, endpoint_id: int) -> list[wire.WorkerInfo]:
        """The workers of an endpoint as people see them."""
        return self.fleet.infos(endpoint_id, self.now())

    def recorded(self, endpoint_id: int, seconds: float | None) -> wire.Recorded:
        """The requests that came to an endpoint in the last `seconds`; None: all that is known."""
        now = self.now()
        start = self.loaded_at if seconds is None else max(self.loaded_at, now - seconds)
        requests, complete = self.recordings.of(endpoint_id, start)
        return wire.Recorded(
            started_at=self.wall(start),
            seconds=now - start,
            complete=complete,
            requests=[(at - start, load) for at, load in requests],
        )

    def explain(self, endpoint_id: int) -> dict[str, Any]:
        """The last plan for an endpoint and what led to it.

        Raises:
            NotFoundError: no such endpoint.
        """
        return explain(self, endpoint_id, self.reconciler.plans.get(endpoint_id))

    async def log(
        self, endpoint_id: int, level: str, *, tail: int, after: int = 0
    ) -> list[LogEntry]:
        """The newest lines of an endpoint's log (see `Journal.since`).

        Raises:
            InvalidMessageError: no such level.
            NotFoundError: no such endpoint.
        """
        if endpoint_id not in self.fleet.endpoints:
            raise NotFoundError(f"there is no endpoint {endpoint_id}")
        for known in LEVELS:
            if known == level:
                return await self.journal.since(endpoint_id, known, tail=tail, after=after)
        raise InvalidMessageError({"level": f"must be one of {', '.join(LEVELS)}"})

    async def worker_logs(
        self, worker_id: int, logs: Sequence[str], *, tail: int, after: str = ""
    ) -> LogPart:
        """Lines of a worker's own logs, from its provider (see `Provider.read_logs`).

        Raises:
            NotFoundError: no such worker, or its logs are not here.
            ProviderError: its provider cannot read them.
        """
        worker = self.fleet.workers.get(worker_id)
        if worker is None:
            raise NotFoundError(f"there is no worker {worker_id}")
        if worker.record.attached:
            raise NotFoundError(
                f"worker {worker_id} is attached: its logs are on its own machine alone"
            )
        if worker.instance_id is None:
            raise NotFoundError(f"worker {worker_id} has no instance yet")
        provider = self.providers.get(worker.record.provider)
        if provider is None:
            raise NotFoundError(f"the provider of worker {worker_id} is not enabled")
        try:
            async with asyncio.timeout(LOGS_LIMIT):
                return await provider.read_logs(worker.instance_id, logs, tail=tail, after=after)
        except TimeoutError:
            raise ProviderError(
                f"provider {worker.record.provider} gave no logs within {LOGS_LIMIT:.0f} s"
            ) from None

    async def update_workers(self, group_id: int, *, cancel: bool = False) -> dict[str, Any]:
        """Begin a rolling update of a workergroup, or cancel it.

        Raises:
            NotFoundError: no such workergroup.
        """
        text, former = await request_update(self, group_id, cancel=cancel)
        self.wake()
        return {
            "success": True,
            "msg": text,
            "workergroup_id": group_id,
            # Which of the two was asked: vastai's command line announces a start where it is false.
            "cancelled": cancel,
            "workers_to_update": 0 if cancel else former,
        }

    def hosts_of(self, worker_id: int, peer: str) -> list[str]:
        """Hosts that a worker may have a certificate for, its own machine's left out.

        Args:
            worker_id: of a worker that is there.
            peer: address that it asks from; empty: not known.

        Raises:
            NotFoundError: there is no such worker.
        """
        worker = self.fleet.workers.get(worker_id)
        if worker is None:
            raise NotFoundError(f"there is no worker {worker_id}")
        found = known_hosts(worker)
        if peer and not any(host == normal(peer) for host in found):
            found.append(normal(peer))
        return found

    def sign_unproven(self, worker_id: int) -> str:
        """The address that one who shows no mtoken gets a certificate for, once a boot.

        Raises:
            NotFoundError: no such worker comes up now, its provider gave no address, or this boot
                has had its certificate. All of them in the same words: the asker is a stranger.
        """
        worker = self.fleet.workers.get(worker_id)
        host = "" if worker is None else normal(worker.address) or host_of(worker.record.url)
        # Of one that was there before this control plane, its first report tells what it is at.
        unsure = worker is not None and worker.restored and worker.report is None
        comes = LOADING_STATES | {WorkerState.PENDING}
        waits = worker is not None and worker.state in comes and not worker.signed_unproven
        if worker is None or not host or unsure or not waits:
            raise NotFoundError("no worker of that number waits for a certificate")
        worker.signed_unproven = True
        self.journal.note(
            worker.endpoint_id,
            "info0",
            f"worker {worker_id}: a certificate for {host} was signed without its mtoken",
            group_id=worker.record.workergroup_id,
        )
        return host

    async def attach(self, endpoint_name: str, address: str = "") -> dict[str, str]:
        """Make an identity for a worker that somebody starts by hand.

        Args:
            endpoint_name: whose requests it shall serve.
            address: where clients reach it, an IP address or a name; empty: it is told to say so
                itself, and must prove it.

        Returns:
            The environment to start it with. It holds the worker's own secret.

        Raises:
            NotFoundError: no such endpoint.
        """
        endpoint = self.fleet.by_name.get(endpoint_name)
        if endpoint is None:
            raise NotFoundError(f"there is no endpoint {endpoint_name!r}")
        record = await self.store.create_worker(
            endpoint.id,
            None,
            "attached",
            attached=True,
            state=WorkerState.PENDING.value,
            url=f"http://{in_url(address)}" if address else "",
        )
        worker = self.adopt(record, self.now())
        self.journal.note(
            endpoint.id, "info0", f"attach worker {worker.id}: an identity was asked for"
        )
        return {
            "CONTAINER_ID": str(worker.id),
            "MASTER_TOKEN": worker.token,
            "REPORT_ADDR": self.report_addr,
            "WORKER_PORT": "3000",
            "PUBLIC_IPADDR": address or "127.0.0.1",
            "VAST_TCP_PORT_3000": "3000",
            "USE_SSL": "false",
            "STOKER_TICKETS": "required",
        }

    async def _attached_instances(self) -> list[Instance]:
        """What people brought; running is what has ever been heard of."""
        return [
            Instance(
                id=f"attached-{worker.id}",
                provider="attached",
                worker_id=worker.id,
                status="creating" if worker.report is None else "running",
                created_at=worker.record.created_at,
            )
            for worker in self.fleet.workers.values()
            if worker.record.attached
        ]

    async def detach(self, worker_id: int) -> None:
        """Drain an attached worker, then forget it.

        Raises:
            NotFoundError: it is not there, or was not attached.
        """
        worker = self.fleet.workers.get(worker_id)
        if worker is None or not worker.record.attached:
            raise NotFoundError(f"there is no attached worker {worker_id}")
        self.reconciler.release(
            worker, "destroy", self.now(), f"detach worker {worker_id}: asked for by its owner"
        )
        self.wake()
