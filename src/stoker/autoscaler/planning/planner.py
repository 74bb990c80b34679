"""From a snapshot to a plan.

In this order, and each action with its reason:

1. What cannot stay goes (`clearing`): workers with a lasting error, or that load for ever, or whose
   workergroup is gone, or above `max_workers`; a machine that is taken away is drained in time.
2. Too little active capacity: draining workers go back to work, then stopped ones are started, then
   new ones are created, each in the workergroup that is furthest below its share (`weighing`), best
   value first (`recruiting`). What is on its way counts, so one need is answered once.
3. Too much: ready workers are drained, from who has most above its share, worst value first. What
   was ordered for a load that has gone is given up while its boot is less than half done.
4. A rolling update goes one step on (`updating`).
5. The pool (`pooling`): enough workers with the model, active or stopped (`cold_workers`,
   `cold_mult`, `min_cold_load`), are created; stopped ones beyond it are destroyed.

Attached workers count, and nothing is ever done to them. A ready worker is always drained first,
even when it looks idle: a request may be assigned between this snapshot and the action.
Workers are let go in a fixed order up to the first that is needed, never by what fits best, so that
more demand never leaves fewer workers.
"""

from __future__ import annotations

import math
from dataclasses import replace

from stoker.autoscaler.planning.clearing import clear_away
from stoker.autoscaler.planning.contradictions import clamped, contradictions
from stoker.autoscaler.planning.draft import Draft
from stoker.autoscaler.planning.explaining import explanation_of, summary_of
from stoker.autoscaler.planning.need import Needs, needs_of
from stoker.autoscaler.planning.plan import ActionKind, Plan
from stoker.autoscaler.planning.pooling import fill, is_enough, is_trimmed, trim, without
from stoker.autoscaler.planning.quiet import is_quiet
from stoker.autoscaler.planning.rebalancing import rebalance
from stoker.autoscaler.planning.recruiting import COLD_LOADING
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot
from stoker.autoscaler.planning.updating import (
    mark,
    reboot,
    reboot_drained,
    retire_stopped,
    take_turns,
)
from stoker.autoscaler.states import ACTIVE, WorkerState

DEFAULT_SETTINGS = PlannerSettings()

_RECALLED = (WorkerState.DRAINING, WorkerState.STOPPED, WorkerState.STOPPING)


def plan(
    snapshot: EndpointSnapshot,
    now: float,
    settings: PlannerSettings = DEFAULT_SETTINGS,
    *,
    explain: bool = True,
) -> Plan:
    """Decide what to do about one endpoint.

    Args:
        snapshot: the endpoint as it is.
        now: seconds, on the clock of the snapshot's times.
        settings: the planner's own figures.
        explain: the plan is to have an `explanation` and a `summary`.

    Returns:
        The same plan for the same arguments. Parameters that contradict each other, or mean
        nothing, never raise: what was made of them is in the plan's notes.
    """
    parameters, problems = clamped(snapshot.parameters)
    if problems:
        snapshot = replace(snapshot, parameters=parameters)
    needs = needs_of(snapshot, now, settings)
    quiet = is_quiet(snapshot, needs)
    if quiet and not explain and is_trimmed(snapshot, needs, now, settings):
        return Plan(notes=tuple(dict.fromkeys([*problems, *contradictions(parameters)])))
    draft = Draft(snapshot, now, settings)
    if parameters.endpoint_state == "suspended":
        return Plan(
            summary=summary_of(draft, needs) if explain else "",
            notes=tuple(problems),
            explanation=explanation_of(draft, needs) if explain else None,
        )
    if quiet:
        trim(draft, needs)
    else:
        _decide(draft, needs)
    draft.notes += [*problems, *contradictions(parameters)]
    return Plan(
        tuple(draft.actions),
        summary_of(draft, needs) if explain else "",
        tuple(dict.fromkeys(draft.notes)),
        explanation_of(draft, needs) if explain else None,
        tuple(dict.fromkeys(draft.refusals)),
    )


def _decide(draft: Draft, needs: Needs) -> None:
    clear_away(draft)
    if draft.parameters.endpoint_state == "stopped":
        _stop_all(draft)
    else:
        reboot_drained(draft, needs)
        _scale_up(draft, needs)
        _scale_down(draft, needs)
        _call_off(draft, needs)
        rebalance(draft, needs)
        take_turns(draft, needs)
        fill(draft, needs)
        retire_stopped(draft, needs)
        trim(draft, needs)
    _end_drained(draft, needs)
    mark(draft)


def _stop_all(draft: Draft) -> None:
    for worker in draft.worst_first(ACTIVE):
        draft.drain(worker, "the endpoint is stopped")
    for worker in draft.worst_first(COLD_LOADING | {WorkerState.PENDING}):
        draft.destroy(worker, "the endpoint is stopped, and it is not loaded")


def _scale_up(draft: Draft, needs: Needs) -> None:
    active, coming, need = draft.active(), draft.coming(), needs.now
    ready = draft.ready_capacity(active)
    capacity = ready + sum(draft.coming_perf(worker) for worker in coming)
    count = len(active) + len(coming)
    if need.met_by(capacity, count):
        return
    why = f"{need.why}, active capacity {ready:.1f}/s"
    if coming:
        why += f" and {len(coming)} on their way"
    for state in _RECALLED:
        for worker in draft.recall_order(state):
            if need.met_by(capacity, count):
                return
            if state is not WorkerState.STOPPING:
                draft.act(ActionKind.START, worker, why)
            elif draft.lasted(worker) < draft.settings.stopping_grace:
                # It can be started in a moment, which is sooner than a new one is loaded.
                draft.notes.append(f"waits for worker {worker.id} to stop, to start it again")
            else:
                continue
            capacity += draft.coming_perf(worker)
            count += 1
    while not need.met_by(capacity, count):
        perf = draft.create(why)
        if perf is None:
            # Without the figures, so that the same trouble is the same line each time.
            draft.explain("load needs more workers")
            draft.binds = next(iter(draft.recruiter.refusals.items()), None)
            return
        capacity += perf
        count += 1


def _call_off(draft: Draft, needs: Needs) -> None:
    """Give up boots for a load that has gone, as long as they are less than half done."""
    booting, outlook = draft.worst_first(COLD_LOADING), draft.snapshot.outlook
    # Between workergroups, and for an update, a worker may boot that capacity does not ask for.
    if not booting or outlook is None or draft.created or draft.shares or draft.updates:
        return
    if not outlook.fallen:
        return
    active, coming, pool = draft.active(), draft.coming(), draft.pool()
    ready = draft.ready_capacity(active)
    for worker in booting:
        if draft.boots_for(worker) * 2 > draft.create_seconds(worker):
            continue
        coming, pool = without(coming, worker), without(pool, worker)
        capacity = ready + math.fsum(draft.coming_perf(other) for other in coming)
        if not needs.kept.met_by(capacity, len(active) + len(coming)):
            return
        if not is_enough(draft, needs, pool):
            return
        draft.destroy(worker, f"{needs.kept.why}, met without it; it is not half created")


def _end_drained(draft: Draft, needs: Needs) -> None:
    stopped = draft.parameters.endpoint_state == "stopped"
    for worker in draft.worst_first({WorkerState.DRAINING}):
        if worker.requests:
            continue
        if not worker.stoppable:
            draft.destroy(worker, "drained, nothing in flight; its provider cannot stop it")
        elif not stopped and draft.updates.in_turn(worker):
            reboot(draft, needs, worker)
        else:
            draft.act(ActionKind.STOP, worker, "drained, nothing in flight")


def _scale_down(draft: Draft, needs: Needs) -> None:
    remaining = draft.active()
    for worker in draft.release_order():
        if worker.id in draft.leaving:
            why = f"{draft.why_leaving(worker)}, {needs.kept.why}"
        else:
            remaining.remove(worker)
            why = needs.kept.why
            if draft.updates and draft.updates.in_turn(worker):
                why = f"its turn to be updated: {why}"
        capacity = draft.ready_capacity(remaining)
        if not needs.kept.met_by(capacity, len(remaining)):
            return
        draft.drain(worker, f"{why}, leaves {len(remaining)} active with {capacity:.1f}/s")
