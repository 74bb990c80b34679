"""The load has gone for which workers still boot."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.planning.ebb import Ebb

PERF, BOOT = 100.0, 60.0


def run(ebb: Ebb, needs: list[float], *, start: float = 0.0, booting: bool = True) -> list[bool]:
    return [
        ebb.step(need, PERF, BOOT, start + second, booting=booting)
        for second, need in enumerate(needs)
    ]


def test_a_need_that_falls_to_a_third_within_half_a_boot_has_gone() -> None:
    assert run(Ebb(), [900.0] * 20 + [310.0, 290.0]) == [False] * 21 + [True]


def test_a_need_that_fell_longer_ago_than_half_a_boot_is_no_news() -> None:
    assert run(Ebb(), [900.0] + [200.0] * 29 + [200.0])[-2:] == [True, False]


def test_less_than_two_workers_are_no_fall() -> None:
    assert not any(run(Ebb(), [190.0, 0.0]))
    assert run(Ebb(), [200.0, 0.0])[-1]


def test_a_slow_fall_is_none() -> None:
    assert not any(run(Ebb(), [1000.0 * 0.98**second for second in range(300)]))


def test_it_happens_once() -> None:
    ebb = Ebb()
    assert run(ebb, [900.0, 0.0])[-1]
    assert not any(run(ebb, [900.0, 0.0, 900.0, 0.0], start=1000.0))


def test_a_fall_while_nothing_boots_does_not_count() -> None:
    ebb = Ebb()
    assert not any(run(ebb, [900.0, 0.0], booting=False))
    assert run(ebb, [900.0, 0.0], start=1000.0)[-1]


def test_a_clock_that_is_put_right_changes_nothing() -> None:
    ebb = Ebb()
    run(ebb, [900.0])
    ebb.clock_set(5000.0)
    assert run(ebb, [0.0], start=5001.0) == [True]


@given(
    st.lists(st.tuples(st.floats(0, 1e30), st.floats(-1e9, 1e9), st.booleans()), max_size=30),
    st.floats(1e-9, 1e9),
    st.floats(0, 3600),
)
def test_there_is_one_fall_at_most_whatever_comes(
    steps: list[tuple[float, float, bool]], perf: float, boot: float
) -> None:
    ebb = Ebb()
    found = [ebb.step(need, perf, boot, now, booting=booting) for need, now, booting in steps]
    begins = sum(one and not before for before, one in zip([False, *found], found, strict=False))
    assert begins <= 1
