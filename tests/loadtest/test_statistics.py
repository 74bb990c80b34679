import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stoker.loadtest.answer import Outcome
from stoker.loadtest.statistics import (
    MAX_REASONS,
    OTHER,
    Distribution,
    Statistics,
    Timeline,
    histogram,
    percentile,
)

SECONDS = st.floats(0, 1e6, allow_nan=False)
MANY = st.lists(SECONDS, min_size=1, max_size=300)


@given(MANY, st.integers(1, 100))
def test_a_percentile_is_the_smallest_value_with_that_share_at_or_below_it(values, p):
    ordered = sorted(values)
    found = percentile(ordered, p)
    assert found in values
    assert 100 * sum(v <= found for v in values) >= p * len(values)
    assert 100 * sum(v < found for v in values) < p * len(values)


def test_the_99th_of_a_hundred_values_is_the_99th():
    assert percentile([float(n) for n in range(1, 101)], 99) == 99.0


@given(MANY)
def test_a_spread_is_in_order_and_exact(values):
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    spread = distribution.spread()
    assert (spread.count, spread.min, spread.max) == (len(values), min(values), max(values))
    assert spread.min <= spread.p50 <= spread.p90 <= spread.p95 <= spread.p99 <= spread.max
    assert spread.min <= spread.mean <= spread.max
    assert not spread.sampled


def test_beyond_the_limit_a_uniform_sample_is_kept_and_said_to_be_one():
    distribution = Distribution(limit=1000, rng=random.Random(1))
    for value in range(100_000):
        distribution.add(float(value))
    assert len(distribution.values) == 1000
    spread = distribution.spread()
    assert spread.sampled
    assert spread.count == 100_000
    # A uniform sample's median is off by more than 5 % once in a thousand times.
    assert abs(spread.p50 - 50_000) < 5000
    assert (spread.min, spread.max, spread.mean) == (0.0, 99_999.0, 49_999.5)


def test_nothing_has_no_spread():
    assert Distribution().spread() is None
    assert Distribution().median_so_far() is None


@given(MANY)
def test_a_histogram_counts_each_value_once_and_in_its_bin(values):
    bins = histogram(values)
    assert sum(each.count for each in bins) == len(values)
    assert (bins[0].low, bins[-1].high) == (min(values), max(values))
    for each, following in pairwise(bins):
        assert each.high == following.low
        assert each.count == sum(each.low <= v < each.high for v in values)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.booleans()), max_size=200))
def test_a_timeline_stays_short_and_forgets_no_answer(answers):
    timeline = Timeline(step=1.0, limit=10)
    for at, ok in answers:
        timeline.add(at, ok=ok)
    assert len(timeline.ok) == len(timeline.failed) <= 10
    assert sum(timeline.ok) == sum(ok for _, ok in answers)
    assert sum(timeline.failed) == sum(not ok for _, ok in answers)


def test_a_timeline_has_each_answer_in_its_second():
    timeline = Timeline(step=1.0)
    for at in (0.1, 2.9, 2.95):
        timeline.add(at, ok=True)
    timeline.add(1.5, ok=False)
    assert (timeline.ok, timeline.failed) == ([1, 0, 2], [0, 1, 0])


def test_only_successes_have_times():
    statistics = Statistics()
    statistics.add(Outcome(start=0.0, end=1.0, first_byte=0.5, bytes_received=10))
    statistics.add(Outcome(start=0.0, end=9.0, first_byte=8.0, reason="status 500", detail="boom"))
    results = statistics.results("t", "/r")
    assert (results.ok, results.failed, results.requests) == (1, 1, 2)
    assert (results.total.max, results.first_byte.max) == (1.0, 0.5)
    assert results.seconds == 9.0
    assert results.failures["status 500"].example == "boom"


def test_rates_count_what_succeeded_over_the_whole_time():
    statistics = Statistics()
    for number in range(10):
        statistics.add(Outcome(start=number, end=number + 1.0, tokens=5, tokens_told=True))
    results = statistics.results("t", "/r")
    assert (results.requests_per_second, results.tokens_per_second) == (1.0, 5.0)
    assert not results.tokens_estimated


def test_the_longest_retry_after_of_a_reason_is_kept():
    statistics = Statistics()
    for asked in (1.0, 4.0, 2.0):
        statistics.add(Outcome(start=0.0, end=0.1, reason="status 429", retry_after=asked))
    assert statistics.failures["status 429"].retry_after == 4.0


def test_reasons_are_bounded():
    statistics = Statistics()
    for number in range(MAX_REASONS + 5):
        statistics.add(Outcome(start=0.0, reason=f"status {number}"))
    assert len(statistics.failures) == MAX_REASONS + 1
    assert statistics.failures[OTHER].count == 5


def test_without_any_request_all_figures_are_zero():
    results = Statistics().results("t", "/r")
    assert (results.requests, results.seconds, results.requests_per_second) == (0, 0.0, 0.0)
    assert results.total is None


def test_values_that_are_nearly_the_same_share_a_bin():
    assert len(histogram([0.517, 0.518, 0.521])) == 1
    assert len(histogram([0.5, 0.52])) == 3
