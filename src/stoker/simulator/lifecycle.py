"""Simulated workers come and go: boots, stops, failures, and the actions of a plan.

An action that takes time schedules its end. Each boot, stop or loss begins a new **life** of the
worker, and what was scheduled in an earlier one is void.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from stoker.autoscaler.pace import TICK
from stoker.autoscaler.planning import Action, ActionKind
from stoker.autoscaler.router import Router
from stoker.autoscaler.states import ACTIVE, LOADING_STATES, Event, WorkerState
from stoker.simulator.clock import Clock
from stoker.simulator.fleet import ENDPOINT, SimFleet, SimWorker
from stoker.simulator.settings import Hardware, SimulatorSettings
from stoker.simulator.sharing import Job


class Lifecycle:
    """Does to the fleet what the provider and the machines would do."""

    def __init__(
        self,
        settings: SimulatorSettings,
        fleet: SimFleet,
        router: Router,
        clock: Clock,
        *,
        on_ready: Callable[[SimWorker, float], None],
        on_lost: Callable[[Job, float], None],
    ) -> None:
        """Put it between its neighbours.

        Args:
            settings: machines and how they fail.
            fleet: whose workers it changes.
            router: told of what comes and goes.
            clock: of the simulation.
            on_ready: a worker is ready, and shall report.
            on_lost: the worker of a request is gone: its client sees that now.
        """
        self._settings, self._fleet, self._router, self._clock = settings, fleet, router, clock
        self._on_ready, self._on_lost = on_ready, on_lost
        self.cut = 0
        """Requests lost because a worker was stopped with them in flight."""

    def begin(self) -> None:
        """Put in place what is there at the start."""
        settings = self._settings
        for number in range(settings.initial_workers + settings.initial_stopped):
            ready = number < settings.initial_workers
            state = WorkerState.READY if ready else WorkerState.STOPPED
            worker = self._new_worker(settings, state, 0.0)
            worker.was_ready = True
            if ready:
                self._fleet.learn_ready(worker, 0.0)
                self._serve(worker, 0.0)
        if settings.update_at is not None:
            self._clock.at(settings.update_at, self._ask_update)

    def go_on(self, now: float) -> None:
        """Go on with what was decided in earlier rounds: destroy what has become empty."""
        for worker in list(self._fleet.workers.values()):
            if worker.goal == "destroy":
                self._destroy(worker, now)
            elif worker.state in LOADING_STATES:
                self._router.expect(worker.id, self._fleet.learnt.ready_at(worker), now)

    def act(self, action: Action, now: float) -> None:
        """Carry out what was decided.

        Raises:
            ImpossibleEventError: it does not fit the worker's state: a fault of the policy.
        """
        if action.kind is ActionKind.CREATE:
            self._create(action, now)
            return
        assert action.worker_id is not None
        worker = self._fleet.workers[action.worker_id]
        match action.kind:
            case ActionKind.START:
                self._start(worker, now)
            case ActionKind.DRAIN:
                self._happen(worker, Event.PLAN_DRAIN, now)
            case ActionKind.STOP:
                self._stop(worker, now)
            case ActionKind.DESTROY:
                self._destroy(worker, now)
            case ActionKind.UPDATE:
                self._happen(worker, Event.PLAN_UPDATE, now)
            case ActionKind.REBOOT:
                self.cut += self._end_life(worker, now)
                self._happen(worker, Event.PLAN_REBOOT, now)
                self._router.restarted(worker.id, now)
                self._clock.at(now + worker.kind.start_seconds, self._comes_up, worker, worker.life)

    def _create(self, action: Action, now: float) -> None:
        kind = self._fleet.kinds[action.offer_id or self._settings.name]
        if self._fleet.count(kind) >= kind.available:
            return
        worker = self._new_worker(kind, WorkerState.CREATING, now)
        worker.coming_since = now
        self._fleet.counts.creations += 1
        self._happen(worker, Event.PROVIDER_RUNNING, now)
        draws = self._random(worker, "boot")
        spread = math.exp(draws.gauss(0.0, kind.boot_spread)) if kind.boot_spread > 0 else 1.0
        fails = draws.random() < kind.boot_failures
        booted = now + kind.boot_seconds * spread
        ready = booted + kind.load_seconds * spread
        if kind.load_seconds > 0:
            self._clock.at(booted, self._loads, worker, worker.life)
        self._clock.at(ready, self._fails_to_boot if fails else self._comes_up, worker, worker.life)

    def _start(self, worker: SimWorker, now: float) -> None:
        stopped = worker.state is WorkerState.STOPPED
        self._happen(worker, Event.PLAN_START, now)
        if stopped:
            self._fleet.counts.starts += 1
            self._clock.at(now + worker.kind.start_seconds, self._comes_up, worker, worker.life)

    def _stop(self, worker: SimWorker, now: float) -> None:
        if not worker.kind.stoppable:
            self._destroy(worker, now)
            return
        self.cut += self._end_life(worker, now)
        self._fleet.counts.stops += 1
        self._happen(worker, Event.PLAN_STOP, now)
        self._clock.at(now + worker.kind.stop_seconds, self._is_stopped, worker, worker.life)

    def _is_stopped(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            self._happen(worker, Event.PROVIDER_STOPPED, now)

    def _destroy(self, worker: SimWorker, now: float) -> None:
        """Take it out of the rotation; once it is empty, it is gone."""
        worker.goal = "destroy"
        if worker.state in ACTIVE:
            self._happen(worker, Event.PLAN_DRAIN, now)
        busy = worker.server.jobs or self._router.in_flight(worker.id, now)
        if worker.state is WorkerState.DRAINING and busy and not worker.dead:
            return
        self.cut += self._end_life(worker, now)
        self._fleet.counts.destroyed += 1
        self._happen(worker, Event.PLAN_DESTROY, now)
        self._happen(worker, Event.PROVIDER_GONE, now)

    # What happens by itself.

    def _new_worker(self, kind: Hardware, state: WorkerState, now: float) -> SimWorker:
        worker = self._fleet.add(kind, state, now)
        self._router.add_worker(worker.id, ENDPOINT, reqnum_base=1, url=worker.url)
        return worker

    def _random(self, worker: SimWorker, what: str) -> random.Random:
        return random.Random(f"{self._settings.seed}/{what}/{worker.id}/{worker.life}")

    def _happen(self, worker: SimWorker, event: Event, now: float) -> None:
        if self._fleet.happen(worker, event, now):
            if worker.state is WorkerState.DESTROYED:
                self._router.remove_worker(worker.id, now)
            else:
                self._router.set_available(worker.id, worker.available, now)
                self._router.expect(worker.id, self._fleet.learnt.ready_at(worker), now)
            self._clock.wake(now)

    def _loads(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            self._happen(worker, Event.REPORT_LOADING, now)

    def _comes_up(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        worker.life += 1
        worker.revision = self._fleet.revision
        worker.server.advance(now)
        self._happen(worker, Event.REBOOTED, now)
        self._happen(worker, Event.REPORT_READY, now)
        self._serve(worker, now)

    def _fails_to_boot(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        self._fleet.counts.boot_failures += 1
        worker.life += 1
        worker.dead = worker.lost = True
        self._happen(worker, Event.PROVIDER_FAILED, now)

    def _serve(self, worker: SimWorker, now: float) -> None:
        """A worker is ready: it says so, and its troubles are drawn."""
        self._on_ready(worker, now)
        self._router.set_available(worker.id, worker.available, now)
        kind, life = worker.kind, worker.life
        if kind.failures_per_hour > 0:
            after = self._random(worker, "fail").expovariate(kind.failures_per_hour / 3600)
            self._clock.at(now + after, self._fails, worker, life)
        if kind.preemptions_per_hour > 0:
            after = self._random(worker, "preempt").expovariate(kind.preemptions_per_hour / 3600)
            self._clock.at(now + after, self._is_to_leave, worker, life)

    def _fails(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        self._fleet.counts.failures += 1
        self._lose_machine(worker, now)
        # The provider's next list tells: it is read once a second.
        self._clock.at(now + TICK, self._failure_is_seen, worker)

    def _failure_is_seen(self, worker: SimWorker, now: float) -> None:
        if worker.id in self._fleet.workers:
            worker.lost = True
            self._happen(worker, Event.PROVIDER_FAILED, now)

    def _is_to_leave(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            worker.leaves_at = now + worker.kind.preemption_notice
            self._clock.at(worker.leaves_at, self._leaves, worker, worker.leaves_at)
            self._clock.wake(now)

    def _leaves(self, worker: SimWorker, when: float, now: float) -> None:
        # Also when it was stopped or rebooted meanwhile: its machine is taken all the same.
        if worker.id in self._fleet.workers and worker.leaves_at == when:
            self._fleet.counts.preemptions += 1
            self._lose_machine(worker, now)
            self._happen(worker, Event.PROVIDER_GONE, now)

    def _lose_machine(self, worker: SimWorker, now: float) -> None:
        worker.dead = True
        self._end_life(worker, now)

    def _end_life(self, worker: SimWorker, now: float) -> int:
        """It runs no more; its clients see that and ask again. How many there were."""
        worker.life += 1
        worker.due += 1
        worker.finished.clear()
        lost = worker.server.clear(now)
        for job in lost:
            job.begun = None
            self._clock.at(now, self._on_lost, job)
        return len(lost)

    def _ask_update(self, now: float) -> None:
        self._fleet.revision += 1
        self._fleet.updating = True
        self._clock.wake(now)
