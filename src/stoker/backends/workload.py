"""Load of a text-generation request: the tokens it may produce.

Rules:

* Load is the limit of new tokens that the request itself sets (``max_completion_tokens``,
  ``max_tokens`` or ``n_predict``, in this order), else `DEFAULT_LOAD`.
* It is bounded by the context of one slot: a request for a million tokens gets at most what fits.
* It is multiplied by the number of answers (``n``, and one per prompt of a list), at most
  `MAX_ANSWERS`.
* Whatever else the payload holds is skipped unread; a payload of another shape costs
  `DEFAULT_LOAD`, because the model server will refuse it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from stoker.wire import DEFAULT_LOAD

MAX_ANSWERS = 128
"""Most answers of one request that are counted."""


class _Limits(msgspec.Struct):
    """The only fields of a payload that say something about load."""

    max_completion_tokens: int | float | None = None
    max_tokens: int | float | None = None
    n_predict: int | float | None = None
    n: int | None = None
    prompt: Any = None


class _Input(msgspec.Struct):
    input: Any = None


_LIMITS = msgspec.json.Decoder(_Limits)
_INPUT = msgspec.json.Decoder(_Input)


def completion_load(payload: bytes | msgspec.Raw, context: int) -> float:
    """Load of a completion, in tokens.

    Args:
        payload: the request as JSON text.
        context: tokens of context of one slot; a negative limit means "until it is full".
    """
    try:
        limits = _LIMITS.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DEFAULT_LOAD
    tokens: float | None = limits.max_completion_tokens
    if tokens is None:
        tokens = limits.max_tokens
    if tokens is None:
        tokens = limits.n_predict
    if tokens is None:
        tokens = DEFAULT_LOAD
    # llama.cpp: -1 is "no limit", -2 "until the context is full".
    tokens = context if tokens < 0 else min(tokens, context)
    answers = limits.n if limits.n is not None and limits.n > 0 else 1
    if isinstance(limits.prompt, list) and limits.prompt and isinstance(limits.prompt[0], str):
        answers *= len(limits.prompt)
    return float(max(1, tokens)) * min(answers, MAX_ANSWERS)


def embedding_load(payload: bytes | msgspec.Raw, context: int) -> float:
    """Load of an embeddings request, in tokens: four characters count as one."""
    try:
        asked = _INPUT.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return DEFAULT_LOAD
    texts = asked.input if isinstance(asked.input, list) else [asked.input]
    total = sum(min(len(t) / 4, context) if isinstance(t, str) else 1.0 for t in texts)
    return max(1.0, min(total, float(context) * MAX_ANSWERS))
