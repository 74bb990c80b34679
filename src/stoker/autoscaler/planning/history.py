"""How much load arrived: by the second for ten minutes, and by the time of day.

Constant memory, no clock: `now` is passed in, and may stand still or jump.
"""

from __future__ import annotations

import math

from stoker.autoscaler.planning.season import LoadProfile, UtcOffset

SECONDS = 600
"""Seconds that are remembered one by one."""

NEAR = 2
"""Seconds: what arrived is looked for so far before and after the second that somebody names, as
others' seconds begin at other moments."""

TREND = 300
"""Seconds over which a trend is taken."""


class LoadHistory:
    """Load units and requests that arrived in each second, the oldest first.

    Attributes:
        profile: what arrived by the time of day.
    """

    __slots__ = (
        "_counted",
        "_expected",
        "_limits",
        "_load",
        "_requests",
        "_silence",
        "_sums",
        "profile",
    )

    def __init__(self, utc_offset: UtcOffset | None = None) -> None:
        """Nothing arrived yet.

        Args:
            utc_offset: of the clock by which days are told; None: UTC.
        """
        self._load: list[float] = []
        self._counted: list[float] = []
        self._requests: list[float] = []
        self._limits: list[float] = []
        self._silence = 0
        """How many of the last seconds have nothing that counts in means."""
        self.profile = LoadProfile(utc_offset)
        self._sums: dict[int, float] = {}
        self._expected: dict[tuple[float, float, float], float] = {}
        """What `ahead` said since the last change: rehearsal and outlook ask the same."""

    def __len__(self) -> int:
        """Seconds that are remembered one by one."""
        return len(self._load)

    def add(
        self,
        load: float,
        requests: float,
        second: float,
        *,
        seconds: float = 1.0,
        limit: float = math.inf,
        counted: float | None = None,
    ) -> None:
        """The next second is over, or several without anything.

        Args:
            load: that arrived in it, load units.
            requests: that arrived in it.
            second: when it began, on the planner's clock.
            seconds: more than 1 only where nothing arrived.
            limit: what is more says nothing about the size of a request; see `revise`.
            counted: what is to count for it in means and trend, where long requests are counted
                while they are worked off (`longest`); None: what arrived.
        """
        count = min(SECONDS, max(1, round(seconds)))
        counted = load if counted is None else counted
        sizes = (self._load, load), (self._counted, counted)
        rows = *sizes, (self._requests, requests), (self._limits, limit)
        for figures, figure in rows:
            figures.extend([figure] * count)
            if len(figures) > SECONDS:
                del figures[:-SECONDS]
        self._silence = 0 if counted else self._silence + count
        self._changed()
        self.profile.add(load, second, seconds)

    def revise(
        self, age: int, change: float, second: float, *, counted: float | None = None
    ) -> tuple[float, float, float]:
        """What had arrived some time ago turned out to be more, or less; never less than nothing.

        Args:
            age: of the second in which it came; 1 is the last that is over.
            change: load units.
            second: which that was, on the planner's clock.
            counted: the change of what counts for it; None: the same.

        Returns:
            By how much it was changed below the limit of that second; its requests; requests since
            then.
        """
        size = len(self._load)
        places = [size - age] + [size - age + by * s for by in range(1, NEAR + 1) for s in (1, -1)]
        places = [place for place in places if 0 <= place < size and self._requests[place] > 0]
        if not places:
            return 0.0, 0.0, 0.0
        # Nearest first; where one had too little, it is the wrong one.
        place = next((p for p in places if self._load[p] + change >= 0), places[0])
        change = max(change, -self._load[place])
        limit, before = self._limits[place], self._load[place]
        self._load[place] += change
        counted = change if counted is None else counted
        self._counted[place] = max(0.0, self._counted[place] + counted)
        self._silence = 0
        self._changed()
        self.profile.revise(change, second)
        told = min(self._load[place], limit) - min(before, limit)
        return told, self._requests[place], sum(self._requests[place + 1 :])

    def mean(self, seconds: int) -> float:
        """Load units per second over the last `seconds`, or over as many as are known.

        Long requests count while they are worked off.
        """
        if seconds <= self._silence:
            return 0.0
        known = self._sums.get(seconds)
        if known is None:
            used = min(seconds, len(self._load))
            known = self._sums[seconds] = sum(self._counted[-used:]) / used if used else 0.0
        return known

    def trend(self) -> float:
        """Change of the load per second, load units per second squared, over the last minutes.

        The difference between the means of the later and the earlier half of `TREND` seconds,
        divided by the time between their middles. 0 while less than that is known.
        """
        if len(self._load) < TREND:
            return 0.0
        half = TREND // 2
        later = self.mean(half)
        earlier = 2 * self.mean(TREND) - later
        return (later - earlier) / half

    def ahead(self, now: float, seconds: float, level: float) -> float:
        """Load units per second that are expected `seconds` from now.

        From the usual load at that time where it is known, otherwise from the trend, which is not
        believed for further ahead than it was seen, nor beyond twice the level.

        Args:
            now: on the planner's clock.
            seconds: how far ahead.
            level: load units per second now.
        """
        question = now, seconds, level
        known = self._expected.get(question)
        if known is None:
            change = self.profile.change(now, now + seconds)
            if change is None:
                change = self.trend() * min(seconds, TREND)
                change = min(level, change)
            known = self._expected[question] = max(0.0, level + change)
        return known

    def _changed(self) -> None:
        self._sums.clear()
        self._expected.clear()

    def total(self) -> tuple[float, float]:
        """Load units and requests of all seconds that are remembered."""
        return sum(self._load), sum(self._requests)

    def requests(self, age: int) -> float:
        """That arrived in a second; `age` 1 is the last that is over."""
        return self._requests[-age] if 0 < age <= len(self._requests) else 0.0

    def counted(self) -> list[float]:
        """What counts of each second that is remembered, load units, the oldest first."""
        return list(self._counted)

    def seconds(self) -> list[tuple[float, float]]:
        """(load units, requests) of each second that is remembered, the oldest first."""
        return list(zip(self._load, self._requests, strict=True))
