"""What comes at the same time each day, and at the same time of the same day of the week.

Time is divided into slots of five minutes, of each of which the mean load is kept for two weeks. A
time of day is that of a clock on the wall: where it is put forward or back, "yesterday at 2:00" is
what that clock showed.

Two sources say what **recurs** at some time; twice is a pattern, once is not:

* *The day*: what both of the last two days had, unless this day of the week went without in both of
  the last two weeks though the two days before had it (a weekend).
* *The week*: what the same day of the week had in both of the last two weeks, or in one of them if
  half of the last six days had it too (so that the second Monday is prepared for, and the one after
  a holiday). It has ended when it did not come on the last two days that had it a week before.

How far a source is believed depends on whether what it expected came lately: where a holiday brings
a third of what was expected, a third of it is expected within a quarter of an hour. And it is
followed as long as that pays: chance lets much recur where a load is nothing but bursts, and little
of it comes. So it is counted what each source foresaw that the load just before did not show, and
what it foresaw that did not come.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from stoker.autoscaler.planning.keeping import KeptDay, KeptSeason, halved, unhalved, unpacked

DAY = 86400.0
"""Seconds."""

SLOT = 300.0
"""Seconds in one slot."""

SLOTS = int(DAY / SLOT)

WEEK = 7
"""Days."""

BACK = 2 * WEEK + 2
"""Days that are looked back: a weekday of two weeks ago, and the two days before it."""

ROWS = BACK + 2
"""Days of UTC that are remembered: today, and as many as cover `BACK` days whatever the zone."""

NEAR_CHANGE = int(3 * 3600 / SLOT)
"""Slots: so far from a change of the clocks, its offset from UTC is one or the other."""

MAX_SLOT = 10**12
"""A number of a slot, and of a day, that no clock reaches."""

MAX_FIGURE = 1e30
"""Load units, and sums of them, that no endpoint has: more is not one of the numbers of a row."""

LEAST_SEEN = 0.5
"""Share of a slot that has to be seen, else it is as if nothing was known of it."""

BELIEF = 0.5
"""What a slot is worth in belief after another slot."""

PRIOR = 0.2
"""Of a slot's worth of what is asked about: as much is taken to have been expected, and to have
come. So chance in the small load before it says little about a large one."""

SURPRISE = 2.0
"""A slot speaks for a source with so many times what was expected, at most: another load's surge
is no sign of it."""

LATE_PRICE = 20.0
"""What load costs that comes before there is capacity for it, in costs of serving it, where nobody
says otherwise."""

WORTH = 0.5 ** (1 / (2 * WEEK * SLOTS))
"""What a slot is worth after another one in judging whether it pays to follow a source: half as
much after two weeks."""

JUDGED = 0.5 ** (2 / SLOTS)
"""What a slot is worth after another one in judging which source tells the usual load better: half
as much after half a day."""

Source = Literal["day", "week"]
SOURCES: tuple[Source, Source] = ("day", "week")

UtcOffset = Callable[[float], float]
"""Seconds by which local time is ahead of UTC, at a moment in Unix seconds."""


@dataclass(frozen=True, slots=True)
class Recurring:
    """What is expected because it came before at this time. Load units per second."""

    load: float
    """As far as it is believed."""
    expected: float
    """What came before: 0 where nothing recurs."""
    source: Source
    """Which days had it: the last two, or this day of the week."""

    @property
    def belief(self) -> float:
        """How far it is believed, from 0 to 1."""
        return self.load / self.expected if self.expected > 0 else 1.0


_Usual = tuple[float | None, float | None]
"""Of each of `SOURCES`, load units per second; None: not known."""


@dataclass(frozen=True, slots=True)
class _Expected:
    """Of one slot, from the days before it; in the order of `SOURCES`."""

    recurring: tuple[float, float]
    usual: _Usual
    """The mean of the days that are known."""


class LoadProfile:
    """Mean load per second by time of day, of the last two weeks.

    Slots have numbers that count up for ever, from the beginning of Unix time.
    """

    __slots__ = (
        "_asked",
        "_between",
        "_came",
        "_errors",
        "_expected",
        "_foreseen",
        "_former",
        "_hits",
        "_load",
        "_missed",
        "_rows",
        "_seconds",
        "_slot",
        "_utc_offset",
    )

    def __init__(self, utc_offset: UtcOffset | None = None) -> None:
        """Know nothing yet.

        Args:
            utc_offset: of the clock by which days are told; None: UTC.
        """
        self._utc_offset = utc_offset
        self._rows: dict[int, array[float]] = {}
        """Load per second by slot, NaN where it is not known, by day of UTC."""
        self._slot: int | None = None
        self._load = self._seconds = 0.0
        # Of each source.
        self._came, self._expected = [0.0, 0.0], [0.0, 0.0]
        self._errors = [0.0, 0.0]
        self._hits, self._missed = [0.0, 0.0], [0.0, 0.0]
        self._former: float | None = None
        """The slot before this one; None: not known."""
        # The same is asked each second.
        self._asked: dict[tuple[int, int, int], Recurring] = {}
        """Questions since the last slot, and their answers."""
        self._foreseen: dict[int, _Expected] = {}
        """By local slot: it changes only with what is known of the days before."""
        self._between: dict[int, tuple[_Usual, _Usual]] = {}
        """What is usual in each slot of UTC and in the next, as `_foreseen` has it."""

    def add(self, load: float, second: float, seconds: float = 1.0) -> None:
        """Count load of `seconds` seconds, of which the first began at `second`."""
        # A long silence may reach over many slots, though never over more than a day.
        left, at = min(seconds, DAY), second
        while left > 0:
            slot = int(at // SLOT)
            if slot != self._slot:
                self._close()
                if self._slot is None or slot != self._slot + 1:
                    self._former = None
                    self._foreseen.clear()  # the clock jumped: what was to come may be past
                    self._between.clear()
                self._slot = slot
            here = min(left, SLOT - at % SLOT)
            self._load += load * here
            self._seconds += here
            left, at = left - here, at + here

    def revise(self, change: float, second: float) -> None:
        """Load that was counted in `second` was more by `change`, or less.

        What is expected of this day does not depend on it, so it counts from tomorrow on.
        """
        number = int(second // SLOT)
        if number == self._slot:
            self._load = max(0.0, self._load + change)
        elif (known := self._known(number)) is not None:
            self._rows[number // SLOTS][number % SLOTS] = max(0.0, known + change / SLOT)

    def change(self, start: float, end: float) -> float | None:
        """By how much the load usually differs at `end` from `start`; None: not known for both.

        It is told by the source that was nearer to what came lately.
        """
        order = (0, 1) if self._errors[0] <= self._errors[1] else (1, 0)
        first, last = self._usual(start), self._usual(end)
        for source in order:
            before, after = first[source], last[source]
            if before is not None and after is not None:
                return after - before
        return None

    def recurring(self, start: float, end: float, late_price: float = LATE_PRICE) -> Recurring:
        """What recurs within a time, where it is most.

        Args:
            start: on the planner's clock.
            end: when capacity would be there that is ordered at `start`; no more than some hours
                later.
            late_price: what load costs that comes before there is capacity for it, in costs of
                serving it.
        """
        first, last = int(start // SLOT), int(end // SLOT)
        question = first, last, round(end - start)
        known = self._asked.get(question)
        if known is None:
            times = self._times(first, last)
            # What is held for nothing is held before its slot, too; two slots end the belief in it.
            worth = late_price * (end - start) / (SLOT + (end - start) / 2)
            found = [self._followed(place, times, worth) for place in range(len(SOURCES))]
            known = self._asked[question] = max(found, key=lambda one: (one.load, one.expected))
        return known

    def kept(self, now: float) -> KeptSeason:
        """What is to outlive the process.

        Args:
            now: on the planner's clock.
        """
        return KeptSeason(
            at=now,
            days={day: halved(row) for day, row in self._rows.items()},
            slot=self._slot,
            load=self._load,
            seconds=self._seconds,
            came=list(self._came),
            expected=list(self._expected),
            errors=list(self._errors),
            hits=list(self._hits),
            missed=list(self._missed),
        )

    def resume(self, kept: KeptSeason | KeptDay, now: float) -> None:
        """Take up what was kept.

        Raises:
            ValueError: it is none of ours; nothing has changed.
        """
        rows = _rows_of(kept)
        if isinstance(kept, KeptDay):
            sums = ([kept.came, 0.0], [kept.expected, 0.0], *([0.0, 0.0] for _ in range(3)))
        else:
            sums = (kept.came, kept.expected, kept.errors, kept.hits, kept.missed)
        if any(len(one) != len(SOURCES) for one in sums):
            raise ValueError(f"figures of other sources than {SOURCES}")
        figures = (kept.load, kept.seconds, *(figure for one in sums for figure in one))
        if not all(0 <= figure <= MAX_FIGURE for figure in figures):
            raise ValueError("a figure below 0, or of no load")
        if kept.slot is not None and abs(kept.slot) > MAX_SLOT:
            raise ValueError("a slot that no clock has")
        self._rows = rows
        self._slot, self._load, self._seconds = kept.slot, kept.load, min(kept.seconds, SLOT)
        slots = max(0.0, now - kept.at) / SLOT
        fades = (BELIEF, BELIEF, JUDGED, WORTH, WORTH)
        self._came, self._expected, self._errors, self._hits, self._missed = (
            [figure * fade**slots for figure in one] for one, fade in zip(sums, fades, strict=True)
        )
        self._former = None
        self._asked.clear()
        self._foreseen.clear()
        self._between.clear()

    # What has come.

    def _close(self) -> None:
        number, seconds, load = self._slot, self._seconds, self._load
        self._load = self._seconds = 0.0
        self._asked.clear()
        self._between.clear()
        if number is None or seconds < LEAST_SEEN * SLOT:
            self._former = None
            return
        mean, local = load / seconds, self._local(number)
        self._judge(mean, self._foresee(local))
        self._former = mean
        row = self._rows.get(number // SLOTS)
        if row is None:
            row = _new_row(self._rows, number // SLOTS)
        row[number % SLOTS] = mean  # where the clock was set back, the last say counts
        # What is further ahead than this depends on slots that are not over yet.
        last = local + SLOTS - NEAR_CHANGE
        self._foreseen = {at: one for at, one in self._foreseen.items() if local - 2 < at <= last}

    def _judge(self, came: float, foreseen: _Expected) -> None:
        for place, expected in enumerate(foreseen.recurring):
            if self._former is not None:
                believed = self._believed(place, expected)
                shown = max(came, self._former)
                self._hits[place] *= WORTH
                self._hits[place] += max(0.0, min(came, believed) - self._former)
                self._missed[place] *= WORTH
                self._missed[place] += max(0.0, believed - shown)
            self._expected[place] = BELIEF * self._expected[place] + expected
            self._came[place] = BELIEF * self._came[place] + min(came, SURPRISE * expected)
        day, week = foreseen.usual
        if day is not None and week is not None:
            for place, usual in enumerate((day, week)):
                self._errors[place] = JUDGED * self._errors[place] + abs(usual - came)

    def _known(self, number: int) -> float | None:
        row = self._rows.get(number // SLOTS)
        value = math.nan if row is None else row[number % SLOTS]
        return None if math.isnan(value) else value

    # Local time.

    def _ahead(self, number: int) -> int:
        """Slots by which local time is ahead of UTC."""
        return 0 if self._utc_offset is None else round(self._utc_offset(number * SLOT) / SLOT)

    def _local(self, number: int) -> int:
        return number + self._ahead(number)

    def _times(self, first: int, last: int) -> list[int]:
        """Local slots from `first` to `last` of UTC.

        Where the clock is put forward meanwhile, also those that it leaves out: what is due then
        runs as soon as that has happened.
        """
        found = [self._local(first)]
        for number in range(first + 1, last + 1):
            local = self._local(number)
            found += range(found[-1] + 1, local)
            found.append(local)
        return found

    def _at(self, local: int) -> float | None:
        """What came at a time of the local clock; None: not known."""
        if self._utc_offset is None:
            return self._known(local)
        about = local - self._ahead(local - self._ahead(local))
        # Two, where the clock was put back: that time came twice. None, where it was put forward.
        near = {self._ahead(about + by) for by in (-NEAR_CHANGE, NEAR_CHANGE)}
        places = [local - ahead for ahead in near if self._ahead(local - ahead) == ahead]
        if not places:
            # As if it had had what the day or the week before it had.
            return _most(self._known(local - min(near) - days * SLOTS) for days in (1, WEEK))
        return _most(self._known(place) for place in places)

    # What is to come.

    def _foresee(self, local: int) -> _Expected:
        known = self._foreseen.get(local)
        if known is None:
            then = [None, *(self._at(local - days * SLOTS) for days in range(1, BACK + 1))]
            known = self._foreseen[local] = _Expected(
                recurring=(_by_day(then), _by_week(then)),
                usual=(_mean(then[1], then[2]), _mean(then[WEEK], then[2 * WEEK])),
            )
        return known

    def _believed(self, place: int, load: float) -> float:
        """So much of what a source expects."""
        prior = PRIOR * load
        expected = self._expected[place] + prior
        return load * min(1.0, (self._came[place] + prior) / expected) if expected > 0 else load

    def _followed(self, place: int, times: list[int], worth: float) -> Recurring:
        """What a source expects, where that is most.

        Args:
            place: of the source.
            times: local slots.
            worth: of load that was foreseen, in slots of capacity that was held for nothing.
        """
        most = max(self._foresee(local).recurring[place] for local in times)
        # The benefit of the doubt: as if this one had come once before.
        pays = worth * (self._hits[place] + most) >= self._missed[place]
        return Recurring(self._believed(place, most) if pays else 0.0, most, SOURCES[place])

    def _usual(self, moment: float) -> _Usual:
        """Of each source, between the middles of two slots, in proportion."""
        middle = moment / SLOT - 0.5
        left = math.floor(middle)
        both = self._between.get(left)
        if both is None:
            before, after = (self._foresee(self._local(at)).usual for at in (left, left + 1))
            both = self._between[left] = (before, after)
        share = middle - left
        (day, week), (next_day, next_week) = both
        return _part(day, next_day, share), _part(week, next_week, share)


def _part(before: float | None, after: float | None, share: float) -> float | None:
    if before is None or after is None:
        return None
    return (1 - share) * before + share * after


def _by_day(then: list[float | None]) -> float:
    """What both of the last two days had, and no weekday went without twice.

    Args:
        then: what came at this time so many days before, by their number.
    """
    both = min(then[1] or 0.0, then[2] or 0.0)
    if both <= 0:
        return 0.0
    missed = both
    for days in (WEEK, 2 * WEEK):
        came, two = then[days], (then[days + 1], then[days + 2])
        expected = min(both, *(one or 0.0 for one in two))
        missed = min(missed, 0.0 if came is None else max(0.0, expected - came))
    return both - missed


def _by_week(then: list[float | None]) -> float:
    """What this day of the week had, and has not ended.

    Args:
        then: what came at this time so many days before, by their number.
    """
    last, former = then[WEEK] or 0.0, then[2 * WEEK] or 0.0
    half = sorted((one or 0.0 for one in then[1:WEEK]), reverse=True)[WEEK // 2 - 1]
    load = max(min(last, former), min(max(last, former), half))
    if load <= 0:
        return 0.0
    missed: list[float] = []
    for days in range(1, WEEK):
        came, had = then[days], then[days + WEEK]
        if came is None or had is None or had < load / 2:
            continue
        missed.append(max(0.0, min(load, had) - came))
        if len(missed) == 2:
            return load - min(missed)
    return load


def _most(values: Iterable[float | None]) -> float | None:
    return max((one for one in values if one is not None), default=None)


def _mean(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else (one + other) / 2


def _new_row(rows: dict[int, array[float]], day: int) -> array[float]:
    """A day of which nothing is known; the one that is furthest away is forgotten for it."""
    row = rows[day] = array("f", [math.nan]) * SLOTS
    if len(rows) > ROWS:
        del rows[max(rows, key=lambda one: abs(one - day))]
    return row


def _rows_of(kept: KeptSeason | KeptDay) -> dict[int, array[float]]:
    """The days that were kept.

    Raises:
        ValueError: these are none.
    """
    rows: dict[int, array[float]] = {}
    if isinstance(kept, KeptSeason):
        if len(kept.days) > ROWS:
            raise ValueError(f"more than {ROWS} days")
        for day, data in kept.days.items():
            if abs(day) > MAX_SLOT:
                raise ValueError("a day that no clock has")
            rows[day] = array("f", unhalved(data, SLOTS).tolist())
        return rows
    both = [unpacked(one, SLOTS).tolist() for one in (kept.latest, kept.former)]
    for slot, day in enumerate(unpacked(kept.day, SLOTS).tolist()):
        if math.isnan(day):
            continue
        if day > MAX_SLOT:
            raise ValueError("a day that no clock has")
        for ago, values in enumerate(both):
            row = rows.get(int(day) - ago)
            if row is None:
                row = _new_row(rows, int(day) - ago)
            row[slot] = values[slot]
    return rows
