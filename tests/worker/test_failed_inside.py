"""Answers with a good status that tell of an error inside: they count as failures."""

from __future__ import annotations

from typing import Any

import pytest

from stoker.wire import encode
from stoker.worker import BenchmarkConfig, HandlerConfig, Response, WorkerConfig
from stoker.worker.calculators import LlmTokens

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any

SSE = "text/event-stream"
FAILURES = {
    "event": (SSE, 'data: {"error": {"message": "dead", "code": 500}}\n\ndata: [DONE]\n\n', 500),
    "named event": (SSE, "data: {}\n\nevent: error\ndata: dead\n\n", 502),
    "last line": ("application/x-ndjson", '{"response": "a"}\n{"error": "dead"}', 502),
    "body": ("application/json", '{"error": "dead"}', 502),
    "no type": ("", 'data: {"text": "a"}\n\ndata: {"error": "dead"}\n\n', 502),
    "caller": ("application/json", '{"error": {"message": "too long", "code": 400}}', 400),
}
TOKENS = "/tokens"


async def passed_on(request: Any, response: Any) -> Any:
    """Passes a stream on part by part."""
    del request
    return aiter(response)


async def whole(request: Any, response: Any) -> Response:
    """Answers with the whole body."""
    del request
    return Response(await response.read(), content_type=response.content_type)


@pytest.fixture
async def worker(start_worker: StartWorker, model: Model) -> Worker:
    model.do_tokens = model.do_streamed = model.do_whole = model.do_say
    parallel = {"allow_parallel_requests": True}
    handlers = [
        HandlerConfig(
            "/parallel", benchmark_config=BenchmarkConfig(dataset=[{}], runs=1, concurrency=1)
        ),
        HandlerConfig("/say", **parallel),
        HandlerConfig(TOKENS, workload_calculator=LlmTokens(), **parallel),
        HandlerConfig("/streamed", response_generator=passed_on, **parallel),
        HandlerConfig("/whole", response_generator=whole, **parallel),
    ]
    return await start_worker(
        config=WorkerConfig(
            model_server_port=model.port, model_healthcheck_url="/health", handlers=handlers
        )
    )


@pytest.mark.parametrize("name", FAILURES)
@pytest.mark.parametrize("route", ["/say", TOKENS, "/streamed", "/whole"])
async def test_a_failure_inside_a_good_status_is_passed_on_and_counts_as_a_failure(
    worker: Worker, control: Control, name: str, route: str
) -> None:
    kind, text, status = FAILURES[name]
    answer = await worker.post(route, worker.envelope(encode({"type": kind, "text": text})))
    assert (answer.status, answer.body) == (200, text.encode())
    await control.until(lambda: control.finished)
    assert control.finished[0].status == "Error"
    assert not control.finished[0].success
    metrics = (await worker.get("/metrics")).body.decode()
    assert f'stoker_worker_requests_total{{route="{route}",status="{status}"}} 1.0' in metrics
    assert f'stoker_worker_requests_total{{route="{route}",status="200"}}' not in metrics
    assert f'stoker_worker_served_load_total{{route="{route}"}} 0.0' in metrics


async def test_an_answer_that_only_mentions_an_error_is_a_success(
    worker: Worker, control: Control
) -> None:
    text = 'data: {"choices": [{"delta": {"content": "{\\"error\\": 1}"}}], "error": null}\n\n'
    await worker.post("/say", worker.envelope(encode({"type": SSE, "text": text})))
    await control.until(lambda: control.finished)
    assert control.finished[0].status == "Success"
