"""The clock on the wall: how far local time is ahead of UTC, at any moment."""

from __future__ import annotations

import difflib
import time
import zoneinfo
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

from stoker.errors import ConfigError

STEP = 900
"""Seconds. Clocks are changed on the quarter of an hour, and differ from UTC by as much."""

REMEMBERED = 4096
"""Moments: those of six weeks."""


def utc_offsets(name: str | None, *, field: str = "server.timezone") -> Callable[[float], float]:
    """Seconds by which local time is ahead of UTC, as a function of Unix seconds.

    Args:
        name: of a time zone in the IANA database, such as ``Europe/Berlin``; None: that of this
            machine, which ``TZ`` and ``/etc/localtime`` say.
        field: what an error names.

    Raises:
        ConfigError: there is no such time zone.
    """
    ahead = _here if name is None else _in(_zone(name, field))

    @lru_cache(REMEMBERED)
    def step(number: int) -> float:
        try:
            return ahead(number * STEP)
        except (OverflowError, ValueError, OSError):
            return 0.0  # a clock that shows the year 10000

    return lambda unix: step(int(unix // STEP))


def _here(unix: float) -> float:
    return float(time.localtime(unix).tm_gmtoff)


def _in(zone: zoneinfo.ZoneInfo) -> Callable[[float], float]:
    def ahead(unix: float) -> float:
        offset = datetime.fromtimestamp(unix, zone).utcoffset()
        return 0.0 if offset is None else offset.total_seconds()

    return ahead


def _zone(name: str, field: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        pass
    known = zoneinfo.available_timezones()
    if not known:
        problem = (
            "this machine has no time zones: install its package tzdata, or `pip install tzdata`"
        )
        raise ConfigError(field, problem)
    shown = f"{name[:60]!r} is no time zone"
    folded = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name[:60].casefold(), folded, n=1, cutoff=0.7)
    hint = f"did you mean {folded[near[0]]!r}?" if near else "name one such as 'Europe/Berlin'"
    raise ConfigError(field, f"{shown}: {hint}")
