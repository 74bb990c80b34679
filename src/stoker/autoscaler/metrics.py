"""The control plane's figures, gathered when they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stoker.autoscaler.plane import Plane
from stoker.autoscaler.states import wire_name


class Counts(Protocol):
    """What the reconciler counts."""

    @property
    def worker_seconds(self) -> Mapping[tuple[str, str], float]:
        """(endpoint, state) -> seconds that its workers spent in it."""
        ...

    @property
    def actions(self) -> Mapping[tuple[str, str], int]:
        """(endpoint, kind) -> actions carried out."""
        ...

    @property
    def strays(self) -> Mapping[str, int]:
        """Provider -> instances found that were no worker's."""
        ...


class Measured(Plane, Protocol):
    """A control plane with its counts."""

    front_requests: Callable[[], Mapping[tuple[str, int], int]]
    front_refusals: Callable[[], Mapping[str, int]]

    @property
    def reconciler(self) -> Counts:
        """What it counts."""
        ...


def render(plane: Measured) -> bytes:
    """All figures in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(plane))
    return generate_latest(registry)


class _Collector:
    def __init__(self, plane: Measured) -> None:
        self._plane = plane

    def collect(self) -> Iterator[Metric]:
        """Each figure once; labels are names that the owner chose, and states."""
        plane = self._plane
        now = plane.now()
        workers = GaugeMetricFamily(
            "stoker_workers", "Workers by state", labels=["endpoint", "state"]
        )
        held = GaugeMetricFamily(
            "stoker_requests_held", "Requests that wait for a worker", labels=["endpoint"]
        )
        held_load = GaugeMetricFamily(
            "stoker_load_held", "Load that waits for a worker, load units", labels=["endpoint"]
        )
        booked = GaugeMetricFamily(
            "stoker_load_booked", "Load sent to workers and not finished", labels=["endpoint"]
        )
        rate = GaugeMetricFamily(
            "stoker_load_arrival_rate", "Load units per second, last minute", labels=["endpoint"]
        )
        for endpoint in plane.fleet.endpoints.values():
            counts = Counter(wire_name(w.state) for w in plane.fleet.of_endpoint(endpoint.id))
            for state, number in counts.items():
                workers.add_metric([endpoint.name, state], number)
            demand = plane.router.demand(endpoint.id, now)
            held.add_metric([endpoint.name], demand.held_count)
            held_load.add_metric([endpoint.name], demand.held_load)
            booked.add_metric([endpoint.name], demand.booked_load)
            rate.add_metric([endpoint.name], demand.arrival_rate)
        seconds = CounterMetricFamily(
            "stoker_worker_seconds", "Seconds of workers by state", labels=["endpoint", "state"]
        )
        for (name, state), value in plane.reconciler.worker_seconds.items():
            seconds.add_metric([name, state], value)
        actions = CounterMetricFamily(
            "stoker_actions", "Actions of the planner carried out", labels=["endpoint", "kind"]
        )
        for (name, kind), count in plane.reconciler.actions.items():
            actions.add_metric([name, kind], count)
        strays = CounterMetricFamily(
            "stoker_stray_instances",
            "Instances found at a provider that were no worker's",
            labels=["provider"],
        )
        for name, count in plane.reconciler.strays.items():
            strays.add_metric([name], count)
        requests = CounterMetricFamily(
            "stoker_front_requests", "Calls answered", labels=["path", "status"]
        )
        for (path, status), count in plane.front_requests().items():
            requests.add_metric([path, str(status)], count)
        refusals = CounterMetricFamily(
            "stoker_front_refusals",
            "Requests and connections refused as HTTP, before they were a call",
            labels=["reason"],
        )
        for reason, count in plane.front_refusals().items():
            refusals.add_metric([reason], count)
        pending = GaugeMetricFamily(
            "stoker_log_lines_pending",
            "Lines of the endpoints' logs that the store has not taken yet",
            value=plane.journal.pending,
        )
        lost = CounterMetricFamily(
            "stoker_log_lines_lost",
            "Lines of the endpoints' logs given up, as the store could not be written for long",
            value=plane.journal.lost,
        )
        yield from (
            workers,
            held,
            held_load,
            booked,
            rate,
            seconds,
            actions,
            strays,
            requests,
            refusals,
            pending,
            lost,
        )
