from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stoker.worker.readiness import TABLE, Event, Health, Readiness, State


def after(*events: Event, measured: bool = False) -> State:
    readiness = Readiness(measured=measured)
    for event in events:
        readiness.apply(event, "why")
    return readiness.state


READY = (Event.LOADED, Event.MEASURED, Event.HEALTHY)


def test_a_worker_is_ready_after_load_benchmark_and_health_check() -> None:
    assert after(Event.LOADED) is State.BENCHMARKING
    assert after(Event.LOADED, Event.MEASURED) is State.CHECKING
    assert after(*READY) is State.READY


def test_the_benchmark_is_left_out_where_a_result_is_known() -> None:
    assert after(Event.LOADED, measured=True) is State.CHECKING


def test_a_health_check_alone_does_not_make_it_ready() -> None:
    assert after(Event.HEALTHY) is State.WAITING


def test_it_is_unhealthy_while_the_check_fails_and_ready_again_after() -> None:
    assert after(*READY, Event.UNHEALTHY) is State.UNHEALTHY
    assert after(*READY, Event.UNHEALTHY, Event.HEALTHY) is State.READY


@pytest.mark.parametrize("before", [(), (Event.LOADED,), READY])
def test_an_error_line_marks_it_errored_at_any_time(before: tuple[Event, ...]) -> None:
    assert after(*before, Event.ERROR_LINE) is State.ERRORED


def test_only_a_new_load_leads_out_of_an_error() -> None:
    assert after(*READY, Event.ERROR_LINE, Event.HEALTHY) is State.ERRORED
    assert after(*READY, Event.ERROR_LINE, Event.LOADED, Event.HEALTHY) is State.READY


def test_a_benchmark_that_failed_is_run_again_after_the_next_load() -> None:
    assert after(Event.LOADED, Event.BENCHMARK_FAILED) is State.ERRORED
    assert after(Event.LOADED, Event.BENCHMARK_FAILED, Event.LOADED) is State.BENCHMARKING


def test_without_a_loaded_line_the_health_check_begins_and_mends() -> None:
    health = Health(came_back_counts=True)
    readiness = Readiness()
    readiness.apply(health.passed())
    assert readiness == Readiness(State.BENCHMARKING)
    readiness.apply(Event.BENCHMARK_FAILED, "it broke")
    readiness.apply(health.passed())
    assert readiness.error == "it broke"
    health.failed(definite=True)
    readiness.apply(health.passed())
    assert readiness == Readiness(State.BENCHMARKING)


def test_the_reason_is_kept_while_it_is_bad_and_dropped_after() -> None:
    readiness = Readiness()
    for event in READY:
        readiness.apply(event)
    readiness.apply(Event.UNHEALTHY, "refused")
    assert readiness.error == "refused"
    readiness.apply(Event.HEALTHY)
    assert readiness.error == ""


@given(st.lists(st.sampled_from(list(Event)), max_size=30))
def test_it_is_never_ready_without_a_measured_capacity(events: list[Event]) -> None:
    readiness = Readiness()
    for event in events:
        readiness.apply(event)
        assert readiness.measured or not readiness.ready
        assert bool(readiness.error) <= (readiness.state in (State.ERRORED, State.UNHEALTHY))


@pytest.mark.parametrize("state", list(State))
def test_a_restarted_model_server_makes_it_ready_from_any_state(state: State) -> None:
    readiness = Readiness(state, measured=True)
    for event in (Event.LOADED, Event.MEASURED, Event.HEALTHY):
        readiness.apply(event)
    assert readiness.ready
    assert state in TABLE


def test_a_slow_answer_is_borne_a_few_times_and_a_refusal_not_at_all() -> None:
    health = Health(came_back_counts=False, patience=3)
    assert health.passed() is Event.HEALTHY
    assert [health.failed(definite=False) for _ in range(3)] == [None, None, Event.UNHEALTHY]
    assert health.passed() is Event.HEALTHY
    assert health.failed(definite=False) is None
    assert health.failed(definite=True) is Event.UNHEALTHY
