"""Names of policies and their figures."""

from __future__ import annotations

import pytest

from stoker.errors import ConfigError
from stoker.simulator import POLICIES, Trace, parse_policy, simulate


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("knativ", "did you mean 'knative'"),
        ("zzz", "known: stoker, fixed"),
        ("knative:targt=0.5", "has no parameter 'targt'; known: target, concurrency"),
        ("knative:target=2", "policy knative.target: must be from 0.01 to 1"),
        ("fixed:2.5", "policy fixed.workers: must be a whole number"),
        ("fixed:many", "policy fixed.workers: is no number: 'many'"),
        ("stoker:1", "policy stoker: has no parameter '1'; known: none"),
        ("target_util:nan", "policy target_util.util: must be from 0.01 to 10"),
    ],
)
def test_a_mistake_is_named(spec: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(spec)
    assert problem in str(caught.value)


def test_a_policy_is_called_as_it_was_written() -> None:
    assert parse_policy("knative").name == "knative"
    assert parse_policy("knative:target=0.5,up=10").name == "knative:target=0.5,up=10"
    assert parse_policy("fixed:6").name == "fixed:6"


def test_the_figure_without_a_name_is_the_main_one() -> None:
    trace = Trace.of("steady", [(0.5 * n, 100.0) for n in range(1200)], 600.0)
    by_name = simulate(trace, "target_util:util=0.3")
    assert simulate(trace, "target_util:0.3").cost == by_name.cost
    assert simulate(trace, "target_util:0.1").cost > by_name.cost


@pytest.mark.parametrize("name", [*POLICIES])
def test_every_policy_runs_with_its_defaults_and_cuts_nothing(name: str) -> None:
    waves = [(60 * wave + 0.2 * n, 150.0) for wave in range(10) for n in range(100)]
    result = simulate(Trace.of("waves", waves, 660.0), name)
    assert result.cut == 0
    assert result.lost == 0
    assert result.requests == 700
