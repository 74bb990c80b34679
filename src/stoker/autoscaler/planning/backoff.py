"""How long a workergroup, or one offer, rests after its instances failed."""

from __future__ import annotations

from stoker.autoscaler.planning.settings import PlannerSettings

FIRST_DELAY = 1.0
MAX_DELAY = 300.0


def backoff_delay(failures: int) -> float:
    """Seconds to wait after `failures` failures in a row: 0, 1, 2, 4, ... up to 300.

    Deterministic, without jitter: one planner decides for all groups, so nobody collides.
    """
    if failures <= 0:
        return 0.0
    # 2.0 ** 9 is past the cap already; a larger exponent would overflow in the end.
    return float(min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(failures - 1, 9)))


def quarantine_delay(failures: int, settings: PlannerSettings) -> float:
    """Seconds for which an offer is passed over after `failures` failures in a row.

    Longer than `backoff_delay`, since others do its work: 0, 60, 120, 240, ... up to 3600.
    """
    if failures <= 0:
        return 0.0
    return float(min(settings.quarantine_limit, settings.quarantine * 2.0 ** min(failures - 1, 20)))
