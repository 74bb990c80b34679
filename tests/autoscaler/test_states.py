from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.states import (
    ACTIVE,
    BILLED,
    EXISTS,
    HAS_MODEL,
    LEAVING,
    LOADING_STATES,
    PROVIDER_EVENTS,
    Event,
    ImpossibleEventError,
    WorkerState,
    next_state,
    wire_name,
)

OUTSIDE = [event for event in Event if not event.name.startswith("PLAN_")]
DECISIONS = [event for event in Event if event.name.startswith("PLAN_")]


def after(state: WorkerState, *events: Event) -> WorkerState:
    for event in events:
        state = next_state(state, event)
    return state


def test_a_worker_comes_up_stage_by_stage() -> None:
    stages = [WorkerState.CREATING]
    for event in (
        Event.PROVIDER_CREATED,
        Event.PROVIDER_RUNNING,
        Event.REPORT_LOADING,
        Event.REPORT_READY,
    ):
        stages.append(next_state(stages[-1], event))
    assert stages == [
        WorkerState.CREATING,
        WorkerState.CREATED,
        WorkerState.LOADING,
        WorkerState.MODEL_LOADING,
        WorkerState.READY,
    ]


def test_a_worker_is_drained_stopped_and_started_again() -> None:
    state = after(WorkerState.READY, Event.PLAN_DRAIN)
    assert state is WorkerState.DRAINING
    state = after(state, Event.PLAN_STOP)
    assert state is WorkerState.STOPPING
    state = after(state, Event.PROVIDER_STOPPED)
    assert state is WorkerState.STOPPED
    state = after(state, Event.PLAN_START)
    assert state is WorkerState.STARTING
    assert after(state, Event.REPORT_READY) is WorkerState.READY


def test_a_draining_worker_goes_back_to_work_at_once() -> None:
    assert after(WorkerState.READY, Event.PLAN_DRAIN, Event.PLAN_START) is WorkerState.READY


def test_reports_in_the_wrong_order_end_in_the_same_state() -> None:
    in_order = after(WorkerState.CREATING, Event.REPORT_LOADING, Event.REPORT_READY)
    reordered = after(WorkerState.CREATING, Event.REPORT_READY, Event.REPORT_LOADING)
    assert in_order is reordered is WorkerState.READY


def test_a_late_report_does_not_revive_a_stopped_worker() -> None:
    assert after(WorkerState.STOPPED, Event.REPORT_READY) is WorkerState.STOPPED
    assert after(WorkerState.STOPPING, Event.REPORT_READY) is WorkerState.STOPPING


def test_a_list_from_before_the_start_does_not_stop_a_starting_worker() -> None:
    assert after(WorkerState.STARTING, Event.PROVIDER_STOPPED) is WorkerState.STARTING


def test_a_list_from_before_the_order_does_not_lose_a_creating_worker() -> None:
    assert after(WorkerState.CREATING, Event.PROVIDER_GONE) is WorkerState.CREATING


def test_a_worker_with_an_error_comes_back_when_it_reports_ready() -> None:
    state = after(WorkerState.READY, Event.REPORT_OVERDUE)
    assert state is WorkerState.ERROR
    assert after(state, Event.REPORT_READY) is WorkerState.READY


def test_a_new_boot_takes_a_ready_worker_out_of_rotation() -> None:
    assert after(WorkerState.READY, Event.REBOOTED) is WorkerState.MODEL_LOADING


def test_a_worker_that_stops_by_itself_before_it_was_ready_is_in_error() -> None:
    assert after(WorkerState.MODEL_LOADING, Event.PROVIDER_STOPPED) is WorkerState.ERROR
    assert after(WorkerState.READY, Event.PROVIDER_STOPPED) is WorkerState.STOPPED


def test_a_worker_from_before_a_restart_is_whatever_it_is_seen_to_be() -> None:
    assert after(WorkerState.PENDING, Event.REPORT_READY) is WorkerState.READY
    assert after(WorkerState.PENDING, Event.PROVIDER_STOPPED) is WorkerState.STOPPED
    assert after(WorkerState.PENDING, Event.PROVIDER_GONE) is WorkerState.DESTROYED


def test_a_rolling_update_goes_through_its_states() -> None:
    state = after(WorkerState.READY, Event.PLAN_UPDATE)
    assert state is WorkerState.UPDATE_READY
    state = after(state, Event.PLAN_REBOOT)
    assert state is WorkerState.UPDATE_REBOOTING
    state = after(state, Event.REPORT_LOADING)
    assert state is WorkerState.UPDATE_STARTING
    assert after(state, Event.REPORT_READY) is WorkerState.READY


@given(st.sampled_from(WorkerState), st.sampled_from(OUTSIDE))
def test_what_the_outside_says_never_raises_and_twice_is_once(
    state: WorkerState, event: Event
) -> None:
    once = next_state(state, event)
    # STOPPED -> LOADING -> LOADING and the like: a repeated word changes nothing more.
    assert next_state(once, event) is once


@given(st.lists(st.sampled_from(OUTSIDE)))
def test_a_destroyed_worker_never_comes_back(events: list[Event]) -> None:
    allowed = {WorkerState.DESTROYING, WorkerState.DESTROYED}
    assert after(WorkerState.DESTROYING, *events) in allowed
    assert after(WorkerState.DESTROYED, *events) is WorkerState.DESTROYED


@pytest.mark.parametrize("state", [s for s in WorkerState if s is not WorkerState.DESTROYED])
def test_every_worker_can_be_destroyed(state: WorkerState) -> None:
    assert next_state(state, Event.PLAN_DESTROY) is WorkerState.DESTROYING


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (WorkerState.READY, Event.PLAN_START),
        (WorkerState.STOPPED, Event.PLAN_DRAIN),
        (WorkerState.CREATING, Event.PLAN_STOP),
        (WorkerState.DESTROYED, Event.PLAN_DESTROY),
    ],
)
def test_a_decision_that_does_not_fit_is_refused(state: WorkerState, event: Event) -> None:
    with pytest.raises(ImpossibleEventError, match=str(state)):
        next_state(state, event)


def test_the_wire_calls_a_ready_worker_idle_and_a_draining_one_stopping() -> None:
    assert wire_name(WorkerState.READY) == "idle"
    assert wire_name(WorkerState.DRAINING) == "stopping"
    assert wire_name(WorkerState.MODEL_LOADING) == "model_loading"
    names = {wire_name(state) for state in WorkerState}
    assert all(name == name.lower() for name in names)


def test_no_state_is_both_active_and_on_its_way_or_leaving() -> None:
    assert not ACTIVE & LOADING_STATES
    assert not ACTIVE & LEAVING
    assert not LOADING_STATES & LEAVING
    assert ACTIVE <= HAS_MODEL
    assert ACTIVE <= BILLED
    assert BILLED <= EXISTS
    assert WorkerState.STOPPED in HAS_MODEL
    assert WorkerState.STOPPED not in BILLED


def test_every_status_of_a_provider_is_an_event() -> None:
    assert set(PROVIDER_EVENTS) == {"creating", "running", "stopping", "stopped", "failed"}
    assert after(WorkerState.CREATED, PROVIDER_EVENTS["running"]) is WorkerState.LOADING


def test_every_state_can_be_reached() -> None:
    reached = {WorkerState.CREATING, WorkerState.PENDING}
    while True:
        more = set(reached)
        for state in reached:
            for event in Event:
                try:
                    more.add(next_state(state, event))
                except ImpossibleEventError:
                    continue
        if more == reached:
            break
        reached = more
    assert reached == set(WorkerState)
