"""The control plane: everything above the fleet, put together.

It owns the clock, the loop and the state; the router and the planner decide, the reconciler acts,
the front door speaks. The console app drives it through the methods under "for the console".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import msgspec

from stoker import wire
from stoker.autoscaler.addresses import UrlClaims
from stoker.autoscaler.asked import Asked
from stoker.autoscaler.dayclock import DayClock
from stoker.autoscaler.experience import Experience
from stoker.autoscaler.fleet import Endpoint, Fleet, Worker
from stoker.autoscaler.hearing import BEAT
from stoker.autoscaler.identity import Identity, Keyring
from stoker.autoscaler.journal import Journal
from stoker.autoscaler.keys import Keys
from stoker.autoscaler.numbering import Numbers
from stoker.autoscaler.pace import MIN_TICK, REPORT_DEADLINE, TICK
from stoker.autoscaler.planning import Forecaster, UtcOffset, plan
from stoker.autoscaler.reconciler import Planner, Reconciler
from stoker.autoscaler.recording import Recordings
from stoker.autoscaler.router import TICKET_LIFETIME, Assigned, Router
from stoker.autoscaler.states import ACTIVE, Event, WorkerState, wire_name
from stoker.autoscaler.writer import Writer
from stoker.errors import StoreError
from stoker.logs import get_logger
from stoker.providers import AttachedProvider, Provider
from stoker.store import Store, WorkerRecord

log = get_logger("control")


class ControlPlane(Asked):
    """One fleet and all that decides about it."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        providers: Mapping[str, Provider],
        *,
        report_addr: str,
        planner: Planner = plan,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        utc_offset: UtcOffset | None = None,
    ) -> None:
        """Put the parts together; `start` makes them run.

        Args:
            store: where endpoints, workers and logs are kept.
            identity: the secrets.
            providers: where instances come from, by name; ``attached`` is added to them.
            report_addr: base URL under which workers reach this control plane.
            planner: decides about each endpoint.
            clock: monotonic seconds, for every decision.
            wall_clock: Unix seconds, for tickets, rows and logs.
            utc_offset: seconds by which local time is ahead of UTC, at Unix seconds; None: UTC.
        """
        self.store = store
        self.identity = identity
        self.providers: dict[str, Provider] = {
            **providers,
            "attached": AttachedProvider(self._attached_instances),
        }
        self.report_addr = report_addr
        self.ticket_lifetime = TICKET_LIFETIME
        self.fleet = Fleet()
        self.forecasters: dict[int, Forecaster] = {}
        self.experience = Experience(self.fleet.revision)
        self.recordings = Recordings()
        self._clock = clock
        self._utc_offset = utc_offset
        self._wall_clock = wall_clock
        self.journal = Journal(store, self.wall, self._endpoint_name)
        self._numbers = Numbers(wall_clock(), clock())
        self._anchor = wall_clock() - clock()
        self._day = DayClock(wall_clock(), clock())
        self._unread: dict[int, str] = {}
        """What was kept of loads and is no use at the time that it seems to be."""
        self.keyring = Keyring(self.wall)
        self.keys = Keys(store, self.keyring, self.endpoint_key, self.changed)
        self.router = self._new_router()
        self.claims = UrlClaims(
            self.fleet, on_proven=self._url_proven, on_refused=self._url_refused, clock=self.now
        )
        self.reconciler = Reconciler(self, planner)
        self.on_assigned: Callable[[Assigned], bool] = lambda _answer: False
        self.on_tick: Callable[[float], None] = lambda _now: None
        self.front_requests: Callable[[], Mapping[tuple[str, int], int]] = dict
        self.front_refusals: Callable[[], Mapping[str, int]] = dict
        self.loaded_at = self.now()
        self._hurry = asyncio.Event()
        self._reading = asyncio.Lock()
        self.writer = Writer(self._write_down)
        self._task: asyncio.Task[None] | None = None
        self._next_beat: asyncio.TimerHandle | None = None

    # -- time ------------------------------------------------------------------------------

    def now(self) -> float:
        """Monotonic seconds: what every decision is based on."""
        return self._clock()

    def wall(self, at: float | None = None) -> float:
        """Unix seconds, now or at a moment of `now`."""
        wall = self._wall_clock()
        return wall if at is None else wall - (self._clock() - at)

    def moment(self, unix: float) -> float:
        """A moment of `now`, of Unix seconds; never after now, whatever the wall clock did."""
        now = self.now()
        return min(now, now - (self._wall_clock() - unix))

    def _endpoint_name(self, endpoint_id: int) -> str:
        endpoint = self.fleet.endpoints.get(endpoint_id)
        return endpoint.name if endpoint else str(endpoint_id)

    def ticket_time(self, at: float | None = None) -> float:
        """Unix seconds for tickets, and for what workers are told of our clock.

        It never jumps, and may be wrong: workers judge tickets by what they are told of it.

        Args:
            at: a moment of `now`; None: now.
        """
        return self._anchor + (self._clock() if at is None else at)

    def day_time(self, at: float | None = None) -> float:
        """Unix seconds for what depends on the time of day: it is put right when it proves wrong.

        Args:
            at: a moment of `now`; None: now.
        """
        return self._day.unix(self._clock() if at is None else at)

    def _look_at_the_clock(self) -> None:
        step = self._day.look(self._wall_clock(), self._clock())
        if not step:
            return
        log.warning("the clock of this machine was set; times of day follow", seconds=round(step))
        for forecaster in self.forecasters.values():
            forecaster.clock_set(step)
        unread, self._unread = self._unread, {}
        for endpoint_id, text in unread.items():
            self._read_forecast(endpoint_id, text)

    def new_forecaster(self) -> Forecaster:
        """The memory of an endpoint's load, of which nothing is known yet."""
        return Forecaster(utc_offset=self._utc_offset)

    def _read_forecast(self, endpoint_id: int, text: str) -> None:
        """Take up what an earlier process had learnt of an endpoint's load."""
        if endpoint_id not in self.fleet.endpoints:
            return
        forecaster = self.new_forecaster()
        if forecaster.read(text, self.day_time()):
            self.forecasters[endpoint_id] = forecaster
        else:
            self._unread[endpoint_id] = text
            log.info("what was kept of a load is too old, or broken", endpoint=endpoint_id)

    def _new_router(self) -> Router:
        return Router(
            first_request_idx=self._numbers.at(self.now()),
            ticket_lifetime=TICKET_LIFETIME,
            default_perf=wire.DEFAULT_PERF,
            on_assigned=self._assigned,
        )

    # -- life ------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what the store has."""
        await self._numbers.load(self.store)
        self.router = self._new_router()
        await self._keep_numbers()
        await self.changed()
        self.loaded_at = now = self.now()
        for record in await self.store.list_workers():
            self.adopt(record, now, restored=True)
        for group_id, text in (await self.store.read_experience()).items():
            if group_id in self.fleet.groups:
                self.experience.read(self.fleet.groups[group_id], text, self.moment)
        for endpoint_id, text in (await self.store.read_forecasts()).items():
            self._read_forecast(endpoint_id, text)

    async def start(self) -> None:
        """Load, and begin to reconcile."""
        await self.load()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._beat()

    def _beat(self) -> None:
        self.reconciler.hearing.beat(self.now())
        self._next_beat = asyncio.get_running_loop().call_later(BEAT, self._beat)

    async def close(self) -> None:
        """Stop deciding; the workers go on."""
        await self._end_loop()
        if self._next_beat is not None:
            self._next_beat.cancel()
        await self.claims.close()
        await self.reconciler.close()
        await self.writer.close(self._write_last)

    async def _write_down(self) -> None:
        await self.reconciler.write_down()
        await self.journal.flush()
        await self._keep_numbers()

    async def _write_last(self) -> None:
        await self.reconciler.write_down(at_once=True)
        await self.journal.flush()

    async def _end_loop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._round()
            except Exception:
                # A round that fails must not end the rounds: the next one sees the world afresh.
                log.exception("a round of reconciliation failed")
            await asyncio.sleep(MIN_TICK)
            try:
                async with asyncio.timeout(TICK - MIN_TICK):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()

    async def step(self) -> None:
        """One round, and wait until what it left to be written is written."""
        await self._round()
        await self.writer.idle()

    async def _round(self) -> None:
        """Observe, decide, act, and have written down what came of it."""
        self._look_at_the_clock()
        try:
            await self.reconciler.step(self.now())
        finally:
            # Clients on the line are not to wait for what is wrong with the workers.
            now = self.now()
            self.router.tick(now)
            self.on_tick(now)
            self.writer.kick()

    async def _keep_numbers(self) -> None:
        try:
            await self._numbers.keep(self.store, self.now())
        except StoreError as error:
            log.debug("the mark of the numbers cannot be written", error=str(error))

    def wake(self) -> None:
        """Something happened that should not wait for the next regular round."""
        self._hurry.set()

    # -- what the front door tells ---------------------------------------------------------

    def with_own_url(self, report: wire.WorkerStatus, peer: str) -> wire.WorkerStatus:
        """A report with the URL that the worker may be known by, perhaps none yet.

        Args:
            report: whose token was checked.
            peer: address that it came from.

        Raises:
            InvalidMessageError: the URL is not the worker's.
        """
        url, worker = report.url.rstrip("/"), self.fleet.workers[report.id]
        if not url or self.claims.may_use(worker, url, peer, self.now()):
            return report
        return msgspec.structs.replace(report, url="")

    def _url_proven(self, worker: Worker, url: str) -> None:
        worker.url = url
        self.fleet.dirty.add(worker.id)
        self.router.set_url(worker.id, url)
        self.router.set_available(worker.id, worker.available, self.now())
        self.wake()

    def _url_refused(self, worker: Worker, reason: str) -> None:
        worker.error = reason
        self.fleet.dirty.add(worker.id)
        self.router.set_url(worker.id, worker.url)
        self.router.set_available(worker.id, worker.available, self.now())
        self.journal.note(
            worker.endpoint_id,
            "info0",
            f"worker {worker.id}: its URL is refused: {reason}",
            group_id=worker.record.workergroup_id,
        )

    def on_report(self, report: wire.WorkerStatus) -> None:
        """A worker reported; its token was checked."""
        now = self.now()
        worker = self.fleet.workers[report.id]
        if self.router.is_outdated(worker.id, report):
            return
        known, had_reported = worker.boot_id, worker.report is not None
        perf, was_active = worker.perf, worker.state in ACTIVE
        event = self.fleet.take_report(worker, report, now)
        if worker.state is WorkerState.UPDATE_REBOOTING and _of_former_boot(report, known, event):
            worker.reported_at = None  # the new one owes us nothing until it is heard of
            worker.former_at = now if event is Event.REPORT_READY else None
            return
        if report.boot_id:
            first = not (had_reported or known) and worker.state is not WorkerState.UPDATE_REBOOTING
            booted = report.boot_id != known and not first
        else:
            # A worker of the existing protocol does not name its boots; one of ours does, but while
            # it is down its launcher speaks for it, without one.
            again = event is Event.REPORT_LOADING and worker.state in ACTIVE
            booted = again and not known
        # Nobody asked it to stop, and it runs: its new boot was missed, because we were started in
        # between or a word of its launcher came late.
        unasked = worker.state is WorkerState.STOPPING and worker.goal == "run"
        if booted or (unasked and event in (Event.REPORT_LOADING, Event.REPORT_READY)):
            # A new boot knows nothing of what was sent to the one before it.
            self.changed_state(worker, Event.REBOOTED, now)
            self.router.restarted(worker.id, now)
        self.changed_state(worker, event, now)
        if worker.perf != perf and was_active and worker.state in ACTIVE:
            self.experience.measured(worker)
        self.router.report(worker.id, report, now)
        self.router.set_available(worker.id, worker.available, now)

    def on_finished(self, message: wire.DeleteRequests) -> None:
        """A worker is done with some requests; its token was checked."""
        now = self.now()
        worker = self.fleet.workers[message.worker_id]
        worker.idle_since = now
        self.router.finished(worker.id, message.requests, now)

    def changed_state(self, worker: Worker, event: Event, now: float) -> None:
        """Apply an event and say so in the endpoint's log."""
        before = worker.state
        lasted = now - worker.state_since
        after = self.fleet.happen(worker, event, now)
        if after is None:
            return
        self.experience.note(worker, before, now)
        detail = f": {worker.error}" if after is WorkerState.ERROR and worker.error else ""
        if after is WorkerState.READY:
            worker.signed_unproven = False
            detail = f": perf {worker.perf:.1f} load/s"
            if worker.perf <= 0:
                detail = f": it reports no perf; {worker.capacity:g} load/s are reckoned with"
            if worker.report is not None:
                detail += f", loaded in {worker.report.loadtime:.1f} s"
        self.journal.note(
            worker.endpoint_id,
            "info1",
            f"worker {worker.id}: {wire_name(before)} -> {wire_name(after)} "
            f"after {lasted:.1f} s{detail}",
            group_id=worker.record.workergroup_id,
        )
        self.router.set_available(worker.id, worker.available, now)
        self.expect(worker, now)
        self.wake()

    def expect(self, worker: Worker, now: float) -> None:
        """Tell the router when a worker that boots or starts will be ready."""
        if worker.state in ACTIVE and worker.goal == "run":
            return  # the router expects it until it has its URL, which may have to be proven first
        group = worker.record.workergroup_id
        at = self.experience.of(group).ready_at(worker) if group is not None else None
        self.router.expect(worker.id, at, now)

    def _assigned(self, answer: Assigned) -> bool:
        return self.on_assigned(answer)

    # -- workers come and go ---------------------------------------------------------------

    def adopt(self, record: WorkerRecord, now: float, *, restored: bool = False) -> Worker:
        """Take a worker's row into the fleet and the rotation's books."""
        token = self.identity.worker_token(record.id, record.nonce)
        state = WorkerState(record.state) if record.state else WorkerState.CREATING
        worker = Worker(
            record=record,
            token=token,
            token_bytes=token.encode(),
            state=state,
            state_since=now,
            instance_id=record.instance_id,
            perf=record.perf,
            idle_since=now,
            error=record.error,
            boot_id=record.boot_id,
            revision=record.revision,
            state_seconds=dict(record.state_seconds),
            restored=restored,
        )
        if restored and record.state_since > 0:
            spent = max(0.0, self.wall() - record.state_since)
            name = wire_name(state)
            worker.state_seconds[name] = worker.state_seconds.get(name, 0.0) + spent
        if not restored:
            worker.coming_since = now
        worker.was_ready = record.ready_at is not None
        if record.desired in ("stop", "destroy"):
            worker.goal = "stop" if record.desired == "stop" else "destroy"
        if restored and state in ACTIVE:
            # Ready when the row was written: it is believed again at its next report.
            worker.state = WorkerState.PENDING
        self.fleet.add(worker)
        self.router.add_worker(
            record.id, record.endpoint_id, reqnum_base=self._numbers.at(self.now()), url=record.url
        )
        self.expect(worker, now)
        return worker

    def forget(self, worker: Worker, then: Callable[[], None] = lambda: None) -> None:
        """Drop a worker whose instance is gone, and have its row deleted.

        An attached worker is dropped when its row is deleted, as a row that stayed would let it in
        again after a restart. Of any other, the next start finds the row, and the instance gone.

        Args:
            worker: which.
            then: called when it is dropped.
        """
        self.router.set_available(worker.id, False, self.now())

        def drop() -> None:
            self.drop(worker)
            then()

        if worker.record.attached:
            self.reconciler.rows.forget(worker.id, drop)
            return
        self.reconciler.rows.forget(worker.id)
        drop()

    def drop(self, worker: Worker) -> None:
        """Take a worker out of the fleet and the rotation's books."""
        self.router.remove_worker(worker.id, self.now())
        self.fleet.remove(worker)

    # -- what was written, and the end --------------------------------------------------------

    async def changed(self) -> None:
        """Endpoints, workergroups or keys were written: read them again."""
        async with self._reading:  # what was read last is what counts
            await self._read_again()

    async def _read_again(self) -> None:
        records = await self.store.list_endpoints(with_destroyed=True)
        groups = await self.store.list_workergroups()
        keys = await self.store.list_api_keys()
        endpoints = [Endpoint(record, self.endpoint_key(record)) for record in records]
        now = self.now()
        for endpoint in endpoints:
            queue_time = endpoint.parameters.max_queue_time
            if endpoint.id in self.fleet.endpoints:
                self.router.update_endpoint(endpoint.id, max_queue_time=queue_time)
            else:
                self.router.add_endpoint(endpoint.id, max_queue_time=queue_time)
        kept = {endpoint.id for endpoint in endpoints}
        for endpoint_id in set(self.fleet.endpoints) - kept:
            self.router.remove_endpoint(endpoint_id, now)
            self.recordings.forget(endpoint_id)
            self.forecasters.pop(endpoint_id, None)
            self._unread.pop(endpoint_id, None)
        for group in groups:
            former = self.fleet.groups.get(group.id, group)
            if former != group:
                self.experience.changed(former, group)
        for group_id in set(self.fleet.groups) - {group.id for group in groups}:
            self.experience.forget(group_id)
        self.fleet.replace_endpoints(endpoints, groups)
        self.keyring.replace(keys, ((e.id, e.key) for e in endpoints if not e.record.destroyed))
        self.wake()

    def is_empty(self, worker: Worker, now: float) -> bool:
        """Whether a worker has nothing to do, in our books and by its own word."""
        if self.router.in_flight(worker.id, now) > 0:
            return False
        report = worker.report
        # After a restart of ours it has not reported yet, and may have what we do not know of.
        last = worker.state_since if worker.reported_at is None else worker.reported_at
        if now - last > REPORT_DEADLINE:
            return True
        return report is not None and report.num_requests_working <= 0

    async def stop_instances(self, hurry: asyncio.Event) -> None:
        """Drain and destroy every instance, for the end of this control plane.

        Args:
            hurry: when set, drains are cut short.
        """
        await self._end_loop()
        now = self.now()
        for worker in list(self.fleet.workers.values()):
            if not worker.record.attached:
                self.reconciler.release(
                    worker, "destroy", now, f"destroy worker {worker.id}: the server stops"
                )
        while any(not w.record.attached for w in self.fleet.workers.values()):
            await self.reconciler.step(self.now(), plan_too=False, cut_drains=hurry.is_set())
            try:
                async with asyncio.timeout(MIN_TICK):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()

    def metrics(self) -> bytes:
        """The figures of the control plane in the Prometheus text format."""
        from stoker.autoscaler.metrics import render  # nobody may ever ask, and it is slow to load

        return render(self)


def _of_former_boot(report: wire.WorkerStatus, known: str, event: Event) -> bool:
    """Whether a worker that reboots to be updated still speaks from before that."""
    if report.boot_id:
        return report.boot_id == known
    # Without a name it is its launcher, which speaks for a worker that is down; or a worker that
    # names no boots, and comes up again when it loads.
    return event is not Event.REPORT_ERROR and (bool(known) or event is not Event.REPORT_LOADING)
