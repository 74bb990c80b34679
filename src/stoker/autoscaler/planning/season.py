"""What comes at the same time each day.

The day (of UTC, where the clock has Unix seconds) is divided into slots of five minutes, of each of
which the last two days' mean load is kept. What both had **recurs**: one busy night alone is no
season, and one day without ends it. How far what recurs is believed depends on whether it came
lately: where a weekend brings a third of what Thursday and Friday had, a third of it is expected
within a quarter of an hour.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning.keeping import KeptDay, packed, unpacked

DAY = 86400.0
"""Seconds."""

SLOT = 300.0
"""Seconds in one slot."""

SLOTS = int(DAY / SLOT)

LEAST_SEEN = 0.5
"""Share of a slot that has to be seen, else it is as if nothing was known of it."""

BELIEF = 0.5
"""What a slot is worth in belief after another slot."""

PRIOR = 0.2
"""Of a slot's worth of what is asked about: as much is taken to have been expected, and to have
come. So chance in the small load before it says little about a large one."""

SURPRISE = 2.0
"""A slot speaks for the season with so many times what was expected, at most: another load's surge
is no sign of it."""


class DayProfile:
    """Mean load per second by time of day, of the last two days.

    Slots have numbers that count up for ever: slot n is `n % SLOTS` of day `n // SLOTS`.
    """

    __slots__ = (
        "_asked",
        "_came",
        "_day",
        "_expected",
        "_former",
        "_latest",
        "_load",
        "_seconds",
        "_slot",
    )

    def __init__(self) -> None:
        self._latest: list[float | None] = [None] * SLOTS
        self._former: list[float | None] = [None] * SLOTS
        self._day: list[int | None] = [None] * SLOTS
        """The day of which `_latest` is; `_former` is of the day before it."""
        self._slot: int | None = None
        self._load = self._seconds = 0.0
        self._came = self._expected = 0.0
        self._asked: dict[tuple[int, int], float] = {}
        """Questions since the last slot, and their answers: the same are asked each second."""

    def add(self, load: float, second: float, seconds: float = 1.0) -> None:
        """Count load of `seconds` seconds, of which the first began at `second`."""
        # A long silence may reach over many slots, though never over more than a day.
        left, at = min(seconds, DAY), second
        while left > 0:
            slot = int(at // SLOT)
            if slot != self._slot:
                self._close()
                self._slot = slot
            here = min(left, SLOT - at % SLOT)
            self._load += load * here
            self._seconds += here
            left, at = left - here, at + here

    def revise(self, change: float, second: float) -> None:
        """Load that was counted in `second` was more by `change`, or less."""
        number = int(second // SLOT)
        day, slot = divmod(number, SLOTS)
        known = self._latest[slot]
        if number == self._slot:
            self._load = max(0.0, self._load + change)
        elif self._day[slot] == day and known is not None:
            self._latest[slot] = max(0.0, known + change / SLOT)
            self._asked.clear()

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
        known = self._asked.get((first, last))
        if known is None:
            most = max(self._both(slot) for slot in range(first, last + 1))
            prior = PRIOR * most
            expected = self._expected + prior
            belief = (self._came + prior) / expected if expected > 0 else 1.0
            known = self._asked[first, last] = most * min(1.0, belief)
        return known

    def kept(self, now: float) -> KeptDay:
        """What is to outlive the process.

        Args:
            now: on the planner's clock.
        """
        return KeptDay(
            at=now,
            latest=packed(_or_nan(self._latest)),
            former=packed(_or_nan(self._former)),
            day=packed(_or_nan(self._day)),
            slot=self._slot,
            load=self._load,
            seconds=self._seconds,
            came=self._came,
            expected=self._expected,
        )

    def resume(self, kept: KeptDay, now: float) -> None:
        """Take up what was kept.

        Raises:
            ValueError: it is none of ours; nothing has changed.
        """
        latest, former, day = (
            _or_none(unpacked(one, SLOTS).tolist()) for one in (kept.latest, kept.former, kept.day)
        )
        figures = (kept.load, kept.seconds, kept.came, kept.expected)
        if not all(0 <= figure < math.inf for figure in figures):
            raise ValueError("a figure below 0, or infinite")
        self._latest, self._former = latest, former
        self._day = [None if one is None else int(one) for one in day]
        self._slot, self._load, self._seconds = kept.slot, kept.load, min(kept.seconds, SLOT)
        fade = BELIEF ** (max(0.0, now - kept.at) / SLOT)
        self._came, self._expected = kept.came * fade, kept.expected * fade
        self._asked.clear()

    def _close(self) -> None:
        number, seconds, load = self._slot, self._seconds, self._load
        self._load = self._seconds = 0.0
        self._asked.clear()
        if number is None or seconds < LEAST_SEEN * SLOT:
            return
        mean, expected = load / seconds, self._both(number)
        self._expected = BELIEF * self._expected + expected
        self._came = BELIEF * self._came + min(mean, SURPRISE * expected)
        day, slot = divmod(number, SLOTS)
        known = self._day[slot]
        if known is None or day > known:
            self._former[slot] = self._latest[slot] if known == day - 1 else None
            self._latest[slot], self._day[slot] = mean, day
        # Else the clock was set back: that day has had its say.

    def _both(self, number: int) -> float:
        """What the two days before that slot's had at its time; 0 where one is not known."""
        day, slot = divmod(number, SLOTS)
        if self._day[slot] != day - 1:
            return 0.0
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


def _or_nan(values: list[float | None] | list[int | None]) -> list[float]:
    return [math.nan if one is None else float(one) for one in values]


def _or_none(values: list[float]) -> list[float | None]:
    return [None if math.isnan(one) else one for one in values]
