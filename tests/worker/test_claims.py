"""What one request's payload says of its size, and what becomes of the others meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.sizes import COLD_SECONDS, ENOUGH
from stoker.worker.calculators import LlmTokens

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any

PERF = 50.0
HUGE = b'{"max_tokens": 1e9, "prompt": ""}'
TOKEN = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'


async def begin(start_worker: StartWorker, calculator: Any, **handler: Any) -> Worker:
    worker = await start_worker(workload_calculator=calculator, **handler)
    worker.running._capacity.perf = worker.running._admission.perf = PERF
    return worker


CALCULATORS = [LlmTokens(), lambda payload: float(payload.get("max_tokens", 1))]


@pytest.mark.parametrize("calculator", CALCULATORS)
async def test_a_huge_claim_in_a_payload_shuts_nobody_out_and_is_reported_as_believed(
    start_worker: StartWorker, model: Model, control: Control, calculator: Any
) -> None:
    worker = await begin(start_worker, calculator)
    await worker.connect("/wait", worker.envelope(HUGE))
    await model.until(lambda: model.waiting)
    assert (await worker.post()).status == 200
    await control.until(lambda: control.last.working_loads == [COLD_SECONDS * PERF])
    assert all(report.cur_load <= COLD_SECONDS * PERF + 100 for report in control.reports)
    assert control.total("new_load") <= COLD_SECONDS * PERF + 100


async def test_what_is_refused_counts_as_believed_too(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await begin(start_worker, LlmTokens(), max_concurrency=1, max_queue_time=0.0)
    await worker.connect("/wait", worker.envelope(HUGE))
    await model.until(lambda: model.waiting)
    assert (await worker.post("/wait", worker.envelope(HUGE))).status == 429
    await control.until(lambda: control.total("rej_load") == COLD_SECONDS * PERF)
    assert control.total("new_load") == COLD_SECONDS * PERF


async def test_a_request_that_goes_beyond_what_is_believed_of_it_grows(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await begin(start_worker, LlmTokens(), max_queue_time=None)
    _, writer = await worker.connect("/stream", worker.envelope(HUGE))
    exchange = await model.until(lambda: model.waiting and model.waiting.pop())
    exchange.write(TOKEN * 800)
    await control.until(lambda: control.last.working_loads == [1600.0])
    assert control.last.cur_load == control.total("new_load") - control.total("cur_perf") == 800.0
    writer.close()
    await control.until(lambda: [r.status for r in control.finished] == ["Cancelled"])
    await control.until(lambda: control.last.cur_load == 0.0)
    assert control.total("new_load") == control.total("cur_perf") == 800.0


async def test_a_request_that_has_more_than_it_asked_for_goes_on_being_load(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await begin(start_worker, LlmTokens())  # without a limit, 100 are expected
    await worker.connect("/stream", worker.envelope(b'{"prompt": ""}'))
    exchange = await model.until(lambda: model.waiting and model.waiting.pop())
    exchange.write(TOKEN * 160)
    await control.until(lambda: control.last.cur_load == 160.0)
    exchange.finish()
    await control.until(lambda: [r.load for r in control.finished] == [160.0])
    await control.until(lambda: control.last.cur_load == 0.0)
    assert control.total("new_load") == control.total("cur_perf") == 160.0


async def test_lies_that_nobody_counts_teach_no_more_than_the_worker_can_have_done(
    start_worker: StartWorker,
) -> None:
    worker = await begin(start_worker, CALCULATORS[1])
    for _ in range(ENOUGH):
        assert (await worker.post("/echo", worker.envelope(HUGE))).status == 200
    workload = worker.running._app._routes["/echo"].workload
    assert workload.believed(1e9, PERF) < 1e6


@pytest.mark.parametrize("calculator", CALCULATORS)
async def test_a_claim_that_the_model_server_turns_down_is_no_demand(
    start_worker: StartWorker, control: Control, calculator: Any
) -> None:
    worker = await begin(start_worker, calculator)
    for _ in range(3):
        assert (await worker.post("/refuse", worker.envelope(HUGE))).status == 422
    told = await control.until(lambda: len(control.finished) == 3 and control.finished)
    assert all(request.load < COLD_SECONDS * PERF / 10 for request in told)
    await control.until(lambda: control.total("num_requests_recieved") == 3)
    await control.until(lambda: control.total("new_load") < COLD_SECONDS * PERF / 10)


async def test_what_the_model_server_failed_to_do_is_demand(
    start_worker: StartWorker, control: Control
) -> None:
    worker = await begin(start_worker, LlmTokens())
    assert (await worker.post("/break", worker.envelope(HUGE))).status == 500
    (request,) = await control.until(lambda: control.finished)
    assert request.load == COLD_SECONDS * PERF
    await control.until(lambda: control.total("new_load") == COLD_SECONDS * PERF)
