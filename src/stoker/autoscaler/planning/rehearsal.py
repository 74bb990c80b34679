"""Which headroom would have served the recent past best? Asked of many ways to scale at once.

How much room above the mean an endpoint needs cannot be read off its load: it depends on how long
a worker takes to come, on how much waits unnoticed in the slots of busy workers, and on how the
load moves. So we try. Each **candidate** is a way to scale, made of four figures:

* a *predictor* of the load per second (the mean of the last 10 or 120 s, what the burst that has
  begun is likely to bring, or what is expected at the moment at which a worker ordered now would
  be ready);
* a *margin*, by which the prediction is multiplied;
* a *hold*: for how many seconds the highest need is kept;
* a *floor*: workers that are there whatever the load.

All of them are rehearsed on the load as it arrives, second by second, each with workers of its own
that take as long to come as real ones do. What a candidate costs is the time of its workers, and
for each request that would have waited longer than `late_after`, `late_price` times what it costs
to serve one. The candidate that would have cost least so far is followed (in the literature:
prediction with expert advice, "follow the leader"). A fixed number of workers is among them (a
floor that is above all needs), and so are the usual followers of the load. Nothing is guaranteed:
to change the leader costs boots, and a load can be made up for which the leader of the past is
always the wrong one. How it compares on many kinds of traffic is measured (docs/scaling.md).
(Workers that the season brings are there for all of them, and judged by none.)

The rehearsal is a fluid model: load flows in, and out as fast as the ready workers can. It knows of
the slots of a worker only how many there are. E.g. 6 workers of 400 load/s with 16 slots have room
for 96 requests; if 120 of 330 load units are there, 24 wait, that is 7,920 load units, which takes
3.3 s: those who come now are late, if `late_after` is 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from stoker.autoscaler.planning.keeping import MAX_KEPT, KeptRehearsal, packed, unpacked

Floats = NDArray[np.float32]

MARGINS = (0.95, 1.15)
"""Slots take up what 0.95 lacks for seconds. With 0.9 (all that arrives, at a target_util of 0.9)
or with floors alone, a load that was steady for half an hour was late at its first surge."""

HOLDS = (15.0, 300.0)
"""Five margins and three holds, 900 ways in place of 240, did no better (docs/scaling.md)."""

FULL = 0.6
"""Share of all slots above which more workers are asked for, before requests wait: while one comes,
the rest fills up."""

SETTLING = 120.0
"""Seconds at the start that are not judged; twice as many as a worker takes to come, if that is
more."""

STEPS = 32
"""Steps into which the time that a worker takes to come is divided."""

EXACT_FLOORS = 12
"""Floors up to here are whole numbers of workers; above, each is 12% more than the last."""


@dataclass(slots=True)
class Surroundings:
    """What the rehearsed workers are like; those of the endpoint, as far as is known."""

    perf: float
    """Load units per second of one worker; above 0."""
    slots: float
    """Requests that one works on at once; above 0."""
    create_seconds: float
    start_seconds: float
    stoppable: bool
    """Workers that were let go are stopped, and started again instead of created."""
    target_util: float
    patience: float
    """Seconds in which what is over the slots is to be worked off."""
    max_workers: int
    season: bool = True
    """What comes each day is prepared for."""

    @property
    def coming_seconds(self) -> float:
        """How long a worker takes to come, and is kept at least: else it would never serve."""
        return self.start_seconds if self.stoppable else self.create_seconds

    @property
    def settling_seconds(self) -> float:
        """How long at the start nothing is judged.

        Whoever begins with one worker is late at first; that says nothing about later.
        """
        return max(SETTLING, 2 * self.create_seconds)

    def in_time(self, mean_load: float, late_after: float) -> float:
        """Requests of one worker that are not late: its slots, and what it begins soon enough.

        Args:
            mean_load: of a request, load units; above 0.
            late_after: seconds of waiting above which a request is late.
        """
        return self.slots + self.begun(mean_load, late_after)

    def begun(self, mean_load: float, seconds: float) -> float:
        """Requests that one busy worker begins in `seconds`, of `mean_load` load units each."""
        return self.perf * seconds / mean_load


@dataclass(slots=True)
class Candidate:
    """One way to scale."""

    predictor: int
    """Which of the predictions it follows, by place."""
    margin: float
    hold: float
    """Seconds; at least as many as a worker takes to come."""
    floor: int
    """Workers."""


def floors(max_workers: int) -> list[int]:
    """The floors that are tried, up to `max_workers`."""
    found = list(range(min(max_workers, EXACT_FLOORS) + 1))
    while found[-1] < max_workers:
        found.append(min(max_workers, math.ceil(found[-1] * 1.12)))
    return found


class Rehearsal:
    """All candidates, and what each would have cost."""

    def __init__(
        self,
        predictors: int,
        max_workers: int,
        *,
        late_after: float,
        late_price: float,
        memory: float,
        release_cost: float,
    ) -> None:
        """Begin, with one worker each.

        Args:
            predictors: how many predictions `step` will be given.
            max_workers: no candidate has more.
            late_after: seconds of waiting above which a request is late.
            late_price: what a late request costs, in costs of serving one.
            memory: seconds in which what was seen loses 63% of its weight.
            release_cost: seconds of a worker's time that it costs to let one go.
        """
        self.max_workers = max_workers
        self._late_after = late_after
        self._late_price = late_price
        self._memory = memory
        self._release_cost = release_cost
        self._floors = floors(max_workers)
        self._predictors = predictors
        shape = (predictors, len(MARGINS), len(HOLDS), len(self._floors))
        grid = np.indices(shape).reshape(4, -1)
        self._predictor = grid[0]
        self._margin = np.array(MARGINS, np.float32)[grid[1]]
        self._hold = np.array(HOLDS, np.float32)[grid[2]]
        self._floor = np.array(self._floors, np.float32)[grid[3]]
        size = grid.shape[1]
        self._wanted = np.ones(size, np.float32)
        # The largest array by far.
        whole = np.int16 if max_workers < 2**15 else np.int32
        self._ordered = np.ones((STEPS, size), whole)
        self._place = 0
        self._step_left = 0.0
        self._lowest = np.ones(size, np.float32)
        self._load = np.zeros(size, np.float32)
        self._requests = np.zeros(size, np.float32)
        self._empty = True
        """None of them has load that waits or works."""
        self._peak = np.zeros(size, np.float32)
        self._peak_age = np.zeros(size, np.float32)
        # Where nothing tells them apart yet, the one that is moved least by chance is followed.
        usual = (self._margin > 1) & (self._hold == HOLDS[0]) & (self._predictor == predictors - 2)
        self._spent = np.where(usual, 0.0, release_cost).astype(np.float64)
        self._late = np.zeros(size)
        self.rehearsed = 0.0
        """Seconds, as far as they were not judged."""
        self._leader = int(np.argmin(self._spent))

    @property
    def leader(self) -> Candidate:
        """The one that would have cost least."""
        place = self._leader
        return Candidate(
            int(self._predictor[place]),
            float(self._margin[place]),
            float(self._hold[place]),
            int(self._floor[place]),
        )

    def step(
        self,
        load: float,
        requests: float,
        mean_load: float,
        predictions: list[float],
        around: Surroundings,
        *,
        least: int = 0,
        seconds: float = 1.0,
    ) -> None:
        """Rehearse the next second.

        Args:
            load: that arrived in it, load units.
            requests: that arrived in it.
            mean_load: of a request, load units; above 0.
            predictions: load units per second, one of each predictor.
            around: what the workers are like.
            least: workers that all of them have, those of the season; at most `max_workers`.
            seconds: more than 1 only where nothing arrived and nothing waits.
        """
        settling = self.rehearsed < around.settling_seconds
        wanted = self._wanted
        self._order(wanted, around, seconds)
        late = None
        # Mostly nothing is there: then nothing is done, and nothing is late.
        if load > 0 or requests > 0 or not self._empty:
            ready = self._ready(wanted, around)
            self._serve(load, requests, mean_load, ready * _figure(around.perf * seconds))
            if requests > 0 and not settling:
                # What is held for a worker that comes within that time is not late either.
                soon = self._ready(wanted, around, within=self._late_after)
                soon *= _figure(around.slots)
                ready *= _figure(around.begun(mean_load, self._late_after))
                ready += soon
                late = self._requests > ready

        # What it wants next.
        need = np.array(predictions, np.float32).take(self._predictor)
        need *= self._margin
        need /= _figure(around.target_util)
        if not self._empty:
            over = np.maximum(wanted, _ONE)
            over *= _figure(FULL * around.slots)
            np.subtract(self._requests, over, out=over)
            np.maximum(over, _NONE, out=over)
            # Of what is over the slots, not the requests but the load matters.
            over *= _figure(mean_load / max(1.0, around.patience))
            need += over
        need /= _figure(around.perf)
        self._peak_age += _figure(seconds)
        hold = np.maximum(self._hold, _figure(around.coming_seconds))
        # What was needed too long ago is forgotten; what is higher takes its place.
        self._peak *= self._peak_age < hold
        self._peak_age *= self._peak > need
        np.maximum(self._peak, need, out=self._peak)
        after = self._peak - _figure(1e-4)
        np.ceil(after, out=after)
        np.maximum(after, self._floor, out=after)
        np.maximum(after, _figure(max(1, least)), out=after)
        np.minimum(after, _figure(max(1, around.max_workers)), out=after)
        self._wanted = after

        if settling:
            self.rehearsed += seconds
            return
        fade = math.exp(-seconds / self._memory) if self._memory > 0 else 0.0
        # What it costs: its workers, and those that it lets go.
        cost = wanted - after
        np.maximum(cost, _NONE, out=cost)
        cost *= _figure(self._release_cost)
        cost += wanted if seconds == 1 else wanted * _figure(seconds)
        self._spent *= fade
        self._spent += cost
        self._late *= fade
        if late is not None:
            # At the price of the moment: what is past does not change with the sizes that follow.
            self._late += late * (requests * self._late_price * mean_load / around.perf)
        self._leader = int((self._spent + self._late).argmin())

    def kept(self, now: float) -> KeptRehearsal:
        """What is to outlive the process; not what the candidates have at the moment.

        Args:
            now: on any clock that goes on.
        """
        return KeptRehearsal(
            at=now,
            leader=self._leader,
            predictors=self._predictors,
            margins=list(MARGINS),
            holds=list(HOLDS),
            floors=self._floors,
            spent=packed(self._spent),
            late=packed(self._late),
        )

    def resume(self, kept: KeptRehearsal, now: float) -> bool:
        """Take up what was kept, and follow who led then.

        Returns:
            Whether it was of these candidates, and whole; else nothing has changed.
        """
        ours = (self._predictors, list(MARGINS), list(HOLDS), self._floors)
        if ours != (kept.predictors, kept.margins, kept.holds, kept.floors):
            return False
        size = len(self._spent)
        try:
            found = [unpacked(one, size) for one in (kept.spent, kept.late)]
        except ValueError:
            return False
        sums = [float(one.sum()) for one in found]
        if not (all(0 <= one < MAX_KEPT for one in sums) and 0 <= kept.leader < size):
            return False
        ago = max(0.0, now - kept.at)
        fade = math.exp(-ago / self._memory) if self._memory > 0 else 0.0
        self._spent = found[0].astype(np.float64) * fade
        self._late = found[1].astype(np.float64) * fade
        self._leader = kept.leader
        return True

    def _serve(self, load: float, requests: float, mean_load: float, capacity: Floats) -> None:
        """Load comes, and as much is done as there is capacity for; `capacity` is used up."""
        backlog, count = self._load, self._requests
        backlog += _figure(load)
        count += _figure(requests)
        done = np.minimum(backlog, capacity, out=capacity)
        backlog -= done
        done /= _figure(mean_load)
        count -= done
        np.maximum(count, _NONE, out=count)
        count *= backlog > 1e-3
        self._empty = not np.count_nonzero(backlog)

    def _order(self, wanted: Floats, around: Surroundings, seconds: float) -> None:
        """Remember what is wanted: that is there when a worker has had time to come."""
        resolution = max(1.0, around.coming_seconds / STEPS)
        self._step_left -= seconds
        if self._step_left <= 0:
            # One place for each step: what was wanted least in it.
            for _ in range(min(STEPS, 1 + int(-self._step_left / resolution))):
                self._place = (self._place + 1) % STEPS
                self._ordered[self._place] = self._lowest
            self._step_left = resolution
            self._lowest = wanted
        else:
            self._lowest = np.minimum(self._lowest, wanted)

    def _ready(self, wanted: Floats, around: Surroundings, *, within: float = 0.0) -> Floats:
        """Workers that are there: they were wanted for as long as one takes to come.

        Args:
            wanted: workers that are wanted now.
            around: what they are like.
            within: seconds; those that come in that time are there, too.
        """
        coming = around.coming_seconds
        resolution = max(1.0, coming / STEPS)
        steps = round((coming - within) / resolution)
        return self._least(max(1, min(STEPS, steps)), wanted)

    def _least(self, steps: int, wanted: Floats) -> Floats:
        first = self._place - steps + 1
        if first >= 0:
            least = np.minimum.reduce(self._ordered[first : self._place + 1])
        else:
            least = np.minimum.reduce(self._ordered[first:])
            np.minimum(least, np.minimum.reduce(self._ordered[: self._place + 1]), out=least)
        result: Floats = np.minimum(least, wanted, dtype=np.float32)
        return result


@lru_cache(maxsize=256)
def _figure(value: float) -> Floats:
    """As an array without dimensions: NumPy takes twice as long with a scalar as with this."""
    return np.array(value, np.float32)


_NONE, _ONE = _figure(0.0), _figure(1.0)
