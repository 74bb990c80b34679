"""What was learnt of a load outlives the process."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.autoscaler.planning.test_forecast import ENDPOINT, Endpoint, after_two_nights

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning import Forecaster, Outlook
from stoker.autoscaler.planning.keeping import KeptRetention, halved, packed, unhalved, unpacked
from stoker.autoscaler.planning.retention import EDGES, MAX_RANKS, Retention
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.wire import EndpointParameters

BURSTS = ([0.0] * 110 + [1000.0] * 10) * 6


def learnt() -> Endpoint:
    """Bursts shorter than a boot have taught it to hold workers."""
    endpoint = Endpoint()
    endpoint.run(BURSTS)
    return endpoint


def restart(endpoint: Endpoint, after: float = 30.0) -> bool:
    """Another process takes over; whether what was kept is of use to it."""
    text = endpoint.forecaster.written(endpoint.now)
    endpoint.now += after
    endpoint.forecaster = Forecaster()
    return endpoint.forecaster.read(text, endpoint.now)


def first_outlook(endpoint: Endpoint) -> Outlook:
    return endpoint.run([0.0] * 3)


def test_headroom_for_bursts_is_held_at_once_after_a_restart() -> None:
    endpoint = learnt()
    before = endpoint.run([0.0])
    assert before.candidate is not None
    assert before.candidate.floor >= 4
    assert restart(endpoint)
    assert first_outlook(endpoint).candidate == before.candidate


def test_a_second_restart_before_anything_came_loses_nothing() -> None:
    endpoint = learnt()
    floor = endpoint.run([0.0]).candidate
    restart(endpoint)
    restart(endpoint)
    assert first_outlook(endpoint).candidate == floor


def test_the_first_look_after_a_restart_has_the_headroom_already() -> None:
    endpoint = learnt()
    before = endpoint.run([0.0])
    restart(endpoint)
    demand = Demand(arrived_load=endpoint.load, arrived_count=endpoint.count)
    first = endpoint.forecaster.observe(replace(ENDPOINT, demand=demand), endpoint.now)
    assert first.candidate == before.candidate


@given(st.lists(st.sampled_from([0.0, 20.0, 300.0, 1500.0]), min_size=5, max_size=20))
@settings(max_examples=8, deadline=None)
def test_who_led_before_a_restart_leads_after_it(loads: list[float]) -> None:
    endpoint = Endpoint()
    before = endpoint.run([load for load in loads for _ in range(40)])
    restart(endpoint)
    assert first_outlook(endpoint).candidate == before.candidate


def test_what_an_earlier_version_kept_besides_is_passed_over() -> None:
    endpoint = learnt()
    before = endpoint.run([0.0])
    kept = json.loads(endpoint.forecaster.written(endpoint.now))
    kept["rehearsal"] |= {"tightest": "AAAA", "time": 3600.0, "came": 5.0}
    endpoint.forecaster = Forecaster()
    assert endpoint.forecaster.read(json.dumps(kept), endpoint.now)
    assert first_outlook(endpoint).candidate == before.candidate


def test_what_was_learnt_fades_while_nobody_runs() -> None:
    soon, late = learnt(), learnt()
    restart(soon, after=0.0)
    restart(late, after=3600.0)
    first_outlook(soon)
    first_outlook(late)
    sums = [one.forecaster._rehearsal._late.max() for one in (soon, late)]  # type: ignore[union-attr]
    assert sums[1] == pytest.approx(sums[0] * math.exp(-1), rel=0.02)


def test_what_it_costs_to_be_without_a_stopped_worker_is_remembered() -> None:
    endpoint = learnt()
    before = endpoint.run([0.0]).retention
    assert len(before) > 3
    restart(endpoint)
    assert first_outlook(endpoint).retention == before


def test_a_file_in_which_nothing_is_said_of_stopped_workers_is_read() -> None:
    endpoint = learnt()
    kept = json.loads(endpoint.forecaster.written(endpoint.now))
    del kept["retention"]
    forecaster = Forecaster()
    assert forecaster.read(json.dumps(kept), endpoint.now)
    assert json.loads(forecaster.written(endpoint.now))["retention"]["ordered"] == ""


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ordered", packed([-1.0])),
        ("late", packed([-1.0])),
        ("late", packed([1e30])),
        ("late", packed([math.nan])),
        ("late", packed([1.0] * 2)),
        ("gaps", halved([1.0])),
        ("gaps", halved([-1.0] * len(EDGES))),
        ("gaps", halved([1e30] * len(EDGES))),
    ],
)
def test_figures_that_cannot_have_been_learnt_of_stopped_workers_are_refused(
    name: str, data: bytes
) -> None:
    told = {
        "ordered": packed([5.0]),
        "late": packed([50.0]),
        "gaps": halved([1.0] * len(EDGES)),
    }
    endpoint = learnt()
    kept = json.loads(endpoint.forecaster.written(endpoint.now))
    found = []
    for figures in (told, told | {name: data}):
        kept["retention"] |= {key: base64_of(one) for key, one in figures.items()}
        forecaster = Forecaster()
        assert forecaster.read(json.dumps(kept), endpoint.now)
        found.append(json.loads(forecaster.written(endpoint.now))["retention"])
    assert [found[0][key] for key in told] == [base64_of(one) for one in told.values()]
    assert [found[1][key] for key in told] == ["", "", ""]


def test_more_ranks_than_are_ever_told_apart_are_refused() -> None:
    ranks = MAX_RANKS + 1
    kept = KeptRetention(
        at=0.0,
        ordered=packed([1.0] * ranks),
        late=packed([1.0] * ranks),
        gaps=halved([1.0] * ranks * len(EDGES)),
    )
    assert not Retention(PlannerSettings()).resume(kept, 0.0)


def test_the_season_is_known_after_a_restart() -> None:
    endpoint = after_two_nights()
    endpoint.run([1.0] * 500)
    assert restart(endpoint)
    ready = endpoint.run([1.0] * 60)
    assert ready.binds == "season"
    assert ready.needed == pytest.approx(450.0 / 0.9)


def test_the_rehearsal_of_another_cap_is_of_no_use_but_the_season_is() -> None:
    endpoint = learnt()
    text = endpoint.forecaster.written(endpoint.now)
    endpoint.snapshot = replace(ENDPOINT, parameters=EndpointParameters(max_workers=5))
    endpoint.forecaster = Forecaster()
    assert endpoint.forecaster.read(text, endpoint.now)
    outlook = first_outlook(endpoint)
    assert outlook.candidate is not None
    assert outlook.candidate.floor == 0


@pytest.mark.parametrize("after", [-3600.0, 15 * 86400.0])
def test_what_is_too_old_or_of_the_future_is_left(after: float) -> None:
    endpoint = learnt()
    assert not restart(endpoint, after=after)
    outlook = first_outlook(endpoint)
    assert outlook.candidate is None


def test_a_forecaster_that_knows_nothing_can_be_kept() -> None:
    assert Forecaster().read(Forecaster().written(5.0), 6.0)


@given(st.text(max_size=60))
@settings(max_examples=30)
def test_no_text_makes_it_fail(text: str) -> None:
    forecaster = Forecaster()
    assert not forecaster.read(text, 100.0)
    assert forecaster.observe(ENDPOINT, 100.0).candidate is None


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_no_figure_makes_it_fail(data: st.DataObject) -> None:
    endpoint = Endpoint()
    endpoint.run([100.0] * 5)
    kept = json.loads(endpoint.forecaster.written(endpoint.now))
    part = data.draw(st.sampled_from([kept, kept["rehearsal"], kept["season"], kept["retention"]]))
    name = data.draw(st.sampled_from(sorted(part)))
    numbers = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.none(), st.just("AAAA"))
    part[name] = data.draw(st.one_of(numbers, st.lists(numbers, max_size=3)))
    endpoint.forecaster = Forecaster()
    endpoint.forecaster.read(json.dumps(kept), endpoint.now)
    outlook = endpoint.run([100.0] * 130)  # until it judges again
    assert 0.0 <= outlook.needed < math.inf
    assert Forecaster().read(endpoint.forecaster.written(endpoint.now), endpoint.now)


@given(st.lists(st.floats(0, 2.0**100, width=32)))
def test_packed_numbers_come_back(values: list[float]) -> None:
    assert unpacked(packed(values), len(values)).tolist() == values


@pytest.mark.parametrize("values", [[1.0], [1.0, -1.0], [1.0, math.inf]])
def test_numbers_that_cannot_be_a_cost_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"numbers|below 0"):
        unpacked(packed(values), 2)


@given(st.lists(st.floats(1e-30, 2.0**100)))
def test_halved_numbers_come_back_within_a_250th(values: list[float]) -> None:
    assert unhalved(halved(values), len(values)).tolist() == pytest.approx(values, rel=1 / 250)


def test_what_is_not_known_is_not_known_afterwards() -> None:
    assert np.isnan(unhalved(halved([math.nan]), 1)).all()


@pytest.mark.parametrize("values", [[1.0], [1.0, -1.0], [1.0, math.inf]])
def test_halved_numbers_that_cannot_be_a_load_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"numbers|below 0"):
        unhalved(halved(values), 2)
