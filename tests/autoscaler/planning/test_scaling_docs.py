"""The worked example of docs/scaling.md, played through: the page quotes what the planner says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    Forecaster,
    GroupSnapshot,
    OfferSnapshot,
    Plan,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"
ONE = WorkerSnapshot(
    id=1, workergroup_id=1, state=WorkerState.READY, state_since=0.0, perf=80.0, slots=4
)
TWO = replace(ONE, id=2)
NEW = GroupSnapshot(id=1, offers=(OfferSnapshot(id="cpu", available=2),))
KNOWN = replace(NEW, perf=80.0, create_seconds=4.0)

FIRST = Demand(
    held_count=1,
    held_load=100.0,
    recent_rate=20.0,
    peak_rate=20.0,
    arrived_load=100.0,
    arrived_count=1,
    last_request_at=100.0,
)
BEFORE = replace(FIRST, held_count=0, held_load=0.0)
WAVE = Demand(
    booked_count=32,
    booked_load=1920.0,
    recent_rate=384.0,
    peak_rate=384.0,
    arrived_load=2020.0,
    arrived_count=33,
    last_request_at=131.0,
)
AFTER = replace(WAVE, booked_count=0, booked_load=0.0)
DRAINED = (
    replace(ONE, state=WorkerState.DRAINING),
    replace(TWO, state=WorkerState.DRAINING),
)


def play() -> list[Plan]:
    """Four moments of one endpoint."""
    forecaster = Forecaster()

    def decide(
        now: float, demand: Demand, *workers: WorkerSnapshot, group: GroupSnapshot = KNOWN
    ) -> Plan:
        seen = EndpointSnapshot(
            endpoint_id=1,
            name="chat",
            parameters=EndpointParameters(
                min_load=0,
                target_util=0.9,
                cold_mult=1,
                cold_workers=0,
                max_workers=2,
                inactivity_timeout=5,
            ),
            demand=demand,
            workers=workers,
            groups=(group,),
        )
        return plan(replace(seen, outlook=forecaster.observe(seen, now)), now)

    decide(99.0, Demand(), group=NEW)
    first = decide(100.0, FIRST, group=NEW)
    for second in range(104, 131):
        decide(float(second), BEFORE, ONE)
    wave = decide(131.0, WAVE, ONE)
    for second in range(132, 156):
        decide(float(second), WAVE, ONE, TWO)
    ended = replace(AFTER, last_request_at=155.0)
    return [first, wave, decide(160.0, ended, ONE, TWO), decide(161.0, ended, *DRAINED)]


@pytest.mark.parametrize("moment", range(4), ids=["first request", "wave", "quiet", "drained"])
def test_the_example_quotes_what_the_planner_says(moment: int) -> None:
    decided = play()[moment]
    page = PAGE.read_text(encoding="utf-8")
    assert decided.actions
    assert f"`{decided.actions[0].reason}`" in page
    for note in decided.notes:
        assert f"`{note}`" in page


def test_every_parameter_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in EndpointParameters.__struct_fields__:
        assert f"| `{name}` |" in page
