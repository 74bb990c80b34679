"""Generated traffic has the rate and the sizes that it is asked for."""

from __future__ import annotations

import statistics

import pytest

from stoker.errors import ConfigError
from stoker.simulator import GENERATORS, Trace, generate


def rate(trace: Trace, start: float, end: float) -> float:
    return sum(start <= at < end for at in trace.arrivals) / (end - start)


@pytest.mark.parametrize("name", [*GENERATORS])
def test_the_same_seed_gives_the_same_trace(name: str) -> None:
    one, same, other = (generate(f"{name}:duration=2000", seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert list(one.arrivals) == sorted(one.arrivals)
    assert one.duration == 2000


def test_poisson_has_its_rate_and_its_mean_load() -> None:
    trace = generate("poisson:10,duration=4000,load=50")
    assert rate(trace, 0, 4000) == pytest.approx(10, rel=0.03)
    assert trace.load / len(trace) == pytest.approx(50, rel=0.05)
    gaps = [b - a for a, b in zip(trace.arrivals, trace.arrivals[1:], strict=False)]
    # Of a Poisson process the gaps have a standard deviation equal to their mean.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)


def test_daily_has_its_peak_at_noon() -> None:
    trace = generate("daily:rate=1,swing=0.5")
    hour = 3600
    assert rate(trace, 11 * hour, 13 * hour) == pytest.approx(1.5, rel=0.05)
    assert rate(trace, 0, hour) == pytest.approx(0.5, rel=0.1)


def test_a_week_has_five_busy_days_and_a_quiet_end() -> None:
    hour, day = 3600, 86_400
    trace = generate("weekly:rate=0.2,base=0.01,duration=1209600")
    for monday in (0, 7):
        for workday in range(monday, monday + 5):
            assert rate(trace, workday * day + 10 * hour, workday * day + 16 * hour) > 0.17
            assert rate(trace, workday * day + 17 * hour, (workday + 1) * day) < 0.02
        assert rate(trace, (monday + 5) * day, (monday + 7) * day) < 0.02
    assert rate(trace, 9 * hour, 10 * hour) == pytest.approx(0.105, rel=0.25)


def test_a_job_of_mondays_may_last_past_midnight() -> None:
    hour, day = 3600, 86_400
    trace = generate("weekly:rate=1,base=0,days=1,start=23,hours=2,rise=0,duration=1209600")
    assert {int(at // hour) for at in trace.arrivals} == {23, 24, 7 * 24 + 23, 8 * 24}
    assert rate(trace, 23 * hour, day + hour) == pytest.approx(1, rel=0.1)


def test_onoff_is_silent_between_its_bursts() -> None:
    trace = generate("onoff:rate=20,on=30,off=180,jitter=0,duration=2100")
    assert rate(trace, 0, 180) == 0
    assert rate(trace, 180, 210) == pytest.approx(20, rel=0.2)
    assert rate(trace, 210, 390) == 0
    assert len(trace) == pytest.approx(20 * 30 * 10, rel=0.1)


def test_a_ramp_goes_from_one_rate_to_the_other() -> None:
    trace = generate("ramp:start=1,end=9,duration=4000")
    assert rate(trace, 0, 400) == pytest.approx(1.4, rel=0.15)
    assert rate(trace, 3600, 4000) == pytest.approx(8.6, rel=0.1)


def test_a_flash_crowd_comes_stays_and_fades() -> None:
    trace = generate("flash:rate=5,times=10,at=600,rise=10,lasts=100,fade=100,duration=1800")
    assert rate(trace, 0, 600) == pytest.approx(5, rel=0.1)
    assert rate(trace, 610, 710) == pytest.approx(50, rel=0.1)
    assert rate(trace, 800, 820) == pytest.approx(5 + 45 / 2.718, rel=0.2)
    assert rate(trace, 1400, 1800) == pytest.approx(5, rel=0.15)


def test_requests_above_the_most_are_cut_to_it() -> None:
    whole = generate("poisson:20,duration=500,load=100,tail=1.2")
    cut = generate("poisson:20,duration=500,load=100,tail=1.2,most=300")
    assert list(cut.loads) == [min(300.0, load) for load in whole.loads]
    assert max(whole.loads) > 300
    assert set(generate("poisson:20,duration=50,load=100,sigma=0,most=70").loads) == {70.0}


def test_a_heavy_tail_has_the_mean_and_requests_a_hundred_times_as_large() -> None:
    trace = generate("poisson:20,duration=5000,load=100,tail=1.8")
    assert trace.load / len(trace) == pytest.approx(100, rel=0.2)
    assert max(trace.loads) > 5_000
    assert min(trace.loads) >= 100 * 0.8 / 1.8


def test_without_spread_all_requests_are_alike() -> None:
    assert set(generate("poisson:5,duration=100,load=70,sigma=0").loads) == {70.0}


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("poison", "did you mean 'poisson'"),
        ("onoff:rat=3", "generator onoff: has no parameter 'rat'; known: rate, base"),
        ("poisson:rate=1e6,duration=1e6", "comes to more than 20,000,000 requests"),
        ("poisson:tail=0.5", "must be 0 or above 1"),
        ("daily:swing=2", "generator daily.swing: must be from 0 to 1"),
    ],
)
def test_a_mistake_is_named(spec: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        generate(spec)
    assert problem in str(caught.value)


def test_no_rate_is_no_request() -> None:
    assert len(generate("poisson:0")) == 0
