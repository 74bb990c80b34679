from __future__ import annotations

import errno
from pathlib import Path

import pytest

from stoker.launcher import InstanceManifest
from stoker.launcher.backoff import Backoff
from stoker.launcher.lifecycle import _TABLE, Event, Lifecycle, Phase
from stoker.launcher.supervisor import Supervisor


@pytest.fixture
def life() -> Lifecycle:
    return Lifecycle(Backoff(initial=1.0, maximum=8.0, healthy_after=10.0), max_restarts=2)


def test_it_runs_once_it_is_healthy(life: Lifecycle) -> None:
    assert life.phase == "starting"
    life.healthy(1.0)
    assert life.phase == "running"


def test_a_fault_is_followed_by_a_wait_and_a_restart(life: Lifecycle) -> None:
    life.fault("it ended", 10.0)
    assert (life.phase, life.error, life.retry_at) == ("backoff", "it ended", 11.0)
    assert not life.retry(10.9)
    assert life.retry(11.0)
    assert (life.phase, life.restarts) == ("starting", 1)


def test_an_error_is_forgotten_when_all_is_well_again(life: Lifecycle) -> None:
    life.fault("it ended", 10.0)
    life.retry(11.0)
    life.healthy(12.0)
    assert life.error == ""


def test_too_many_faults_in_a_row_are_the_end(life: Lifecycle) -> None:
    for now in (10.0, 20.0):
        life.fault("again", now)
        assert life.retry(now + 5.0)
    life.fault("once more", 30.0)
    assert (life.phase, life.error) == ("failed", "once more")
    assert not life.retry(1e9)


def test_faults_far_apart_are_not(life: Lifecycle) -> None:
    now = 0.0
    for _ in range(10):
        life.healthy(now)
        life.healthy(now + 10.0)
        life.fault("now and then", now + 20.0)
        assert life.retry(now + 21.0)
        now += 30.0
    assert life.restarts == 10


def test_a_hopeless_fault_is_the_end_at_once(life: Lifecycle) -> None:
    life.fault("no such backend", 1.0, hopeless=True)
    assert (life.phase, life.restarts) == ("failed", 0)


def test_a_second_fault_while_waiting_waits_longer(life: Lifecycle) -> None:
    life.fault("the worker ended", 10.0)
    life.fault("the model server ended", 10.5)
    assert (life.phase, life.retry_at) == ("backoff", 12.5)


@pytest.mark.parametrize("phase", [p for p in Phase if p not in (Phase.DRAINING, Phase.STOPPED)])
def test_it_can_be_stopped_from_everywhere(life: Lifecycle, phase: Phase) -> None:
    life.phase = phase
    assert life.stop()
    assert not life.stop()
    life.fault("too late", 1.0)
    life.healthy(2.0)
    assert life.phase == "draining"
    life.ended()
    assert life.phase == "stopped"


def test_there_is_no_way_out_of_stopped() -> None:
    assert not [event for (phase, event) in _TABLE if phase is Phase.STOPPED]
    assert {event for _, event in _TABLE} == set(Event)


def test_what_has_to_be_there_first_is_a_phase_of_its_own(life: Lifecycle) -> None:
    life.prepare()
    assert life.phase == "preparing"
    life.healthy(1.0)
    assert life.phase == "preparing"
    life.prepared()
    assert life.phase == "starting"


def test_a_fault_while_preparing_is_one_like_any_other(life: Lifecycle) -> None:
    for now in (10.0, 20.0):
        life.prepare()
        life.fault("no such wheel", now)
        assert (life.phase, life.error) == ("backoff", "no such wheel")
        assert life.retry(now + 5.0)
    life.prepare()
    life.fault("no such wheel", 30.0)
    assert life.phase == "failed"


def test_a_launcher_that_nobody_owns_tries_for_a_minute_to_say_why_it_gave_up(
    tmp_path: Path,
) -> None:
    manifest = InstanceManifest(
        instance_id="i", worker_id=1, mtoken="", report_addr="http://127.0.0.1:9", command=["x"]
    )
    supervisor = Supervisor(tmp_path, manifest)
    assert not supervisor._without_hope(100.0)
    supervisor._life.fault("no weights", 100.0, hopeless=True)
    supervisor._failed_at = 100.0
    assert [supervisor._without_hope(now) for now in (100.0, 159.0, 161.0)] == [False, False, True]
    supervisor._failure_was_told()
    assert supervisor._without_hope(101.0)


def test_a_launcher_whose_directory_was_removed_ends_at_the_second_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = InstanceManifest(
        instance_id="i", worker_id=1, mtoken="", report_addr="", command=["x"]
    )
    directory = tmp_path / "instance"
    directory.mkdir()
    supervisor = Supervisor(directory, manifest)
    assert not supervisor._directory_is_gone()
    directory.rmdir()
    assert not supervisor._directory_is_gone()
    directory.mkdir()  # it was exchanged for another one
    assert not supervisor._directory_is_gone()
    directory.rmdir()
    assert [supervisor._directory_is_gone() for _ in range(2)] == [False, True]

    def away(_path: Path) -> None:
        raise OSError(errno.ESTALE, "stale")

    monkeypatch.setattr(Path, "stat", away)
    assert not supervisor._directory_is_gone()
