"""The states of a worker, as the control plane sees it, and everything that changes one.

Rules:

* What comes from **outside** (a provider's list, a worker's report) may be late, repeated or out of
  order. It never raises: what has no entry in the table changes nothing.
* What we **decide** (``PLAN_*``) must fit the state, or there is a defect: `next_state` raises.
* Within one boot of a worker "loading" never follows "ready" except through an error, so a loading
  report that arrives late does not take a ready worker out of rotation. A new boot is an event of
  its own (`Event.REBOOTED`).
* STOPPED only leaves by our decision or because the provider says that it runs: a last report that
  was under way while the worker stopped does not revive it.
* A worker that reboots to be updated is ready again only after its new boot was heard of: its
  former boot may report "ready" until its machine ends it. Who takes reports tells the two apart.
* DESTROYING ends in DESTROYED and nowhere else; DESTROYED is final.

Two states are ours alone. **DRAINING** is a ready worker that gets no new request but may have some
in flight; it is not STOPPING, because the worker has not been told yet: if load returns, one
decision puts it back to READY at once. On the wire both are "stopping". **DESTROYED** means that
nothing is left at the provider, so that the record can be deleted.

This file does not know who provides the machine, and it reads no clock.
"""

from __future__ import annotations

from enum import StrEnum

from stoker.errors import StokerError


class WorkerState(StrEnum):
    """A worker's state; the value is its name in our own records (see `wire_name`)."""

    PENDING = "pending"
    """Has an identity and was not heard of yet: an attached worker before its first report, or one
    that is in the books after the control plane was restarted."""
    CREATING = "creating"
    """We asked a provider for an instance."""
    CREATED = "created"
    """The provider has the instance; it does not run yet."""
    LOADING = "loading"
    """The instance runs; its worker was not heard of yet."""
    MODEL_LOADING = "model_loading"
    """The worker reports, and its model loads or is measured."""
    READY = "ready"
    """Takes requests. "idle" on the wire."""
    DRAINING = "draining"
    """Takes no new request, finishes those it has; the worker does not know."""
    STOPPING = "stopping"
    """Told to stop; the model stays on its disk."""
    STOPPED = "stopped"
    """Not running, can be started again without loading the model from afar."""
    STARTING = "starting"
    """Told to start after it was stopped."""
    REBOOTING = "rebooting"
    """Its instance starts anew."""
    UPDATE_READY = "update_ready"
    """Takes requests, and waits for its turn in a rolling update."""
    UPDATE_REBOOTING = "update_rebooting"
    """Starts anew with the new settings."""
    UPDATE_STARTING = "update_starting"
    """Reports again after the update, and loads."""
    ERROR = "error"
    """Failed or fell silent. It comes back if it reports again, else it is replaced."""
    DESTROYING = "destroying"
    """Told to disappear."""
    DESTROYED = "destroyed"
    """Gone; nothing is left of it."""


class Event(StrEnum):
    """What may happen to a worker."""

    PROVIDER_CREATED = "the provider has the instance"
    PROVIDER_RUNNING = "the provider says it runs"
    PROVIDER_STOPPING = "the provider says it stops"
    PROVIDER_STOPPED = "the provider says it is stopped"
    PROVIDER_FAILED = "the provider says it failed"
    PROVIDER_GONE = "the provider does not know it any more"
    REPORT_LOADING = "it reports that it loads"
    REPORT_READY = "it reports that it is ready"
    REPORT_ERROR = "it reports an error"
    REPORT_DRAINING = "it reports that it drains"
    REPORT_OVERDUE = "its report is overdue"
    REBOOTED = "it reports from a new boot"
    """Raise it when `boot_id` changes. For a worker that gives none: when it reports loading
    although it was ready."""
    PLAN_START = "start it"
    PLAN_DRAIN = "drain it"
    PLAN_STOP = "stop it"
    PLAN_DESTROY = "destroy it"
    PLAN_UPDATE = "update it in its turn"
    PLAN_REBOOT = "reboot it"


class ImpossibleEventError(StokerError):
    """A decision does not fit the state of the worker that it is about."""

    def __init__(self, state: WorkerState, event: Event) -> None:
        super().__init__(f"a worker that is {state} cannot be told: {event}")
        self.state = state
        self.event = event


_S = WorkerState
_E = Event

_DECISIONS = frozenset(event for event in Event if event.name.startswith("PLAN_"))

# From the first sign of life onwards a loading worker jumps to the furthest stage that it shows,
# whatever was lost on the way.
_COMING_UP = {
    _E.REPORT_LOADING: _S.MODEL_LOADING,
    _E.REBOOTED: _S.MODEL_LOADING,
    _E.REPORT_READY: _S.READY,
    _E.REPORT_ERROR: _S.ERROR,
    _E.REPORT_OVERDUE: _S.ERROR,
    _E.PROVIDER_FAILED: _S.ERROR,
    _E.PLAN_DESTROY: _S.DESTROYING,
}
_GONE = {_E.PROVIDER_GONE: _S.DESTROYED}
_SERVING = {
    _E.REBOOTED: _S.MODEL_LOADING,
    _E.REPORT_ERROR: _S.ERROR,
    _E.REPORT_OVERDUE: _S.ERROR,
    _E.REPORT_DRAINING: _S.STOPPING,
    _E.PROVIDER_STOPPING: _S.STOPPING,
    _E.PROVIDER_STOPPED: _S.STOPPED,
    _E.PROVIDER_FAILED: _S.ERROR,
    _E.PROVIDER_GONE: _S.DESTROYED,
    _E.PLAN_DRAIN: _S.DRAINING,
    _E.PLAN_STOP: _S.STOPPING,
    _E.PLAN_DESTROY: _S.DESTROYING,
}

_TABLE: dict[WorkerState, dict[Event, WorkerState]] = {
    _S.PENDING: _COMING_UP
    | _GONE
    | {
        _E.REPORT_DRAINING: _S.STOPPING,
        # It starts anew, as after a power cut, and may take as long as any other to load.
        _E.PROVIDER_CREATED: _S.CREATED,
        _E.PROVIDER_STOPPING: _S.STOPPING,
        _E.PROVIDER_STOPPED: _S.STOPPED,
    },
    # Not _GONE: the provider's list may have been made before it took our order.
    _S.CREATING: _COMING_UP | {_E.PROVIDER_CREATED: _S.CREATED, _E.PROVIDER_RUNNING: _S.LOADING},
    _S.CREATED: _COMING_UP | _GONE | {_E.PROVIDER_RUNNING: _S.LOADING},
    # Stopped before it was ever ready: its model cannot be counted upon.
    _S.LOADING: _COMING_UP | _GONE | {_E.PROVIDER_STOPPED: _S.ERROR},
    _S.MODEL_LOADING: _COMING_UP
    | _GONE
    | {_E.PROVIDER_STOPPED: _S.ERROR, _E.REPORT_DRAINING: _S.STOPPING},
    _S.READY: _SERVING | {_E.PLAN_UPDATE: _S.UPDATE_READY, _E.PLAN_REBOOT: _S.REBOOTING},
    _S.DRAINING: _SERVING | {_E.PLAN_START: _S.READY, _E.PLAN_REBOOT: _S.UPDATE_REBOOTING},
    _S.STOPPING: _GONE
    | {
        # It was started again: by its owner (an attached worker), or by its launcher.
        _E.REBOOTED: _S.MODEL_LOADING,
        _E.PROVIDER_STOPPED: _S.STOPPED,
        _E.PROVIDER_FAILED: _S.ERROR,
        _E.PLAN_DESTROY: _S.DESTROYING,
    },
    _S.STOPPED: _GONE
    | {
        _E.PROVIDER_RUNNING: _S.LOADING,
        _E.PROVIDER_FAILED: _S.ERROR,
        _E.PLAN_START: _S.STARTING,
        _E.PLAN_DESTROY: _S.DESTROYING,
    },
    # No PROVIDER_STOPPED: the list may be from just before the start. If the start came to nothing,
    # the reconciler asks again.
    _S.STARTING: _COMING_UP | _GONE,
    _S.REBOOTING: _COMING_UP | _GONE,
    _S.UPDATE_READY: _SERVING | {_E.PLAN_REBOOT: _S.UPDATE_REBOOTING, _E.PLAN_START: _S.READY},
    # No REPORT_OVERDUE: a new boot that has not reported yet owes us nothing.
    _S.UPDATE_REBOOTING: _GONE
    | {
        _E.REPORT_LOADING: _S.UPDATE_STARTING,
        _E.REBOOTED: _S.UPDATE_STARTING,
        _E.REPORT_READY: _S.READY,
        _E.REPORT_ERROR: _S.ERROR,
        _E.PROVIDER_FAILED: _S.ERROR,
        _E.PLAN_DESTROY: _S.DESTROYING,
    },
    _S.UPDATE_STARTING: _COMING_UP
    | _GONE
    | {_E.REPORT_LOADING: _S.UPDATE_STARTING, _E.REBOOTED: _S.UPDATE_STARTING},
    _S.ERROR: _GONE
    | {
        _E.REPORT_LOADING: _S.MODEL_LOADING,
        _E.REBOOTED: _S.MODEL_LOADING,
        _E.REPORT_READY: _S.READY,
        _E.PLAN_DESTROY: _S.DESTROYING,
    },
    _S.DESTROYING: _GONE | {_E.PLAN_DESTROY: _S.DESTROYING},
    _S.DESTROYED: {},
}

ACTIVE = frozenset({_S.READY, _S.UPDATE_READY})
"""Takes requests: may be in rotation, and its perf is active capacity."""

LOADING_STATES = frozenset(
    {
        _S.CREATING,
        _S.CREATED,
        _S.LOADING,
        _S.MODEL_LOADING,
        _S.STARTING,
        _S.REBOOTING,
        _S.UPDATE_REBOOTING,
        _S.UPDATE_STARTING,
    }
)
"""On its way to being active: capacity to come, so that nothing is created twice for one need."""

HAS_MODEL = frozenset(
    {_S.READY, _S.UPDATE_READY, _S.DRAINING, _S.STOPPING, _S.STOPPED, _S.STARTING, _S.REBOOTING}
)
"""Has the model on its disk or in memory: counts towards `cold_workers`."""

BILLED = frozenset(WorkerState) - {
    _S.PENDING,
    _S.CREATING,
    _S.STOPPED,
    _S.DESTROYED,
}
"""The machine runs, as far as we know, so its time costs."""

LEAVING = frozenset({_S.DRAINING, _S.STOPPING, _S.DESTROYING, _S.DESTROYED})
"""On its way out."""

EXISTS = frozenset(WorkerState) - {_S.DESTROYED}
"""Counts towards `max_workers`."""

_WIRE_NAMES = {_S.READY: "idle", _S.DRAINING: "stopping"}


def next_state(state: WorkerState, event: Event) -> WorkerState:
    """The state after `event`; the same one where the event changes nothing.

    Raises:
        ImpossibleEventError: when `event` is a decision of ours that does not fit.
    """
    after = _TABLE[state].get(event)
    if after is not None:
        return after
    if event in _DECISIONS:
        raise ImpossibleEventError(state, event)
    return state


def wire_name(state: WorkerState) -> str:
    """The state as clients of the existing protocol know it: lower-case, a ready one is "idle"."""
    return _WIRE_NAMES.get(state, state.value)


PROVIDER_EVENTS = {
    "creating": Event.PROVIDER_CREATED,
    "running": Event.PROVIDER_RUNNING,
    "stopping": Event.PROVIDER_STOPPING,
    "stopped": Event.PROVIDER_STOPPED,
    "failed": Event.PROVIDER_FAILED,
}
"""What each status in a provider's list means; an instance that is not in it is PROVIDER_GONE."""
