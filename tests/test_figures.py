"""Figures that the pages promise are those of the code: whoever changes one changes the other.

That each figure does what the page says is for the tests of its room.
"""

import inspect
from pathlib import Path

import pytest

from stoker import wire
from stoker.autoscaler import (
    affinity,
    arrivals,
    fairness,
    pace,
    ranking,
    reconciler,
    rows,
    telling,
)
from stoker.autoscaler.planning import PlannerSettings, ebb, forecast, outlook, rehearsal, season
from stoker.autoscaler.planning.retention import Retention
from stoker.autoscaler.router import Router
from stoker.worker.reporting import Pace

DOCS = Path(__file__).parents[1] / "docs"
WORDS = {
    **{1 / 3: "a third", 0.5: "half", 2: "two", 3: "three", 4: "four", 20: "twenty"},
    **{300: "five minutes", 600: "ten minutes", 3600: "an hour"},
}
PLANNER = PlannerSettings()
ROUTER = {name: one.default for name, one in inspect.signature(Router).parameters.items()}
HELD = ROUTER["max_held"]
REPORTS = Pace()


def ways(max_workers):
    """Candidates that are rehearsed."""
    floors = rehearsal.floors(max_workers)
    return len(outlook.PREDICTORS) * len(rehearsal.MARGINS) * len(rehearsal.HOLDS) * len(floors)


def kept(boot):
    """Seconds for which a stopped worker is kept of which nothing was seen, with starts of 5 s."""
    return Retention(PLANNER).seconds(boot, 5.0)[-1]


def listed(figures):
    *most, last = [f"{one:g}" for one in figures]
    return f"{', '.join(most)} or {last} s"


ROUTING = [
    f"finish the request at most {affinity.PATIENCE:g} s later than the best one",
    f"and begin it at most {affinity.START_PATIENCE:g} s later",
    f"names, {affinity.MAX_NAMES:,} at most",
    f"at most, and up to {WORDS[affinity.MAX_HOLDERS]} workers for each",
    f"a name of at most {wire.MAX_AFFINITY} characters, or up to {wire.MAX_PREFIXES} names",
    f"perfs within {ranking.PERF_STEP - 1:.0%} of each other are treated as equal",
    f"and loads within 1/{ranking.STEPS_PER_DOUBLING}",
    f"A request counts as {fairness.MIN_CHARGE:g} load unit at least",
    f"A key may hold {HELD:,} requests",
    f"places left of {2 * HELD:,}",
    f"in any case, up to {3 * HELD:,}",
    f"when nobody asks for it for {ROUTER['poll_grace']:g} s",
    f"without a report for {pace.REPORT_DEADLINE:g} s (it reports each",
    f"(it reports each {REPORTS.quiet:g} s at least)",
]
SCALING = [
    f"mean load of the last {arrivals.WINDOW} s / `target_util`, that of the last",
    f"that of the last {arrivals.RECENT} s / `target_util`",
    f"the mean of the last {listed(forecast._MEANS)}",
    f"*which margin* ({' or '.join(f'{one:g}' for one in rehearsal.MARGINS)})",
    f"**rehearses** all of them, {ways(16)} with 16 workers",
    f"*how long a peak is held* ({listed(rehearsal.HOLDS)}",
    f"waited longer than {PLANNER.late_after:g} s costs as much as it takes to serve "
    f"{WORDS[PLANNER.late_price]}",
    f"What was seen {WORDS[PLANNER.memory]} ago counts a third as much as now",
    f"from {rehearsal.FULL:.0%} of all slots on",
    f"{WORDS[forecast.UNKNOWN_SLOTS_SHARE]} of `target_queue_time` in work is taken for full",
    f"means of {WORDS[season.SLOT]}) is prepared for {forecast.SEASON_LEAD:g} times as long before",
    f"written every {WORDS[rows.FORECASTS_EVERY]}",
    f"for at most {WORDS[PLANNER.exploration_share]} of what the endpoint spends",
    f"boots of 30 s: {WORDS[round(kept(30) / 3600)]} hours",
    f"of 600 s: {WORDS[round(kept(600) / 86400)]} days",
    f"to {WORDS[ebb.FALLEN]} or less and by {WORDS[ebb.LEAST]} workers or more",
    f"kept for {PLANNER.cold_retention:g} s at least and for "
    f"{PLANNER.cold_retention_limit / 86400:g} days at most",
    f"Not before {PLANNER.idle_wait:g} s without a request",
    *(
        f"| `{name}` | {getattr(wire.EndpointParameters(), name):g} |"
        for name in ("min_load", "target_util", "max_workers", "cold_workers", "cold_mult")
    ),
    f"| `max_queue_time` | {wire.EndpointParameters().max_queue_time:g} |",
    f"| `target_queue_time` | {wire.EndpointParameters().target_queue_time:g} |",
]
UPDATING = [
    f"after {WORDS[reconciler.GONE_LISTS]} lists and {reconciler.GONE_AFTER:g} s without it",
    f"has gone on for {reconciler.REBOOT_LIMIT:g} s after the answer",
    f"waits for it for more than {reconciler.LIST_PATIENCE:g} s",
    f"when they changed, every {telling.SUMMARY_EVERY:g} s at most",
]
ARCHITECTURE = [f"every second while something changed, at least every {REPORTS.quiet:g} s"]


@pytest.mark.parametrize(
    ("page", "promise"),
    [
        *(("routing", one) for one in ROUTING),
        *(("scaling", one) for one in SCALING),
        *(("updating", one) for one in UPDATING),
        *(("architecture", one) for one in ARCHITECTURE),
    ],
)
def test_a_figure_that_a_page_promises_is_that_of_the_code(page, promise):
    text = " ".join((DOCS / f"{page}.md").read_text(encoding="utf-8").split())
    assert promise in text
