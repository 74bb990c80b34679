"""What the calculators share, and the simplest of them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from stoker.errors import ConfigError
from stoker.wire import DEFAULT_LOAD, MAX_COST
from stoker.worker.config import RawCalculator

BYTES_PER_TOKEN = 4.0
"""Bytes of UTF-8 text that count as a token, where there is no tokenizer to ask.

English comes to about 4 characters a token with the tokenizers of current models (so says OpenAI's
own help page on tokens). Bytes and not characters: a Chinese character is 3 bytes, and about one
token.
"""

ABSENT = msgspec.Raw()
"""A field left undecoded that the payload does not have; false."""

Number = int | float | None
T = TypeVar("T")


def positive(name: str, value: float, high: float = MAX_COST) -> float:
    """The setting `name` of a calculator.

    Raises:
        ConfigError: it is no number above 0 and at most `high`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high:
        raise ConfigError(name, f"must be a number above 0, at most {high:g}")
    return float(value)


def bounded(value: Any, default: float, low: float, high: float) -> float:
    """A client's figure, between `low` and `high`; `default` where it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    return float(min(max(value, low), high))


def first(*values: T | None) -> T | None:
    """The first that is not None."""
    for value in values:
        if value is not None:
            return value
    return None


def tokens_of(text: str) -> float:
    """Estimated tokens of a text."""
    # Whether a text is plain ASCII is read from its header, without a look at its characters.
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size / BYTES_PER_TOKEN


class Constant(RawCalculator):
    """The same load for every request."""

    __slots__ = ("load",)

    def __init__(self, load: float = DEFAULT_LOAD) -> None:
        """Prepare.

        Args:
            load: load units; may be 0, for a route that costs nothing.

        Raises:
            ConfigError: it is negative, not finite, or above `stoker.wire.MAX_COST`.
        """
        fixed = float(load) if load == 0 else positive("Constant.load", load)
        self.load = fixed
        super().__init__(lambda _payload: fixed)
