from __future__ import annotations

from stoker.launcher import Supervision
from stoker.launcher.watch import HealthJudge, OwnerWatch
from stoker.worker.readiness import PATIENCE
from stoker.worker.watch import Rhythm


def test_nothing_is_ill_before_it_was_healthy() -> None:
    judge = HealthJudge(refusals=1, hang_after=1.0)
    assert judge.observe("refused", 0.0) == ""
    assert judge.observe("timeout", 1000.0) == ""
    assert not judge.was_healthy


def test_some_bad_answers_in_a_row_are_illness() -> None:
    judge = HealthJudge(refusals=3)
    judge.observe("ok", 0.0)
    assert [bool(judge.observe("refused", t)) for t in (1.0, 2.0, 3.0)] == [False, False, True]


def test_a_good_answer_between_bad_ones_counts_them_anew() -> None:
    judge = HealthJudge(refusals=2)
    judge.observe("ok", 0.0)
    for now in range(1, 20, 2):
        assert judge.observe("refused", now) == ""
        assert judge.observe("ok", now + 1) == ""


def test_a_busy_server_is_given_time() -> None:
    judge = HealthJudge(refusals=1, hang_after=60.0)
    judge.observe("ok", 0.0)
    assert [judge.observe("timeout", t) for t in (10.0, 30.0, 59.0)] == ["", "", ""]
    assert judge.observe("timeout", 60.0) == "answered no health check for 60 s"


def test_a_server_at_work_is_not_ill_and_has_all_its_time_afterwards() -> None:
    judge = HealthJudge(refusals=3, hang_after=60.0)
    judge.observe("ok", 0.0)
    judge.observe("refused", 1.0)
    judge.observe("refused", 2.0)
    for now in range(10, 600, 10):
        assert judge.observe("busy", float(now)) == ""
    assert judge.observe("refused", 600.0) == ""
    assert judge.observe("timeout", 640.0) == ""
    assert judge.observe("timeout", 650.0) == "answered no health check for 60 s"


def test_being_busy_is_no_health() -> None:
    judge = HealthJudge()
    judge.observe("busy", 0.0)
    assert not judge.was_healthy


def test_the_owner_is_gone_after_its_timeout() -> None:
    watch = OwnerWatch(300.0, now=0.0)
    assert not watch.observe(held=False, now=299.0)
    assert watch.observe(held=False, now=300.0)


def test_an_owner_that_comes_back_is_the_owner_again() -> None:
    watch = OwnerWatch(300.0, now=0.0)
    watch.observe(held=False, now=200.0)
    assert not watch.observe(held=True, now=400.0)
    assert not watch.observe(held=False, now=699.0)
    assert watch.observe(held=False, now=700.0)


def test_the_launcher_waits_for_a_check_as_long_as_the_worker_does() -> None:
    """A server that needs seconds for each would else be ended beside a worker that is ready."""
    assert Supervision().health_timeout >= PATIENCE * Rhythm().check_timeout
    assert Supervision().hang_after > Supervision().health_timeout
