"""What a `Forecaster` has learnt, in a form that outlives its process.

Kept are what came at each time of two days, and what each way to scale has cost so far: both take
hours and days to learn. What is known of the last minutes is not: it is gone by the time
that it is read again.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


class KeptDay(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `DayProfile`; by slot, as `packed`, with NaN where nothing is known."""

    at: float
    """When it was written, on the forecaster's clock."""
    latest: bytes
    former: bytes
    """Load units per second."""
    day: bytes
    """Number of the day of which `latest` is."""
    slot: int | None
    load: float
    seconds: float
    """The slot that is not over."""
    came: float
    expected: float


class KeptRehearsal(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `Rehearsal`: of each candidate, what it spent and what its late requests cost."""

    at: float
    """When it was written, on the forecaster's clock."""
    leader: int
    """Which candidate was followed."""
    predictors: int
    margins: list[float]
    holds: list[float]
    floors: list[int]
    """What the candidates are made of: the figures are of use to the same ones alone."""
    spent: bytes
    late: bytes
    tightest: bytes
    time: float
    came: float


class KeptForecast(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `Forecaster`."""

    counted: Literal["seen"]
    """How load was counted. Before there was such a field, it was by what clients claimed, which is
    not to be believed again."""
    mean_load: float
    day: KeptDay
    rehearsal: KeptRehearsal | None = None


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(KeptForecast).decode


def packed(values: NDArray[np.generic] | list[float]) -> bytes:
    """As 32-bit floats, little-endian."""
    return np.asarray(values, "<f4").tobytes()


def unpacked(data: bytes, size: int) -> Values:
    """What was `packed`.

    Raises:
        ValueError: these are not so many finite numbers from 0 on, or NaN.
    """
    if len(data) != 4 * size:
        raise ValueError(f"{len(data)} bytes are not {size} numbers")
    values = np.frombuffer(data, "<f4").astype(np.float32)
    if np.any(values < 0) or np.any(np.isinf(values)):
        raise ValueError("a figure below 0, or infinite")
    return values
