"""The simulation itself: a clock that jumps from event to event.

Rules:

* The router and the planner are those of the control plane, unchanged. What is simulated is what
  surrounds them: clients, workers, the provider, and the loop that drives them.
* The loop keeps the control plane's times: a round each second, and at once when a request is held
  or a worker changes its state, but never within 0.1 s of the last one.
* Clients wait on the line while they are held (long polling). One whose worker is lost asks again
  with the same number.
* Workers report as real ones do: each second while something changes, else each 10 s; what has
  finished is told with the report.
* The same trace, settings and seed give the same result. Random draws of a worker come from a
  stream of its own, so that they do not depend on the order of other events.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from array import array
from collections.abc import Callable
from typing import Any

from stoker.autoscaler.planning import Action, ActionKind, EndpointSnapshot
from stoker.autoscaler.router import Assigned, Router, RouterFullError
from stoker.autoscaler.states import ACTIVE, Event, WorkerState
from stoker.simulator.fleet import ENDPOINT, SimFleet, SimWorker
from stoker.simulator.policies import Policy, Traffic
from stoker.simulator.result import Result, TimelineRecorder, percentile
from stoker.simulator.settings import Hardware, SimulatorSettings
from stoker.simulator.sharing import Job
from stoker.simulator.trace import Trace
from stoker.wire import EndpointParameters, FinishedRequest, WorkerStatus

TICK = 1.0
"""Seconds between two rounds when nothing hurries, as in `stoker.autoscaler.controlplane`."""

MIN_TICK = 0.1
"""Seconds between two rounds when something does."""

RETRY_AFTER = 5.0
"""Seconds after which a client asks again that was refused because too many are held."""

RECONNECT = 0.5
"""Seconds after which a client asks again whose worker could not be reached."""


class Simulation:
    """One trace, one policy, one fleet."""

    def __init__(
        self,
        trace: Trace,
        policy: Policy,
        settings: SimulatorSettings,
        parameters: EndpointParameters,
        *,
        timeline: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            trace: the requests.
            policy: decides about the fleet; used for this run alone.
            settings: machines and scoring; checked.
            parameters: of the endpoint.
            timeline: keep figures over time in the result.
            on_progress: told now and then which share of the trace is done, from 0 to 1.
        """
        self.trace, self.policy = trace, policy
        self.settings, self.parameters = settings, parameters
        self.router = Router(on_assigned=self._assigned)
        self.fleet = SimFleet(settings, (settings.warm_up, trace.duration))
        self.traffic = Traffic()
        self.waits = array("d", [math.nan]) * len(trace)
        """Seconds from arrival to service, by place in the trace; NaN while it waits."""
        self.finished = array("d", [math.nan]) * len(trace)
        """When each request ended; NaN for those given up."""
        self.lost = 0
        self.cut = 0
        self.retries = 0
        self._recorder = TimelineRecorder.over(trace.duration) if timeline else None
        self._on_progress = on_progress
        self._jobs: dict[int, Job] = {}
        self._outstanding = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._next_round = 0.0
        self._last_round = -TICK
        self._now = 0.0

    def run(self) -> Result:
        """Run it to the end: of the trace, and of its last request."""
        began = time.process_time()
        self._begin()
        trace, events = self.trace, self._events
        arrivals, total, place = trace.arrivals, len(trace), 0
        while place < total or self._outstanding or self._now < trace.duration:
            arrival = arrivals[place] if place < total else math.inf
            event = events[0][0] if events else math.inf
            # At the same moment: what happens, then who comes, then the round that sees both.
            if event <= arrival and event <= self._next_round:
                self._now, _, call, arguments = heapq.heappop(events)
                call(*arguments, self._now)
            elif arrival <= self._next_round:
                self._now = arrival
                self._arrive(Job(place, arrival, trace.loads[place]), arrival)
                place += 1
            else:
                self._now = self._next_round
                self._round(self._now)
                if self._on_progress is not None and trace.duration > 0:
                    self._on_progress(min(1.0, self._now / trace.duration))
        self.fleet.settle(self._now)
        return self._result(time.process_time() - began)

    def _begin(self) -> None:
        settings = self.settings
        self.router.add_endpoint(ENDPOINT, max_queue_time=self.parameters.max_queue_time)
        for number in range(settings.initial_workers + settings.initial_stopped):
            ready = number < settings.initial_workers
            state = WorkerState.READY if ready else WorkerState.STOPPED
            worker = self._new_worker(settings, state, 0.0)
            worker.was_ready = True
            if ready:
                self.fleet.learn_ready(worker, 0.0)
                self._serve(worker, 0.0)
        if settings.update_at is not None:
            self._at(settings.update_at, self._ask_update)

    # Time.

    def _at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, call, arguments))

    def _wake(self, now: float) -> None:
        """Something happened that should not wait for the next regular round."""
        self._next_round = min(self._next_round, max(now, self._last_round + MIN_TICK))

    # Clients.

    def _arrive(self, job: Job, now: float) -> None:
        self.traffic.came(job, now)
        self._outstanding += 1
        if self._recorder is not None:
            self._recorder.arrived(now, job.load)
        self._ask(job, now)

    def _ask(self, job: Job, now: float) -> None:
        """Ask the router, as a client does that then waits on the line."""
        if job.over:
            return
        patience = job.arrived + self.settings.patience - now
        if patience <= 0:
            self._give_up(job, now)
            return
        try:
            answer = self.router.route(ENDPOINT, job.load, job.number, patience, now, wait=patience)
        except RouterFullError:
            job.number = 0
            self._at(min(now + RETRY_AFTER, now + patience), self._ask, job)
            return
        job.number = answer.request_idx
        if isinstance(answer, Assigned):
            self._deliver(job, answer.worker_id, now)
        else:
            self._jobs[job.number] = job
            self._at(now + patience, self._out_of_patience, job, job.number)
            self._wake(now)

    def _assigned(self, answer: Assigned) -> bool:
        """The router found a worker for a held request."""
        job = self._jobs.pop(answer.request_idx)
        self._deliver(job, answer.worker_id, self._now)
        return True

    def _out_of_patience(self, job: Job, number: int, now: float) -> None:
        if self._jobs.get(number) is job and not job.over:
            del self._jobs[number]
            self.router.give_up(number, now)
            self._give_up(job, now)

    def _give_up(self, job: Job, now: float) -> None:
        job.over = True
        self.lost += job.arrived >= self.settings.warm_up
        self._waited(job, now)
        self._outstanding -= 1
        self.traffic.left(now)

    def _waited(self, job: Job, now: float) -> None:
        wait = now - job.arrived
        self.waits[job.index] = wait
        if self._recorder is not None:
            self._recorder.waited(job.arrived, wait)

    # Workers at work.

    def _deliver(self, job: Job, worker_id: int, now: float) -> None:
        worker = self.fleet.workers[worker_id]
        if worker.dead:
            job.retries += 1
            self.retries += 1
            self._at(now + RECONNECT, self._ask, job)
            return
        job.worker = worker_id
        worker.changed = True
        if worker.server.add(job, now):
            self._waited(job, now)
            self._expect_end(worker)

    def _expect_end(self, worker: SimWorker) -> None:
        worker.due += 1
        when = worker.server.next_end()
        if when < math.inf:
            self._at(when, self._end, worker, worker.due)

    def _end(self, worker: SimWorker, due: int, now: float) -> None:
        if due != worker.due:
            return
        ended, begun = worker.server.finish(now)
        worker.changed = True
        for job in ended:
            job.over = True
            self.finished[job.index] = now
            worker.finished.append(job.number)
            self._outstanding -= 1
            self.traffic.left(now)
        for job in begun:
            self._waited(job, now)
        self._expect_end(worker)

    def _status(self, worker: SimWorker, now: float) -> WorkerStatus:
        server = worker.server
        return WorkerStatus(
            id=worker.id,
            mtoken="",
            url=worker.url,
            loadtime=1.0,
            cur_load=server.left(now),
            max_perf=worker.kind.perf,
            num_requests_working=len(server.jobs),
            working_request_idxs=list(server.jobs),
            slots=worker.kind.slots,
        )

    def _report(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        changed = worker.changed or bool(worker.server.jobs)
        if changed or now - worker.reported_at >= self.settings.quiet_interval - 1e-9:
            self._tell(worker, now, changed=changed)
        self._at(now + self.settings.report_interval, self._report, worker, life)

    def _tell(self, worker: SimWorker, now: float, *, changed: bool) -> None:
        worker.changed, worker.reported_at = False, now
        if changed:
            worker.idle_since = now
        self.router.report(worker.id, self._status(worker, now), now)
        if worker.finished:
            done = [FinishedRequest(number) for number in worker.finished]
            worker.finished.clear()
            self.router.finished(worker.id, done, now)

    # Workers come and go.

    def _new_worker(self, kind: Hardware, state: WorkerState, now: float) -> SimWorker:
        worker = self.fleet.add(kind, state, now)
        self.router.add_worker(worker.id, ENDPOINT, reqnum_base=1, url=worker.url)
        return worker

    def _random(self, worker: SimWorker, what: str) -> random.Random:
        return random.Random(f"{self.settings.seed}/{what}/{worker.id}/{worker.life}")

    def _happen(self, worker: SimWorker, event: Event, now: float) -> None:
        if self.fleet.happen(worker, event, now):
            if worker.state is WorkerState.DESTROYED:
                self.router.remove_worker(worker.id, now)
            else:
                self.router.set_available(worker.id, worker.available, now)
            self._wake(now)

    def _loads(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            self._happen(worker, Event.REPORT_LOADING, now)

    def _comes_up(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        worker.life += 1
        worker.revision = self.fleet.revision
        worker.server.advance(now)
        self._happen(worker, Event.REBOOTED, now)
        self._happen(worker, Event.REPORT_READY, now)
        self._serve(worker, now)

    def _fails_to_boot(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        self.fleet.counts.boot_failures += 1
        worker.life += 1
        worker.dead = worker.lost = True
        self._happen(worker, Event.PROVIDER_FAILED, now)

    def _serve(self, worker: SimWorker, now: float) -> None:
        """A worker is ready: it says so, and its troubles are drawn."""
        self._tell(worker, now, changed=True)
        self.router.set_available(worker.id, worker.available, now)
        self._at(now + self.settings.report_interval, self._report, worker, worker.life)
        kind, life = worker.kind, worker.life
        if kind.failures_per_hour > 0:
            after = self._random(worker, "fail").expovariate(kind.failures_per_hour / 3600)
            self._at(now + after, self._fails, worker, life)
        if kind.preemptions_per_hour > 0:
            after = self._random(worker, "preempt").expovariate(kind.preemptions_per_hour / 3600)
            self._at(now + after, self._is_to_leave, worker, life)

    def _fails(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        self.fleet.counts.failures += 1
        self._lose_machine(worker, now)
        # The provider's next list tells: it is read once a second.
        self._at(now + TICK, self._failure_is_seen, worker)

    def _failure_is_seen(self, worker: SimWorker, now: float) -> None:
        if worker.id in self.fleet.workers:
            worker.lost = True
            self._happen(worker, Event.PROVIDER_FAILED, now)

    def _is_to_leave(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            worker.leaves_at = now + worker.kind.preemption_notice
            self._at(worker.leaves_at, self._leaves, worker, life)
            self._wake(now)

    def _leaves(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            self.fleet.counts.preemptions += 1
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
            job.retries += 1
            self.retries += 1
            self._at(now, self._ask, job)
        return len(lost)

    def _ask_update(self, now: float) -> None:
        self.fleet.revision += 1
        self.fleet.updating = True
        self._wake(now)

    # The control plane's round.

    def _round(self, now: float) -> None:
        self._last_round, self._next_round = now, now + TICK
        self.traffic.advance(now)
        for worker in list(self.fleet.workers.values()):
            if worker.goal == "destroy":
                self._destroy(worker, now)
        if self._recorder is not None:
            held = len(self.router.held(ENDPOINT))
            self._recorder.sample(now, *self.fleet.capacities(), held)
        else:
            self.fleet.capacities()
        snapshot = EndpointSnapshot(
            endpoint_id=ENDPOINT,
            name="simulated",
            parameters=self.parameters,
            demand=self.router.demand(ENDPOINT, now),
            workers=self.fleet.snapshots(self.router),
            groups=(self.fleet.group(),),
        )
        for action in self.policy.decide(snapshot, self.traffic, now):
            self._act(action, now)
        self.router.tick(now)

    def _act(self, action: Action, now: float) -> None:
        if action.kind is ActionKind.CREATE:
            self._create(action, now)
            return
        assert action.worker_id is not None
        worker = self.fleet.workers[action.worker_id]
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
                self.router.restarted(worker.id, now)
                self._at(now + worker.kind.start_seconds, self._comes_up, worker, worker.life)

    def _create(self, action: Action, now: float) -> None:
        kind = self.fleet.kinds[action.offer_id or self.settings.name]
        if self.fleet.count(kind) >= kind.available:
            return
        worker = self._new_worker(kind, WorkerState.CREATING, now)
        worker.coming_since = now
        self.fleet.counts.creations += 1
        self._happen(worker, Event.PROVIDER_RUNNING, now)
        draws = self._random(worker, "boot")
        spread = math.exp(draws.gauss(0.0, kind.boot_spread)) if kind.boot_spread > 0 else 1.0
        fails = draws.random() < kind.boot_failures
        booted = now + kind.boot_seconds * spread
        ready = booted + kind.load_seconds * spread
        if kind.load_seconds > 0:
            self._at(booted, self._loads, worker, worker.life)
        self._at(ready, self._fails_to_boot if fails else self._comes_up, worker, worker.life)

    def _start(self, worker: SimWorker, now: float) -> None:
        stopped = worker.state is WorkerState.STOPPED
        self._happen(worker, Event.PLAN_START, now)
        if stopped:
            self.fleet.counts.starts += 1
            self._at(now + worker.kind.start_seconds, self._comes_up, worker, worker.life)

    def _stop(self, worker: SimWorker, now: float) -> None:
        if not worker.kind.stoppable:
            self._destroy(worker, now)
            return
        self.cut += self._end_life(worker, now)
        self.fleet.counts.stops += 1
        self._happen(worker, Event.PLAN_STOP, now)
        self._at(now + worker.kind.stop_seconds, self._is_stopped, worker, worker.life)

    def _is_stopped(self, worker: SimWorker, life: int, now: float) -> None:
        if life == worker.life:
            self._happen(worker, Event.PROVIDER_STOPPED, now)

    def _destroy(self, worker: SimWorker, now: float) -> None:
        """Take it out of the rotation; once it is empty, it is gone."""
        worker.goal = "destroy"
        if worker.state in ACTIVE:
            self._happen(worker, Event.PLAN_DRAIN, now)
        busy = worker.server.jobs or self.router.in_flight(worker.id, now)
        if worker.state is WorkerState.DRAINING and busy and not worker.dead:
            return
        self.cut += self._end_life(worker, now)
        self.fleet.counts.destroyed += 1
        self._happen(worker, Event.PLAN_DESTROY, now)
        self._happen(worker, Event.PROVIDER_GONE, now)

    # The end.

    def _result(self, cpu: float) -> Result:
        settings, fleet, trace = self.settings, self.fleet, self.trace
        scored = [place for place in range(len(trace)) if trace.arrivals[place] >= settings.warm_up]
        waits = sorted(self.waits[place] for place in scored)
        over = sum(wait > settings.limit for wait in waits)
        load = sum(trace.loads[place] for place in scored)
        best = min(
            (k.price / settings.price if settings.price > 0 else 1.0) / k.perf
            for k in settings.kinds
        )
        fluid = load * best
        return Result(
            trace=trace.name,
            policy=self.policy.name,
            requests=len(scored),
            lost=self.lost,
            cost=fleet.cost,
            active_seconds=fleet.seconds["active"],
            loading_seconds=fleet.seconds["loading"],
            inactive_seconds=fleet.seconds["inactive"],
            fluid_seconds=fluid,
            ratio=fleet.cost / fluid if fluid > 0 else 0.0,
            price=fleet.cost * settings.price / 3600,
            wait_mean=sum(waits) / len(waits) if waits else 0.0,
            wait_p50=percentile(waits, 0.5),
            wait_p95=percentile(waits, 0.95),
            wait_p99=percentile(waits, 0.99),
            wait_max=waits[-1] if waits else 0.0,
            limit=settings.limit,
            over_limit=over / len(waits) if waits else 0.0,
            creations=fleet.counts.creations,
            starts=fleet.counts.starts,
            stops=fleet.counts.stops,
            destroyed=fleet.counts.destroyed,
            failures=fleet.counts.failures,
            boot_failures=fleet.counts.boot_failures,
            preemptions=fleet.counts.preemptions,
            cut=self.cut,
            retries=self.retries,
            peak_workers=fleet.peak,
            duration=max(0.0, trace.duration - settings.warm_up),
            cpu_seconds=cpu,
            timeline=self._recorder.timeline() if self._recorder is not None else None,
        )
