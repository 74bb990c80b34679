from __future__ import annotations

import pytest
from benchmarks.planning import ROUNDS, measure


@pytest.mark.parametrize("name", ROUNDS)
def test_the_rounds_of_the_benchmark_are_what_they_say(name: str) -> None:
    share, updating = ROUNDS[name]
    actions = measure(2, 20, share, updating=updating)["actions"]
    assert (actions == 0) is (name == "steady")
