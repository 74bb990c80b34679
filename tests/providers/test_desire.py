from __future__ import annotations

from typing import Any

from stoker.providers.desire import HEALTHY_AFTER, MAX_LAUNCHES, Desire

NEW = Desire(wanted="running", since=100.0, created_at=100.0)


def step(desire: Desire, now: float, **seen: Any) -> str:
    return desire.next_step(**{"alive": False, "told": False, "grace": 50.0, **seen}, now=now)


def test_a_launcher_that_is_not_there_is_started_at_once() -> None:
    assert step(NEW, 100.0) == "launch"


def test_a_launcher_that_is_there_is_left_alone() -> None:
    assert step(NEW, 100.0, alive=True) == "wait"


def test_each_start_that_came_to_nothing_doubles_the_wait() -> None:
    desire, now, waits = NEW, 100.0, []
    for _ in range(MAX_LAUNCHES - 1):
        desire = desire.launched(now)
        start = now
        while step(desire, now) == "wait":
            now += 0.25
        waits.append(now - start)
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_too_many_starts_in_a_row_are_given_up() -> None:
    desire = NEW
    for _ in range(MAX_LAUNCHES):
        desire = desire.launched(100.0)
    assert step(desire, 1e9) == "give up"


def test_a_healthy_time_clears_the_count() -> None:
    desire = NEW.launched(100.0).launched(101.0)
    assert desire.healthy(102.0, 102.0 + HEALTHY_AFTER - 1).launches == 2
    assert desire.healthy(102.0, 102.0 + HEALTHY_AFTER).launches == 0


def test_a_start_before_the_machine_booted_anew_delays_nothing() -> None:
    assert step(NEW.launched(1e9).dated(100.0), 100.0) == "launch"


def test_a_stop_that_was_asked_for_before_the_machine_booted_anew_gets_its_whole_grace() -> None:
    desire = NEW.want("stopped", 1.7e9).dated(100.0)
    assert step(desire, 150.0, alive=True, told=True) == "wait"
    assert step(desire, 150.1, alive=True, told=True) == "kill"


def test_moments_of_this_boot_stay_as_they_are() -> None:
    desire = NEW.launched(150.0).want("stopped", 200.0)
    assert desire.dated(200.0) is desire


def test_a_launcher_is_told_to_stop_once() -> None:
    desire = NEW.want("stopped", 200.0)
    assert step(desire, 200.0, alive=True) == "tell"
    assert step(desire, 200.0, alive=True, told=True) == "wait"


def test_a_launcher_that_does_not_stop_in_time_is_killed() -> None:
    desire = NEW.want("stopped", 200.0)
    assert step(desire, 250.0, alive=True, told=True) == "wait"
    assert step(desire, 250.1, alive=True, told=True) == "kill"


def test_an_instance_is_removed_when_its_launcher_is_gone() -> None:
    desire = NEW.want("destroyed", 200.0)
    assert step(desire, 200.0, alive=True) == "tell"
    assert step(desire, 201.0) == "remove"


def test_a_stopped_instance_stays() -> None:
    assert step(NEW.want("stopped", 200.0), 201.0) == "wait"


def test_there_is_no_way_back_from_destroyed() -> None:
    desire = NEW.want("destroyed", 200.0)
    assert desire.want("running", 300.0) is desire
    assert desire.want("stopped", 300.0) is desire


def test_asking_again_does_not_prolong_the_grace() -> None:
    assert NEW.want("stopped", 200.0).want("stopped", 300.0).since == 200.0


def test_a_stale_launcher_is_ended_then_started_with_the_new_settings_at_once() -> None:
    desire = NEW.launched(100.0).renew(200.0)
    assert step(desire, 200.0, alive=True) == "tell"
    assert step(desire, 200.0, alive=True, told=True) == "wait"
    assert step(desire, 250.1, alive=True, told=True) == "kill"
    assert step(desire, 201.0) == "launch"
    assert step(desire.launched(201.0), 201.1, alive=True) == "wait"


def test_a_stopped_instance_with_new_settings_is_wanted_running_and_a_destroyed_one_is_not() -> (
    None
):
    assert NEW.want("stopped", 110.0).renew(120.0).wanted == "running"
    assert NEW.want("destroyed", 110.0).renew(120.0).wanted == "destroyed"
