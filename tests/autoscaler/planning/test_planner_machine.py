"""The planner against a fleet that does as it likes: slow, failing, taken away, edited at any time.

A model of an endpoint carries out each plan; in between, workers come up, fail, vanish or are taken
away by their provider, the clock jumps, parameters, weights and settings are edited, and offers
come and go. What must hold for every plan is checked at every plan; and whatever happened before,
when it ends, the fleet comes to rest with enough capacity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    ActionKind,
    EndpointSnapshot,
    Forecaster,
    GroupSnapshot,
    OfferSnapshot,
    Outlook,
    Plan,
    PlannerSettings,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.planning.need import needs_of
from stoker.autoscaler.states import (
    ACTIVE,
    EXISTS,
    LOADING_STATES,
    Event,
    WorkerState,
    next_state,
)
from stoker.wire import EndpointParameters

SETTINGS = PlannerSettings()

EVENTS = {
    ActionKind.START: Event.PLAN_START,
    ActionKind.DRAIN: Event.PLAN_DRAIN,
    ActionKind.STOP: Event.PLAN_STOP,
    ActionKind.DESTROY: Event.PLAN_DESTROY,
    ActionKind.UPDATE: Event.PLAN_UPDATE,
    ActionKind.REBOOT: Event.PLAN_REBOOT,
}

CALM = EndpointParameters(
    min_load=0, cold_workers=0, cold_mult=1, max_workers=8, inactivity_timeout=30, target_util=0.9
)

picks = st.integers(0, 1000)
"""Which of the workers (or groups) that a rule may be about."""


@dataclass
class Touched:
    """When a worker was last put into rotation, and taken out of it."""

    recalled: float = -1e9
    drained: float = -1e9


REPLACED_BEFORE = 40.0 + SETTINGS.leaving_margin
"""Seconds before it leaves from which on a machine does not count: what a new one takes to come."""


class Fleet(RuleBasedStateMachine):
    plenty = 30
    """Workers that are allowed and to be had in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10_000.0
        self.workers: dict[int, WorkerSnapshot] = {}
        self.groups: dict[int, GroupSnapshot] = {}
        self.offers: dict[str, OfferSnapshot] = {}
        self.parameters = CALM
        self.rate = 0.0
        self.held = 0
        self.last_request = self.now
        self.next_id = 1
        self.touched: dict[int, Touched] = {}
        self.changed_at = self.now
        """When anything last happened that the planner did not do."""
        self.arrived = 0.0

    # -- what is there ---------------------------------------------------------------------

    @initialize(
        two=st.booleans(),
        spot=st.booleans(),
        stoppable=st.booleans(),
        rate=st.sampled_from([0.0, 40.0, 100.0, 300.0]),
    )
    def begin(self, two: bool, spot: bool, stoppable: bool, rate: float) -> None:
        self.rate = rate
        self.offers = {
            "a": OfferSnapshot(id="a", hardware="small", price=0.5, available=6),
            "b": OfferSnapshot(
                id="b", hardware="large", price=1.5, available=6, spot=spot, stoppable=stoppable
            ),
        }
        self.groups = {1: GroupSnapshot(id=1, create_seconds=40.0)}
        if two:
            self.groups[2] = GroupSnapshot(id=2, create_seconds=40.0, weight=0.2)

    def outlook(self, seen: EndpointSnapshot) -> Outlook | None:
        return None

    def tick(self, seconds: float) -> None:
        self.now += seconds

    def restart(self) -> None:
        """Forget what is only in memory."""

    def snapshot(self) -> EndpointSnapshot:
        used: dict[str, int] = {}
        for worker in self.workers.values():
            used[worker.offer_id] = used.get(worker.offer_id, 0) + 1
        offers = tuple(
            replace(offer, available=max(0, offer.available - used.get(offer.id, 0)))
            for offer in self.offers.values()
        )
        working = sum(worker.requests for worker in self.workers.values())
        demand = Demand(
            arrival_rate=self.rate,
            recent_rate=self.rate,
            peak_rate=self.rate,
            held_load=10.0 * self.held,
            held_count=self.held,
            booked_load=10.0 * working,
            booked_count=working,
            last_request_at=self.now if self.rate or self.held else self.last_request,
            arrived_load=self.arrived,
            arrived_count=round(self.arrived / 10.0),
        )
        seen = EndpointSnapshot(
            endpoint_id=1,
            name="e",
            parameters=self.parameters,
            demand=demand,
            workers=tuple(self.workers.values()),
            groups=tuple(replace(group, offers=offers) for group in self.groups.values()),
        )
        return replace(seen, outlook=self.outlook(seen))

    def pick(
        self, number: int, *states: WorkerState, attached: bool = False
    ) -> WorkerSnapshot | None:
        """One of those in `states`; None where there is none, and the rule does nothing."""
        able = [
            worker
            for worker in self.workers.values()
            if worker.state in states and worker.attached <= attached
        ]
        return able[number % len(able)] if able else None

    def become(self, worker: WorkerSnapshot, event: Event, **changes: Any) -> None:
        state = next_state(worker.state, event)
        if state is WorkerState.DESTROYED:
            del self.workers[worker.id]
            return
        since = self.now if state is not worker.state else worker.state_since
        self.workers[worker.id] = replace(worker, state=state, state_since=since, **changes)

    def changed(self) -> None:
        self.changed_at = self.now

    # -- a plan, carried out ---------------------------------------------------------------

    @rule()
    def look(self) -> None:
        self.round()

    @rule(rounds=st.integers(1, 6), seconds=st.sampled_from([1.0, 11.0]))
    def all_goes_well(self, rounds: int, seconds: float) -> None:
        for _ in range(rounds):
            self.round()
            self.one_step(seconds)

    def one_step(self, seconds: float) -> None:
        """Time passes, in which everything that is under way ends well."""
        self.time_passes(seconds)
        for worker in list(self.workers.values()):
            if worker.state in LOADING_STATES or worker.state is WorkerState.PENDING:
                self.bring_up(worker)
            elif worker.state is WorkerState.STOPPING:
                self.become(worker, Event.PROVIDER_STOPPED)
            elif worker.state is WorkerState.DESTROYING:
                self.become(worker, Event.PROVIDER_GONE)

    def round(self) -> Plan:
        before = self.snapshot()
        decided = plan(before, self.now, SETTINGS)
        assert decided == plan(before, self.now, SETTINGS), "the same input, another plan"
        self.check(before, decided)
        self.carry_out(decided)
        after = self.snapshot()
        self.check_caps(before, after)
        brought_up = [
            action
            for action in decided.actions
            if action.kind in (ActionKind.CREATE, ActionKind.START)
        ]
        if brought_up:
            again = plan(after, self.now, SETTINGS)
            # To add a worker for an update, or for a workergroup's share, is another need than that
            # of the load.
            others = [
                need
                for need in ("update of workergroup", "asks for")
                if not any(need in action.reason for action in brought_up)
            ]
            twice = [
                action.reason
                for action in again.actions
                if action.kind is ActionKind.CREATE
                and not any(need in action.reason for need in others)
            ]
            assert not twice, f"answered twice: {[a.reason for a in decided.actions]} {twice}"
        return decided

    def check(self, before: EndpointSnapshot, decided: Plan) -> None:
        ids = [action.worker_id for action in decided.actions if action.worker_id is not None]
        assert len(ids) == len(set(ids)), "a worker is decided about once"
        assert decided.explanation is not None
        assert decided.explanation.binds
        for offer in before.groups[0].offers:
            orders = sum(action.offer_id == offer.id for action in decided.actions)
            assert orders <= offer.available
        leaving = {action.worker_id for action in decided.actions if "drain" in action.reason}
        for action in decided.actions:
            assert "\n" not in action.reason
            if "asks for" in action.reason:
                self.changed()  # a worker moves to another workergroup, so another one goes
            if action.worker_id is None:
                continue
            worker = self.workers[action.worker_id]
            assert not worker.attached
            touched = self.touched.setdefault(worker.id, Touched())
            if action.kind in (ActionKind.STOP, ActionKind.DESTROY, ActionKind.REBOOT):
                assert worker.state not in ACTIVE
                assert worker.state is not WorkerState.DRAINING or not worker.requests
            if action.kind is ActionKind.STOP:
                assert worker.stoppable
            if action.kind is ActionKind.REBOOT:
                group = self.groups[worker.workergroup_id or 0]
                assert group.updating
                assert worker.revision != group.revision
            if action.kind is ActionKind.DRAIN:
                assert touched.recalled <= self.changed_at or self.updating(worker), (
                    f"swings: {action.reason}"
                )
                touched.drained = self.now
                if "its turn to be updated" in action.reason:
                    rest = [
                        other
                        for other in self.workers.values()
                        if other.state in ACTIVE and other.id not in leaving
                    ]
                    kept = needs_of(before, self.now, SETTINGS).kept
                    assert kept.met_by(sum(other.perf for other in rest), len(rest))
            if action.kind is ActionKind.START and worker.state not in ACTIVE:
                assert touched.drained <= self.changed_at, f"swings: {action.reason}"
                touched.recalled = self.now

    def updating(self, worker: WorkerSnapshot) -> bool:
        group = self.groups.get(worker.workergroup_id or 0)
        return group is not None and group.updating and worker.revision != group.revision

    def check_caps(self, before: EndpointSnapshot, after: EndpointSnapshot) -> None:
        had, has = (sum(w.state in EXISTS for w in each.workers) for each in (before, after))
        assert has <= max(had, self.parameters.max_workers)
        for group in self.groups.values():
            if group.max_workers is not None:
                had, has = (
                    sum(w.workergroup_id == group.id for w in each.workers)
                    for each in (before, after)
                )
                assert has <= max(had, group.max_workers)

    def carry_out(self, decided: Plan) -> None:
        for action in decided.actions:
            if action.kind is ActionKind.CREATE:
                assert action.group_id is not None
                assert action.offer_id is not None
                offer = self.offers[action.offer_id]
                group = self.groups[action.group_id]
                assert group.weight > 0
                assert group.failures < SETTINGS.failure_budget
                self.workers[self.next_id] = WorkerSnapshot(
                    id=self.next_id,
                    workergroup_id=group.id,
                    state=WorkerState.CREATING,
                    state_since=self.now,
                    price=offer.price,
                    provider=offer.provider,
                    offer_id=offer.id,
                    hardware=offer.hardware,
                    stoppable=offer.stoppable,
                    revision=group.revision,
                )
                self.next_id += 1
                continue
            assert action.worker_id is not None
            worker = self.workers[action.worker_id]
            changes: dict[str, Any] = {}
            if action.kind is ActionKind.REBOOT:
                changes["revision"] = self.groups[worker.workergroup_id or 0].revision
            self.become(worker, EVENTS[action.kind], **changes)

    # -- what workers do -------------------------------------------------------------------

    @rule(number=picks)
    def comes_up(self, number: int) -> None:
        worker = self.pick(number, *LOADING_STATES, WorkerState.PENDING)
        if worker is not None:
            self.bring_up(worker)

    def bring_up(self, worker: WorkerSnapshot) -> None:
        if worker.state is not WorkerState.STARTING:
            self.changed()  # a new one, maybe a larger one than was missing: others may go for it
        perf = 200.0 if worker.hardware == "large" else 50.0
        self.become(worker, Event.REPORT_READY, perf=perf, idle_since=self.now)
        group = self.groups.get(worker.workergroup_id or 0)
        if group is not None:
            self.groups[group.id] = replace(group, failures=0, last_failure_at=None)
        offer = self.offers.get(worker.offer_id)
        if offer is not None:
            self.offers[offer.id] = replace(offer, failures=0, last_failure_at=None)

    @rule(number=picks)
    def goes_on(self, number: int) -> None:
        worker = self.pick(number, WorkerState.STOPPING, WorkerState.DESTROYING)
        if worker is None:
            return
        self.become(
            worker,
            Event.PROVIDER_STOPPED if worker.state is WorkerState.STOPPING else Event.PROVIDER_GONE,
        )

    @rule(number=picks, lost=st.booleans())
    def fails(self, number: int, lost: bool) -> None:
        worker = self.pick(number, *LOADING_STATES, *ACTIVE, WorkerState.DRAINING)
        if worker is None:
            return
        group = self.groups.get(worker.workergroup_id or 0)
        if worker.state in LOADING_STATES:
            if group is not None:
                self.groups[group.id] = replace(
                    group, failures=group.failures + 1, last_failure_at=self.now
                )
            offer = self.offers.get(worker.offer_id)
            if offer is not None:
                self.offers[offer.id] = replace(
                    offer, failures=offer.failures + 1, last_failure_at=self.now
                )
        self.become(worker, Event.PROVIDER_FAILED, requests=0, lost=lost)
        self.changed()

    @rule(number=picks)
    def vanishes(self, number: int) -> None:
        worker = self.pick(number, *EXISTS - {WorkerState.CREATING}, attached=True)
        if worker is None:
            return
        self.become(worker, Event.PROVIDER_GONE)
        self.changed()

    @rule(number=picks, notice=st.sampled_from([0.0, 30.0, 120.0, 4000.0]))
    def is_taken_away(self, number: int, notice: float) -> None:
        worker = self.pick(number, *EXISTS - {WorkerState.DESTROYING})
        if worker is None:
            return
        self.workers[worker.id] = replace(worker, leaves_at=self.now + notice)
        self.changed()

    @rule(number=picks, requests=st.integers(0, 3))
    def works(self, number: int, requests: int) -> None:
        worker = self.pick(number, *ACTIVE, attached=True)
        if worker is None:
            return
        self.workers[worker.id] = replace(
            worker, requests=requests, load=10.0 * requests, idle_since=self.now
        )
        self.last_request = self.now
        self.changed()

    @rule(number=picks)
    def ends_its_work(self, number: int) -> None:
        worker = self.pick(number, WorkerState.DRAINING)
        if worker is None:
            return
        self.workers[worker.id] = replace(worker, requests=0, load=0.0, idle_since=self.now)
        self.last_request = self.now
        self.changed()

    @rule(seconds=st.sampled_from([1.0, 5.0, 11.0, 31.0, 61.0, 301.0]))
    def time_passes(self, seconds: float) -> None:
        before = self.now
        self.tick(seconds)
        for worker in list(self.workers.values()):
            if worker.leaves_at is None:
                continue
            if self.now >= worker.leaves_at + 30:
                del self.workers[worker.id]
                self.changed()
            elif before < worker.leaves_at - REPLACED_BEFORE <= self.now:
                self.changed()  # from now on it does not count

    @rule(seconds=st.sampled_from([-100_000.0, -30.0, 100_000.0]))
    def clock_jumps(self, seconds: float) -> None:
        self.now += seconds
        self.touched.clear()
        self.changed()

    @rule()
    def control_plane_restarts(self) -> None:
        """It knows its workers again, but not yet what they do."""
        self.restart()
        for worker in list(self.workers.values()):
            if worker.state in ACTIVE | LOADING_STATES | {WorkerState.DRAINING}:
                self.workers[worker.id] = replace(
                    worker, state=WorkerState.PENDING, state_since=self.now, requests=0, load=0.0
                )
        self.touched.clear()
        self.changed()

    # -- what people do --------------------------------------------------------------------

    @rule(rate=st.sampled_from([0.0, 1.0, 40.0, 100.0, 300.0]), held=st.sampled_from([0, 0, 1, 20]))
    def load_changes(self, rate: float, held: int) -> None:
        self.rate, self.held = rate, held
        self.last_request = self.now
        self.changed()

    @rule(
        name=st.sampled_from(
            [
                ("min_load", 0.0),
                ("min_load", 60.0),
                ("cold_workers", 0),
                ("cold_workers", 3),
                ("cold_mult", 1.0),
                ("cold_mult", 2.5),
                ("max_workers", 0),
                ("max_workers", 1),
                ("max_workers", 8),
                ("target_util", 0.5),
                ("target_util", 1.0),
                ("inactivity_timeout", None),
                ("inactivity_timeout", -1.0),
                ("inactivity_timeout", 5.0),
                ("endpoint_state", "suspended"),
                ("endpoint_state", "stopped"),
                ("endpoint_state", "active"),
            ]
        )
    )
    def is_edited(self, name: tuple[str, Any]) -> None:
        self.parameters = msgspec.structs.replace(self.parameters, **{name[0]: name[1]})
        self.changed()

    @rule(number=picks, weight=st.sampled_from([0.0, 0.1, 1.0, 3.0]))
    def weight_is_edited(self, number: int, weight: float) -> None:
        self.edit_group(number, weight=weight)

    @rule(number=picks, most=st.sampled_from([None, 0, 2]))
    def cap_is_edited(self, number: int, most: int | None) -> None:
        self.edit_group(number, max_workers=most)

    @rule(number=picks)
    def new_settings(self, number: int) -> None:
        group = list(self.groups.values())[number % len(self.groups)]
        self.edit_group(number, revision=group.revision + 1, updating=True, failures=0)

    @rule(number=picks)
    def update_is_cancelled(self, number: int) -> None:
        self.edit_group(number, updating=False)

    def edit_group(self, number: int, **changes: Any) -> None:
        group = list(self.groups.values())[number % len(self.groups)]
        self.groups[group.id] = replace(group, **changes)
        self.changed()

    @precondition(lambda self: len(self.groups) > 1)
    @rule(number=picks)
    def group_is_deleted(self, number: int) -> None:
        del self.groups[list(self.groups)[number % len(self.groups)]]
        self.changed()

    @rule(offer=st.sampled_from(["a", "b"]), available=st.sampled_from([0, 1, 6]))
    def offers_change(self, offer: str, available: int) -> None:
        self.offers[offer] = replace(self.offers[offer], available=available)
        self.changed()

    @rule(grouped=st.booleans())
    def one_is_attached(self, grouped: bool) -> None:
        self.workers[self.next_id] = WorkerSnapshot(
            id=self.next_id,
            workergroup_id=next(iter(self.groups)) if grouped else None,
            state=WorkerState.READY,
            state_since=self.now,
            perf=50.0,
            attached=True,
        )
        self.next_id += 1
        self.changed()

    # -- what must hold in the end ---------------------------------------------------------

    def teardown(self) -> None:
        if not self.groups:
            return  # the machine did not begin
        self.settle()

    def settle(self) -> None:
        """From now on everything works: the fleet comes to rest, with enough capacity."""
        self.offers = {
            name: replace(offer, available=self.plenty, failures=0)
            for name, offer in self.offers.items()
        }
        self.groups = {
            n: replace(group, failures=0, max_workers=None, weight=group.weight or 1.0)
            for n, group in self.groups.items()
        }
        self.parameters = msgspec.structs.replace(
            self.parameters, max_workers=self.plenty, endpoint_state="active"
        )
        self.held = 0
        self.workers = {
            n: replace(worker, requests=0, load=0.0, leaves_at=None, state_since=self.now)
            for n, worker in self.workers.items()
        }
        self.touched.clear()
        self.changed()
        quiet = 0
        decided = Plan()
        for _ in range(150):
            decided = self.round()
            quiet = 0 if decided.actions else quiet + 1
            if quiet > 10:
                break
            self.one_step(11.0)
        else:
            raise AssertionError(f"no rest: {[action.reason for action in decided.actions]}")
        seen = self.snapshot()
        active = [worker for worker in self.workers.values() if worker.state in ACTIVE]
        need = needs_of(seen, self.now, SETTINGS).now
        assert need.met_by(sum(worker.perf for worker in active), len(active)), need.why
        for worker in self.workers.values():
            assert worker.attached or not self.updating(worker), decided.notes


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class ForeseenFleet(Fleet):
    """The same, with a forecaster that is told of each second."""

    plenty = 100  # headroom, and one more for an update

    def __init__(self) -> None:
        super().__init__()
        self.forecaster = Forecaster(SETTINGS)
        self.foreseen: tuple[Any, ...] = ()

    def outlook(self, seen: EndpointSnapshot) -> Outlook | None:
        outlook = self.forecaster.observe(seen, self.now)
        assert 0 <= outlook.needed < 1e9
        assert 0 <= outlook.kept < 1e9
        foreseen = (outlook.for_load, outlook.kept, outlook.candidate)
        if foreseen != self.foreseen:
            self.foreseen = foreseen
            self.changed()  # another need is no swing
        return outlook

    def tick(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1.0
            self.arrived += self.rate
            self.snapshot()

    def restart(self) -> None:
        self.forecaster = Forecaster(SETTINGS)


TestForeseenFleet = ForeseenFleet.TestCase
TestForeseenFleet.settings = settings(max_examples=10, stateful_step_count=40, deadline=None)
