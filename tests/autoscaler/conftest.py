import asyncio
import json
import shutil

import pytest

from stoker.autoscaler.controlplane import ControlPlane
from stoker.autoscaler.front import FrontDoor
from stoker.autoscaler.identity import Identity, hash_key
from stoker.autoscaler.planning import plan
from stoker.errors import ProviderError
from stoker.http import HttpServer, Origin, UpstreamPool, fetch
from stoker.providers import LOG_NAMES, Instance, LogLine, LogPart, Offer
from stoker.store import Store
from stoker.wire import EndpointParameters

API_KEY = "an account key of the tests"
FROM_ZERO = EndpointParameters(
    min_load=0.0, cold_workers=0, max_workers=2, inactivity_timeout=5.0, cold_mult=1.0
)


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.seconds = 1_000.0
        self.jumped = 0.0

    def __call__(self):
        return self.seconds

    def wall(self):
        return 1_700_000_000.0 + self.jumped + self.seconds


class Shelf:
    """A provider whose instances are entries in a dict; tests make it fail, lie or stall."""

    name = "local"

    def __init__(self):
        self.instances = {}
        self.asked = []
        self.fail = None
        self.before_create = None
        self.capacity = 4

    async def offers(self, search_params=""):
        free = self.capacity - len(self.instances)
        return [
            Offer(
                id="shelf",
                provider="local",
                hardware="test",
                price_per_hour=0.0,
                available=free,
                capacity=self.capacity,
                limit="max_instances",
            )
        ]

    async def create(self, offer_id, spec):
        self.asked.append(("create", spec.worker_id))
        if self.before_create is not None:
            await self.before_create(spec)
        if self.fail:
            raise ProviderError(self.fail)
        instance = Instance(
            id=f"i{spec.worker_id}", provider="local", worker_id=spec.worker_id, status="running"
        )
        self.instances[instance.id] = instance
        return instance

    async def _become(self, verb, instance_id, status):
        self.asked.append((verb, instance_id))
        if instance_id in self.instances:
            old = self.instances[instance_id]
            self.instances[instance_id] = Instance(
                id=old.id, provider="local", worker_id=old.worker_id, status=status
            )

    async def start(self, instance_id):
        await self._become("start", instance_id, "running")

    async def update(self, instance_id, spec):
        self.asked.append(("update", instance_id, spec.revision))
        if self.fail:
            raise ProviderError(self.fail)

    async def stop(self, instance_id):
        await self._become("stop", instance_id, "stopped")

    async def destroy(self, instance_id):
        self.asked.append(("destroy", instance_id))
        self.instances.pop(instance_id, None)

    async def list(self):
        if self.fail == "list":
            raise ProviderError("the shelf cannot be read")
        return list(self.instances.values())

    async def read_logs(self, instance_id, logs=LOG_NAMES, *, tail=100, after=""):
        self.asked.append(("logs", instance_id, tuple(logs), tail, after))
        if self.fail == "logs":
            raise ProviderError("the shelf has no logs")
        return LogPart([LogLine(name, f"line of {instance_id}") for name in logs], "next")

    async def close(self):
        pass


class House:
    """A control plane behind its front door, with a shelf for a provider and a clock to turn."""

    def __init__(self, directory, identity):
        self.directory, self.identity = directory, identity
        self.clock, self.shelf = Clock(), Shelf()
        self.planner = plan
        self.routed = []

    def plan(self, snapshot, now):
        return self.planner(snapshot, now)

    async def open(self):
        self.store = await Store.open(self.directory / "stoker.db", clock=self.clock.wall)
        await self.store.add_api_key(hash_key(API_KEY))
        self.plane = ControlPlane(
            self.store,
            self.identity,
            {"local": self.shelf},
            report_addr="http://127.0.0.1:1",
            planner=self.plan,
            clock=self.clock,
            wall_clock=self.clock.wall,
        )
        console = UpstreamPool(Origin.unix(str(self.directory / "console.sock")))
        self.door = FrontDoor(self.plane, console)
        self.plane.on_assigned = self.door.assigned
        self.plane.on_tick = self.door.tick
        self.plane.front_requests = lambda: self.door.requests
        self.plane.front_refusals = lambda: self.door.refusals
        await self.plane.load()
        self.server = HttpServer(self.door, on_refused=self.door.refused)
        self.url = f"http://127.0.0.1:{await self.server.listen()}"
        self.console = console

    async def close(self):
        await self.server.drain(0.0)
        await self.plane.close()
        await self.console.close()
        await self.store.close()

    async def reopen(self):
        """What happens when the control plane is killed and started again."""
        await self.close()
        await self.open()

    async def read_only(self, on=True):
        """The disk takes nothing more: every write to the store fails, or none again."""
        connections = [await self.store._engine.connect() for _ in range(4)]
        connections.append(await self.store._writer.connect())  # the whole pool
        for connection in connections:
            # On the driver's own connection: SQLAlchemy would begin a write for it.
            raw = await connection.get_raw_connection()
            await raw.driver_connection.execute(f"PRAGMA query_only = {int(on)}")
            await connection.close()

    async def endpoint(self, name="llm", parameters=FROM_ZERO, backend="llamacpp"):
        record = await self.store.create_endpoint(name, parameters)
        if backend:
            await self.store.create_workergroup(record.id, template_hash=backend, backend=backend)
        await self.plane.changed()
        return record

    async def post(self, path, body, *, key=API_KEY, method="POST", raw=None):
        headers = [(b"content-type", b"application/json")]
        if key:
            headers.append((b"authorization", f"Bearer {key}".encode()))
        data = raw if raw is not None else json.dumps(body).encode()
        answer = await fetch(self.url + path, method=method, headers=headers, body=data)
        return answer.status, (json.loads(answer.body) if answer.body[:1] in b"{[" else answer.body)

    async def route(self, endpoint="llm", *, cost=10.0, key=API_KEY, **more):
        status, body = await self.post(
            "/route/", {"endpoint": endpoint, "cost": cost} | more, key=key
        )
        assert status == 200, body
        self.routed.append(body["request_idx"])
        return body

    async def on_the_line(self):
        """Wait until a client holds the line."""
        while not self.door.waiting:  # noqa: ASYNC110  (other tasks run in between)
            await asyncio.sleep(0)

    async def report(self, worker, **figures):
        """What a ready worker says, unless told otherwise."""
        values = {
            "id": worker.id,
            "mtoken": worker.token,
            "url": f"http://127.0.0.1:{4000 + worker.id}",
            "loadtime": 2.0,
            "max_perf": 100.0,
            "boot_id": "boot",
        }
        return await self.post("/worker_status/", values | figures, key=None)

    async def settle(self, rounds=4):
        """Rounds of reconciliation, with the providers' answers in between."""
        for _ in range(rounds):
            await self.plane.step()
            await self.plane.reconciler.idle()

    async def ready_worker(self):
        """Scale from zero by a held request, and let the worker become ready."""
        await self.route()
        await self.settle()
        worker = next(iter(self.plane.fleet.workers.values()))
        await self.report(worker)
        return worker

    def log(self, endpoint_id):
        return self.plane.journal.levels(endpoint_id, None, 1000)


@pytest.fixture(scope="session")
def identity(tmp_path_factory):
    return Identity.open(tmp_path_factory.mktemp("identity"))


@pytest.fixture
async def house(tmp_path, identity, empty_database):
    shutil.copyfile(empty_database, tmp_path / "stoker.db")
    house = House(tmp_path, identity)
    await house.open()
    yield house
    await house.close()
