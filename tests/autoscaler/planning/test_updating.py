"""Rolling updates: one worker after the other, and never fewer ready ones than are needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.autoscaler.planning.conftest import (
    NOW,
    decide,
    group,
    held,
    kinds,
    parameters,
    quiet,
    steady,
    worker,
)

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import GroupSnapshot, WorkerSnapshot
from stoker.autoscaler.states import WorkerState

UPDATING = group(revision=1, updating=True)
BUSY = replace(steady(80.0), booked_count=2)
"""Needs two workers of 50/s."""


def marked(worker_id: int, **more: Any) -> WorkerSnapshot:
    return worker(worker_id, WorkerState.UPDATE_READY, **more)


def new(worker_id: int, state: WorkerState = WorkerState.READY, **more: Any) -> WorkerSnapshot:
    return worker(worker_id, state, revision=1, **more)


def old(worker_id: int, state: WorkerState) -> WorkerSnapshot:
    return worker(worker_id, state)


def update(
    demand: Demand, *workers: WorkerSnapshot, one: GroupSnapshot = UPDATING, **scaling: Any
) -> list[tuple[str, int | None]]:
    return kinds(decide(demand, *workers, groups=(one,), scaling=parameters(**scaling)))


def test_ready_workers_with_old_settings_are_marked_and_serve_on() -> None:
    assert ("update", 1) in update(BUSY, worker(1), worker(2))
    assert ("update", 2) in update(BUSY, worker(1), worker(2))
    assert update(BUSY, new(1), new(2)) == []


def test_where_one_can_be_spared_it_is_drained_and_then_rebooted() -> None:
    assert update(BUSY, marked(1), marked(2), marked(3)) == [("drain", 3)]
    assert update(BUSY, marked(1), marked(2), old(3, WorkerState.DRAINING)) == [("reboot", 3)]


def test_a_worker_with_work_is_not_rebooted_before_it_has_ended() -> None:
    working = worker(3, WorkerState.DRAINING, requests=1)
    assert update(BUSY, marked(1), marked(2), working) == []


def test_while_one_reboots_the_others_are_left_alone() -> None:
    for state in (
        WorkerState.REBOOTING,
        WorkerState.UPDATE_REBOOTING,
        WorkerState.UPDATE_STARTING,
        WorkerState.MODEL_LOADING,
    ):
        assert update(BUSY, marked(1), marked(2), new(3, state)) == []


def test_the_next_turn_comes_when_the_last_one_was_ready_for_a_while() -> None:
    fresh = new(3, state_since=NOW - 9)
    assert update(BUSY, marked(1), marked(2), fresh) == []
    proven = new(3, state_since=NOW - 10)
    assert update(BUSY, marked(1), marked(2), proven) == [("drain", 2)]


def test_where_none_can_be_spared_one_is_created_first() -> None:
    assert update(BUSY, marked(1), marked(2)) == [("create", None)]
    coming = new(3, WorkerState.LOADING, perf=0.0)
    assert update(BUSY, marked(1), marked(2), coming) == []


def test_a_stopped_worker_is_started_for_the_update_rather_than_one_created() -> None:
    assert update(BUSY, marked(1), marked(2), old(3, WorkerState.STOPPED)) == [("start", 3)]


def test_an_update_without_room_waits_and_says_so() -> None:
    decided = decide(
        BUSY, marked(1), marked(2), groups=(UPDATING,), scaling=parameters(max_workers=2)
    )
    assert kinds(decided) == []
    assert decided.notes == (
        "update of workergroup 1: 0 of 2 workers have the new settings",
        "the update of workergroup 1 needs one more worker first, but max_workers 2 is reached",
    )


def test_without_room_the_last_worker_is_taken_out_when_nobody_asks_for_it() -> None:
    tight: dict[str, Any] = {"max_workers": 1, "min_load": 1.0}
    assert update(quiet(9), marked(1), **tight) == []
    assert update(quiet(10), marked(1), **tight) == [("drain", 1)]
    assert update(quiet(10), old(1, WorkerState.DRAINING), **tight) == [("reboot", 1)]
    # A request came in between: it goes back to work, and is rebooted another time.
    assert ("start", 1) in update(held(1), old(1, WorkerState.DRAINING), **tight)


def test_when_load_returns_a_drained_worker_serves_rather_than_reboots() -> None:
    more = replace(steady(130.0), booked_count=3)
    decided = update(more, marked(1), marked(2), old(3, WorkerState.DRAINING))
    assert decided == [("start", 3)]


def test_a_failure_with_the_new_settings_halts_the_update() -> None:
    failed = new(3, WorkerState.ERROR, state_since=NOW)
    decided = decide(BUSY, marked(1), marked(2), marked(4), failed, groups=(UPDATING,))
    assert ("reboot", 4) not in kinds(decided)
    assert decided.notes == (
        "update of workergroup 1 is halted: a worker failed with the new settings; 3 go on with "
        "the old ones until the settings are changed or the update is cancelled",
    )
    # It is gone meanwhile, but its workergroup remembers.
    failing = replace(UPDATING, failures=1, last_failure_at=NOW - 100)
    assert update(BUSY, marked(1), marked(2), one=failing) == []
    # What is drained now was drained for want of load: it keeps its old settings.
    drained = old(3, WorkerState.DRAINING)
    assert update(BUSY, marked(1), marked(2), drained, one=failing) == [("stop", 3)]


def test_a_cancelled_update_takes_the_marks_away() -> None:
    cancelled = replace(UPDATING, updating=False)
    assert update(BUSY, marked(1), marked(2), one=cancelled) == [("start", 1), ("start", 2)]
    # Settings that were changed back need no update.
    assert update(BUSY, new(1, WorkerState.UPDATE_READY), new(2)) == [("start", 1)]


def test_stopped_workers_are_replaced_last_and_one_by_one() -> None:
    pool: dict[str, Any] = {"cold_workers": 4}
    stopped = (old(3, WorkerState.STOPPED), old(4, WorkerState.STOPPED))
    assert update(BUSY, new(1), new(2), *stopped, **pool) == [("destroy", 4)]
    assert update(BUSY, new(1), new(2), stopped[0], **pool) == [("create", None)]
    coming = new(5, WorkerState.LOADING, perf=0.0)
    assert update(BUSY, new(1), new(2), stopped[0], coming, **pool) == []


def test_a_stopped_worker_is_kept_where_nothing_could_take_its_place() -> None:
    stopped = old(3, WorkerState.STOPPED)
    empty = replace(UPDATING, offers=())
    assert update(BUSY, new(1), new(2), stopped, one=empty, cold_workers=3) == []


def test_an_attached_worker_is_never_updated() -> None:
    theirs = worker(3, attached=True)
    assert update(BUSY, new(1), new(2), theirs) == [("drain", 2)]


def test_a_finished_update_leaves_nothing_to_do() -> None:
    decided = decide(BUSY, new(1), new(2), groups=(UPDATING,))
    assert decided.actions == ()
    assert decided.notes == ()
