import pytest

from stoker.autoscaler.dayclock import STEP, DayClock


def looked_at(clock, walls, start=0.0):
    """The steps that it took, with a look a second at the wall clock's offset."""
    return [
        step
        for second, offset in enumerate(walls)
        if (step := clock.look(start + second + offset, start + second))
    ]


def test_time_goes_on_by_the_monotonic_clock():
    clock = DayClock(wall=1_000.0, now=10.0)
    assert clock.unix(70.0) == 1_060.0


@pytest.mark.parametrize("step", [3600.0, -3600.0, 1.7e9])
def test_a_clock_that_was_set_and_stays_so_is_believed_once(step):
    clock = DayClock(wall=0.0, now=0.0)
    assert looked_at(clock, [0.0] * 5 + [step] * 200) == [step]
    assert clock.unix(7.0) == step + 7.0


def test_a_clock_is_not_believed_before_it_has_stood_there_for_a_minute():
    clock = DayClock(wall=0.0, now=0.0)
    assert looked_at(clock, [3600.0] * 60) == []


def test_a_clock_that_jumps_to_and_fro_changes_nothing():
    clock = DayClock(wall=0.0, now=0.0)
    assert looked_at(clock, [3600.0, 0.0] * 300) == []
    assert looked_at(clock, [second % 7 * 1000.0 for second in range(600)], start=600.0) == []


def test_a_clock_that_stands_nowhere_for_a_minute_changes_nothing():
    clock = DayClock(wall=0.0, now=0.0)
    assert looked_at(clock, [1000.0 * (1 + second // 50) for second in range(600)]) == []


def test_a_clock_that_drifts_slowly_is_followed():
    clock = DayClock(wall=0.0, now=0.0)
    steps = looked_at(clock, [second * 0.01 for second in range(20_000)])
    assert steps
    assert abs(clock.unix(0.0) - 200.0) <= STEP + 1
