"""What a `Forecaster` has learnt, in a form that outlives its process.

Kept are what came at each time of two weeks, what each way to scale has cost so far, and what it
costs to be without a stopped worker: they take hours and days to learn. What is known of the last
minutes is not: it is gone by the time that it is read again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]

MAX_KEPT = 1e30
"""No sum of what was kept is as large, so that it can be added to and multiplied."""


class KeptSeason(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `LoadProfile`."""

    at: float
    """When it was written, on the forecaster's clock."""
    days: dict[int, bytes]
    """By day of UTC: load units per second by slot, as `halved`; NaN where nothing is known."""
    slot: int | None
    load: float
    seconds: float
    """The slot that is not over."""
    came: list[float]
    expected: list[float]
    errors: list[float]
    hits: list[float]
    missed: list[float]
    """Of each source."""


class KeptDay(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What was kept in place of a `KeptSeason` when two days were remembered; it is only read.

    By slot, as `packed`, with NaN where nothing is known.
    """

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


class KeptRehearsal(msgspec.Struct, kw_only=True):
    """A `Rehearsal`: of each candidate, what it spent and what its late requests cost.

    Earlier versions kept more fields, which are passed over.
    """

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


class KeptRetention(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `Retention`."""

    at: float
    """When it was written, on the forecaster's clock."""
    ordered: bytes
    """By rank, as `packed`: workers."""
    late: bytes
    """Likewise: what was late for want of stopped ones, in seconds of a worker."""
    gaps: bytes
    """By rank and length, as `halved`: how often a worker was wanted again after so long."""


class KeptForecast(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A `Forecaster`."""

    counted: Literal["seen"]
    """How load was counted. Before there was such a field, it was by what clients claimed, which is
    not to be believed again."""
    mean_load: float
    season: KeptSeason | None = None
    day: KeptDay | None = None
    """One of the two."""
    rehearsal: KeptRehearsal | None = None
    retention: KeptRetention | None = None


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


def halved(values: Iterable[float]) -> bytes:
    """As the upper halves of 32-bit floats, little-endian: exact to a 250th."""
    bits = np.fromiter(values, "<f4").view("<u4").astype(np.uint64)
    return ((bits + 0x8000) >> 16).astype("<u2").tobytes()


def unhalved(data: bytes, size: int) -> Values:
    """What was `halved`.

    Raises:
        ValueError: these are not so many finite numbers from 0 on, or NaN.
    """
    if len(data) != 2 * size:
        raise ValueError(f"{len(data)} bytes are not {size} numbers")
    return unpacked((np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes(), size)
