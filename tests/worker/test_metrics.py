from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from stoker.worker.metrics import WorkerMetrics


def samples(metrics: WorkerMetrics) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_the_text_is_what_prometheus_reads() -> None:
    metrics = WorkerMetrics(lambda: [("queued_requests", "Waiting.", 3)], lambda: "ready")
    route = metrics.route("/r")
    route.answered(200)
    route.answered(200)
    route.answered(499)
    route.work.add(0.02)
    route.work.add(1000.0)
    route.queue.nothing += 1
    metrics.refused("not_ready")
    seen = samples(metrics)
    assert seen["stoker_worker_requests_total", "/r,200"] == 2
    assert seen["stoker_worker_requests_total", "/r,499"] == 1
    assert seen["stoker_worker_refusals_total", "not_ready"] == 1
    assert seen["stoker_worker_state", "ready"] == 1
    assert seen["stoker_worker_queued_requests", ""] == 3


def test_histograms_are_cumulative() -> None:
    metrics = WorkerMetrics(lambda: [], lambda: "ready")
    work = metrics.route("/r").work
    work.nothing += 1
    for seconds in (0.005, 0.02, 1000.0):
        work.add(seconds)
    seen = samples(metrics)
    assert seen["stoker_worker_work_seconds_bucket", "0.005,/r"] == 2
    assert seen["stoker_worker_work_seconds_bucket", "0.025,/r"] == 3
    assert seen["stoker_worker_work_seconds_bucket", "300.0,/r"] == 3
    assert seen["stoker_worker_work_seconds_bucket", "+Inf,/r"] == 4
    assert seen["stoker_worker_work_seconds_count", "/r"] == 4
    assert seen["stoker_worker_work_seconds_sum", "/r"] == 1000.025
