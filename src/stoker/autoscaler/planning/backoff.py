"""How long a workergroup rests after its instances failed."""

from __future__ import annotations

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
