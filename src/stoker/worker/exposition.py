"""A worker's figures in the text format of Prometheus; loaded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from stoker.worker.metrics import WorkerMetrics


def render(metrics: WorkerMetrics) -> bytes:
    """All figures of the worker, and those of its process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(metrics))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Make the metrics (called by the registry)."""
        metrics = self._metrics
        prefix = "stoker_worker_"
        requests = CounterMetricFamily(
            prefix + "requests", "Requests by route and HTTP status.", labels=["route", "status"]
        )
        load = CounterMetricFamily(
            prefix + "load", "Load units let in, by route.", labels=["route"]
        )
        served = CounterMetricFamily(
            prefix + "served_load", "Load units answered well, by route.", labels=["route"]
        )
        queue = HistogramMetricFamily(
            prefix + "queue_seconds", "Time from arrival to start.", labels=["route"]
        )
        work = HistogramMetricFamily(
            prefix + "work_seconds", "Time from start to the end of the answer.", labels=["route"]
        )
        for path, figures in metrics.routes.items():
            for status, count in list(figures.statuses.items()):
                requests.add_metric([path, str(status)], count)
            load.add_metric([path], figures.load)
            served.add_metric([path], figures.served)
            queue.add_metric([path], figures.queue.cumulative(), figures.queue.total)
            work.add_metric([path], figures.work.cumulative(), figures.work.total)
        refusals = CounterMetricFamily(
            prefix + "refusals", "Requests turned away by the worker.", labels=["reason"]
        )
        for reason, count in list(metrics.refusals.items()):
            refusals.add_metric([reason], count)
        yield from (requests, load, served, queue, work, refusals)
        state = GaugeMetricFamily(
            prefix + "state", "1 for the state that the worker is in.", labels=["state"]
        )
        state.add_metric([metrics.state()], 1)
        yield state
        for name, text, value in metrics.gauges():
            yield GaugeMetricFamily(prefix + name, text, value=value)
