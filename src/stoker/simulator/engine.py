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

import math
import time
from array import array
from collections.abc import Callable

from stoker.autoscaler.planning import EndpointSnapshot
from stoker.autoscaler.router import Assigned, Router, RouterFullError
from stoker.simulator.clients import Clients
from stoker.simulator.clock import Clock
from stoker.simulator.fleet import ENDPOINT, SimFleet, SimWorker
from stoker.simulator.lifecycle import Lifecycle
from stoker.simulator.policies import Policy, Traffic
from stoker.simulator.result import Result, TimelineRecorder
from stoker.simulator.scoring import score
from stoker.simulator.settings import SimulatorSettings
from stoker.simulator.sharing import Job
from stoker.simulator.trace import Trace
from stoker.wire import EndpointParameters, FinishedRequest, WorkerStatus

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
        self._clients = Clients(str(settings.cost_error), settings.seed)
        self.waits = array("d", [math.nan]) * len(trace)
        """Seconds from arrival to service, by place in the trace; NaN while it waits."""
        self.finished = array("d", [math.nan]) * len(trace)
        """When each request ended; NaN for those given up."""
        self.lost = 0
        self.retries = 0
        self._recorder = TimelineRecorder.over(trace.duration) if timeline else None
        self._on_progress = on_progress
        self._jobs: dict[int, Job] = {}
        self._outstanding = 0
        self._clock = Clock(first_round=settings.round_offset, hurried=settings.hurried_rounds)
        self._lifecycle = Lifecycle(
            settings,
            self.fleet,
            self.router,
            self._clock,
            on_ready=self._is_ready,
            on_lost=self._was_lost,
        )

    def run(self) -> Result:
        """Run it to the end: of the trace, and of its last request."""
        began = time.process_time()
        self.router.add_endpoint(ENDPOINT, max_queue_time=self.parameters.max_queue_time)
        self._lifecycle.begin()
        trace, clock = self.trace, self._clock
        arrivals, total, place = trace.arrivals, len(trace), 0
        while place < total or self._outstanding or clock.now < trace.duration:
            arrival = arrivals[place] if place < total else math.inf
            event = clock.next_event()
            # At the same moment: what happens, then who comes, then the round that sees both.
            if event <= arrival and event <= clock.next_round:
                clock.happen()
            elif arrival <= clock.next_round:
                clock.now = arrival
                self._arrive(self._job(place), arrival)
                place += 1
            else:
                clock.begin_round()
                self._round(clock.now)
                if self._on_progress is not None and trace.duration > 0:
                    self._on_progress(min(1.0, clock.now / trace.duration))
        self.fleet.settle(clock.now)
        return score(
            trace,
            self.waits,
            self.fleet,
            policy=self.policy.name,
            lost=self.lost,
            cut=self._lifecycle.cut,
            retries=self.retries,
            cpu_seconds=time.process_time() - began,
            timeline=self._recorder.timeline() if self._recorder is not None else None,
        )

    # Clients.

    def _job(self, place: int) -> Job:
        load = self.trace.loads[place]
        key, claim = self._clients.ask(place, load)
        return Job(place, self.trace.arrivals[place], load, key=key, claim=claim)

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
            answer = self.router.route(
                ENDPOINT, job.claim, job.number, patience, now, wait=patience, key=job.key
            )
        except RouterFullError:
            job.number = 0
            self._clock.at(min(now + RETRY_AFTER, now + patience), self._ask, job)
            return
        job.number = answer.request_idx
        if isinstance(answer, Assigned):
            self._deliver(job, answer.worker_id, now)
        else:
            self._jobs[job.number] = job
            self._clock.at(now + patience, self._out_of_patience, job, job.number)
            self._clock.wake(now)

    def _was_lost(self, job: Job, now: float) -> None:
        self.retries += 1
        self._ask(job, now)

    def _assigned(self, answer: Assigned) -> bool:
        """The router found a worker for a held request."""
        job = self._jobs.pop(answer.request_idx)
        self._deliver(job, answer.worker_id, self._clock.now)
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
            self._clock.at(now + RECONNECT, self._was_lost, job)
            return
        worker.changed = True
        if worker.server.add(job, now):
            self._waited(job, now)
            self._expect_end(worker)

    def _expect_end(self, worker: SimWorker) -> None:
        worker.due += 1
        when = worker.server.next_end()
        if when < math.inf:
            self._clock.at(when, self._end, worker, worker.due)

    def _end(self, worker: SimWorker, due: int, now: float) -> None:
        if due != worker.due:
            return
        ended, begun = worker.server.finish(now)
        worker.changed = True
        for job in ended:
            job.over = True
            self.finished[job.index] = now
            worker.finished.append(FinishedRequest(job.number, load=job.load))
            self._outstanding -= 1
            self.traffic.left(now)
        for job in begun:
            self._waited(job, now)
        self._expect_end(worker)

    def _status(self, worker: SimWorker, now: float) -> WorkerStatus:
        server, error = worker.server, self.settings.estimate_error
        return WorkerStatus(
            id=worker.id,
            mtoken="",
            url=worker.url,
            loadtime=1.0,
            cur_load=server.left(now) * error,
            max_perf=worker.kind.perf,
            num_requests_working=len(server.jobs),
            working_request_idxs=list(server.jobs),
            working_loads=[job.load * error for job in server.jobs.values()],
            slots=worker.kind.slots,
        )

    def _is_ready(self, worker: SimWorker, now: float) -> None:
        self._tell(worker, now, changed=True)
        self._clock.at(now + self.settings.report_interval, self._report, worker, worker.life)

    def _report(self, worker: SimWorker, life: int, now: float) -> None:
        if life != worker.life:
            return
        changed = worker.changed or bool(worker.server.jobs)
        if changed or now - worker.reported_at >= self.settings.quiet_interval - 1e-9:
            self._tell(worker, now, changed=changed)
        self._clock.at(now + self.settings.report_interval, self._report, worker, life)

    def _tell(self, worker: SimWorker, now: float, *, changed: bool) -> None:
        worker.changed, worker.reported_at = False, now
        if changed:
            worker.idle_since = now
        self.router.report(worker.id, self._status(worker, now), now)
        if worker.finished:
            done = list(worker.finished)
            worker.finished.clear()
            self.router.finished(worker.id, done, now)

    # The control plane's round.

    def _round(self, now: float) -> None:
        self.traffic.advance(now)
        self._lifecycle.go_on(now)
        demand = self.router.demand(ENDPOINT, now)
        if self._recorder is not None and self._recorder.is_due(now):
            self._recorder.sample(now, *self.fleet.capacities(), demand.held_count)
        snapshot = EndpointSnapshot(
            endpoint_id=ENDPOINT,
            name="simulated",
            parameters=self.parameters,
            demand=demand,
            workers=self.fleet.snapshots(self.router),
            groups=(self.fleet.group(),),
        )
        for action in self.policy.decide(snapshot, self.traffic, now):
            self._lifecycle.act(action, now)
        self.router.tick(now)
