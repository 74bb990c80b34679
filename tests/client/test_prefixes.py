from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stoker.client import prefixes
from stoker.client.prefixes import BLOCK, GROWTH
from stoker.wire import MAX_PREFIXES, check_affinity

TEXT = st.integers(0, 40 * BLOCK).map(lambda length: "abcdefg" * (length // 7 + 1))


@given(TEXT, TEXT, TEXT)
def test_two_prompts_share_the_names_of_what_they_have_in_common(
    common: str, one: str, other: str
) -> None:
    first, second = prefixes(common + "1" + one), prefixes(common + "2" + other)
    shared = sum(a == b for a, b in zip(first, second, strict=False))
    assert first[:shared] == second[:shared]
    assert not set(first[shared:]) & set(second[shared:])
    assert shared == len(prefixes(common))


def test_the_names_reach_as_far_as_they_should() -> None:
    lengths = [n for n in range(0, 200 * BLOCK, BLOCK) if len(prefixes("x" * n))]
    assert lengths[0] == BLOCK
    named = [len(prefixes("x" * n)) for n in range(0, 200 * BLOCK, BLOCK)]
    ends = [i for i, (a, b) in enumerate(itertools.pairwise(named), 1) if b > a]
    later = [(a, b) for a, b in itertools.pairwise(ends) if a >= 4]
    assert all(b <= a * GROWTH for a, b in later)


@given(st.text(max_size=3000))
def test_any_prompt_gives_what_the_router_takes(prompt: str) -> None:
    assert check_affinity(prefixes(prompt)) == prefixes(prompt)


def test_a_very_long_prompt_has_no_more_names_than_are_allowed() -> None:
    assert len(prefixes("x" * 2_000_000)) == MAX_PREFIXES


def test_a_short_prompt_has_none_and_odd_characters_do_no_harm() -> None:
    assert prefixes("hello") == []
    assert len(prefixes("\ud800" * BLOCK)) == 1
