"""The control plane against a provider that fails, hangs and lies, and against its own end.

A model-based test: hypothesis picks what happens, in any order. Faults are of one call each; the
process may be killed before or after any write to the store and any call of the provider. When all
is calm again, what is paid for must be what is in the books, and nothing may flap.
"""

import asyncio
import contextlib
import inspect
import itertools
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from stoker import wire
from stoker.autoscaler.controlplane import ControlPlane
from stoker.autoscaler.router import Assigned
from stoker.autoscaler.states import WorkerState
from stoker.errors import ProviderError
from stoker.providers import Instance, LogPart, Offer
from stoker.store import Store
from stoker.wire import EndpointParameters, FinishedRequest

CAP = 3

PARAMETERS = EndpointParameters(
    min_load=50.0, cold_workers=1, max_workers=CAP, inactivity_timeout=-1.0, cold_mult=1.0
)
LISTS = ["fail", "forget", "twice", "other worker", "other status", "hang"]
CREATIONS = ["refuse", "lose", "make and lose", "make two", "answer another"]
ORDERS = ["refuse", "lose", "do and lose"]
QUIET = 20.0
"""Seconds without an order after which none is expected any more."""

SETTLED_AFTER = 3600.0
"""Seconds at most, with workers that are created as fast as here."""

SETTLED = {WorkerState.READY, WorkerState.STOPPED}
STATUSES = ["creating", "running", "stopping", "stopped", "failed"]


class KilledError(BaseException):
    """The process ends here."""


class Death:
    """Counts calls down to the one at which the process is killed."""

    def __init__(self):
        self.left = None
        self.after = False

    async def around(self, work):
        hit = False
        if self.left is not None:
            self.left -= 1
            hit = self.left == 0
        if hit and not self.after:
            work.close()
            raise KilledError
        result = await work
        if hit:
            raise KilledError
        return result


class MortalStore:
    """A store at whose calls the process may be killed."""

    def __init__(self, store, death):
        self._store, self._death = store, death

    def __getattr__(self, name):
        method = getattr(self._store, name)
        if not inspect.iscoroutinefunction(method):
            return method

        def call(*arguments, **named):
            return self._death.around(method(*arguments, **named))

        return call


class World:
    """The provider's side: what really exists and is paid for."""

    name = "world"

    def __init__(self, death):
        self.death = death
        self.instances = {}
        self.boots = {}
        self.revisions = {}
        self.numbers = itertools.count()
        self.fault = {"list": [], "create": [], "order": []}
        self.offered = True
        self.orders = []
        self.cut = []
        self.in_flight = lambda _worker_id: 0

    def _next(self, kind):
        return self.fault[kind].pop(0) if self.fault[kind] else ""

    def boot(self, instance_id):
        self.boots[instance_id] = f"boot{next(self.numbers)}"

    async def offers(self, search_params=""):
        if not self.offered:
            return []
        return [Offer("cheap", "world", "small", 1.0, 5), Offer("dear", "world", "large", 3.0, 5)]

    async def list(self):
        true = list(self.instances.values())
        lie = self._next("list")
        if lie == "fail":
            raise ProviderError("the account is locked")
        if lie == "hang":
            raise TimeoutError
        if lie == "forget":
            return true[1:]
        if lie == "twice":
            return true + [replace(one, status="failed") for one in true]
        if lie == "other worker":
            return [replace(one, worker_id=one.worker_id + 1) for one in true]
        if lie == "other status":
            return [
                replace(one, status=STATUSES[(STATUSES.index(one.status) + 2) % len(STATUSES)])
                for one in true
            ]
        return true

    def _make(self, spec, suffix=""):
        name = f"i{spec.worker_id}{suffix}"
        if name not in self.instances:
            self.instances[name] = Instance(name, "world", spec.worker_id, "running")
            self.revisions[name] = spec.revision
            self.boot(name)
        return self.instances[name]

    async def _create(self, spec):
        self.orders.append(("create", spec.worker_id))
        fault = self._next("create")
        if fault == "refuse":
            raise ProviderError("that offer is gone")
        if fault == "lose":
            raise TimeoutError
        made = self._make(spec)
        if fault == "make and lose":
            raise TimeoutError
        if fault == "make two":
            self._make(spec, "again")
        if fault == "answer another" and len(self.instances) > 1:
            return next(one for one in self.instances.values() if one is not made)
        return made

    async def create(self, offer_id, spec):
        return await self.death.around(self._create(spec))

    async def _order(self, verb, instance_id, do):
        self.orders.append((verb, instance_id))
        fault = self._next("order")
        if fault == "refuse":
            raise ProviderError("try again later")
        if fault == "lose":
            raise TimeoutError
        one = self.instances.get(instance_id)
        if one is not None:
            if verb in ("stop", "update") and self.in_flight(one.worker_id):
                self.cut.append((verb, instance_id))
            do(one)
        if fault == "do and lose":
            raise TimeoutError

    def _set(self, one, status):
        self.instances[one.id] = replace(one, status=status)

    async def start(self, instance_id):
        def do(one):
            if one.status != "running":
                self._set(one, "running")
                self.boot(one.id)

        await self.death.around(self._order("start", instance_id, do))

    async def update(self, instance_id, spec):
        def do(one):
            same = self.revisions.get(one.id) == spec.revision
            self.revisions[one.id] = spec.revision
            if (
                not same or one.status != "running"
            ):  # a second call with the same spec is for nothing
                self._set(one, "running")
                self.boot(one.id)

        await self.death.around(self._order("update", instance_id, do))

    async def stop(self, instance_id):
        def do(one):
            self._set(one, "stopped")

        await self.death.around(self._order("stop", instance_id, do))

    async def destroy(self, instance_id):
        def do(one):
            del self.instances[one.id]

        await self.death.around(self._order("destroy", instance_id, do))

    async def read_logs(self, instance_id, logs=(), *, tail=100, after=""):
        return LogPart([], "")

    async def close(self):
        pass


@pytest.fixture(scope="module", autouse=True)
def _template(tmp_path_factory, identity):
    """An empty database, made once: to make the tables takes longer than all the rest."""
    path = tmp_path_factory.mktemp("template") / "stoker.db"

    async def make():
        async with await Store.open(path) as store:
            endpoint = await store.create_endpoint("llm", PARAMETERS)
            await store.create_workergroup(endpoint.id, template_hash="x", backend="x")

    asyncio.run(make())
    Machine.template, Machine.identity = path, identity


class Machine(RuleBasedStateMachine):
    template = identity = None

    @initialize()
    def begin(self):
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        shutil.copy(self.template, self.directory / "stoker.db")
        self.seconds, self.wall_offset = 1_000.0, 1.7e9
        self.death = Death()
        self.world = World(self.death)
        self.requests = []
        self.plane = None
        self.run(self.open())

    def run(self, work):
        return self.loop.run_until_complete(work)

    def clock(self):
        return self.seconds

    def wall(self):
        return self.wall_offset + self.seconds

    async def open(self):
        store = await Store.open(self.directory / "stoker.db", clock=self.wall)
        self.store = store
        self.plane = ControlPlane(
            MortalStore(store, self.death),
            self.identity,
            {"world": self.world},
            report_addr="http://127.0.0.1:1",
            clock=self.clock,
            wall_clock=self.wall,
        )
        plane = self.plane
        self.world.in_flight = lambda worker_id: plane.router.in_flight(worker_id, self.seconds)
        await self.plane.load()

    async def die(self):
        """Nothing is written any more; what was under way is cut."""
        self.death.left = None
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self.store.close()
        self.requests = []
        await self.open()

    async def round(self):
        try:
            await self.plane.step()
            await self.plane.reconciler.idle()
        except KilledError:
            pass
        if self.death.left is not None and self.death.left <= 0:
            await self.die()

    @property
    def workers(self):
        return self.plane.fleet.workers

    async def report_all(self):
        for one in list(self.world.instances.values()):
            worker = self.workers.get(one.worker_id)
            if one.status != "running" or worker is None or worker.instance_id != one.id:
                continue
            self.plane.on_report(
                wire.WorkerStatus(
                    id=worker.id,
                    mtoken=worker.token,
                    url=f"http://127.0.0.1:{4000 + worker.id}",
                    loadtime=1.0,
                    max_perf=100.0,
                    boot_id=self.world.boots[one.id],
                    slots=4,
                )
            )

    # What happens.

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 20.0]), speak=st.booleans())
    def pass_time(self, seconds, speak):
        async def work():
            self.seconds += seconds
            if speak:
                await self.report_all()
            await self.round()

        self.run(work())

    @rule(lie=st.sampled_from(LISTS))
    def lie_in_a_list(self, lie):
        self.world.fault["list"] = [lie]
        self.run(self.round())

    @rule(fault=st.sampled_from(CREATIONS))
    def fail_a_creation(self, fault):
        self.world.fault["create"] = [fault]

    @rule(fault=st.sampled_from(ORDERS))
    def fail_an_order(self, fault):
        self.world.fault["order"] = [fault]

    @rule(offered=st.booleans())
    def change_offers(self, offered):
        self.world.offered = offered

    @rule(calls=st.integers(1, 6), after=st.booleans())
    def be_killed(self, calls, after):
        async def work():
            self.death.left, self.death.after = calls, after
            await self.round()
            self.death.left = None

        self.run(work())

    @rule(jump=st.sampled_from([-1e6, -60.0, 60.0, 1e6]))
    def set_the_wall_clock(self, jump):
        self.wall_offset += jump

    @precondition(lambda self: self.world.instances)
    @rule(data=st.data())
    def lose_an_instance(self, data):
        name = data.draw(st.sampled_from(sorted(self.world.instances)))
        del self.world.instances[name]

    @precondition(lambda self: self.world.instances)
    @rule(data=st.data())
    def break_an_instance(self, data):
        one = self.world.instances[data.draw(st.sampled_from(sorted(self.world.instances)))]
        if one.status == "running":
            self.world.instances[one.id] = replace(one, status="failed")

    @rule(cost=st.sampled_from([1.0, 2_000.0]))
    def ask(self, cost):
        answer = self.plane.router.route(1, cost, 0, 60.0, self.seconds)
        if isinstance(answer, Assigned):
            self.requests.append(answer)

    @precondition(lambda self: self.requests)
    @rule()
    def finish(self):
        self.end_requests()

    def end_requests(self):
        for answer in self.requests:
            done = [FinishedRequest(answer.request_idx)]
            if answer.worker_id in self.workers:
                self.plane.on_finished(wire.DeleteRequests(answer.worker_id, "", done))
        self.requests = []

    @rule(state=st.sampled_from(["active", "stopped", "suspended"]))
    def set_the_state(self, state):
        async def work():
            parameters = replace(PARAMETERS, endpoint_state=state)
            await self.store.update_endpoint(1, parameters=parameters)
            await self.plane.changed()

        self.run(work())

    @rule(parallel=st.integers(1, 3), update=st.booleans())
    def change_the_settings(self, parallel, update):
        async def work():
            options = {"parallel": parallel}
            await self.store.update_workergroup(1, options=options, updating=update)
            await self.plane.changed()

        self.run(work())

    # What must hold.

    @invariant()
    def no_request_is_cut(self):
        if self.plane is not None:
            assert self.world.cut == []

    @invariant()
    def no_instance_is_two_workers(self):
        if self.plane is not None:
            ids = [w.instance_id for w in self.workers.values() if w.instance_id is not None]
            assert len(ids) == len(set(ids))

    @invariant()
    def the_cap_holds_in_the_books(self):
        if self.plane is not None:
            assert len(self.workers) <= CAP

    def teardown(self):
        if getattr(self, "plane", None) is None:
            return
        try:
            self.run(self.calm())
        finally:
            with contextlib.suppress(BaseException):
                self.run(self.plane.reconciler.close())
            self.run(self.store.close())
            self.loop.close()
            shutil.rmtree(self.directory)

    async def calm(self):
        """No more faults: in the end what is paid for is what is wanted, and it stays so."""
        for kind in self.world.fault:
            self.world.fault[kind] = []
        self.world.offered, self.death.left = True, None
        await self.store.update_endpoint(1, parameters=PARAMETERS)
        await self.plane.changed()  # an owner who looks after it: failures are forgiven
        group = await self.store.get_workergroup(1)
        await self.store.update_workergroup(1, max_workers=(group.max_workers or CAP) + 1)
        await self.plane.changed()
        self.end_requests()
        await self.rounds(70)
        await self.scale_in()
        self.agrees()

    async def rounds(self, number):
        for _ in range(number):
            self.seconds += 2.0
            await self.report_all()
            await self.round()

    async def scale_in(self):
        """What the load needed may still go, once each, and nothing comes back: no flapping.

        That may take long: a need is held for a minute, and a stopped worker is kept for as long
        as that pays (docs/scaling.md).
        """
        began, before = self.seconds, len(self.world.orders)
        quiet = self.seconds
        while self.seconds - quiet < QUIET or self.leaving():
            seen = len(self.world.orders)
            await self.rounds(1)
            late = self.world.orders[before:]
            assert {verb for verb, _ in late} <= {"stop", "destroy"}
            assert len(set(late)) == len(late)
            if len(self.world.orders) > seen:
                quiet = self.seconds
            assert self.seconds - began < SETTLED_AFTER + 120.0

    def leaving(self):
        """Whether something is between two states."""
        return not {w.state for w in self.workers.values()} <= SETTLED

    def agrees(self):
        books = {worker.instance_id for worker in self.workers.values()}
        assert books == set(self.world.instances)  # no leak, no ghost
        ready = [w for w in self.workers.values() if w.state is WorkerState.READY]
        running = [one for one in self.world.instances.values() if one.status == "running"]
        assert len(ready) == len(running) >= 1
        (group,) = self.plane.fleet.groups.values()
        assert not group.updating
        for worker in ready:
            # Never taken for newer than what runs; older only where an answer was lost.
            assert worker.revision <= self.world.revisions[worker.instance_id]
        rows = {worker.record.id for worker in self.workers.values()}
        assert rows == set(self.workers)


@pytest.fixture
def machine():
    """For histories that hypothesis found, told again without it."""
    machine = Machine()
    machine.begin()
    return machine


def test_what_a_burst_needed_goes_minutes_later_and_that_is_no_flapping(machine):
    for _ in range(4):
        machine.ask(1.0)
    machine.fail_a_creation("make and lose")
    machine.lie_in_a_list("other status")
    for cost in (1.0, 1.0, 1.0, 1.0, 1.0, 2000.0, 1.0):
        machine.ask(cost)
    machine.teardown()
    assert machine.world.orders[-2:] == [("destroy", "i3"), ("destroy", "i2")]
    assert set(machine.world.instances) == {"i1"}


def test_a_worker_that_was_just_destroyed_is_in_the_books_until_a_list_lacks_it(machine):
    for _ in range(4):
        machine.ask(1.0)
    machine.lie_in_a_list("forget")
    del machine.world.instances["i1"]
    machine.run(machine.rounds(4))
    for _ in range(8):
        machine.ask(2000.0)
    machine.run(machine.rounds(1))
    machine.teardown()
    assert machine.world.orders[-1] == ("destroy", "i3")
    assert set(machine.world.instances) == {"i2"}


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
