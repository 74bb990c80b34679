"""Names with figures, as on a command line: ``onoff:rate=20,on=60``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stoker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Figure:
    """One parameter: its default and its range."""

    default: float
    low: float = 0.0
    high: float = math.inf
    whole: bool = False
    about: str = ""


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that nobody has, with the nearest one."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return ConfigError(what, f"there is no {what} {name[:40]!r}; {hint}")


def parse_figures(
    where: str, text: str, figures: Mapping[str, Figure], main: str
) -> dict[str, float]:
    """Read ``name=value,name=value``; what is not given has its default.

    Args:
        where: how an error shall name the whole.
        text: one value may stand without a name: it is `main`.
        figures: what may be given.
        main: name of the main figure; empty: there is none.

    Raises:
        ConfigError: names what is unknown or out of range.
    """
    values = {key: figure.default for key, figure in figures.items()}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        key, value = (key.strip(), value) if equals else (main, key)
        if key not in figures:
            known = ", ".join(figures) or "none"
            raise ConfigError(where, f"has no parameter {(key or value)[:40]!r}; known: {known}")
        values[key] = _value(f"{where}.{key}", value, figures[key])
    return values


def _value(where: str, text: str, figure: Figure) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ConfigError(where, f"is no number: {text[:40]!r}") from None
    if not (math.isfinite(value) and figure.low <= value <= figure.high):
        high = "" if math.isinf(figure.high) else f" to {figure.high:g}"
        raise ConfigError(where, f"must be from {figure.low:g}{high}")
    if figure.whole and value != int(value):
        raise ConfigError(where, "must be a whole number")
    return value
