"""Why a plan is as it is: in figures for a machine, in lines for a person."""

from __future__ import annotations

from stoker.autoscaler.planning.draft import Draft
from stoker.autoscaler.planning.need import Needs
from stoker.autoscaler.planning.outlook import PREDICTORS, Outlook
from stoker.autoscaler.planning.plan import Explanation, Plan
from stoker.autoscaler.states import ACTIVE, LOADING_STATES, WorkerState, wire_name

_STOPPED = frozenset({WorkerState.STOPPED})

_NOT_SCALED = {
    "stopped": "stopped: all workers become inactive",
    "suspended": "suspended: workers stay as they are",
}


def explanation_of(draft: Draft, needs: Needs) -> Explanation:
    """What led to a plan, once all is decided."""
    parameters, demand = draft.parameters, draft.snapshot.demand
    active = draft.ready_capacity(draft.all(ACTIVE))
    binds, why = _binds(draft, needs)
    workers: dict[str, int] = {}
    for state, found in draft.by_state.items():
        # Two states have the same name outside: draining and stopping.
        workers[wire_name(state)] = workers.get(wire_name(state), 0) + len(found)
    outlook = draft.snapshot.outlook
    recurring = None if outlook is None else outlook.recurring
    return Explanation(
        anticipated=demand.arrival_rate if outlook is None else outlook.anticipated,
        target_util=parameters.target_util,
        needed=needs.now.sustained,
        kept=needs.kept.sustained,
        recurring=0.0 if recurring is None else recurring.expected,
        belief=1.0 if recurring is None else recurring.belief,
        active=active,
        coming=draft.known_perf(draft.all(LOADING_STATES)),
        stopped=draft.known_perf(draft.all(_STOPPED)),
        workers=workers,
        held=demand.held_count,
        backlog=demand.outstanding_load,
        binds=binds,
        why=why,
        details=_details(draft, needs),
    )


def summary_of(draft: Draft, needs: Needs) -> str:
    """Need and capacity in one line."""
    state = draft.parameters.endpoint_state
    if state in _NOT_SCALED:
        return _NOT_SCALED[state]
    active = draft.all(ACTIVE)
    return (
        f"{needs.now.why}; {len(active)} active with {draft.ready_capacity(active):.1f}/s, "
        f"{len(draft.all(LOADING_STATES))} on their way, {len(draft.all(_STOPPED))} stopped; "
        f"{draft.snapshot.demand.held_count} held"
    )


def _binds(draft: Draft, needs: Needs) -> tuple[str, str]:
    """The constraint that decides, and the line that says so."""
    state = draft.parameters.endpoint_state
    if state in _NOT_SCALED:
        return "endpoint_state", _NOT_SCALED[state]
    if draft.binds is not None:
        text, constraint = draft.binds
        return constraint, f"{text}; {needs.now.why}"
    return _need_binds(draft, needs), needs.now.why


def _need_binds(draft: Draft, needs: Needs) -> str:
    """Which parameter or figure makes the need what it is."""
    need, demand, parameters = needs.now, draft.snapshot.demand, draft.parameters
    if needs.zero:
        return "inactivity_timeout"
    outlook = draft.snapshot.outlook
    if outlook is not None and outlook.candidate is not None:
        if need.sustained > parameters.min_load:
            return outlook.binds
    elif need.burst > need.sustained:
        recent = demand.recent_rate / parameters.target_util
        return "target_util" if recent >= need.burst else "target_queue_time"
    elif need.sustained > parameters.min_load:
        return "target_util"
    if parameters.min_load > 0:
        return "min_load"
    if draft.outstanding():
        return "held requests" if demand.held_count else "requests at work"
    return "inactivity_timeout" if need.workers > 0 else "nothing"


def _details(draft: Draft, needs: Needs) -> tuple[tuple[str, str], ...]:
    demand, parameters = draft.snapshot.demand, draft.parameters
    details = [
        *_forecast(draft.snapshot.outlook),
        (
            "load",
            f"{demand.arrival_rate:.1f}/s over 60 s, {demand.recent_rate:.1f}/s over 5 s, "
            f"{demand.peak_rate:.1f}/s at most",
        ),
        ("scale down", needs.kept.why),
        (
            "max_workers",
            f"{draft.recruiter.existing} of {parameters.max_workers} exist or are on order",
        ),
    ]
    if draft.leaving:
        details.append(("taken away", f"{len(draft.leaving)} workers are replaced before they go"))
    if draft.shares is not None:
        total = sum(draft.shares.capacity.values())
        for group in draft.snapshot.groups:
            part = draft.shares.capacity[group.id] / total if total > 0 else 0.0
            details.append(
                (
                    f"workergroup {group.id}",
                    f"{draft.shares.count[group.id]} workers with {part:.0%} of the capacity, "
                    f"weight {group.weight:g} asks for {draft.shares.fair(group.id):.0%}",
                )
            )
    details += [
        (f"update of workergroup {group_id}", stage.value)
        for group_id, stage in draft.updates.stages.items()
    ]
    return tuple(details)


def _forecast(outlook: Outlook | None) -> list[tuple[str, str]]:
    """What is expected, and which way to scale is followed."""
    if outlook is None or outlook.candidate is None:
        return []
    followed = outlook.candidate
    ahead = ", ".join(
        f"{_span(one.seconds)}: {one.expected:.1f}/s"
        # Until a forecast was judged, nothing is known of its errors.
        + (f" (95% below {one.upper:.1f}/s)" if one.upper > one.expected else "")
        for one in outlook.horizons
    )
    return [
        ("forecast", ahead),
        *_recurring(outlook),
        (
            "headroom",
            f"{PREDICTORS[followed.predictor]} x {followed.margin:.2f}, peaks held for "
            f"{followed.hold:.0f} s, {followed.floor} workers held for bursts: of all ways "
            "tried on this load, the one that would have cost least",
        ),
    ]


def _recurring(outlook: Outlook) -> list[tuple[str, str]]:
    """What came at this time of the day or week before, and how far that is believed."""
    found = outlook.recurring
    if found is None or found.expected <= 0:
        return []
    # A source that is followed is believed a little, however little came of it.
    told = f"believed {found.belief:.0%}" if found.load > 0 else "not followed: it did not pay"
    text = f"{found.expected:.1f}/s expected within {outlook.recurring_seconds:.0f} s, {told}"
    return [(f"recurs each {found.source}", text)]


def _span(seconds: float) -> str:
    """A time in its largest whole unit: 90 s, 10 min, 1 h, 1 d."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"in {seconds / size:.0f} {unit}"
    return f"in {seconds:.0f} s"


def explain(plan: Plan) -> list[str]:
    """A plan in lines for a person: need, capacity, what binds, then actions and notes."""
    found = plan.explanation
    lines = []
    if found is not None:
        lines += [
            f"binds: {found.binds}: {found.why}",
            f"needed: {found.needed:.1f}/s active, let go above {found.kept:.1f}/s; anticipated "
            f"{found.anticipated:.1f}/s, target_util {found.target_util:.2f}",
            f"capacity: {found.active:.1f}/s active, {found.coming:.1f}/s on its way, "
            f"{found.stopped:.1f}/s stopped",
            "workers: "
            + (", ".join(f"{n} {state}" for state, n in sorted(found.workers.items())) or "none"),
            f"waiting: {found.held} requests held, {found.backlog:.1f} load waits or works",
        ]
        lines += [f"{name}: {text}" for name, text in found.details]
    lines += [f"action: {action.reason}" for action in plan.actions] or ["action: none"]
    lines += [f"note: {note}" for note in plan.notes]
    return lines
