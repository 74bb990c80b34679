"""Who waits, who leaves, and what a handler's own code does to a request: all over real sockets."""

from __future__ import annotations

import asyncio
import json
from typing import Any

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any


# --- clients that leave


async def test_a_client_that_leaves_in_the_midst_frees_the_model_server(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(max_concurrency=1)
    _, writer = await worker.connect("/stream")
    await model.until(lambda: model.waiting)
    writer.transport.abort()
    await model.until(lambda: model.left)
    await control.until(lambda: [r.status for r in control.finished] == ["Cancelled"])
    assert control.total("new_load") == 0.0
    await control.until(lambda: control.last.cur_load == 0.0)
    text = (await worker.get("/metrics")).body.decode()
    assert 'stoker_worker_requests_total{route="/stream",status="499"} 1.0' in text


async def test_a_client_that_leaves_the_queue_is_never_sent_to_the_model_server(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(max_concurrency=1, max_queue_time=None)
    first, _ = await worker.connect("/wait", worker.envelope(b'{"n": 1}'))
    await model.until(lambda: model.waiting)
    _, leaving = await worker.connect("/wait", worker.envelope(b'{"n": 2}'))
    await control.until(lambda: control.last.num_requests_working == 2)
    third, _ = await worker.connect("/wait", worker.envelope(b'{"n": 3}'))
    await control.until(lambda: control.last.num_requests_working == 3)
    leaving.transport.abort()
    await control.until(lambda: [r.request_idx for r in control.finished] == [2])
    for answering in (first, third):
        exchange = await model.until(lambda: model.waiting and model.waiting.pop())
        exchange.respond(200, b"done")
        async with asyncio.timeout(10):
            await answering.readuntil(b"done")
    assert model.bodies("/wait") == [b'{"n": 1}', b'{"n": 3}']


# --- admission


async def test_requests_take_their_turn_one_at_a_time_in_order(
    start_worker: StartWorker, model: Model, control: Control, config_for: Any
) -> None:
    config = config_for(model, max_queue_time=None)
    for handler in config.handlers:
        handler.allow_parallel_requests = False
    worker = await start_worker(config=config)
    readers = []
    for number in range(4):
        # Two routes share the one place: there is one model server behind them.
        path = "/wait" if number % 2 == 0 else "/stream"
        readers.append((await worker.connect(path, worker.envelope(b'{"n": %d}' % number)))[0])
        await control.until(lambda n=number: control.last.num_requests_working == n + 1)
    for number in range(4):
        exchange = await model.until(lambda: model.waiting and model.waiting.pop())
        assert not model.waiting
        assert json.loads(exchange.body) == {"n": number}
        if exchange.started:
            exchange.finish()
        else:
            exchange.respond(200)
    await control.until(lambda: len(control.finished) == 4)
    assert [r.request_idx for r in control.finished] == [1, 2, 3, 4]


async def test_a_request_that_would_wait_too_long_is_told_to_come_back(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(
        max_concurrency=1, max_queue_time=0.0, workload_calculator=lambda _: 1e9
    )
    _, writer = await worker.connect("/wait")
    await model.until(lambda: model.waiting)
    answer = await worker.post("/wait")
    assert answer.status == 429
    assert int(answer.header(b"retry-after")) >= 1
    await control.until(lambda: control.total("rej_load") == 1e9)
    await control.until(lambda: [r.status for r in control.finished] == ["Rejected"])
    model.waiting.pop().respond(200)
    await control.until(lambda: len(control.finished) == 2)
    writer.close()


# --- the handler's own code


async def test_a_calculator_sees_the_payload_and_its_figure_is_the_load(
    start_worker: StartWorker, control: Control
) -> None:
    worker = await start_worker(workload_calculator=lambda payload: payload.get("max_tokens", 1))
    await worker.post(body=worker.envelope(b'{"max_tokens": 33}'))
    await control.until(lambda: control.total("cur_perf") == 33.0)
    assert control.total("new_load") == 33.0


async def test_a_parser_makes_the_model_servers_payload(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(request_parser=lambda payload: {"input": payload})
    await worker.post(body=worker.envelope(b'{"a": 1}'))
    assert json.loads(model.bodies("/echo")[-1]) == {"input": {"a": 1}}


async def test_a_parser_that_fails_is_a_500_that_tells_no_secrets(
    start_worker: StartWorker, control: Control
) -> None:
    def parser(payload: dict[str, Any]) -> dict[str, Any]:
        if "benchmark" in payload:
            return payload
        raise RuntimeError("the password is 1234")

    worker = await start_worker(request_parser=parser)
    answer = await worker.post()
    assert answer.status == 500
    assert len(answer.json()["error_id"]) == 12
    assert b"1234" not in answer.body
    await control.until(lambda: [r.status for r in control.finished] == ["Error"])
