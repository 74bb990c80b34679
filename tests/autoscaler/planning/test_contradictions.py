from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.autoscaler.planning.conftest import decide, held, kinds, parameters, steady, worker

from stoker.autoscaler.planning.contradictions import clamped, contradictions
from stoker.wire import EndpointParameters

numbers = st.floats(allow_nan=True, allow_infinity=True)
NAMES = ("min_load", "min_cold_load", "target_util", "cold_mult", "max_queue_time")


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"target_util": 0.0}, "target_util 0 must be above 0 and at most 1: taken as 0.01"),
        ({"target_util": 7.0}, "target_util 7 must be above 0 and at most 1: taken as 1"),
        ({"target_util": math.nan}, "target_util nan must be above 0 and at most 1: taken as 0.9"),
        ({"cold_mult": 0.5}, "cold_mult 0.5 must be from 1 to 1000: taken as 1"),
        ({"max_workers": -3}, "max_workers -3 must be from 0 to 100000: taken as 0"),
        (
            {"inactivity_timeout": math.inf},
            "inactivity_timeout inf must be a finite number, or absent: taken as absent",
        ),
        (
            {"cold_workers": 9, "max_workers": 8},
            "cold_workers 9 is above max_workers 8: taken as 8",
        ),
        (
            {"cold_workers": "atuo"},
            'cold_workers atuo must be a whole number from 0, or "auto", not "atuo": taken as 0',
        ),
        (
            {"target_queue_time": 40.0},
            "target_queue_time 40 s is above max_queue_time 30 s: taken as 30 s",
        ),
        (
            {"min_load": 5.0, "max_workers": 0},
            "min_load 5 has no effect: max_workers is 0",
        ),
    ],
)
def test_the_plan_says_what_was_made_of_parameters_that_make_no_sense(
    changes: dict[str, Any], note: str
) -> None:
    assert note in decide(steady(10.0), worker(1), scaling=parameters(**changes)).notes


@given(st.dictionaries(st.sampled_from(NAMES), numbers), st.integers(-5, 20), st.integers(-5, 20))
def test_no_parameters_make_the_planner_fail(
    figures: dict[str, float], most: int, cold: int
) -> None:
    scaling = parameters(**figures, max_workers=most, cold_workers=cold)
    decided = decide(held(2), worker(1), scaling=scaling)
    creations = [kind for kind, _ in kinds(decided) if kind == "create"]
    assert len(creations) <= max(0, most - 1)
    assert clamped(scaling)[0].problems() == {}


def test_sound_parameters_are_taken_as_they_are() -> None:
    sound = EndpointParameters()
    assert clamped(sound) == (sound, [])
    assert contradictions(sound) == []
    auto = EndpointParameters(cold_workers="auto", max_workers=0, min_load=0)
    assert clamped(auto) == (auto, [])
    assert contradictions(auto) == []
