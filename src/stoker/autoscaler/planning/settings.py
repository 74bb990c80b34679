"""The planner's own figures, which no endpoint sets."""

from __future__ import annotations

from dataclasses import dataclass

from stoker.autoscaler.learnt import UNKNOWN_START_SECONDS


@dataclass(frozen=True, slots=True)
class PlannerSettings:
    """Times are in seconds."""

    idle_wait: float = 60.0
    """Idle time before zero where `inactivity_timeout` is absent; as long as demand is remembered,
    so that the ordinary rule for scaling down decides, and after it the forecast."""
    stopped_price: float = 0.05
    """Of a stopped worker, as a share of that of an active one: what its disk costs."""
    cold_retention: float = 60.0
    """Seconds for which a stopped worker that the pool does not need is kept at least, in case load
    returns; for longer where that pays (see `retention`), up to `cold_retention_limit`."""
    cold_retention_limit: float = 7 * 86400.0
    retention_memory: float = 86400.0
    """Seconds in which what was late for want of a stopped worker loses 63% of its weight."""
    error_grace: float = 30.0
    """Time for a worker with an error to recover: its launcher restarts what crashed, and a large
    model takes a while to load again; to destroy its instance would lose the copy on its disk."""
    stopping_grace: float = 30.0
    """A worker that is stopping for less than this is waited for, then started again."""
    pending_grace: float = 30.0
    """Time for a worker of ours to report after the control plane was restarted."""
    loading_limit: float = 3600.0
    """A worker that loads for longer is destroyed."""
    failure_budget: int = 10
    """Failures in a row after which a workergroup creates no more."""
    quarantine: float = 60.0
    """An offer whose worker failed is passed over for so long where there is another; twice as long
    after each further failure in a row, up to `quarantine_limit`."""
    quarantine_limit: float = 3600.0
    exploration_share: float = 1 / 3
    """What is spent on one worker on hardware that was not measured yet, as a part of all that the
    endpoint spends with it: at 1/3, two workers at 1.00 an hour allow a third at 1.00. 0: what was
    measured is preferred as long as there is any."""
    spot_lifetime: float = 7200.0
    """For how long a spot machine is expected to stay, see `valuing`."""
    unknown_create_seconds: float = 120.0
    """Taken for a workergroup's time to create a worker as long as that is not known."""
    leaving_margin: float = 10.0
    """A machine that is taken away is replaced so long before that would be just in time, and is
    drained when what it has would end so long before it goes."""
    rebalance_pause: float = 10.0
    """After a worker came into a workergroup that has less than its share, the next one is given
    to it so much later: time to drain the one whose place it takes."""
    update_surge: int = 1
    """Workers that a rolling update may add to a workergroup in which none can be spared."""
    update_soak: float = 10.0
    """An updated worker has to be ready for so long before the next one is taken out."""
    update_quiet: float = 10.0
    """Where an update can add no worker, it may take the last one out after so long without a
    request; what comes meanwhile is held."""
    failure_doubt: int = 3
    """Failures in a row after which a workergroup creates one worker at a time."""
    unknown_perf: float = 1.0
    """Load units per second of a ready worker about which nothing is known; as the router's."""
    late_after: float = 2.0
    """Seconds of waiting above which a request counts as late, where headroom is learnt."""
    late_price: float = 20.0
    """What a late request costs, in costs of serving one: at 20, headroom for bursts is held as
    long as it costs less than 20 times the capacity that serves the requests it keeps from being
    late. Higher: fewer waits, more idle workers."""
    memory: float = 3600.0
    """Seconds in which what was seen of the load loses 63% of its weight in that judgement."""
    release_cost: float = 5.0
    """Seconds of a worker's time that it takes to let one go: it runs empty first."""
    rehearsed_create_seconds: float = 60.0
    """How long a new worker is taken to need in rehearsals until one was created."""
    unknown_start_seconds: float = UNKNOWN_START_SECONDS
    """How long a stopped worker is taken to need until one was started."""
