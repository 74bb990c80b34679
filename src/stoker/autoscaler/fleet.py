"""What the control plane knows of its endpoints, workergroups and workers, in memory.

The store holds what must survive; reports and providers tell the rest. Nothing here does I/O: a
change that must be kept is put on `dirty`, and the reconciler writes it.
"""

from __future__ import annotations

import hmac
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from stoker import wire
from stoker.autoscaler.states import ACTIVE, Event, WorkerState, next_state, wire_name
from stoker.logs import printable, redact
from stoker.store import EndpointRecord, WorkergroupRecord, WorkerRecord

Goal = Literal["run", "stop", "destroy"]
"""What shall become of a worker: kept running, stopped with its model on disk, or destroyed."""

MAX_ERROR = 2000
"""Characters kept of what a worker, or its provider, says is wrong."""

LOAD_WINDOW = 60
"""Reports over which `cur_load_rolling_avg` is taken."""


@dataclass(slots=True)
class Endpoint:
    """One endpoint and its parameters."""

    record: EndpointRecord
    key: str
    """Its own API key."""

    @property
    def id(self) -> int:
        """Its id in the store."""
        return self.record.id

    @property
    def name(self) -> str:
        """As clients call it."""
        return self.record.endpoint_name

    @property
    def parameters(self) -> wire.EndpointParameters:
        """How it is scaled."""
        return self.record.parameters


@dataclass(slots=True)
class Worker:
    """One worker: what the store has of it, and what it reported last."""

    record: WorkerRecord
    token: str
    state: WorkerState
    state_since: float
    """On the control plane's own clock."""
    token_bytes: bytes = b""
    goal: Goal = "run"
    instance_id: str | None = None
    url: str = ""
    boot_id: str = ""
    address: str = ""
    """Where its provider says that it is; empty: it does not say."""
    signed_unproven: bool = False
    """Its boot had a certificate signed without showing its mtoken."""
    perf: float = 0.0
    error: str = ""
    report: wire.WorkerStatus | None = None
    reported_at: float | None = None
    idle_since: float = 0.0
    loads: deque[float] = field(default_factory=lambda: deque(maxlen=LOAD_WINDOW))
    asked_at: float = 0.0
    """When the provider was last asked to do something with it."""
    coming_since: float | None = None
    """Since when it is being created or started; None: it is not."""
    written: bool = True
    """Its row is in the store; before that its instance is not asked for."""
    restored: bool = False
    """It was there when this control plane started."""
    former_at: float | None = None
    """When its former boot last said that it is ready, while it was to start anew."""
    was_ready: bool = False
    lost: bool = False
    """Its provider says that its instance failed."""
    listed: str = ""
    """The status that its provider listed last."""
    absent_since: float | None = None
    """Since when its provider has not listed it."""
    absences: int = 0
    """Lists in a row without it."""
    leaves_at: float | None = None
    """When its provider takes it away; None: not known to."""
    refused: int = 0
    """Orders about it in a row that its provider refused."""
    revision: int = 0
    """Of its workergroup's settings, those that it runs."""
    slots: int = 0
    """Requests that it works on at once; 0: not known."""
    state_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds in each state before the present one, by the state's name on the wire."""
    reason: str = ""
    """Why something was last decided about it."""

    @property
    def id(self) -> int:
        """Its id in the store, and on the wire."""
        return self.record.id

    @property
    def endpoint_id(self) -> int:
        """Whose requests it serves."""
        return self.record.endpoint_id

    @property
    def capacity(self) -> float:
        """Load units per second that are reckoned with: `perf`, or a default once it is ready."""
        if self.perf > 0 or self.state not in ACTIVE:
            return self.perf
        return wire.DEFAULT_PERF

    @property
    def available(self) -> bool:
        """Whether the router may send requests to it."""
        return self.state in ACTIVE and self.goal == "run" and bool(self.url)

    def seconds(self, now: float) -> dict[str, float]:
        """Seconds in each state until now, by the state's name on the wire."""
        name = wire_name(self.state)
        lasted = max(0.0, now - self.state_since)
        return self.state_seconds | {name: self.state_seconds.get(name, 0.0) + lasted}


class Fleet:
    """Endpoints, workergroups and workers by id."""

    def __init__(self) -> None:
        self.endpoints: dict[int, Endpoint] = {}
        self.by_name: dict[str, Endpoint] = {}
        self.groups: dict[int, WorkergroupRecord] = {}
        self.workers: dict[int, Worker] = {}
        """By id; changed by `add` and `remove` alone."""
        self.dirty: set[int] = set()
        """Ids of workers whose row must be written."""
        # With 1,000 endpoints of 100 workers a look through all of them for each endpoint would
        # be 10**8 steps a second.
        self._of_endpoint: dict[int, dict[int, Worker]] = {}
        self._of_provider: dict[str, dict[int, Worker]] = {}
        self._groups_of: dict[int, list[WorkergroupRecord]] = {}

    # -- what is there ---------------------------------------------------------------------

    def replace_endpoints(self, endpoints: list[Endpoint], groups: list[WorkergroupRecord]) -> None:
        """Take over what the store has."""
        self.endpoints = {e.id: e for e in endpoints}
        self.by_name = {e.name: e for e in endpoints if not e.record.destroyed}
        self.groups = {g.id: g for g in groups}
        self._groups_of = {}
        for group in groups:
            self._groups_of.setdefault(group.endpoint_id, []).append(group)

    def revision(self, group_id: int) -> int | None:
        """Of a workergroup's present settings; None: there is no such workergroup."""
        group = self.groups.get(group_id)
        return group.revision if group is not None else None

    def add(self, worker: Worker) -> None:
        """Take a worker in."""
        self.workers[worker.id] = worker
        self._of_endpoint.setdefault(worker.endpoint_id, {})[worker.id] = worker
        self._of_provider.setdefault(worker.record.provider, {})[worker.id] = worker

    def remove(self, worker: Worker) -> None:
        """Forget a worker; no harm if it is unknown."""
        self.dirty.discard(worker.id)
        if self.workers.pop(worker.id, None) is None:
            return
        indexes: tuple[tuple[dict[Any, dict[int, Worker]], int | str], ...] = (
            (self._of_endpoint, worker.endpoint_id),
            (self._of_provider, worker.record.provider),
        )
        for index, key in indexes:
            index[key].pop(worker.id, None)
            if not index[key]:
                del index[key]

    def of_endpoint(self, endpoint_id: int) -> list[Worker]:
        """The workers of an endpoint, oldest first."""
        return list(self._of_endpoint.get(endpoint_id, {}).values())

    def of_provider(self, name: str) -> list[Worker]:
        """The workers whose instances a provider has, or is to make."""
        return list(self._of_provider.get(name, {}).values())

    def groups_of(self, endpoint_id: int) -> list[WorkergroupRecord]:
        """The workergroups of an endpoint, oldest first."""
        return self._groups_of.get(endpoint_id, [])

    def is_worker(self, worker_id: int, token: str) -> bool:
        """Whether `token` is the mtoken of that worker; in constant time."""
        worker = self.workers.get(worker_id)
        expected = worker.token_bytes if worker else b""
        same = hmac.compare_digest(expected, token.encode("utf-8", "replace"))
        return worker is not None and same

    # -- what happens ----------------------------------------------------------------------

    def happen(self, worker: Worker, event: Event, now: float) -> WorkerState | None:
        """Apply an event; the new state where it is another one, else None."""
        state = next_state(worker.state, event)
        if state is worker.state:
            return None
        worker.state_seconds = worker.seconds(now)
        worker.state = state
        worker.state_since = now
        self.dirty.add(worker.id)
        return state

    def take_report(self, worker: Worker, report: wire.WorkerStatus, now: float) -> Event:
        """Remember what a worker says of itself; the event that it amounts to."""
        # The list is the router's, and may be long; the token and the error are kept elsewhere.
        worker.report = msgspec.structs.replace(
            report, mtoken="", working_request_idxs=[], error_msg=None
        )
        worker.reported_at = now
        if report.boot_id and report.boot_id != worker.boot_id:
            worker.boot_id = report.boot_id
            self.dirty.add(worker.id)
        worker.error = words(report.error_msg or "")
        worker.loads.append(report.cur_load)
        if report.slots > 0:
            worker.slots = report.slots
        if report.cur_load > 0 or report.num_requests_working > 0 or report.new_load > 0:
            worker.idle_since = now
        if report.url:
            worker.url = report.url.rstrip("/")
        if report.max_perf > 0 and report.max_perf != worker.perf:
            worker.perf = report.max_perf
            self.dirty.add(worker.id)
        if worker.error:
            return Event.REPORT_ERROR
        if report.draining:
            return Event.REPORT_DRAINING
        if report.loadtime > 0:  # it may not know its perf: workers of others report 0 while idle
            return Event.REPORT_READY
        return Event.REPORT_LOADING

    # -- what people see -------------------------------------------------------------------

    def status_text(self, endpoint_id: int) -> str:
        """Workers by state, for a client that waits: ``"1 model_loading, 2 idle"``."""
        counts = Counter(wire_name(w.state) for w in self.of_endpoint(endpoint_id))
        if not counts:
            return "no workers yet"
        return ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))

    def infos(self, endpoint_id: int, now: float) -> list[wire.WorkerInfo]:
        """The answer to ``/get_endpoint_workers/``."""
        return [_info(w, now) for w in self.of_endpoint(endpoint_id)]


def words(text: str) -> str:
    """What a worker or a provider says is wrong, fit to be kept and shown."""
    return printable(redact(text[: 2 * MAX_ERROR])[:MAX_ERROR], keep="\n")


def _info(worker: Worker, now: float) -> wire.WorkerInfo:
    report = worker.report
    record = worker.record
    ready = worker.state in ACTIVE
    return wire.WorkerInfo(
        id=worker.id,
        status=wire_name(worker.state),
        cur_load=report.cur_load if report else 0.0,
        new_load=report.new_load if report else 0.0,
        cur_load_rolling_avg=sum(worker.loads) / len(worker.loads) if worker.loads else 0.0,
        cur_perf=report.cur_perf if report else 0.0,
        perf=worker.capacity,
        measured_perf=worker.capacity if ready else 0.0,
        dlperf=0.0,
        reliability=1.0,
        reqs_working=report.num_requests_working if report else 0,
        disk_usage=report.disk_usage if report else 0.0,
        loaded_at=record.ready_at or 0.0,
        started_at=record.created_at,
        provider=record.provider,
        url=worker.url,
        error_msg=worker.error,
        seconds=round(max(0.0, now - worker.state_since), 3),
        state_seconds={name: round(spent, 3) for name, spent in worker.seconds(now).items()},
        revision=worker.revision,
        hardware=record.hardware,
    )
