"""Makes the fleet what the plan wants: observe, plan, act, write down.

Rules:

* A worker's row is written before its instance is asked for, and deleted after its instance is
  seen to be gone. The order waits for the row, in a task of its own; the round does not. So a crash
  at any line leaves no instance that nobody knows: the next start finds the row, or finds an
  instance without a row (a stray), says so and destroys it.
* A worker that is to stop first leaves the rotation, then runs empty, then is stopped.
* A provider may be slow, fail, hang or lie (see `census` and `calls`): no round waits for one, and
  one wrong list does no harm.
* An order whose answer was lost is asked again for the same worker. It is never made up for by
  another worker, as both might then come to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from stoker.autoscaler.acting import Actor
from stoker.autoscaler.census import believed, match
from stoker.autoscaler.fleet import Endpoint, Goal, Worker, words
from stoker.autoscaler.hearing import Hearing
from stoker.autoscaler.observe import snapshot
from stoker.autoscaler.pace import REPORT_DEADLINE
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import EndpointSnapshot, Plan, plan
from stoker.autoscaler.rows import Rows
from stoker.autoscaler.states import PROVIDER_EVENTS, Event, WorkerState, wire_name
from stoker.autoscaler.strays import Strays
from stoker.autoscaler.telling import Telling
from stoker.autoscaler.updating import finish_update, finished_updates
from stoker.errors import StokerError, StoreError
from stoker.logs import get_logger
from stoker.providers import Instance, Offer

log = get_logger("reconciler")

REBOOT_LIMIT = 60.0
"""Seconds after its order for which the former boot of a worker may go on as if it was not told."""

LIST_LIMIT = 120.0
"""Seconds that a provider may take to list what it has."""

LIST_PATIENCE = 2.0
"""Seconds for which a round waits for the lists; later ones count in a later round."""

SAVE_LIMIT = 5.0
"""Seconds for which an order about a worker that is there waits for the worker's row."""

GONE_AFTER = 10.0
"""Seconds for which a provider may not list an instance before it counts as gone."""

GONE_LISTS = 3
"""Lists in a row without it that are needed as well."""

Planner = Callable[[EndpointSnapshot, float], Plan]


class Reconciler:
    """Carries out plans for all endpoints of a control plane."""

    def __init__(self, plane: Plane, planner: Planner = plan) -> None:
        self._plane = plane
        self._planner = planner
        self.rows = Rows(plane)
        self.telling = Telling(plane)
        self._actor = Actor(plane, self._save, self.telling.complain)
        self._strays = Strays(plane, self._actor.calls)
        self.offers: dict[str, list[Offer]] = {}
        """What each provider listed last."""
        self.problems: dict[str, str] = {}
        """Why a provider cannot be asked, of those that cannot."""
        self._lists: dict[str, asyncio.Task[None]] = {}
        self.hearing = Hearing()
        self.worker_seconds: dict[tuple[str, str], float] = {}
        """(endpoint, state) -> seconds that its workers spent in it."""
        self._accounted_at: float | None = None
        self.actions = self._actor.actions
        self.strays = self._strays.found
        """Provider -> instances found that were no worker's."""
        self.plans: dict[int, tuple[Plan, float]] = {}
        """Endpoint -> what was planned last, and when."""

    async def idle(self) -> None:
        """Wait until the calls that are under way have ended."""
        await self._actor.calls.idle()

    async def close(self) -> None:
        """End what is under way; every call can be repeated after the next start."""
        lists = [*self._lists.values()]
        for task in lists:
            task.cancel()
        await asyncio.gather(*lists, return_exceptions=True)
        await self._actor.calls.close()

    async def write_down(self, *, at_once: bool = False) -> None:
        """Write what changed; what cannot be written is kept for the next time.

        Args:
            at_once: write what was learnt as well, whether it is due or not.
        """
        write = self.rows.write_all(self._plane.now(), at_once=at_once)
        await self._attempt(write, "write down")

    async def step(self, now: float, *, plan_too: bool = True, cut_drains: bool = False) -> None:
        """One round over all endpoints.

        Args:
            now: on the control plane's own clock.
            plan_too: whether to decide anew; False carries out only what was decided.
            cut_drains: stop workers even while they have work.
        """
        plane = self._plane
        await self._observe_all()
        now = plane.now()
        self._account(now)
        for worker in list(plane.fleet.workers.values()):
            self._check_report(worker, now)
            self._check_stopping(worker, now)
            self._check_reboot(worker, now)
            self._check_group(worker, now)
            if worker.goal != "run" or worker.state in self._actor.UNFINISHED:
                pursuit = self._actor.pursue(worker, now, cut=cut_drains)
                await self._attempt(pursuit, "pursue", worker=worker.id)
        for endpoint in list(plane.fleet.endpoints.values()) if plan_too else ():
            await self._attempt(self._decide(endpoint, now), "decide", endpoint=endpoint.name)
            # Clients and workers are answered between two endpoints: with a thousand of them a
            # round takes seconds.
            await asyncio.sleep(0)
        plane.writer.kick()

    def release(self, worker: Worker, goal: Goal, now: float, reason: str) -> None:
        """Take a worker out of the rotation, to be stopped or destroyed once it is empty."""
        self._actor.release(worker, goal, now, reason)

    async def _attempt(self, work: Coroutine[Any, Any, None], what: str, **about: Any) -> None:
        """Do one thing; its trouble is not the others'."""
        writes = self.rows.writes
        try:
            await work
        except StoreError as error:
            # Said once: it may last for hours.
            self.telling.complain("the store", str(error), self._plane.now())
        except Exception:
            log.exception("a part of a round failed", part=what, **about)
        else:
            if what == "write down" and self.rows.writes > writes:
                self.telling.well("the store")

    async def _save(self, worker: Worker) -> None:
        """What was decided is written before it is done, so that a crash cannot undo it.

        It is done all the same when the store cannot be written within `SAVE_LIMIT`: a full disk or
        another process's lock must keep no worker running, and what the row then says wrongly is
        seen from the provider's list.
        """
        self._plane.fleet.dirty.add(worker.id)
        try:
            async with asyncio.timeout(SAVE_LIMIT):
                await self._attempt(self.rows.write_one(worker), "write down")
        except TimeoutError:
            problem = f"a row could not be written within {SAVE_LIMIT:.0f} s"
            self.telling.complain("the store", problem, self._plane.now())

    async def _decide(self, endpoint: Endpoint, now: float) -> None:
        if endpoint.record.destroyed:
            await self._wind_up(endpoint.id)
            return
        decided = self._planner(
            snapshot(self._plane, endpoint, self.offers, now, self.problems), now
        )
        decided = self._actor.withhold(decided, now)
        self.plans[endpoint.id] = (decided, now)
        for action in decided.actions:
            await self._actor.act(endpoint.id, action, self.offers, now)
        self.telling.plan(endpoint.id, decided, now)
        for group in finished_updates(self._plane, endpoint.id):
            work = self._attempt(finish_update(self._plane, group), "finish an update")
            self._plane.writer.once(("update", group.id), work)

    # -- observe ---------------------------------------------------------------------------

    async def _observe_all(self) -> None:
        loop = asyncio.get_running_loop()
        for name in self._plane.providers:
            if name not in self._lists:
                self._lists[name] = loop.create_task(self._observe(name))
        done, _ = await asyncio.wait(self._lists.values(), timeout=LIST_PATIENCE)
        for name, task in list(self._lists.items()):
            if task in done:
                del self._lists[name]
                await self._attempt(_outcome(task), "observe", provider=name)
            else:
                problem = f"has not listed its instances within {LIST_PATIENCE:.0f} s"
                self._failed(name, problem)

    async def _observe(self, name: str) -> None:
        plane, provider = self._plane, self._plane.providers[name]
        asked = plane.now()
        try:
            async with asyncio.timeout(LIST_LIMIT):
                instances = await provider.list()
                offers = await provider.offers()
        except (StokerError, TimeoutError) as error:
            self._failed(name, str(error) or "did not answer in time")
            return
        except Exception as error:
            self._failed(name, repr(error))
            return
        self.offers[name] = offers
        self.problems.pop(name, None)
        self.telling.well(f"provider {name}")
        workers = plane.fleet.of_provider(name)
        census = match(instances, workers)
        for number, worker in enumerate(workers):
            found = census.found.get(worker.id)
            compared = self._compare(worker, found, asked, plane.now())
            await self._attempt(compared, "compare", worker=worker.id)
            if number % 256 == 255:
                await asyncio.sleep(0)
        self._strays.seen(name, census.strays, plane.now())

    def _failed(self, name: str, problem: str) -> None:
        """A provider cannot be asked: it has nothing to offer."""
        self.offers[name] = []
        self.problems[name] = problem
        self.telling.complain(f"provider {name}", problem, self._plane.now())

    async def _compare(
        self, worker: Worker, instance: Instance | None, asked: float, now: float
    ) -> None:
        """Take in what a provider lists of a worker; `asked` is when the list was asked for."""
        plane = self._plane
        if self._actor.calls.busy(worker.id) or worker.asked_at > asked:
            return  # the list may be from before our last order
        if instance is None:
            await self._absent(worker, now)
            return
        worker.absent_since, worker.absences = None, 0
        if worker.instance_id != instance.id:
            worker.instance_id = instance.id
            plane.fleet.dirty.add(worker.id)
        worker.address = instance.address or worker.address
        self.telling.listed(worker, instance)
        leaves_in = None if instance.leaves_at is None else instance.leaves_at - plane.wall()
        if leaves_in is not None and worker.leaves_at is None:
            self.telling.leaves(worker, leaves_in)
        worker.leaves_at = None if leaves_in is None else now + max(0.0, leaves_in)
        if not believed(worker, instance.status):
            return
        worker.lost = instance.status == "failed"
        running = instance.status == "running"
        # Once it is heard, its own word counts.
        if instance.error and not (running and worker.reported_at is not None):
            told, worker.error = worker.error, words(instance.error)
            if running and worker.error != told:
                self.telling.unheard(worker)
        if worker.record.attached and worker.state is WorkerState.PENDING:
            return  # its own word alone tells what it does
        event = PROVIDER_EVENTS.get(instance.status)
        if event is None:
            return  # a status that nobody knows: it is there, and no more is known
        plane.changed_state(worker, event, now)
        self._actor.remind(worker, instance.status, now)

    async def _absent(self, worker: Worker, now: float) -> None:
        """Its provider does not list it."""
        worker.listed = ""
        if worker.absent_since is None:
            worker.absent_since = now
        worker.absences += 1
        if not self._is_gone(worker, now):
            return
        plane = self._plane
        why = "destroyed" if worker.goal == "destroy" else "its instance is gone"
        lived = now - worker.state_since
        plane.forget(worker)
        if worker.goal != "destroy":
            plane.experience.vanished(worker, now)
        self._strays.remember(worker)
        plane.journal.note(
            worker.endpoint_id,
            "info1",
            f"worker {worker.id}: {why} ({wire_name(worker.state)} for {lived:.1f} s)",
            group_id=worker.record.workergroup_id,
        )
        plane.wake()

    def _is_gone(self, worker: Worker, now: float) -> bool:
        """Whether a worker that is not listed has no instance any more."""
        if worker.instance_id is None:
            # Nothing was ever made for it, unless the order is out and its answer not here.
            return worker.state is not WorkerState.CREATING and (
                worker.state is WorkerState.ERROR or self._long_absent(worker, now)
            )
        if worker.state is WorkerState.DESTROYING:
            return True
        if worker.leaves_at is not None and now >= worker.leaves_at:
            return True
        if worker.reported_at is not None and now - worker.reported_at <= GONE_AFTER:
            return False  # it says itself that it is there
        return self._long_absent(worker, now)

    @staticmethod
    def _long_absent(worker: Worker, now: float) -> bool:
        since = worker.absent_since
        long = since is not None and now - since >= GONE_AFTER
        return long and worker.absences >= GONE_LISTS

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

    def _check_stopping(self, worker: Worker, now: float) -> None:
        """One that said it ends, and then nothing: its machine may run for ever at our cost."""
        if worker.state is not WorkerState.STOPPING or worker.goal != "run":
            return
        last = worker.state_since if worker.reported_at is None else worker.reported_at
        silent = self.hearing.silence(last, now)
        if silent > REPORT_DEADLINE and not worker.record.attached:
            self._plane.experience.vanished(worker, now)  # where it was never ready
            reason = f"stop worker {worker.id}: it drained, and no report for {silent:.0f} s"
            self.release(worker, "stop", now, reason)

    def _check_reboot(self, worker: Worker, now: float) -> None:
        """One that was to start anew and goes on as before would wait for its new boot for ever."""
        former = worker.former_at
        if worker.state is not WorkerState.UPDATE_REBOOTING or former is None:
            return
        since = max(worker.state_since, worker.asked_at)
        late = former - since >= REBOOT_LIMIT and not self._actor.calls.busy(worker.id)
        if late and self.hearing.silence(former, now) <= REPORT_DEADLINE:
            reason = (
                f"destroy worker {worker.id}: it was not started anew in {former - since:.0f} s"
            )
            self.release(worker, "destroy", now, reason)

    def _check_group(self, worker: Worker, now: float) -> None:
        """A worker whose workergroup was deleted has no reason to be."""
        group = worker.record.workergroup_id
        if group is not None and group not in self._plane.fleet.groups and worker.goal != "destroy":
            self.release(worker, "destroy", now, f"destroy worker {worker.id}: no workergroup left")

    def _account(self, now: float) -> None:
        """Add up the seconds that are paid for."""
        passed = 0.0 if self._accounted_at is None else now - self._accounted_at
        self._accounted_at = now
        for worker in self._plane.fleet.workers.values():
            endpoint = self._plane.fleet.endpoints.get(worker.endpoint_id)
            if endpoint is not None:
                key = (endpoint.name, wire_name(worker.state))
                self.worker_seconds[key] = self.worker_seconds.get(key, 0.0) + passed

    async def _wind_up(self, endpoint_id: int) -> None:
        """Destroy what is left of a deleted endpoint, then forget it."""
        plane = self._plane
        workers = plane.fleet.of_endpoint(endpoint_id)
        for worker in workers:
            reason = f"destroy worker {worker.id}: its endpoint was deleted"
            self.release(worker, "destroy", plane.now(), reason)
        if not workers:
            work = self._attempt(self._purge(endpoint_id), "purge an endpoint")
            plane.writer.once(("purge", endpoint_id), work)

    async def _purge(self, endpoint_id: int) -> None:
        await self._plane.store.purge_endpoint(endpoint_id)
        self.plans.pop(endpoint_id, None)
        self.telling.forget(endpoint_id)
        await self._plane.changed()


async def _outcome(task: asyncio.Task[None]) -> None:
    task.result()
