"""Carries out what was decided about workers: the orders to providers, and their repetition.

Rules:

* Drains are withheld for a while after a start of ours (`DRAINS_WAIT`).
* What was decided is written down before it is asked for. An order waits for that in its own task,
  and the round goes on. A creation whose row cannot be written is not asked for, and decided anew.
* Stopping, destroying and rebooting wait until the worker is empty, for `DRAIN_LIMIT` at most.
* A decision that does not fit any more (a report came in between) is dropped: the next round
  decides anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stoker.autoscaler.calls import Calls, NotWrittenError, UncertainError
from stoker.autoscaler.fleet import Goal, Worker
from stoker.autoscaler.plane import Plane
from stoker.autoscaler.planning import Action, ActionKind, Plan
from stoker.autoscaler.states import ACTIVE, Event, ImpossibleEventError, WorkerState
from stoker.errors import StokerError, StoreError
from stoker.logs import get_logger
from stoker.providers import Instance, InstanceSpec, Offer, Provider
from stoker.store import WorkergroupRecord

log = get_logger("reconciler")

DRAIN_LIMIT = 600.0
"""Seconds for which a worker may finish what it has before it is stopped all the same."""

DRAINS_WAIT = 60.0
"""Seconds after a start of ours for which no worker that we found is drained for want of load: what
came before is forgotten, and a minute (`stoker.autoscaler.arrivals`) is to be seen first."""

WITHHELD = (
    f"no worker is drained in the first {DRAINS_WAIT:.0f} s after a start of the control plane: "
    "what load comes is not known yet"
)
"""The same each time, so that it is logged once."""

REPEAT_AFTER = 5.0
"""Seconds after which a provider is asked again for what it has not done yet."""

Offers = Mapping[str, Sequence[Offer]]


class Actor:
    """Does what plans say, one step at a time."""

    UNFINISHED = frozenset(
        {WorkerState.CREATING, WorkerState.STARTING, WorkerState.UPDATE_REBOOTING}
    )
    """States in which an order may have to be repeated."""

    def __init__(
        self,
        plane: Plane,
        save: Callable[[Worker], Awaitable[None]],
        complain: Callable[[str, str, float], None],
    ) -> None:
        """Act for a control plane.

        Args:
            plane: the control plane.
            save: writes the row of a worker that has one; it has a limit, and never fails.
            complain: tells what is wrong with the store (see `Telling.complain`).
        """
        self._plane = plane
        self._save = save
        self._complain = complain
        self.calls = Calls(plane)
        self.actions: dict[tuple[str, str], int] = {}
        """(endpoint, kind) -> actions carried out."""

    async def act(self, endpoint_id: int, action: Action, offers: Offers, now: float) -> None:
        """Do the first step of an action; `pursue` does the others."""
        plane = self._plane
        key = (plane.fleet.endpoints[endpoint_id].name, action.kind.value)
        if action.kind is ActionKind.CREATE:
            self.actions[key] = self.actions.get(key, 0) + 1
            self._create(endpoint_id, action, offers)
            return
        assert action.worker_id is not None
        worker = plane.fleet.workers.get(action.worker_id)
        if worker is None or self.calls.busy(worker.id):
            return  # the next round decides anew, on what has become of it
        self.actions[key] = self.actions.get(key, 0) + 1
        try:
            await self._act_on(worker, action, now)
        except ImpossibleEventError as error:
            log.debug("a decision is out of date", worker=worker.id, error=str(error))

    def withhold(self, decided: Plan, now: float) -> Plan:
        """A plan without the drains of which it cannot be known yet whether they are right."""
        if now - self._plane.loaded_at >= DRAINS_WAIT:
            return decided
        withheld = tuple(action for action in decided.actions if self._is_early(action))
        if not withheld:
            return decided
        return replace(
            decided,
            actions=tuple(action for action in decided.actions if action not in withheld),
            notes=(*decided.notes, WITHHELD),
            withheld=withheld,
        )

    def _is_early(self, action: Action) -> bool:
        """Whether an action takes away a worker that we found, and nothing but its load says so."""
        fleet = self._plane.fleet
        worker = fleet.workers.get(action.worker_id) if action.worker_id is not None else None
        if action.kind is not ActionKind.DRAIN or worker is None or not worker.restored:
            return False
        stopped = fleet.endpoints[worker.endpoint_id].parameters.endpoint_state == "stopped"
        return not stopped and worker.leaves_at is None

    async def _act_on(self, worker: Worker, action: Action, now: float) -> None:
        plane, kind = self._plane, action.kind
        if kind is ActionKind.DESTROY:
            self.release(worker, "destroy", now, action.reason)
            await self.pursue(worker, now)
            return
        if kind is ActionKind.REBOOT and not self._may_reboot(worker, now):
            return
        draining = worker.state is WorkerState.DRAINING
        if kind is ActionKind.STOP and draining and not self._drained(worker, now):
            return  # the plan knows our books alone, and we may have just started
        self._tell(worker, action.reason)
        if kind is ActionKind.START:
            await self._start(worker, now)
        elif kind is ActionKind.DRAIN:
            plane.changed_state(worker, Event.PLAN_DRAIN, now)
        elif kind is ActionKind.STOP:
            worker.goal = "stop"
            await self._stop(worker, now)
        elif kind is ActionKind.UPDATE:
            plane.changed_state(worker, Event.PLAN_UPDATE, now)
        elif kind is ActionKind.REBOOT:
            plane.changed_state(worker, Event.PLAN_REBOOT, now)
            worker.reported_at = None  # its new boot owes us nothing until it is heard of
            worker.former_at = None
            self._ask_update(worker, now, save=True)

    def _tell(self, worker: Worker, reason: str) -> None:
        worker.reason = reason
        group_id = worker.record.workergroup_id
        self._plane.journal.note(worker.endpoint_id, "info0", reason, group_id=group_id)

    # -- create ----------------------------------------------------------------------------

    def _create(self, endpoint_id: int, action: Action, offers: Offers) -> None:
        plane = self._plane
        assert action.group_id is not None
        group = plane.fleet.groups.get(action.group_id)
        if group is None or action.provider not in plane.providers:
            return
        offer_id = action.offer_id or ""
        offer = next((o for o in offers.get(action.provider, ()) if o.id == offer_id), None)
        record = plane.store.draft_worker(
            endpoint_id,
            group.id,
            action.provider,
            state=WorkerState.CREATING.value,
            desired="run",
            offer_id=offer_id,
            revision=group.revision,
            price_per_hour=offer.price_per_hour if offer else 0.0,
            hardware=offer.hardware if offer else "",
            stoppable=offer.stoppable if offer else True,
            spot=offer.spot if offer else False,
            state_since=plane.wall(),
        )
        now = plane.now()
        worker = plane.adopt(record, now)
        worker.written = False
        worker.reason = action.reason.replace("create worker", f"create worker {worker.id}", 1)
        self._ask_create(worker, group, now)

    def _ask_create(self, worker: Worker, group: WorkergroupRecord, now: float) -> None:
        plane = self._plane
        worker.asked_at = now
        spec = self._spec(worker, group)
        if spec is None:
            return

        def created(instance: Instance) -> None:
            taken = any(
                other.instance_id == instance.id and other is not worker
                for other in plane.fleet.of_provider(worker.record.provider)
            )
            if instance.worker_id != worker.id or taken:
                raise UncertainError(f"the answer was the instance of worker {instance.worker_id}")
            worker.instance_id = instance.id
            worker.revision = spec.revision
            plane.fleet.dirty.add(worker.id)

        self.calls.about(worker, "create", self._made(worker, spec), created)

    async def _made(self, worker: Worker, spec: InstanceSpec) -> Instance:
        if not worker.written:
            await self._write_first(worker)
        provider = self._provider(worker)
        instance = await provider.create(worker.record.offer_id, spec)
        if worker.revision != spec.revision and instance.worker_id == worker.id:
            # It was asked for with other settings before, and may have been made by that order.
            try:
                await provider.update(instance.id, spec)
            except StokerError as error:  # the instance is there all the same
                raise UncertainError(f"made, and not updated: {error}") from None
        return instance

    async def _write_first(self, worker: Worker) -> None:
        """Write the row of a worker that has none.

        Raises:
            NotWrittenError: that is impossible; the worker is dropped.
        """
        plane = self._plane
        try:
            await plane.store.insert_worker(worker.record)
        except StokerError as error:
            plane.drop(worker)
            if isinstance(error, StoreError):
                self._complain("the store", str(error), plane.now())
            raise NotWrittenError(str(error)) from None
        worker.written = True
        self._tell(worker, worker.reason)

    def _spec(self, worker: Worker, group: WorkergroupRecord) -> InstanceSpec | None:
        plane = self._plane
        endpoint = plane.fleet.endpoints.get(worker.endpoint_id)
        if endpoint is None:
            return None
        return InstanceSpec(
            worker_id=worker.id,
            mtoken=worker.token,
            endpoint=endpoint.name,
            backend=group.backend,
            options=group.options,
            report_addr=plane.report_addr,
            search_params=group.search_params,
            launch_args=group.launch_args,
            revision=group.revision,
            instance=group.instance,
        )

    # -- start and update ------------------------------------------------------------------

    async def _start(self, worker: Worker, now: float) -> None:
        was_running = worker.state is WorkerState.DRAINING or worker.state in ACTIVE
        worker.goal, worker.error = "run", ""
        self._plane.changed_state(worker, Event.PLAN_START, now)
        self._plane.fleet.dirty.add(worker.id)
        if was_running:
            return  # it was never told to stop
        worker.reported_at = None  # its silence while it was stopped is no fault
        self._ask_start(worker, now, save=True)

    def _ask_start(self, worker: Worker, now: float, *, save: bool = False) -> None:
        if worker.instance_id is None:
            return
        group = self._group(worker)
        if group is not None and group.updating and worker.revision != group.revision:
            self._ask_update(worker, now, save=save)  # it starts with the new settings
            return
        worker.asked_at = now
        work = self._provider(worker).start(worker.instance_id)
        self.calls.about(worker, "start", self._saved_first(worker, work) if save else work)

    def _ask_update(self, worker: Worker, now: float, *, save: bool = False) -> None:
        group = self._group(worker)
        spec = self._spec(worker, group) if group is not None else None
        if worker.instance_id is None or spec is None:
            return
        worker.asked_at = now

        def updated(_answer: None) -> None:
            worker.revision = spec.revision
            self._plane.fleet.dirty.add(worker.id)

        work = self._provider(worker).update(worker.instance_id, spec)
        work = self._saved_first(worker, work) if save else work
        self.calls.about(worker, "update", work, updated)

    async def _saved_first(self, worker: Worker, order: Coroutine[Any, Any, None]) -> None:
        try:
            await self._save(worker)
        except BaseException:
            order.close()
            raise
        await order

    def _may_reboot(self, worker: Worker, now: float) -> bool:
        """Whether nothing would be cut; what still takes requests is drained first."""
        if worker.state in ACTIVE:
            self._plane.changed_state(worker, Event.PLAN_DRAIN, now)
        return worker.state is WorkerState.DRAINING and self._drained(worker, now)

    def remind(self, worker: Worker, status: str, now: float) -> None:
        """The provider lists a worker as `status`: ask again for what should have happened."""
        if worker.state is WorkerState.STARTING and status == "stopped" and self._due(worker, now):
            self._ask_start(worker, now)  # we ended between writing it down and asking for it

    # -- stop and destroy ------------------------------------------------------------------

    def release(self, worker: Worker, goal: Goal, now: float, reason: str) -> None:
        """Take a worker out of the rotation, to be stopped or destroyed once it is empty."""
        if worker.goal in (goal, "destroy"):
            return
        worker.goal = goal
        self._tell(worker, reason)
        if worker.state in ACTIVE:
            self._plane.changed_state(worker, Event.PLAN_DRAIN, now)
        self._plane.expect(worker, now)
        self._plane.fleet.dirty.add(worker.id)

    async def pursue(self, worker: Worker, now: float, *, cut: bool = False) -> None:
        """Go on with what was begun: a creation or an update, stopping or destroying."""
        if self.calls.busy(worker.id):
            return
        if worker.goal == "run":
            self._finish(worker, now)
            return
        if worker.state is WorkerState.DRAINING and not cut and not self._drained(worker, now):
            return
        if worker.record.attached:
            if worker.goal == "destroy":
                text = f"worker {worker.id}: drained and forgotten"
                note = self._plane.journal.note
                self._plane.forget(worker, lambda: note(worker.endpoint_id, "info1", text))
            return
        if worker.goal == "stop":
            await self._stop(worker, now)
            return
        if worker.state is not WorkerState.DESTROYING:
            self._plane.changed_state(worker, Event.PLAN_DESTROY, now)
        elif not self._due(worker, now):
            return
        self._plane.fleet.dirty.add(worker.id)
        if worker.instance_id is not None:
            worker.asked_at = now
            work = self._provider(worker).destroy(worker.instance_id)
            self.calls.about(worker, "destroy", self._saved_first(worker, work))

    def _finish(self, worker: Worker, now: float) -> None:
        """Ask again where an answer was lost, or where we ended before we had it."""
        group = self._group(worker)
        if group is None or not self._due(worker, now):
            return
        if worker.state is WorkerState.CREATING and worker.instance_id is None:
            self._ask_create(worker, group, now)
        elif worker.revision != group.revision and (
            worker.state is WorkerState.UPDATE_REBOOTING
            or (worker.state is WorkerState.STARTING and group.updating)
        ):
            self._ask_update(worker, now)

    async def _stop(self, worker: Worker, now: float) -> None:
        if worker.state is WorkerState.DRAINING:
            self._plane.changed_state(worker, Event.PLAN_STOP, now)
        elif worker.state is not WorkerState.STOPPING:
            if worker.state is not WorkerState.STOPPED:
                worker.goal = "run"  # it failed or came back on its own: to be decided anew
            return
        elif not self._due(worker, now):
            return
        self._plane.fleet.dirty.add(worker.id)
        if worker.instance_id is not None:
            worker.asked_at = now
            work = self._provider(worker).stop(worker.instance_id)
            self.calls.about(worker, "stop", self._saved_first(worker, work))

    # -- small questions -------------------------------------------------------------------

    def _provider(self, worker: Worker) -> Provider:
        return self._plane.providers[worker.record.provider]

    def _group(self, worker: Worker) -> WorkergroupRecord | None:
        group_id = worker.record.workergroup_id
        return None if group_id is None else self._plane.fleet.groups.get(group_id)

    def _drained(self, worker: Worker, now: float) -> bool:
        patience = now - worker.state_since < DRAIN_LIMIT
        return not patience or self._plane.is_empty(worker, now)

    @staticmethod
    def _due(worker: Worker, now: float) -> bool:
        return now - worker.asked_at >= REPEAT_AFTER
