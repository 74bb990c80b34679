"""What comes at the same time each day.

The day is divided into slots of five minutes, of each of which the last two days' mean load is
kept. What both had **recurs**: one busy night alone is no season, and one day without ends it. How
far what recurs is believed depends on whether it came lately: where a weekend brings a third of
what Thursday and Friday had, a third of it is expected within the half hour.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning.keeping import KeptDay, packed, unpacked

DAY = 86400.0
"""Seconds."""

SLOT = 300.0
"""Seconds in one slot."""

SLOTS = int(DAY / SLOT)

BELIEF = 0.8
"""What a slot's worth in belief is after another slot: half an hour's are two thirds of all."""

PRIOR = 0.1
"""Of a slot's worth of what is asked about: as much is taken to have been expected, and to have
come. So chance in the small load before it says little about a large one."""


class DayProfile:
    """Mean load per second by time of day, of the last two days."""

    __slots__ = ("_asked", "_came", "_expected", "_former", "_latest", "_load", "_seconds", "_slot")

    def __init__(self) -> None:
        self._latest: list[float | None] = [None] * SLOTS
        self._former: list[float | None] = [None] * SLOTS
        self._slot: int | None = None
        self._load = self._seconds = 0.0
        self._came = self._expected = 0.0
        self._asked: tuple[int, int, float] | None = None
        """The last question, and its answer: it is asked each second."""

    def add(self, load: float, second: float, seconds: float = 1.0) -> None:
        """Count load of `seconds` seconds, of which the first began at `second`."""
        # A long silence may reach over many slots, though never over more than a day.
        left, at = min(seconds, DAY), second
        while left > 0:
            slot = int(at % DAY / SLOT)
            if slot != self._slot:
                self._close()
                self._slot = slot
            here = min(left, SLOT - at % SLOT)
            self._load += load * here
            self._seconds += here
            left, at = left - here, at + here

    def change(self, start: float, end: float) -> float | None:
        """By how much the load differs at `end` from `start`; None: not known for both."""
        first, last = self._at(start), self._at(end)
        return None if first is None or last is None else last - first

    def recurring(self, start: float, end: float) -> float:
        """Load units per second that both days had at this time, where they had most.

        Args:
            start: on the planner's clock.
            end: no more than a day later.
        """
        first, last = int(start // SLOT), int(end // SLOT)
        if self._asked is None or self._asked[:2] != (first, last):
            most = max(self._both(slot % SLOTS) for slot in range(first, last + 1))
            prior = PRIOR * most
            expected = self._expected + prior
            belief = (self._came + prior) / expected if expected > 0 else 1.0
            self._asked = (first, last, most * min(1.0, belief))
        return self._asked[2]

    def kept(self) -> KeptDay:
        """What is to outlive the process; a slot that is not over is not in it."""
        return KeptDay(*(packed(_known_or_nan(one)) for one in (self._latest, self._former)))

    def resume(self, kept: KeptDay) -> None:
        """Take up what was kept.

        Raises:
            ValueError: it is none of ours.
        """
        days = [unpacked(one, SLOTS).tolist() for one in (kept.latest, kept.former)]
        self._latest, self._former = (
            [None if math.isnan(mean) else mean for mean in day] for day in days
        )

    def _close(self) -> None:
        slot = self._slot
        if slot is None or self._seconds <= 0:
            return
        mean = self._load / self._seconds
        expected = self._both(slot)
        self._expected = BELIEF * self._expected + expected
        self._came = BELIEF * self._came + mean
        self._former[slot], self._latest[slot] = self._latest[slot], mean
        self._load = self._seconds = 0.0
        self._asked = None

    def _both(self, slot: int) -> float:
        """What both days had; 0 where one is not known."""
        return min(self._latest[slot] or 0.0, self._former[slot] or 0.0)

    def _mean(self, slot: int) -> float | None:
        latest, former = self._latest[slot], self._former[slot]
        return latest if latest is None or former is None else (latest + former) / 2

    def _at(self, moment: float) -> float | None:
        """Between the middles of two slots, in proportion."""
        place = moment % DAY / SLOT - 0.5
        left = int(place // 1) % SLOTS
        before, after = self._mean(left), self._mean((left + 1) % SLOTS)
        if before is None or after is None:
            return None
        share = place % 1
        return (1 - share) * before + share * after


def _known_or_nan(day: list[float | None]) -> list[float]:
    return [math.nan if mean is None else mean for mean in day]
