"""What load an endpoint has to expect, and how much capacity that asks for.

A `Forecaster` is the memory of one endpoint: it is told what arrived and what waits, and says how
much active capacity is needed (`Outlook`). The same calls give the same answers: it reads no clock
and draws no random numbers, so a trace can be run through it as well as an hour of real time.

Rules:

* The need is a predicted load per second, times a margin, divided by `target_util`; the predictor,
  the margin, for how long a peak is held, and a floor are those that would have cost least so far
  (see `rehearsal`).
* What is over the slots of the workers is worked off within `target_queue_time`, whatever is
  predicted: it is there already.
* What recurs each day or week is prepared for in time, whatever the rehearsal says (see `season`);
  its candidates are given those workers too.
* Until perf is known, and a worker has seen a request, nothing can be rehearsed; what arrived
  meanwhile is made up for then.
* What arrived is a claim until a worker has seen it: where that puts it right, it is put right here
  in the second in which it came. What the rehearsal has made of it until then stays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from stoker.autoscaler.arrivals import Demand
from stoker.autoscaler.planning.contradictions import clamped
from stoker.autoscaler.planning.ebb import Ebb
from stoker.autoscaler.planning.errors import HORIZONS, ForecastErrors
from stoker.autoscaler.planning.fleetfigures import LEAST, FleetFigures
from stoker.autoscaler.planning.history import SECONDS, LoadHistory
from stoker.autoscaler.planning.keeping import KeptForecast, KeptRehearsal, decode, encode
from stoker.autoscaler.planning.longest import LongRequests, beyond
from stoker.autoscaler.planning.onset import Onsets
from stoker.autoscaler.planning.outlook import PREDICTORS, Horizon, Outlook
from stoker.autoscaler.planning.rehearsal import FULL, Rehearsal, Surroundings
from stoker.autoscaler.planning.retention import Retention
from stoker.autoscaler.planning.season import DAY, WEEK, Recurring, Source, UtcOffset
from stoker.autoscaler.planning.settings import PlannerSettings
from stoker.autoscaler.planning.snapshot import EndpointSnapshot
from stoker.errors import UNREADABLE
from stoker.sizes import FAR
from stoker.wire import MAX_COST, EndpointParameters

_MEANS = (10, 120)
_TREND_BASE = 60

UPPER = 1.645
"""Standard deviations above the expected load: 95% of a normal distribution lie below."""

MAX_GAP = 600.0
"""Seconds: a clock that jumps further ahead than this is taken to have jumped so far."""

_PAUSE = 60.0
"""Seconds without a call above which silence is passed in steps of ten."""

MAX_SET_BACK = 60.0
"""Seconds: a clock that was set back further than this is believed, and not waited for."""

SEASON_LEAD = 1.25
"""What recurs each day or week is prepared for so many times sooner than a worker takes to come."""

UNKNOWN_SLOTS_SHARE = 0.5
"""Where slots are not known, workers are taken to be full with as much load as they can do in this
share of `target_queue_time`, and of no more than `max_queue_time`."""

_WHEN: dict[Source, str] = {
    "day": "on both of the last two days",
    "week": "on this day of the week",
}

TELL_EVERY = 10.0
"""Seconds between two looks ahead at the horizons: nothing but what is told depends on them."""

NEW_MEAN = 0.01
"""Weight of one request in the mean load of a request."""

LARGEST = 1 / NEW_MEAN
"""Times the mean by which requests of one second count for more than the mean, together: a single
one doubles it at most, and where sizes have really changed, it follows within a few."""


def _waiting(
    demand: Demand, around: Surroundings, mean_load: float, long: float
) -> tuple[int, float]:
    """Requests that wait or work, and the capacity that each asks for that is over the slots.

    Args:
        demand: of the endpoint.
        around: what the workers are like.
        mean_load: of a request, load units.
        long: what long requests have left, load units: they have their slots, so it says nothing
            about those that wait for one.
    """
    count = demand.held_count + demand.booked_count
    load = demand.outstanding_load
    if count <= 0 or not 0 < load < math.inf:
        return 0, 0.0
    load = max(load - long, min(load, count * mean_load))
    return count, min(load / count, MAX_COST) / max(1.0, around.patience)


class Forecaster:
    """The memory of one endpoint's load."""

    def __init__(
        self, settings: PlannerSettings | None = None, *, utc_offset: UtcOffset | None = None
    ) -> None:
        """Know nothing yet.

        Args:
            settings: the planner's own figures.
            utc_offset: of the clock by which days are told; None: UTC.
        """
        self._settings = settings or PlannerSettings()
        self.history = LoadHistory(utc_offset)
        self._rehearsal: Rehearsal | None = None
        self._kept: KeptRehearsal | None = None
        """What an earlier process rehearsed, until it is taken up."""
        self._errors = ForecastErrors()
        self._second: int | None = None
        self._load = self._requests = 0.0
        self._seen = (0.0, 0)
        self._taken = (0, 0.0, 0)
        """The second of the router in which we last looked, and what had come in it by then."""
        self._offset = 0
        """By how much our seconds are ahead of the router's."""
        self._revisions = 0
        self._revised: dict[int, float] = {}
        """As the router had it when we last looked, by its seconds."""
        self._confirmed = False
        """A worker has seen a request: until then, the mean load of one is not learnt."""
        self._first = (-1, 0.0)
        """The second in which that came to be, and the requests whose mean was taken then."""
        self._mean_load = 0.0
        """Load units of a request, the latest counting most; 0: none came yet."""
        self._peak = 0.0
        self._peak_at = -math.inf
        self._ebb = Ebb()
        self._idle = 0.0
        self._onsets: Onsets | None = None
        """The bursts so far; None: nothing is rehearsed yet."""
        self._retention = Retention(self._settings)
        self._long = LongRequests()
        self._present = 0
        """Requests at the workers, at the last look."""
        self._wanted = 1
        """Active workers that were asked for at the last look."""
        self._told_at = -math.inf
        self._told: tuple[Horizon, ...] = ()

    def observe(self, snapshot: EndpointSnapshot, now: float) -> Outlook:
        """Take note of what arrived since the last call, and say what is needed.

        To be called about once a second; more often does no harm.

        Args:
            snapshot: the endpoint as it is. Its demand's `arrived_load` and `arrived_count` count
                up from any start; an `outlook` in it is not looked at.
            now: seconds, on a clock that should not jump. One that was set back a little stands
                still for us until it has caught up.
        """
        demand, parameters = snapshot.demand, clamped(snapshot.parameters)[0]
        fleet = FleetFigures.of(snapshot)
        known = demand.seen or self._mean_load > 0
        around = self._surroundings(fleet, parameters) if known else None
        before = self._mean_load
        self._pass(demand, around, now)
        self._present = demand.booked_count
        if known and self._mean_load != before:
            # The first request that ever came has told its load by now.
            around = self._surroundings(fleet, parameters)
        if around is not None and self._rehearsal is None:
            self._rehearsal = self._begin(around)
        return self._outlook(demand, fleet, parameters, around, now)

    def clock_set(self, by: float) -> None:
        """The clock that `observe` is given was put right; no time has passed by that.

        Args:
            by: seconds that it was put forward; below 0: back.
        """
        if self._second is not None:
            self._second += round(by)
            self._offset += round(by)
        self._peak_at += by
        self._ebb.clock_set(by)
        self._told_at += by

    # What outlives the process.

    def written(self, now: float) -> str:
        """What takes hours to learn, as JSON (some 30 KB).

        Args:
            now: as `observe` is given it.
        """
        rehearsal = self._kept if self._rehearsal is None else self._rehearsal.kept(now)
        kept = KeptForecast(
            counted="seen",
            mean_load=self._mean_load,
            season=self.history.profile.kept(now),
            rehearsal=rehearsal,
            retention=self._retention.kept(now),
        )
        return encode(kept).decode()

    def read(self, text: str, now: float) -> bool:
        """Take up what an earlier process had learnt; to be called before `observe`.

        Args:
            text: what `written` gave.
            now: on the same clock as then.

        Returns:
            Whether it was of use; what is broken, older than two weeks or of the future is not.
        """
        try:
            kept = decode(text)
            season = kept.season or kept.day
            if season is None:
                return False
            fresh = -MAX_SET_BACK <= now - season.at <= 2 * WEEK * DAY
            if not (fresh and 0 <= kept.mean_load <= MAX_COST):
                return False
            self.history.profile.resume(season, now)
        except UNREADABLE:
            return False
        self._mean_load = kept.mean_load
        self._kept = kept.rehearsal
        if kept.retention is not None:
            self._retention.resume(kept.retention, now)
        return True

    # Time passes.

    def _pass(self, demand: Demand, around: Surroundings | None, now: float) -> None:
        second = self._second_of(demand, now)
        if self._second is None:
            self._second = second
            self._seen = (demand.arrived_load, demand.arrived_count)
            self._taken = (demand.second, *demand.arrived.get(demand.second, (0.0, 0)))
            self._revisions, self._revised = demand.revisions, dict(demand.revised)
        if second - self._second > MAX_GAP:
            self._second = math.floor(second - MAX_GAP)
        if self._second - second > MAX_SET_BACK:
            self._end_second(around)
            self._second = second
        before = self._second
        for age, load, requests in self._came(demand):
            self._go_on(second - age, around)
            self._load += load
            self._requests += requests
        self._go_on(second, around)
        if self._second > before:
            self._errors.step(self.history, float(self._second))
        if demand.revisions != self._revisions:
            self._revise(demand)
        if demand.seen and not self._confirmed:
            self._confirmed = True
            self._begin_mean()

    def _second_of(self, demand: Demand, now: float) -> int:
        """The second that it is.

        Seconds of two clocks do not begin at the same moment. Where the router tells what came by
        its seconds, ours are the same, as long as they are no further apart than that.
        """
        second = math.floor(now)
        if not demand.arrived:
            return second
        if abs(demand.second + self._offset - second) > 1:
            self._offset = second - demand.second
        return demand.second + self._offset

    def _came(self, demand: Demand) -> list[tuple[int, float, int]]:
        """What came since the last call: how many seconds ago, load units and requests.

        What is not told by the second, or is too old for that, is taken to have come just now.
        """
        load, count = self._seen
        self._seen = (demand.arrived_load, demand.arrived_count)
        last, had_load, had_count = self._taken
        self._taken = (demand.second, *demand.arrived.get(demand.second, (0.0, 0)))
        requests = max(0, demand.arrived_count - count)
        # Load that was given up again is taken back by the router: then it counts down.
        arrived = demand.arrived_load - load
        # No request has more than MAX_COST.
        arrived = min(arrived, requests * MAX_COST) if 0 < arrived < math.inf else 0.0
        total, number = arrived, requests
        found = []
        told: Sequence[int] = range(last, demand.second + 1)
        if len(told) > len(demand.arrived):
            told = sorted(demand.arrived)
        for second in told:
            came, many = demand.arrived.get(second, (0.0, 0))
            had = (had_load, had_count) if second == last else (0.0, 0)
            if last <= second <= demand.second and many > had[1]:
                part = min(max(0.0, came - had[0]), arrived)
                found.append((demand.second - second, part, many - had[1]))
                arrived, requests = arrived - part, requests - (many - had[1])
        if requests < 0:
            return [(0, total, number)]  # these are not the same requests: another router counts
        if requests > 0:
            found.append((0, arrived, requests))
        return sorted(found, reverse=True)

    def _go_on(self, second: int, around: Surroundings | None) -> None:
        """Time passes until `second`, without anything more that came."""
        assert self._second is not None
        if second > self._second:
            self._end_second(around)
            self._quiet(second - self._second, around)

    def _begin_mean(self) -> None:
        """The first request was seen: take the mean of what had to wait for that."""
        assert self._second is not None
        load, count = self.history.total()
        mean = load / count if count > 0 else 0.0
        known = self._mean_load  # by an earlier process; the truth may have moved on
        if mean > 0 and not known / FAR <= mean <= known * FAR:
            self._mean_load, self._first = mean, (self._second, count)

    def _revise(self, demand: Demand) -> None:
        """Put right what had arrived, as the router has."""
        assert self._second is not None
        for second, total in demand.revised.items():
            change = total - self._revised.get(second, 0.0)
            age = demand.second - second
            if not change or not -MAX_COST * 1e6 < change < MAX_COST * 1e6:
                continue
            if age <= 0:
                self._load = max(0.0, self._load + change)
                continue
            at = self._second - age
            counted = change
            if self._confirmed:
                came = self.history.requests(age)
                counted = self._long.revise(at, change, came, self._mean_load)
            found, requests, since = self.history.revise(age, change, at, counted=counted)
            first, count = self._first
            if requests > 0 and self._confirmed:
                weight = (1 - (1 - NEW_MEAN) ** requests) * (1 - NEW_MEAN) ** since
                if self._second - age < first and count > 0:
                    weight = requests / count
                self._mean_load = max(0.0, self._mean_load + weight * found / requests)
        self._revisions, self._revised = demand.revisions, dict(demand.revised)

    def _end_second(self, around: Surroundings | None) -> None:
        assert self._second is not None
        load, requests = self._load, self._requests
        self._load = self._requests = 0.0
        limit = math.inf
        if requests > 0:
            weight = 1 - (1 - NEW_MEAN) ** requests
            if self._mean_load <= 0:
                weight = 1.0
            elif self._confirmed:
                limit = (requests + LARGEST) * self._mean_load
            if self._confirmed:
                mean = min(load, limit) / requests
                self._mean_load += weight * (mean - self._mean_load)
            self._idle = 0.0
        counted = self._counted(load, requests, around)
        self.history.add(load, requests, float(self._second), limit=limit, counted=counted)
        self._second += 1
        if around is not None:
            self._rehearse(load, requests, around)

    def _counted(
        self, load: float, requests: float, around: Surroundings | None, *, seconds: float = 1.0
    ) -> float:
        """What counts of a second: long requests count while they are worked off."""
        if around is None or not self._confirmed:
            return load
        return self._long.step(
            self._second or 0,
            load,
            requests,
            mean_load=self._mean_load,
            present=self._present,
            perf=around.perf,
            slots=around.slots,
            seconds=seconds,
        )

    def _quiet(self, seconds: float, around: Surroundings | None) -> None:
        """Seconds in which nothing came: one by one while that matters, then in one go."""
        assert self._second is not None
        while seconds > 0:
            # After a pause of ours nobody knows what came when, and a thousand endpoints wait.
            fine = self._idle < SECONDS and seconds <= _PAUSE
            step = 1.0 if fine else float(min(seconds, 10))
            self._idle += step
            counted = self._counted(0.0, 0, around, seconds=step)
            self.history.add(0.0, 0, float(self._second), seconds=step, counted=counted)
            self._second += int(step)
            if around is not None:
                self._rehearse(0.0, 0, around, seconds=step)
            seconds -= step

    def _surroundings(
        self, fleet: FleetFigures, parameters: EndpointParameters
    ) -> Surroundings | None:
        if fleet.perf <= 0 or self._mean_load < LEAST:
            return None
        settings = self._settings
        slots = float(fleet.slots)
        if slots <= 0:
            share = UNKNOWN_SLOTS_SHARE * parameters.target_queue_time
            # The router leaves slots free where what is there takes longer: others wait, held.
            share = min(share, parameters.max_queue_time)
            slots = max(1.0, share * fleet.perf / self._mean_load)
        create = fleet.create_seconds or settings.rehearsed_create_seconds
        # One that takes longer is given up.
        create = min(create, settings.loading_limit)
        start = min(create, fleet.start_seconds or settings.unknown_start_seconds)
        comes = start if fleet.stoppable else create
        timeout = parameters.inactivity_timeout
        return Surroundings(
            perf=fleet.perf,
            slots=slots,
            create_seconds=create,
            start_seconds=start,
            stoppable=fleet.stoppable,
            target_util=parameters.target_util,
            # Above max_queue_time nothing is routed, so it would be no use to wait for longer. And
            # what a worker is to help with must still be there when it comes.
            patience=max(min(parameters.target_queue_time, parameters.max_queue_time), comes / 2),
            max_workers=max(1, parameters.max_workers),
            # Whoever says when the last worker goes wants none that nobody asked for.
            season=parameters.min_load > 0 or timeout is None or timeout < 0,
        )

    # What is predicted.

    def _predictions(self, around: Surroundings) -> list[float]:
        history = self.history
        level = history.mean(_TREND_BASE)
        ahead = history.ahead(float(self._second or 0), around.create_seconds, level)
        return self._predicted(history, self._onsets, ahead)

    def _predicted(self, history: LoadHistory, onsets: Onsets | None, ahead: float) -> list[float]:
        """One of each of `PREDICTORS`."""
        short, long = (history.mean(seconds) for seconds in _MEANS)
        burst = short
        if onsets is not None and onsets.on:
            burst = onsets.rate() * self._mean_load
        return [short, burst, long, ahead]

    def _note(
        self, onsets: Onsets, requests: float, around: Surroundings, *, seconds: float = 1.0
    ) -> None:
        """Look for bursts in the second that is over."""
        slots_seconds = around.slots * self._mean_load / around.perf
        lead = around.coming_seconds - self._settings.late_after
        onsets.step(requests, slots_seconds, lead, seconds=seconds)

    def _rehearse(
        self, load: float, requests: float, around: Surroundings, *, seconds: float = 1.0
    ) -> None:
        rehearsal = self._rehearsal
        if rehearsal is None or rehearsal.max_workers != around.max_workers:
            rehearsal = self._begin(around, but=1)
            self._rehearsal = rehearsal
        assert self._onsets is not None
        self._note(self._onsets, requests, around, seconds=seconds)
        now = float(self._second or 0)
        season = self._season(around, now, around.coming_seconds)
        least = math.ceil(season / around.perf - 1e-6)
        rehearsal.step(
            load,
            requests,
            self._mean_load,
            self._predictions(around),
            around,
            least=min(least, around.max_workers),
            seconds=seconds,
        )
        if around.stoppable:
            self._retention.step(
                load, requests, self._mean_load, self._wanted, around, seconds=seconds
            )

    def _season(self, around: Surroundings, now: float, takes: float) -> float:
        """Active capacity for what recurs, until a worker that `takes` so long is there."""
        if not around.season:
            return 0.0
        return self._recurring(now, takes).load / around.target_util

    def _recurring(self, now: float, takes: float) -> Recurring:
        price = self._settings.late_price
        return self.history.profile.recurring(now, now + SEASON_LEAD * takes, price)

    def _begin(self, around: Surroundings, *, but: int = 0) -> Rehearsal:
        """Rehearse anew, on the seconds that are remembered, `but` the last ones."""
        settings = self._settings
        rehearsal = Rehearsal(
            len(PREDICTORS),
            around.max_workers,
            late_after=settings.late_after,
            late_price=settings.late_price,
            memory=settings.memory,
            release_cost=settings.release_cost,
        )
        past, onsets = LoadHistory(), Onsets()
        known = list(zip(self.history.seconds(), self.history.counted(), strict=True))
        for (load, requests), counted in known[: len(known) - but]:
            past.add(load, requests, 0.0, counted=counted)
            self._note(onsets, requests, around)
            predictions = self._predicted(past, onsets, past.mean(_TREND_BASE))
            rehearsal.step(load, requests, self._mean_load, predictions, around)
        if self._kept is not None:
            rehearsal.resume(self._kept, float(self._second or 0))
            self._kept = None
        self._onsets = self._onsets or onsets
        return rehearsal

    # What is needed.

    def _outlook(
        self,
        demand: Demand,
        fleet: FleetFigures,
        parameters: EndpointParameters,
        around: Surroundings | None,
        now: float,
    ) -> Outlook:
        util = parameters.target_util
        if around is None or self._rehearsal is None:
            # Nothing to rehearse with: the mean, over the time that is known.
            mean = demand.arrival_rate
            why = f"load {mean:.1f}/s / target_util {util:.2f}"
            return Outlook(
                needed=mean / util,
                load=mean,
                predicted=mean,
                anticipated=mean,
                floor=0.0,
                clearing=0.0,
                binds="target_util",
                why=f"{why} needs {mean / util:.1f}/s",
            )
        candidate = self._rehearsal.leader
        predicted = self._predictions(around)[candidate.predictor]
        anticipated = predicted * candidate.margin
        long = self._long.left + beyond(self._load, self._requests, self._mean_load)
        count, urgency = _waiting(demand, around, self._mean_load, long)
        over = count - FULL * around.slots * max(1, fleet.coming)
        clearing = max(0.0, over * urgency)
        need = anticipated / util + clearing
        # Each worker that goes takes its slots along, and would be called back for what is over the
        # slots of the others. So let none go below the capacity that asks for no more than itself:
        # C = anticipated / util + (count - FULL x slots x C / perf) x urgency, with the perf of the
        # largest, as it may be them that stay.
        room = FULL * around.slots / fleet.largest * urgency
        at_rest = (anticipated / util + count * urgency) / (1 + room)
        hold = max(candidate.hold, around.coming_seconds)
        if need >= self._peak or now - self._peak_at >= hold or now < self._peak_at:
            self._peak, self._peak_at = need, now
        # In its first minutes, what waits for the first worker is no burst.
        booting = fleet.booting > 0 and self._rehearsal.rehearsed >= around.create_seconds
        fallen = self._ebb.step(need, around.perf, around.create_seconds, now, booting=booting)
        floor = candidate.floor * around.perf
        season = self._season(around, now, around.coming_seconds)
        reserve = self._season(around, now, around.create_seconds) if around.stoppable else 0.0
        recurring = self._recurring(now, around.create_seconds) if around.season else None
        needed = max(self._peak, floor, season)
        wanted = math.ceil(max(needed, parameters.min_load) / around.perf - 1e-6)
        self._wanted = min(max(1, wanted), around.max_workers)
        binds = "target_util"
        if season > max(floor, self._peak):
            binds = "season"
            ahead = SEASON_LEAD * around.coming_seconds
            source = self._recurring(now, around.coming_seconds).source
            why = (
                f"what came {_WHEN[source]} within {ahead:.0f} s of this time, as far as it came "
                f"lately, needs {season:.1f}/s"
            )
        elif floor >= self._peak:
            binds = "headroom"
            why = (
                f"bursts are best met by {candidate.floor} workers held ready: needs {floor:.1f}/s"
            )
        elif self._peak > need:
            binds = "hold"
            ago = now - self._peak_at
            why = f"needed {self._peak:.1f}/s {ago:.0f} s ago, held for {hold:.0f} s"
        else:
            why = (
                f"load {predicted:.1f}/s ({PREDICTORS[candidate.predictor]}) "
                f"x margin {candidate.margin:.2f} / target_util {util:.2f}"
            )
            if clearing > 0:
                binds = "target_queue_time"
                why += f" + {clearing:.1f}/s for what is over the workers' slots"
            why += f" needs {need:.1f}/s"
        return Outlook(
            needed=needed,
            for_load=max(self._peak, season),
            reserve=reserve,
            kept=at_rest,
            load=self.history.mean(_MEANS[-1]),
            predicted=predicted,
            anticipated=anticipated,
            floor=floor,
            clearing=clearing,
            binds=binds,
            why=why,
            recurring=recurring,
            recurring_seconds=SEASON_LEAD * around.create_seconds,
            retention=(
                self._retention.seconds(around.create_seconds, around.start_seconds)
                if around.stoppable
                else ()
            ),
            fallen=fallen,
            candidate=candidate,
            horizons=self._horizons(around, now),
        )

    def _horizons(self, around: Surroundings, now: float) -> tuple[Horizon, ...]:
        if 0 <= now - self._told_at < TELL_EVERY and self._told[0].seconds == around.create_seconds:
            return self._told
        self._told_at, self._told = now, self._look_ahead(around, now)
        return self._told

    def _look_ahead(self, around: Surroundings, now: float) -> tuple[Horizon, ...]:
        level = self.history.mean(_TREND_BASE)
        seconds = (around.create_seconds, *HORIZONS)
        found = []
        for ahead in seconds:
            expected = self.history.ahead(now, ahead, level)
            found.append(Horizon(ahead, expected, expected + UPPER * self._errors.of(ahead)))
        return tuple(found)
