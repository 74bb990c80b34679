from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stoker.worker import readiness as rules
from stoker.worker.readiness import TABLE, Answers, Event, Health, Readiness, State
from stoker.worker.settings import DEFAULT_SILENCE_TIMEOUT
from stoker.worker.watch import Rhythm

READY = (Event.LOADED, Event.MEASURED, Event.HEALTHY)


def after(*events: Event, measured: bool = False) -> State:
    readiness = Readiness(measured=measured)
    for event in events:
        readiness.apply(event, 0.0, "why")
    return readiness.state


def ready_one(now: float = 0.0) -> Readiness:
    readiness = Readiness()
    for event in READY:
        readiness.apply(event, now)
    assert readiness.ready
    return readiness


# --- loading


def test_a_worker_is_ready_after_load_benchmark_and_health_check() -> None:
    assert after(Event.LOADED) is State.BENCHMARKING
    assert after(Event.LOADED, Event.MEASURED) is State.CHECKING
    assert after(*READY) is State.READY


def test_health_that_holds_stands_in_for_a_ready_line() -> None:
    assert after(Event.HEALTHY) is State.WAITING
    assert after(Event.HELD) is State.BENCHMARKING


@pytest.mark.parametrize("signal", [Event.LOADED, Event.UP])
def test_the_benchmark_is_left_out_where_a_result_is_known(signal: Event) -> None:
    assert after(signal, measured=True) is State.CHECKING


def test_without_the_ready_line_that_was_waited_for_one_request_must_be_answered() -> None:
    assert after(Event.HELD, measured=True) is State.TRYING
    assert after(Event.HELD, Event.MEASURED, measured=True) is State.CHECKING


def test_ready_lines_of_several_processes_change_nothing() -> None:
    readiness = ready_one()
    assert not any(readiness.apply(Event.LOADED, now) for now in range(1, 9))
    assert after(Event.LOADED, Event.LOADED, Event.MEASURED, Event.LOADED) is State.CHECKING


def test_without_a_ready_line_the_first_good_check_begins() -> None:
    health = Health()
    assert health.passed(0.0) == (Event.UP, Event.HEALTHY)


def test_with_one_the_check_must_hold_without_a_break() -> None:
    health = Health(hold=8.0)
    assert Event.HELD not in health.passed(0.0)
    assert Event.HELD not in health.passed(7.9)
    assert Event.HELD in health.passed(8.0)
    health.failed(9.0)
    assert Event.HELD not in health.passed(10.0)
    assert Event.HELD not in health.passed(17.0)
    assert Event.HELD in health.passed(18.0)


def test_beside_a_lifecycle_no_check_stands_in_for_it() -> None:
    assert Event.HELD not in Health(hold=math.inf).passed(0.0)


def test_a_port_that_is_refused_just_after_loaded_is_no_error_yet() -> None:
    readiness = Readiness(measured=True)
    readiness.apply(Event.LOADED, 0.0)
    readiness.apply(Event.UNHEALTHY, 0.1, "refused")
    assert (readiness.state, readiness.error) == (State.RETRYING, "")
    assert readiness.tick(1.1)
    assert readiness.state is State.TRYING


# --- failures are tried again


def test_a_server_that_warms_up_is_tried_again_and_reports_no_error() -> None:
    readiness = Readiness()
    readiness.apply(Event.LOADED, 0.0)
    readiness.apply(Event.FAILED, 0.1, "answered 503")
    assert (readiness.state, readiness.error) == (State.RETRYING, "")
    assert not readiness.tick(1.0)
    assert readiness.tick(1.1)
    assert readiness.state is State.BENCHMARKING


def test_a_bad_answer_is_no_error_while_the_model_may_load_behind_a_good_health_check() -> None:
    readiness, now = Readiness(), 0.0
    readiness.apply(Event.HELD, now)
    while now < 2 * rules.UNANNOUNCED:
        readiness.apply(Event.FAILED, now, "answered 503")
        assert (readiness.state is State.ERRORED) is (now >= rules.UNANNOUNCED)
        now = readiness.retry_at
        readiness.tick(now)
    assert readiness.state is State.BENCHMARKING


def test_the_warm_up_of_a_server_begins_with_its_ready_line() -> None:
    readiness, late = Readiness(), 20 * rules.WARM_UP
    readiness.apply(Event.HELD, 0.0)
    readiness.apply(Event.FAILED, 0.0, "answered 503")
    assert readiness.apply(Event.LOADED, late)
    assert readiness.state is State.BENCHMARKING
    readiness.apply(Event.FAILED, late, "answered 503")
    assert (readiness.state, readiness.retry_at) == (State.RETRYING, late + rules.FIRST_RETRY)
    readiness.tick(late + rules.WARM_UP)
    readiness.apply(Event.FAILED, late + rules.WARM_UP, "answered 503")
    assert readiness.state is State.ERRORED


def test_an_error_stays_one_until_the_worker_is_ready_whatever_the_log_says() -> None:
    readiness = Readiness()
    readiness.apply(Event.HELD, 0.0)
    for now in (0.0, rules.UNANNOUNCED):
        readiness.apply(Event.FAILED, now, "answered 503")
        readiness.tick(now + rules.LAST_RETRY)
    assert readiness.error
    for late in (2e4, 3e4):
        readiness.apply(Event.LOADED, late)
        readiness.apply(Event.FAILED, late, "answered 503")
        assert readiness.state is State.ERRORED


def test_one_that_goes_on_so_is_an_error_and_tried_again_all_the_same() -> None:
    readiness, now, tries = Readiness(), 0.0, []
    readiness.apply(Event.LOADED, now)
    while now < 300.0:
        readiness.apply(Event.FAILED, now, "answered 503")
        assert (readiness.state is State.ERRORED) is (now >= rules.WARM_UP)
        reported = bool(readiness.error)
        tries.append(readiness.retry_at - now)
        now = readiness.retry_at
        assert readiness.tick(now)
        assert bool(readiness.error) is reported  # it stays one until the worker is ready
    assert tries == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0]
    readiness.apply(Event.MEASURED, now)
    readiness.apply(Event.HEALTHY, now)
    assert readiness.ready
    assert readiness.error == ""


def test_a_ready_line_has_it_tried_at_once() -> None:
    readiness = ready_one()
    readiness.apply(Event.DISPROVED, 1.0, "every answer is an error")
    assert readiness.apply(Event.LOADED, 1.5)
    assert readiness.state is State.TRYING


def test_failures_are_forgotten_after_a_steady_time() -> None:
    readiness = ready_one()
    for _ in range(5):
        readiness.apply(Event.DISPROVED, 1.0)
        readiness.apply(Event.RETRY, 1.0)
        readiness.apply(Event.FAILED, 1.0)
    for event in (Event.RETRY, Event.MEASURED, Event.HEALTHY):
        readiness.apply(event, 100.0)
    readiness.apply(Event.DISPROVED, 160.0)
    assert readiness.retry_at == 160.0 + rules.DISPROVED_RETRY


def test_a_lifecycle_that_failed_waits_for_whoever_enters_it_again() -> None:
    readiness = Readiness()
    readiness.apply(Event.BROKEN, 0.0, "no weights")
    assert (readiness.state, readiness.error) == (State.ERRORED, "no weights")
    assert not readiness.tick(1e9)
    readiness.apply(Event.LOADED, 5.0)
    assert readiness.state is State.BENCHMARKING


# --- health


def test_it_is_unhealthy_while_the_check_fails_and_ready_again_after() -> None:
    assert after(*READY, Event.UNHEALTHY) is State.UNHEALTHY
    assert after(*READY, Event.UNHEALTHY, Event.HEALTHY) is State.READY


def test_the_reason_is_kept_while_it_is_bad_and_dropped_after() -> None:
    readiness = ready_one()
    readiness.apply(Event.UNHEALTHY, 1.0, "refused")
    assert readiness.error == "refused"
    readiness.apply(Event.HEALTHY, 2.0)
    assert readiness.error == ""


def test_a_slow_answer_is_borne_a_few_times_and_a_refusal_not_at_all() -> None:
    health = Health(patience=3)
    health.passed(0.0)
    assert [health.failed(5.0 * n) for n in (1, 2, 3)] == [None, None, Event.UNHEALTHY]
    health.passed(20.0)
    assert health.failed(25.0) is None
    assert health.failed(26.0, definite=True) is Event.UNHEALTHY


def test_a_server_that_streams_is_alive_whatever_its_check_says() -> None:
    health = Health()
    health.passed(0.0)
    for now in range(5, 3600, 5):
        assert health.failed(now, heard=now - 0.5, allowed=600.0) is None


def test_a_silent_server_at_work_is_alive_for_as_long_as_it_may_be_silent() -> None:
    health = Health()
    health.passed(0.0)
    ill = [now for now in range(5, 700, 5) if health.failed(now, allowed=600.0)]
    assert ill[0] == 610  # the third check after 600 s


def test_requests_that_begin_give_a_silent_server_no_more_time() -> None:
    health = Health()
    health.passed(0.0)
    # Something is always at work here, and nothing is ever answered.
    assert health.failed(599.0, heard=-math.inf, allowed=600.0) is None
    assert not health.excused(600.0, -math.inf, 600.0)


def test_a_server_that_has_been_busy_gets_its_whole_patience_when_it_has_nothing_to_do() -> None:
    health = Health()
    health.passed(0.0)
    for now in (100.0, 200.0, 300.0):
        assert health.failed(now, allowed=600.0) is None
    assert [health.failed(now) for now in (305.0, 310.0, 315.0)] == [None, None, Event.UNHEALTHY]


def test_a_refused_connection_is_not_excused() -> None:
    health = Health()
    health.passed(0.0)
    assert health.failed(1.0, definite=True, heard=1.0, allowed=600.0) is Event.UNHEALTHY


# --- answers


def test_most_answers_must_be_errors_before_there_is_a_doubt() -> None:
    answers = Answers()
    for n in range(rules.ENOUGH - 1):
        answers.answered(False, float(n))
    assert not answers.doubtful(10.0)
    answers.answered(False, 10.0)
    assert answers.doubtful(10.0)


@given(st.lists(st.booleans(), max_size=32))
def test_half_of_the_answers_are_not_most(good: list[bool]) -> None:
    answers = Answers()
    answers.answered(False, 0.0)
    for ok in good:
        answers.answered(ok, 0.0)
    seen = ([False, *good])[-32:]
    expected = len(seen) >= rules.ENOUGH and 2 * sum(seen) < len(seen)
    assert answers.doubtful(0.0) is expected


def test_old_answers_do_not_count() -> None:
    answers = Answers()
    for _ in range(20):
        answers.answered(False, 0.0)
    assert not answers.doubtful(rules.WINDOW + 1.0)


def test_whoever_provokes_errors_causes_few_requests_of_our_own_and_nothing_else() -> None:
    answers, asked = Answers(), []
    for second in range(3600):
        answers.answered(False, float(second))
        assert not answers.damning(float(second))
        if answers.doubtful(float(second)):
            asked.append(second)
    assert asked[:5] == [7, 17, 37, 77, 157]
    assert len(asked) < 20
    assert asked[-1] - asked[-2] == 300


def test_where_only_the_operator_sends_requests_ten_errors_and_nothing_good_are_enough() -> None:
    answers = Answers(trusting=True)
    for _ in range(rules.ALL_BAD - 1):
        answers.answered(False, 0.0)
    assert not answers.damning(0.0)
    answers.answered(False, 0.0)
    assert answers.damning(0.0)
    answers.answered(True, 0.0)
    assert not answers.damning(0.0)


# --- whatever happens


class Anything(RuleBasedStateMachine):
    """Any events in any order, at any time."""

    @initialize(measured=st.booleans())
    def begin(self, measured: bool) -> None:
        self.now = 0.0
        self.machine = Readiness(measured=measured)
        self.ready_since: float | None = None

    @rule(event=st.sampled_from(list(Event)))
    def happens(self, event: Event) -> None:
        before = self.machine.state
        changed = self.machine.apply(event, self.now, "why")
        assert changed is (before is not self.machine.state)
        if before is State.READY:
            # A hint alone never takes a worker out.
            assert not changed or event in (Event.UNHEALTHY, Event.DISPROVED, Event.BROKEN)

    @rule(seconds=st.floats(0.0, 200.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.machine.state in (State.RETRYING, State.ERRORED))
    @rule()
    def is_tried_again(self) -> None:
        if self.machine.retry_at == math.inf:
            assert self.machine.apply(Event.LOADED, self.now)
            return
        assert self.machine.retry_at <= self.now + rules.LAST_RETRY
        self.now = max(self.now, self.machine.retry_at)
        assert self.machine.tick(self.now)

    @rule()
    def a_good_server_is_ready_within_a_minute(self) -> None:
        """Every state is left again by evidence."""
        end = self.now + rules.LAST_RETRY
        if self.machine.retry_at == math.inf:
            self.machine.apply(Event.LOADED, self.now)  # the lifecycle was entered
        while not self.machine.ready:
            assert self.now <= end + 1.0
            self.machine.tick(self.now)
            for event in (Event.HELD, Event.HEALTHY):
                self.machine.apply(event, self.now)
            if self.machine.state in (State.BENCHMARKING, State.TRYING):
                self.machine.apply(Event.MEASURED, self.now)
            self.now += 0.5

    @invariant()
    def it_is_never_ready_without_a_capacity_nor_with_an_error(self) -> None:
        if self.machine.ready:
            assert self.machine.measured
            assert not self.machine.error
        if self.machine.state in (State.ERRORED, State.UNHEALTHY):
            assert self.machine.error


TestAnything = Anything.TestCase


def test_each_state_has_a_way_out() -> None:
    assert set(TABLE) == set(State)
    assert all(TABLE[state] for state in State)


def test_the_guide_says_what_the_rules_say() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "requests.md").read_text()
    section = " ".join(guide.split("## When a worker takes requests")[1].split("\n## ")[0].split())
    first, last = rules.FIRST_RETRY, rules.LAST_RETRY
    for promise in (
        f"a health check that is good for {rules.HOLD:g} s",
        f"after {first:g} s, {2 * first:g} s, {4 * first:g} s, up to {last:g} s",
        f"after {rules.WARM_UP:g} s it is an error",
        f"after {rules.UNANNOUNCED:g} s where a ready line is configured and was not seen",
        f"three times in a row ({Rhythm().check_timeout:g} s each)",
        f"`silence_timeout` ({DEFAULT_SILENCE_TIMEOUT:g} s)",
    ):
        assert promise in section, promise
    assert (rules.PATIENCE, rules.ALL_BAD, rules.WINDOW) == (3, 10, 60.0)  # spelt in words there
    assert Rhythm().hold == rules.HOLD
    assert Rhythm().warm_up == rules.WARM_UP
    assert all(f"`{state.value}`" in section for state in State)
