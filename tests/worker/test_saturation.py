"""The capacity that is reported follows what a saturated model server serves."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stoker.worker.capacity import WINDOW

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any


@pytest.fixture(autouse=True)
def no_looks_but_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stoker.worker.running.TICK_SECONDS", 3600.0)


async def serve_one_after_another(worker: Worker, model: Model, seconds: int) -> None:
    """Each second one request of load 100 is answered while another waits for its place."""
    clients = [asyncio.create_task(worker.post("/wait")) for _ in range(seconds + 2)]
    await model.until(lambda: model.waiting)
    running = worker.running
    running.look_at_capacity(0.0)  # the time before there was a queue
    for second in range(1, seconds + 1):
        served = running._meter.served
        model.waiting.pop().respond(200, b"{}")
        await model.until(lambda: model.waiting)
        assert running._meter.served == served + 100.0
        running.look_at_capacity(float(second))
    for client in clients:
        client.cancel()


async def test_a_benchmark_that_promised_too_much_is_put_right_by_load(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(max_concurrency=1, max_queue_time=None)
    promised = control.last.max_perf
    assert promised > 1000.0  # of a route that answers at once
    await serve_one_after_another(worker, model, int(WINDOW) + 1)
    await control.until(lambda: control.last.max_perf < promised)
    assert control.last.max_perf == (promised + 100.0) / 2
    text = (await worker.get("/metrics")).body.decode()
    assert "stoker_worker_capacity_corrections 1.0" in text
    assert worker.running._admission.perf == control.last.max_perf


async def test_a_worker_with_room_keeps_what_the_benchmark_measured(
    worker: Worker, control: Control
) -> None:
    promised = control.last.max_perf
    for second in range(20):
        await worker.post("/echo")
        worker.running.look_at_capacity(float(second))
    assert worker.running._capacity.perf == promised
