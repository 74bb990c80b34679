"""Makes the fleet what the plan wants: observe, plan, act, write down.

Rules:

* A worker's row is written before its instance is asked for, and deleted after its instance is
  seen to be gone. So a crash at any line leaves no instance that nobody knows: the next start finds
  the row, or finds an instance without a row (a stray) and destroys it.
* A worker that is to stop first leaves the rotation, then runs empty, then is stopped.
* A provider may be slow, fail or hang: each of its calls runs in a task of its own, with a limit,
  and a worker has one such task at a time. Every call can be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from stoker.autoscaler.fleet import Endpoint, Goal, Worker
from stoker.autoscaler.hearing import Hearing
from stoker.autoscaler.observe import snapshot
from stoker.autoscaler.planning import Action, ActionKind, plan
from stoker.autoscaler.states import ACTIVE, PROVIDER_EVENTS, Event, WorkerState, wire_name
from stoker.errors import NotFoundError, StokerError, StoreError
from stoker.logs import get_logger
from stoker.providers import Instance, InstanceSpec, Offer, Provider

if TYPE_CHECKING:
    from stoker.autoscaler.controlplane import ControlPlane

log = get_logger("reconciler")

REPORT_DEADLINE = 13.0
"""Seconds without a report after which a worker leaves the rotation: it reports at least every
10 s, and 3 s are for a report that is late."""

DRAIN_LIMIT = 600.0
"""Seconds for which a worker may finish what it has before it is stopped all the same."""

CALL_LIMIT = 120.0
"""Seconds that one call of a provider may take."""

REPEAT_AFTER = 5.0
"""Seconds after which a provider is asked again for what it has not done yet."""

CREATE_GRACE = 5.0
"""Seconds for which a provider may not yet list what it has just created."""


class Reconciler:
    """Carries out plans for all endpoints of a control plane."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._offers: dict[str, list[Offer]] = {}
        self._last_error: dict[str, str] = {}
        self._notes: dict[int, tuple[str, ...]] = {}
        self.hearing = Hearing()
        self.worker_seconds: dict[tuple[str, str], float] = {}
        """(endpoint, state) -> seconds that its workers spent in it."""
        self._accounted_at: float | None = None
        self.actions: dict[tuple[str, str], int] = {}
        """(endpoint, kind) -> actions carried out."""

    async def idle(self) -> None:
        """Wait until the calls that are under way have ended."""
        await asyncio.gather(*self._calls.values(), return_exceptions=True)

    async def close(self) -> None:
        """End what is under way; every call can be repeated after the next start."""
        running = [*self._calls.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def step(self, now: float, *, plan_too: bool = True, cut_drains: bool = False) -> None:
        """One round over all endpoints.

        Args:
            now: on the control plane's own clock.
            plan_too: whether to decide anew; False carries out only what was decided.
            cut_drains: stop workers even while they have work.
        """
        plane = self._plane
        for name in plane.providers:
            await self._observe(name)
        now = plane.now()
        self._account(now)
        for worker in list(plane.fleet.workers.values()):
            self._check_report(worker, now)
            self._check_group(worker, now)
            if worker.goal != "run":
                await self._attempt(
                    self._pursue(worker, now, cut=cut_drains), "pursue", worker=worker.id
                )
        for endpoint in list(plane.fleet.endpoints.values()) if plan_too else ():
            await self._attempt(self._decide(endpoint, now), "decide", endpoint=endpoint.name)
        await self._attempt(self._write_down(), "write down")

    async def _attempt(self, work: Coroutine[Any, Any, None], what: str, **about: Any) -> None:
        """Do one thing; its trouble is not the others'."""
        try:
            await work
        except StoreError as error:
            # Said once: it may last for hours.
            self._complain("the store", str(error))
        except Exception:
            log.exception("a part of a round failed", part=what, **about)
        else:
            if what == "write down":
                self._last_error.pop("the store", None)

    async def _decide(self, endpoint: Endpoint, now: float) -> None:
        if endpoint.record.destroyed:
            await self._wind_up(endpoint.id, now)
            return
        decided = plan(snapshot(self._plane, endpoint, self._offers, now), now)
        for action in decided.actions:
            await self._act(endpoint.id, action, now)
        self._tell_notes(endpoint.id, decided.notes)

    # -- observe ---------------------------------------------------------------------------

    async def _observe(self, name: str) -> None:
        plane, provider = self._plane, self._plane.providers[name]
        try:
            async with asyncio.timeout(CALL_LIMIT):
                instances = await provider.list()
                self._offers[name] = await provider.offers()
        except (StokerError, TimeoutError) as error:
            self._offers[name] = []
            self._complain(f"provider {name}", str(error) or "did not answer in time")
            return
        self._last_error.pop(f"provider {name}", None)
        now = plane.now()
        seen = {instance.worker_id: instance for instance in instances}
        for worker in plane.fleet.of_provider(name):
            found = seen.pop(worker.id, None)
            await self._attempt(self._compare(worker, found, now), "compare", worker=worker.id)
        for stray in seen.values():
            if not self._busy(stray.worker_id):
                log.warning("destroying an instance that no row knows", instance=stray.id)
                self._call(stray.worker_id, provider.destroy(stray.id))

    async def _compare(self, worker: Worker, instance: Instance | None, now: float) -> None:
        plane = self._plane
        if self._busy(worker.id):
            return
        if instance is None:
            if worker.state is WorkerState.CREATING and now - worker.asked_at < CREATE_GRACE:
                return
            why = "destroyed" if worker.goal == "destroy" else "its instance is gone"
            lived = now - worker.state_since
            await plane.forget(worker)
            plane.journal.note(
                worker.endpoint_id,
                "info1",
                f"worker {worker.id}: {why} ({wire_name(worker.state)} for {lived:.1f} s)",
                group_id=worker.record.workergroup_id,
            )
            plane.wake()
            return
        if worker.instance_id != instance.id:
            worker.instance_id = instance.id
            plane.fleet.dirty.add(worker.id)
        worker.lost = instance.status == "failed"
        if instance.error:
            worker.error = instance.error
        plane.changed_state(worker, PROVIDER_EVENTS[instance.status], now)
        unasked = worker.state is WorkerState.STARTING and instance.status == "stopped"
        if unasked and now - worker.asked_at >= REPEAT_AFTER:
            self._ask_start(worker, now)  # we ended between writing it down and asking for it

    def _check_report(self, worker: Worker, now: float) -> None:
        last = worker.reported_at
        if last is None or self.hearing.silence(last, now) <= REPORT_DEADLINE:
            return
        if worker.state in (WorkerState.STOPPED, WorkerState.DESTROYING):
            return
        before = worker.state
        worker.error = worker.error or f"no report for {now - last:.0f} s"
        self._plane.changed_state(worker, Event.REPORT_OVERDUE, now)
        if worker.state is before:
            worker.error = "" if worker.error.startswith("no report") else worker.error

    def _check_group(self, worker: Worker, now: float) -> None:
        """A worker whose workergroup was deleted has no reason to be."""
        group = worker.record.workergroup_id
        if group is not None and group not in self._plane.fleet.groups and worker.goal != "destroy":
            self.release(worker, "destroy", now, f"destroy worker {worker.id}: no workergroup left")

    def _tell_notes(self, endpoint_id: int, notes: tuple[str, ...]) -> None:
        """Say why something needed is not done, when it changes."""
        if notes != self._notes.get(endpoint_id, ()):
            self._notes[endpoint_id] = notes
            for note in notes:
                self._plane.journal.note(endpoint_id, "info0", note)

    def _complain(self, who: str, problem: str) -> None:
        """Say once, not every second, that a provider or the store fails."""
        if self._last_error.get(who) == problem:
            return
        self._last_error[who] = problem
        for endpoint in self._plane.fleet.endpoints.values():
            self._plane.journal.note(endpoint.id, "info0", f"{who}: {problem}")

    def _account(self, now: float) -> None:
        """Add up the seconds that are paid for."""
        passed = 0.0 if self._accounted_at is None else now - self._accounted_at
        self._accounted_at = now
        for worker in self._plane.fleet.workers.values():
            endpoint = self._plane.fleet.endpoints.get(worker.endpoint_id)
            if endpoint is not None:
                key = (endpoint.name, wire_name(worker.state))
                self.worker_seconds[key] = self.worker_seconds.get(key, 0.0) + passed

    # -- act -------------------------------------------------------------------------------

    async def _act(self, endpoint_id: int, action: Action, now: float) -> None:
        plane = self._plane
        name = plane.fleet.endpoints[endpoint_id].name
        key = (name, action.kind.value)
        self.actions[key] = self.actions.get(key, 0) + 1
        if action.kind is ActionKind.CREATE:
            await self._create(endpoint_id, action)
            return
        assert action.worker_id is not None
        worker = plane.fleet.workers[action.worker_id]
        if self._busy(worker.id):
            return  # the next round decides anew, on what has become of it
        if action.kind is ActionKind.DESTROY:
            self.release(worker, "destroy", now, action.reason)
            await self._pursue(worker, now)
            return
        group_id = worker.record.workergroup_id
        plane.journal.note(endpoint_id, "info0", action.reason, group_id=group_id)
        if action.kind is ActionKind.START:
            await self._start(worker, now)
        elif action.kind is ActionKind.DRAIN:
            plane.changed_state(worker, Event.PLAN_DRAIN, now)
        elif action.kind is ActionKind.STOP:
            worker.goal = "stop"
            await self._stop(worker, now)

    async def _create(self, endpoint_id: int, action: Action) -> None:
        plane = self._plane
        assert action.group_id is not None
        group = plane.fleet.groups[action.group_id]
        provider_name = action.provider
        record = await plane.store.create_worker(
            endpoint_id,
            group.id,
            provider_name,
            state=WorkerState.CREATING.value,
            desired="run",
            offer_id=action.offer_id or "",
        )
        now = plane.now()
        worker = plane.adopt(record, now)
        worker.asked_at = now
        plane.journal.note(
            endpoint_id,
            "info0",
            action.reason.replace("create worker", f"create worker {worker.id}", 1),
            group_id=group.id,
        )
        spec = InstanceSpec(
            worker_id=worker.id,
            mtoken=worker.token,
            endpoint=plane.fleet.endpoints[endpoint_id].name,
            backend=group.backend,
            options=group.options,
            report_addr=plane.report_addr,
            search_params=group.search_params,
            launch_args=group.launch_args,
        )

        async def create() -> None:
            instance = await plane.providers[provider_name].create(action.offer_id or "", spec)
            worker.instance_id = instance.id
            plane.fleet.dirty.add(worker.id)

        self._call(worker.id, create())

    async def _start(self, worker: Worker, now: float) -> None:
        if self._busy(worker.id):
            return
        was_draining = worker.state is WorkerState.DRAINING
        worker.goal, worker.error = "run", ""
        self._plane.changed_state(worker, Event.PLAN_START, now)
        await self._save_goal(worker)
        if was_draining:
            return  # it was never told to stop
        worker.reported_at = None  # its silence while it was stopped is no fault
        self._ask_start(worker, now)

    def _ask_start(self, worker: Worker, now: float) -> None:
        if worker.instance_id is not None:
            worker.asked_at = now
            self._call(worker.id, self._provider(worker).start(worker.instance_id))

    def release(self, worker: Worker, goal: Goal, now: float, reason: str) -> None:
        """Take a worker out of the rotation, to be stopped or destroyed once it is empty."""
        if worker.goal in (goal, "destroy"):
            return
        worker.goal = goal
        group = worker.record.workergroup_id
        self._plane.journal.note(worker.endpoint_id, "info0", reason, group_id=group)
        if worker.state in ACTIVE:
            self._plane.changed_state(worker, Event.PLAN_DRAIN, now)
        self._plane.fleet.dirty.add(worker.id)

    async def _pursue(self, worker: Worker, now: float, *, cut: bool = False) -> None:
        """Go on with stopping or destroying a worker."""
        if self._busy(worker.id):
            return
        patience = not cut and now - worker.state_since < DRAIN_LIMIT
        draining = worker.state is WorkerState.DRAINING
        if draining and patience and not self._plane.is_empty(worker, now):
            return
        if worker.record.attached:
            if worker.goal == "destroy":
                await self._plane.forget(worker)
                self._plane.journal.note(
                    worker.endpoint_id, "info1", f"worker {worker.id}: drained and forgotten"
                )
            return
        if worker.goal == "stop":
            await self._stop(worker, now)
            return
        if worker.state is not WorkerState.DESTROYING:
            self._plane.changed_state(worker, Event.PLAN_DESTROY, now)
        elif now - worker.asked_at < REPEAT_AFTER:
            return
        await self._save_goal(worker)
        if worker.instance_id is not None:
            worker.asked_at = now
            self._call(worker.id, self._provider(worker).destroy(worker.instance_id))

    async def _stop(self, worker: Worker, now: float) -> None:
        if worker.state is WorkerState.DRAINING:
            self._plane.changed_state(worker, Event.PLAN_STOP, now)
        elif worker.state is not WorkerState.STOPPING:
            if worker.state is not WorkerState.STOPPED:
                worker.goal = "run"  # it failed or came back on its own: to be decided anew
            return
        elif now - worker.asked_at < REPEAT_AFTER:
            return
        await self._save_goal(worker)
        if worker.instance_id is not None:
            worker.asked_at = now
            self._call(worker.id, self._provider(worker).stop(worker.instance_id))

    async def _wind_up(self, endpoint_id: int, now: float) -> None:
        """Destroy what is left of a deleted endpoint, then forget it."""
        plane = self._plane
        workers = plane.fleet.of_endpoint(endpoint_id)
        for worker in workers:
            self.release(
                worker, "destroy", now, f"destroy worker {worker.id}: its endpoint was deleted"
            )
        if not workers:
            await plane.store.purge_endpoint(endpoint_id)
            await plane.changed()

    # -- calls -----------------------------------------------------------------------------

    def _provider(self, worker: Worker) -> Provider:
        return self._plane.providers[worker.record.provider]

    def _busy(self, worker_id: int) -> bool:
        return worker_id in self._calls

    def _call(self, worker_id: int, work: Coroutine[Any, Any, Any]) -> None:
        async def run() -> None:
            worker = self._plane.fleet.workers.get(worker_id)
            try:
                async with asyncio.timeout(CALL_LIMIT):
                    await work
            except (StokerError, TimeoutError) as error:
                if worker is not None:
                    worker.error = str(error) or f"no answer within {CALL_LIMIT:.0f} s"
                    now = self._plane.now()
                    self._plane.changed_state(worker, Event.PROVIDER_FAILED, now)
            except Exception:
                log.exception("a provider's call failed", worker=worker_id)
            finally:
                self._calls.pop(worker_id, None)
                self._plane.wake()

        self._calls[worker_id] = asyncio.get_running_loop().create_task(run())

    # -- write down ------------------------------------------------------------------------

    async def _save_goal(self, worker: Worker) -> None:
        """What was decided is written before it is done, so that a crash cannot undo it.

        It is done all the same when the store cannot be written: a full disk must keep no worker
        running, and what the row then says wrongly is seen from the provider's list.
        """
        self._plane.fleet.dirty.add(worker.id)
        await self._attempt(self._write_down(), "write down")

    async def _write_down(self) -> None:
        plane = self._plane
        for worker_id in list(plane.fleet.dirty):
            worker = plane.fleet.workers.get(worker_id)
            # Taken off before it is written: what changes meanwhile puts it on again.
            plane.fleet.dirty.discard(worker_id)
            if worker is None:
                continue
            ready_at = worker.record.ready_at
            if worker.state is WorkerState.READY and ready_at is None:
                ready_at = plane.wall(worker.state_since)
            fields: dict[str, Any] = {
                "state": worker.state.value,
                "desired": worker.goal,
                "instance_id": worker.instance_id,
                "perf": worker.perf,
                "url": worker.url,
                "ready_at": ready_at,
                "error": worker.error[:500],
            }
            try:
                worker.record = await plane.store.update_worker(worker.id, **fields)
            except NotFoundError:
                log.debug("the worker was forgotten meanwhile", worker=worker.id)
            except BaseException:
                plane.fleet.dirty.add(worker_id)
                raise
