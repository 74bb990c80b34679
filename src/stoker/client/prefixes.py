"""Names for the growing prefix of a prompt, for the `affinity` of a request."""

from __future__ import annotations

from hashlib import blake2b
from itertools import pairwise

from stoker.wire import MAX_PREFIXES

BLOCK = 512
"""Characters of the shortest prefix that is named: about a hundred tokens."""

GROWTH = 1.25
"""Ratio of one prefix's length to that of the one before it, at least."""


def prefixes(prompt: str) -> list[str]:
    """Hashes of the prefixes of a prompt, the shortest first.

    The prefixes are multiples of `BLOCK` characters and grow by `GROWTH`, so that few of them reach
    far: 32 of them end at 712,192 characters, and beyond the first blocks the longest that two
    prompts share is at least 80% of what they have in common. A prompt shorter than a block has
    none.

    Args:
        prompt: the whole text that the model server gets, in its order; for a chat, all messages.
    """
    digest, names = blake2b(digest_size=8), []
    for start, end in pairwise(_ends(len(prompt))):
        digest.update(prompt[start:end].encode("utf-8", "surrogatepass"))
        names.append(digest.copy().hexdigest())
    return names


def _ends(length: int) -> list[int]:
    ends, blocks = [0], 1
    while len(ends) <= MAX_PREFIXES and blocks * BLOCK <= length:
        ends.append(blocks * BLOCK)
        blocks = max(blocks + 1, int(blocks * GROWTH))
    return ends
