"""The worked example of docs/scaling.md, played through: the page quotes what the planner says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import (
    EndpointSnapshot,
    GroupSnapshot,
    OfferSnapshot,
    Plan,
    WorkerSnapshot,
    plan,
)
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters

PAGE = Path(__file__).parents[3] / "docs" / "scaling.md"
ONE = WorkerSnapshot(id=1, workergroup_id=1, state=WorkerState.READY, state_since=0.0, perf=80.0)
TWO = replace(ONE, id=2)
NEW = GroupSnapshot(id=1, offers=(OfferSnapshot(id="cpu", available=2),))


def decide(demand: Demand, *workers: WorkerSnapshot, now: float = 100.0) -> Plan:
    scaling = EndpointParameters(
        min_load=0,
        target_util=0.9,
        cold_mult=1,
        cold_workers=0,
        max_workers=2,
        inactivity_timeout=5,
    )
    return plan(
        EndpointSnapshot(
            endpoint_id=1,
            name="chat",
            parameters=scaling,
            demand=demand,
            workers=workers,
            groups=(NEW,),
        ),
        now,
    )


FIRST = Demand(
    held_count=1, held_load=100.0, recent_rate=20.0, peak_rate=20.0, last_request_at=100.0
)
WAVE = Demand(
    booked_count=32, booked_load=1920.0, recent_rate=384.0, peak_rate=384.0, last_request_at=100.0
)
AFTER = Demand(arrival_rate=32.0, peak_rate=384.0, last_request_at=95.0)
DRAINED = (
    replace(ONE, state=WorkerState.DRAINING),
    replace(TWO, state=WorkerState.DRAINING),
)


@pytest.mark.parametrize(
    "decided",
    [decide(FIRST), decide(WAVE, ONE), decide(AFTER, ONE, TWO), decide(AFTER, *DRAINED, now=101.0)],
    ids=["first request", "wave", "quiet", "drained"],
)
def test_the_example_quotes_what_the_planner_says(decided: Plan) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert f"`{decided.actions[0].reason}`" in page
    for note in decided.notes:
        assert f"`{note}`" in page


def test_every_parameter_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in EndpointParameters.__struct_fields__:
        assert f"| `{name}` |" in page
