from __future__ import annotations

import pytest

from stoker.simulator.clients import Clients


def claims(ways: str, count: int = 4, load: float = 100.0) -> list[float | None]:
    clients = Clients(ways, seed=0)
    return [clients.ask(place, load)[1] for place in range(count)]


@pytest.mark.parametrize(
    ("ways", "claim"),
    [("1.0", 100.0), ("4", 400.0), ("x0.25", 25.0), ("constant:7", 7.0), ("none", None)],
)
def test_a_client_claims_as_it_is_told(ways: str, claim: float | None) -> None:
    assert claims(ways) == [claim] * 4


def test_noise_has_the_truth_as_its_mean() -> None:
    found = [claim or 0.0 for claim in claims("noise:0.5", 20_000)]
    assert sum(found) / len(found) == pytest.approx(100, rel=0.03)
    assert min(found) < 50
    assert max(found) > 200


def test_requests_are_dealt_to_the_keys_in_turn() -> None:
    clients = Clients("10 + 1", seed=0)
    assert [clients.ask(place, 5.0) for place in range(3)] == [
        ("key 1", 50.0),
        ("key 2", 5.0),
        ("key 1", 50.0),
    ]


@pytest.mark.parametrize(
    "ways",
    ["", "four", "-1", "nan", "inf", "constant:", "constant:-1", "noise:9", "1+", "a:1", "+"],
)
def test_what_cannot_be_read_is_told_with_what_can(ways: str) -> None:
    with pytest.raises(ValueError, match=r"must be a factor such as 4 or x0\.25"):
        Clients(ways, seed=0)
