"""Moves capacity between workergroups whose weights were changed.

One worker at a time, and the new one first: the surplus that this makes is drained by the ordinary
rule, from who has too much.
"""

from __future__ import annotations

from stoker.autoscaler.planning.draft import Draft
from stoker.autoscaler.planning.need import Needs
from stoker.autoscaler.planning.plan import ActionKind
from stoker.autoscaler.planning.snapshot import GroupSnapshot
from stoker.autoscaler.states import ACTIVE, LOADING_STATES, WorkerState

_RECALLED = (WorkerState.DRAINING, WorkerState.STOPPED)


def rebalance(draft: Draft, needs: Needs) -> None:
    """Bring up one worker where a workergroup has a worker less than its share."""
    shares = draft.shares
    if shares is None or needs.zero or draft.created or draft.own(LOADING_STATES):
        return
    if draft.updates.under_way():
        return  # its extra worker is there for a moment only
    expected = {
        group.id: draft.perf.of_group(group) or draft.settings.unknown_perf
        for group in draft.snapshot.groups
    }
    largest = dict(expected)
    givers: set[int] = set()
    for worker in draft.own(ACTIVE):
        group_id = worker.workergroup_id
        if group_id in draft.groups and group_id is not None:
            givers.add(group_id)
            largest[group_id] = max(largest[group_id], draft.ready_perf(worker))
    settled = draft.now - draft.settings.rebalance_pause
    fresh = {w.workergroup_id for w in draft.all(ACTIVE) if settled < w.state_since <= draft.now}
    takers = sorted(
        draft.snapshot.groups,
        key=lambda group: (*shares.into(group.id, expected[group.id]), group.id),
    )
    for taker in takers:
        others = givers - {taker.id}
        if not others:
            continue
        giver = min(others, key=lambda group_id: (shares.out_of(group_id), group_id))
        step = max(largest[giver], largest[taker.id])
        if taker.id in fresh or not shares.should_move(giver, taker.id, step):
            return
        if _bring_up(draft, taker):
            return
        text = f"workergroup {taker.id} cannot take its share of {shares.fair(taker.id):.0%}"
        draft.notes += [
            f"{text}: {problem}; others take it" for problem in draft.recruiter.refusals
        ]


def _bring_up(draft: Draft, group: GroupSnapshot) -> bool:
    assert draft.shares is not None
    total = sum(draft.shares.capacity.values())
    part = draft.shares.capacity[group.id] / total if total > 0 else 0.0
    why = (
        f"workergroup {group.id} has {part:.0%} of the active capacity, "
        f"weight {group.weight:g} asks for {draft.shares.fair(group.id):.0%}"
    )
    for state in _RECALLED:
        for worker in draft.recall_order(state):
            if worker.workergroup_id == group.id:
                draft.act(ActionKind.START, worker, why)
                return True
    for worker in draft.own({WorkerState.STOPPING}):
        fresh = draft.lasted(worker) < draft.settings.stopping_grace
        if fresh and worker.workergroup_id == group.id:
            return True  # started again in a moment
    return draft.create(why, only=group.id) is not None
