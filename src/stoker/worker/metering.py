"""What a worker counts for the control plane.

Rules (all figures that are reported live in this file):

* Figures that count since the last report (`new_load`, `rej_load`, `cur_perf`,
  `num_requests_recieved`) leave with a snapshot. A report that was accepted commits it; one that
  failed puts it back. So the sum of all accepted figures is the truth, whatever failed between.
* `new_load` is what was let in, less what was cancelled; it is negative where something was
  cancelled that an earlier report told of. What was refused is in `rej_load` and not in `new_load`:
  new_load + rej_load is the load that was asked for.
* `cur_perf` is the load of requests that were answered well; what is known to be served of a
  running one (tokens that have passed) counts at once.
* What counts of a request is what is believed of it (`stoker.worker.workload`), not what it claims.
  When it goes beyond that, `new_load` gets what it grows by, at once.
* Where a request's load is known in the end (the model server's own count of tokens), it takes the
  place of the estimate in all figures: `new_load` gets the difference.
* A request that the model server turns down as wrong counts as no more than the worker can have
  done meanwhile: no other worker is needed for it.
* A session counts as a request without a load of its own; the requests in it are not told of one by
  one, because the router knows only the one that opened it.
* Each request is told of with its load: when it is at work, as estimated; when it has ended, as it
  turned out. So the control plane need not believe what its client claimed.
* Finished requests wait in a list until they were told. While the control plane is away it grows to
  `MAX_FINISHED` and no more: then the oldest are forgotten, and counted in `forgotten`.

Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from stoker.wire import FinishedRequest

MAX_FINISHED = 20_000
"""Finished requests kept for a control plane that is away; about 5 MB."""

MAX_BATCH = 500
"""Finished requests told of at once."""

MAX_WORKING_IDXS = 2_000
"""Requests that a report names as being worked on."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Counts since the last accepted report: load units, and requests."""

    new_load: float = 0.0
    rej_load: float = 0.0
    cur_perf: float = 0.0
    received: int = 0


class Metered(Protocol):
    """One request as it is counted, from its admission to its end.

    Attributes:
        request_idx: the router's number for it.
        load: load units that are not served yet, as far as known.
        estimate: load units that it is believed to need in all.
        served: load units that are known to be served.
        silent: the router is not told of it (a request within a session).
        path: the route that it took; "": none of its own (a session), and no load either.
        entered_queue_at: seconds of the worker's monotonic clock.
        work_started_at: likewise; None: it did not start.
    """

    request_idx: int
    load: float
    estimate: float
    served: float
    entered_queue_at: float
    work_started_at: float | None

    @property
    def silent(self) -> bool:
        """See above."""

    @property
    def path(self) -> str:
        """See above."""

    def __hash__(self) -> int: ...


@dataclass(slots=True)
class Meter:
    """Counts requests. Call one of `accepted` or `refused` for each, and `ended` for each accepted.

    Attributes:
        cur_load: load queued or working now.
        served: load served since the worker started.
        changes: goes up with every event, so that a reporter sees that something changed.
    """

    cur_load: float = 0.0
    served: float = 0.0
    changes: int = 0
    forgotten: int = 0
    _new_load: float = 0.0
    _rej_load: float = 0.0
    _cur_perf: float = 0.0
    _received: int = 0
    _live: dict[Metered, None] = field(default_factory=dict)
    _finished: deque[FinishedRequest] = field(default_factory=deque)

    def accepted(self, request: Metered) -> None:
        """A request was let in, to the queue or to work."""
        load = request.load
        self._live[request] = None
        self.cur_load += load
        self._new_load += load
        self._received += 1
        self.changes += 1

    def refused(
        self, request_idx: int, load: float, now: float, silent: bool = False, path: str = ""
    ) -> None:
        """A request was turned away for want of capacity."""
        self._rej_load += load
        self._received += 1
        self.changes += 1
        if silent:
            return
        told = load if path else None
        self._finished.append(
            FinishedRequest(request_idx, False, "Rejected", now, None, now, told, path)
        )
        if len(self._finished) > MAX_FINISHED:
            self._forget_oldest()

    def progress(self, request: Metered, served: float, off: float) -> None:
        """A part of an accepted request is served.

        Args:
            request: one that was `accepted` and has not ended.
            served: load units.
            off: what of it came off the request's `load`.
        """
        request.served += served
        self.cur_load -= off
        self._cur_perf += served
        self.served += served
        self.changes += 1

    def grow(self, request: Metered, load: float) -> None:
        """An accepted request turns out to need `load` units more; its own `load` has them."""
        request.estimate += load
        self.cur_load += load
        self._new_load += load
        self.changes += 1

    def ended(
        self, request: Metered, status: str, now: float, *, actual: float | None = None
    ) -> None:
        """An accepted request left, once.

        Args:
            request: the one that was `accepted`.
            status: ``Success``, ``Error`` or ``Cancelled``.
            now: seconds of the worker's monotonic clock.
            actual: its load as it turned out; None: as estimated.
        """
        live = self._live
        if request not in live:
            return
        del live[request]
        # Sums of floats drift; with nothing at work the truth is known.
        self.cur_load = self.cur_load - request.load if live else 0.0
        if status == "Success":
            if actual is None:
                served = request.estimate - request.served
            else:
                served = actual - request.served
                self._new_load += actual - request.estimate
            self._cur_perf += served
            self.served += served
        elif status == "Cancelled":
            self._new_load -= request.estimate - request.served
        elif actual is not None:
            self._new_load += actual - request.estimate
        self.changes += 1
        if request.silent:
            return
        finished = self._finished
        finished.append(
            FinishedRequest(
                request.request_idx,
                status == "Success",
                status,
                request.entered_queue_at,
                request.work_started_at,
                now,
                (request.estimate if actual is None else actual) if request.path else None,
                request.path,
            )
        )
        if len(finished) > MAX_FINISHED:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._finished.popleft()
        self.forgotten += 1

    @property
    def requests(self) -> Iterable[Metered]:
        """What is queued or at work, the oldest first."""
        return self._live

    @property
    def live(self) -> int:
        """Requests queued or working."""
        return len(self._live)

    def working_requests(self) -> tuple[list[int], list[float | None]]:
        """The requests queued or working, the oldest first.

        Returns:
            The router's numbers of them, and what each is believed to need in all, load
            units; None: it has no load of its own.
        """
        found: list[int] = []
        loads: list[float | None] = []
        for request in self._live:
            if len(found) == MAX_WORKING_IDXS:
                break
            if not request.silent:
                found.append(request.request_idx)
                loads.append(request.estimate if request.path else None)
        return found, loads

    def take(self) -> Figures:
        """Take the counts for a report; `put_back` them if it fails."""
        taken = Figures(self._new_load, self._rej_load, self._cur_perf, self._received)
        self._new_load = self._rej_load = self._cur_perf = 0.0
        self._received = 0
        return taken

    def put_back(self, figures: Figures) -> None:
        """The report with `figures` was not accepted."""
        self._new_load += figures.new_load
        self._rej_load += figures.rej_load
        self._cur_perf += figures.cur_perf
        self._received += figures.received

    def take_finished(self) -> list[FinishedRequest]:
        """Take the oldest finished requests, `MAX_BATCH` at most, to tell of them.

        Their times are those of the worker's monotonic clock.
        """
        count = min(len(self._finished), MAX_BATCH)
        return [self._finished.popleft() for _ in range(count)]

    def put_back_finished(self, requests: list[FinishedRequest]) -> None:
        """They were not accepted: the first in line again."""
        room = MAX_FINISHED - len(self._finished)
        kept = requests[-room:] if room > 0 else []
        self.forgotten += len(requests) - len(kept)
        self._finished.extendleft(reversed(kept))
