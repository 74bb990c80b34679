"""Whether a round decides nothing, told in one pass over the workers: most rounds are like that.

It is told of an endpoint with one workergroup, all of whose workers are ready or stopped. Where it
says yes, the long way (`planner`) would take no action and make no note of its own; where it says
no, nothing is known. Who changes a step of the planner sees that the two still agree
(``test_quiet.py``).
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning.need import Needs
from stoker.autoscaler.planning.pooling import floors
from stoker.autoscaler.planning.snapshot import EndpointSnapshot
from stoker.autoscaler.states import WorkerState

_READY, _STOPPED = WorkerState.READY, WorkerState.STOPPED


def is_quiet(snapshot: EndpointSnapshot, needs: Needs) -> bool:
    """Whether nothing is to be done, but perhaps to trim the pool where workers are stopped."""
    parameters, workers = snapshot.parameters, snapshot.workers
    if parameters.endpoint_state != "active" or len(snapshot.groups) != 1:
        return False
    group = snapshot.groups[0]
    if group.updating or group.min_cold_load > 0:
        return False
    limit = parameters.max_workers
    if len(workers) > (limit if group.max_workers is None else min(limit, group.max_workers)):
        return False
    ready: list[float] = []
    pool = 0.0
    for worker in workers:
        perf = worker.perf
        if worker.state is _READY:
            ready.append(perf)
        elif worker.state is not _STOPPED:
            return False
        if (
            not perf > 0
            or worker.leaves_at is not None
            or (worker.workergroup_id != group.id and not worker.attached)
        ):
            return False
        pool += perf
    if not needs.now.met_by(math.fsum(ready), len(ready)):
        return False
    if ready:
        # Without the slowest, most would be left: if that is not enough, none is let go.
        ready.remove(min(ready))
        if needs.kept.met_by(math.fsum(ready), len(ready)):
            return False
    return len(workers) >= parameters.pool_floor and not any(
        pool < floor for _, floor in floors(snapshot, needs)
    )
