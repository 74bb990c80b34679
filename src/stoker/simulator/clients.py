"""What simulated clients say that their requests cost, where that is not the truth.

A setting of the simulator names it (`cost_error`), as one way or several, joined by ``+``. Each way
is that of one API key, and the requests are dealt to the keys in turn:

=================  ==============================================================
``4`` or ``x0.25``  so many times the true load
``constant:100``    always the same (existing clients that are told nothing say 100)
``noise:0.5``       the true load times a log-normal factor of that spread, mean 1
``none``            nothing is said
=================  ==============================================================

E.g. ``10+1``: of two keys, one claims ten times what its requests are, and the other the truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from stoker.wire import MAX_COST

MAX_KEYS = 100
"""Keys that may be named."""

Way = Callable[[float, random.Random], float | None]
"""From the true load of a request to what its client says; None: nothing."""

_HELP = "a factor such as 4 or x0.25, constant:100, noise:0.5 or none; several keys: 10+1"


def parse_claims(text: str) -> list[Way]:
    """How the clients of each key claim.

    Raises:
        ValueError: the text says nothing of the kind.
    """
    parts = [part.strip() for part in text.split("+")]
    if len(parts) > MAX_KEYS:
        raise ValueError(f"names more than {MAX_KEYS} keys")
    return [_parse(part) for part in parts]


def _parse(text: str) -> Way:
    if text == "none":
        return lambda _load, _random: None
    kind, colon, figure = text.rpartition(":")
    try:
        value = float(figure.removeprefix("x") if not colon else figure)
    except ValueError:
        raise ValueError(f"must be {_HELP}; not {text[:40]!r}") from None
    if kind == "constant" and 0 <= value <= MAX_COST:
        return lambda _load, _random: value
    if kind == "noise" and 0 <= value <= 5:
        return lambda load, source: min(
            MAX_COST, load * source.lognormvariate(-value * value / 2, value)
        )
    if not colon and 0 <= value <= MAX_COST:
        return lambda load, _random: min(MAX_COST, load * value)
    raise ValueError(f"must be {_HELP}; not {text[:40]!r}")


class Clients:
    """The clients of one run."""

    def __init__(self, ways: str, seed: int) -> None:
        """Make them.

        Args:
            ways: see the module.
            seed: of what is random.

        Raises:
            ValueError: `ways` cannot be read.
        """
        self._ways = parse_claims(ways)
        self._random = random.Random(f"claims {seed}")

    def ask(self, index: int, load: float) -> tuple[str, float | None]:
        """The key of the request at a place of the trace, and the cost that it claims."""
        number = index % len(self._ways)
        key = f"key {number + 1}" if len(self._ways) > 1 else ""
        return key, self._ways[number](load, self._random)
