from __future__ import annotations

import pytest
from benchmarks.planning import ROUNDS, measure

from stoker.autoscaler.planning import Forecaster


@pytest.mark.parametrize("name", ROUNDS)
def test_the_rounds_of_the_benchmark_are_what_they_say(name: str) -> None:
    share, updating = ROUNDS[name]
    measured = measure([Forecaster(), Forecaster()], 20, share, updating=updating)
    assert measured["forecasting"] > 0
    assert (measured["actions"] == 0) is (name == "steady")
