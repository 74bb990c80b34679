from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from stoker.autoscaler.identity import Keyring, Principal
from stoker.autoscaler.keys import Keys
from stoker.config import convert
from stoker.console import create_app
from stoker.errors import ConfigError, NotFoundError
from stoker.providers import LogLine, LogPart
from stoker.store import EndpointRecord, LogEntry, Store
from stoker.wire import Recorded, WorkerInfo

KEY = "stk_account-key-of-the-tests"


class Plane:
    """A control plane that keeps nothing but what the console asks for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changes = 0
        self.failing = False
        self.infos: dict[int, list[WorkerInfo]] = {}
        self.attached: list[int] = []
        self.keys = Keys(store, Keyring(lambda: 1_700_000_000.5), self.endpoint_key, self.changed)
        self.addresses: list[str] = []
        self.hosts: list[str] = []
        self.signed: list[int] = []

    async def changed(self) -> None:
        self.changes += 1
        if self.failing:
            raise RuntimeError("the control plane is ill")

    def authenticate(self, key: str) -> Principal | None:
        if key == KEY:
            return Principal("account")
        return Principal("endpoint", 1) if key.startswith("ste_") else None

    def is_worker(self, worker_id: int, token: str) -> bool:
        return token == f"mtoken-{worker_id}"

    def endpoint_key(self, record: EndpointRecord) -> str:
        return f"ste_{record.id}_{record.key_nonce}"

    def backend_names(self) -> Sequence[str]:
        return ["llamacpp", "vllm"]

    def check_options(self, backend: str, options: Mapping[str, Any]) -> None:
        assert backend in self.backend_names()
        if options.get("explode"):
            raise RuntimeError("the secret is swordfish")
        convert(dict(options.get("numbers", {})), dict[str, int])
        if "paralel" in options:
            raise ConfigError("options: paralel", "unknown setting; did you mean 'parallel'?")

    def workers(self, endpoint_id: int) -> Sequence[WorkerInfo]:
        return self.infos.get(endpoint_id, [])

    def status(self) -> Mapping[str, Any]:
        return {"endpoints": [], "workers": [], "providers": []}

    async def log(
        self, endpoint_id: int, level: str, *, tail: int, after: int = 0
    ) -> Sequence[LogEntry]:
        text = f"{level} {tail} after {after}"
        return [LogEntry(id=after + 1, endpoint_id=endpoint_id, text=text, at=5.0)]

    async def worker_logs(
        self, worker_id: int, logs: Sequence[str], *, tail: int, after: str = ""
    ) -> LogPart:
        if worker_id in self.attached:
            raise NotFoundError(f"worker {worker_id} is attached")
        return LogPart([LogLine(log, f"{tail} after {after!r}") for log in logs], "there")

    def recorded(self, endpoint_id: int, seconds: float | None) -> Recorded:
        return Recorded(5.0, seconds or 100.0, True, [(0.5, 10.0 * endpoint_id)])

    def explain(self, endpoint_id: int) -> Mapping[str, Any]:
        if endpoint_id not in self.infos:
            raise NotFoundError(f"there is no endpoint {endpoint_id}")
        return {"endpoint_id": endpoint_id, "summary": "min_load needs 1.0/s"}

    def hosts_of(self, worker_id: int, peer: str) -> Sequence[str]:
        return [*self.hosts, *([peer] if peer else [])]

    def sign_unproven(self, worker_id: int) -> str:
        if worker_id in self.signed:
            raise NotFoundError("no worker of that number waits for a certificate")
        self.signed.append(worker_id)
        return "203.0.113.7"

    async def attach(self, endpoint_name: str, address: str = "") -> Mapping[str, str]:
        endpoint = await self.store.find_endpoint(endpoint_name)
        if endpoint is None:
            raise NotFoundError(f"there is no endpoint {endpoint_name!r}")
        worker = await self.store.create_worker(endpoint.id, None, "attached", attached=True)
        self.attached.append(worker.id)
        self.addresses.append(address)
        return {"CONTAINER_ID": str(worker.id), "MASTER_TOKEN": f"mtoken-{worker.id}"}

    async def detach(self, worker_id: int) -> None:
        if worker_id not in self.attached:
            raise NotFoundError(f"there is no attached worker {worker_id}")
        self.attached.remove(worker_id)


@pytest.fixture
async def store(tmp_path: Path, empty_database: Path) -> AsyncIterator[Store]:
    shutil.copyfile(empty_database, tmp_path / "stoker.db")
    async with await Store.open(tmp_path / "stoker.db", clock=lambda: 1_700_000_000.5) as opened:
        yield opened


@pytest.fixture
def plane(store: Store) -> Plane:
    return Plane(store)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
async def stranger(store: Store, plane: Plane, state: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Someone without a key."""
    app = create_app(store, plane, state_directory=state)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
        yield client


@pytest.fixture
async def owner(store: Store, plane: Plane, state: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The account's owner."""
    app = create_app(store, plane, state_directory=state)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://console",
        headers={"authorization": f"Bearer {KEY}"},
    ) as client:
        yield client
