"""The figures that are reported, beside what a real model server counts itself."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from stoker.http import fetch
from stoker.inference import AnswerReader
from stoker.wire import encode
from stoker.worker import BenchmarkConfig, HandlerConfig, WorkerConfig
from stoker.worker.calculators import LlmTokens

pytestmark = pytest.mark.real

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Control = Any
StartWorker = Any

CHAT = "/v1/chat/completions"
TOLERANCE = 0.02


def chat(number: int, **more: Any) -> dict[str, Any]:
    said = f"Tell me {number} things about the number {number}."
    return {"messages": [{"role": "user", "content": said}], "temperature": 1.0} | more


async def tokens_predicted(port: int) -> float:
    """What llama.cpp has generated since it started, by its own metrics."""
    text = (await fetch(f"http://127.0.0.1:{port}/metrics", timeout=10)).body.decode()
    found = re.search(r"^llamacpp:tokens_predicted_total ([0-9.e+]+)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


@pytest.fixture
async def serve(start_worker: StartWorker, model_server: Any) -> Any:
    port, _ = model_server

    async def starter(calculator: LlmTokens) -> Worker:
        payload = chat(1, max_tokens=8, ignore_eos=True)
        handler = HandlerConfig(
            CHAT,
            allow_parallel_requests=True,
            max_queue_time=600.0,
            max_concurrency=2,
            workload_calculator=calculator,
            benchmark_config=BenchmarkConfig(dataset=[payload], runs=1, concurrency=2),
        )
        config = WorkerConfig(
            model_server_port=port, model_healthcheck_url="/health", handlers=[handler]
        )
        async with asyncio.timeout(60):
            return await start_worker(config=config)

    return starter


async def post(worker: Worker, payload: dict[str, Any]) -> bytes:
    answer = await fetch(
        worker.url + CHAT, method="POST", body=worker.envelope(encode(payload)), timeout=60
    )
    assert answer.status == 200, answer.body
    return answer.body


def usage_of(body: bytes) -> dict[str, int]:
    """The usage in an answer, or in the last event of a stream."""
    for line in reversed(body.decode().splitlines()):
        text = line.removeprefix("data: ")
        if text.startswith("{") and (usage := json.loads(text).get("usage")):
            return usage
    raise AssertionError(body)


async def test_the_figures_agree_with_the_model_servers_own_usage(
    serve: Any, control: Control
) -> None:
    calculator = LlmTokens(prompt_weight=0.1)
    worker = await serve(calculator)
    asked = [
        # Limits far above what is generated: an estimate alone would be wrong by much.
        *(chat(n, max_tokens=200 + n, stop=["."]) for n in range(2, 4)),
        *(
            chat(n, max_tokens=32, stream=True, stream_options={"include_usage": True})
            for n in range(4, 6)
        ),
        chat(6, max_tokens=12, n=2),
    ]
    bodies = await asyncio.gather(*(post(worker, payload) for payload in asked))
    usages = [usage_of(body) for body in bodies]
    truth = sum(calculator.of_usage(u["prompt_tokens"], u["completion_tokens"]) for u in usages)
    await control.until(lambda: len(control.finished) == len(asked))
    await control.until(lambda: control.last.cur_load == 0.0)
    assert control.total("cur_perf") == pytest.approx(truth, rel=TOLERANCE)
    assert control.total("new_load") == pytest.approx(truth, rel=TOLERANCE)


async def test_tokens_are_counted_where_no_usage_is_told(
    serve: Any, control: Control, model_server: Any
) -> None:
    port, _ = model_server
    worker = await serve(LlmTokens(prompt_weight=0.0))
    before = await tokens_predicted(port)
    whole = [post(worker, chat(n, max_tokens=40, stream=True, ignore_eos=True)) for n in (2, 3)]
    bodies = await asyncio.gather(*whole)
    for body in bodies:
        assert b'"usage":{' not in body
        # By the events alone, without the figures in which llama.cpp tells it in the end.
        reader = AnswerReader("text/event-stream")
        assert reader.feed(body) == pytest.approx(40, rel=TOLERANCE)
    await control.until(lambda: len(control.finished) == 2)
    # The end of a request is told apart from the load, at once: the last tokens may come later.
    await control.until(lambda: control.last.cur_load == 0.0)
    truth = await tokens_predicted(port) - before
    assert truth == 80
    assert control.total("cur_perf") == pytest.approx(truth, rel=TOLERANCE)


async def test_the_expected_wait_shrinks_while_an_answer_streams(
    serve: Any, control: Control
) -> None:
    worker = await serve(LlmTokens(prompt_weight=0.0))
    payload = chat(5, max_tokens=500, stream=True, ignore_eos=True)
    reader, writer = await worker.connect(CHAT, worker.envelope(encode(payload)))
    for _ in range(30):
        async with asyncio.timeout(60):
            await reader.readuntil(b"\n\n")
    left = worker.running._admission.load
    assert left < 480.0
    await control.until(lambda: 0.0 < control.last.cur_load < 480.0)
    writer.close()
    await control.until(lambda: control.finished)
    assert control.finished[0].status == "Cancelled"
    await control.until(lambda: control.last.cur_load == 0.0)
    served = control.total("cur_perf")
    assert served >= 20.0
    assert control.total("new_load") == pytest.approx(served)
