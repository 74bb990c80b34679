"""Handlers with code of their own, with a real model server and a real control plane."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from stoker.wire import MAX_COST, encode
from stoker.worker import (
    ApiPayload,
    BenchmarkConfig,
    EndpointHandler,
    HandlerConfig,
    JsonDataException,
    Response,
    WorkerConfig,
)
from stoker.worker.calculators import LlmTokens

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any

BENCHMARK = BenchmarkConfig(dataset=[{"benchmark": True}], runs=1, concurrency=1)


def one_route(model: Model, route: str = "/echo", **handler: Any) -> WorkerConfig:
    """A worker whose only route is under test, beside one for the benchmark."""
    handlers = [
        HandlerConfig("/parallel", benchmark_config=BENCHMARK, allow_parallel_requests=True)
    ]
    if handler.pop("with_benchmark", True):
        handlers.append(HandlerConfig(route, **handler))
    else:
        handlers = [HandlerConfig(route, **handler)]
    return WorkerConfig(
        model_server_port=model.port, model_healthcheck_url="/health", handlers=handlers
    )


@pytest.fixture
def start(start_worker: StartWorker, model: Model) -> Any:
    async def starter(route: str = "/echo", **handler: Any) -> Worker:
        return await start_worker(config=one_route(model, route, **handler))

    return starter


# --- what a response_generator sees and may return


async def test_it_sees_the_payload_and_the_answer_of_the_model_server(start: Any) -> None:
    seen = {}

    async def generate(request: Any, response: Any) -> Response:
        seen["request"] = (request.method, request.path, request.payload, await request.json())
        seen["response"] = (response.status, response.content_type, await response.json())
        seen["headers"] = (response.headers["Content-Type"], "x-none" in response.headers)
        return Response({"made": True}, status=201, headers={"X-Own": "yes"})

    worker = await start(response_generator=generate)
    answer = await worker.post(body=worker.envelope(b'{"a": 1}'))
    assert (answer.status, answer.json()) == (201, {"made": True})
    assert answer.header(b"x-own") == b"yes"
    assert seen["request"] == ("POST", "/echo", {"a": 1}, {"a": 1})
    assert seen["response"] == (200, "application/json", {"a": 1})
    assert seen["headers"] == ("application/json", False)


@pytest.mark.parametrize(
    ("returned", "body", "content_type"),
    [
        (Response(b"\x00"), b"\x00", b"application/octet-stream"),
        (Response("text"), b"text", b"text/plain; charset=utf-8"),
        (Response([1], content_type="application/x"), b"[1]", b"application/x"),
        (Response(), b"", b"application/octet-stream"),
        ({"a": 1}, b'{"a":1}', b"application/json"),
        ("text", b"text", b"text/plain; charset=utf-8"),
        (b"bytes", b"bytes", b"application/octet-stream"),
        (web.Response(text="theirs"), b"theirs", b"text/plain; charset=utf-8"),
        (web.json_response({"b": 2}), b'{"b": 2}', b"application/json; charset=utf-8"),
    ],
    ids=str,
)
async def test_it_may_return(start: Any, returned: Any, body: bytes, content_type: bytes) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        return returned

    worker = await start(response_generator=generate)
    answer = await worker.post()
    assert (answer.status, answer.body) == (200, body)
    assert answer.header(b"content-type") == content_type


async def test_it_may_stream(start: Any) -> None:
    async def parts(response: Any) -> AsyncIterator[bytes | str]:
        async for line in response.content:
            yield line.upper()
        yield "end"

    async def generate(_request: Any, response: Any) -> Any:
        return parts(response)

    worker = await start("/ndjson", response_generator=generate)
    answer = await worker.post("/ndjson")
    assert answer.body == b'{"N": 1}\n{"N": 2}\nend'
    assert answer.header(b"content-type") == b"application/x-ndjson"


async def test_what_it_streams_arrives_before_the_end(start: Any, model: Model) -> None:
    async def generate(_request: Any, response: Any) -> Any:
        return response.content.iter_any()

    worker = await start("/stream", response_generator=generate)
    reader, _ = await worker.connect("/stream")
    async with asyncio.timeout(10):
        await reader.readuntil(b"data: 1\n\n")
    (held,) = model.waiting
    held.write(b"data: 2\n\n")
    held.finish()
    async with asyncio.timeout(10):
        await reader.readuntil(b"data: 2\n\n")


async def test_a_stream_response_of_aiohttp_writes_itself(start: Any) -> None:
    async def generate(request: Any, response: Any) -> Any:
        out = web.StreamResponse(status=202, headers={"X-Own": "yes"})
        out.content_type = "text/x"
        await out.prepare(request)
        async for part in response.content.iter_any():
            await out.write(b"<" + part + b">")
        await out.write_eof()
        return out

    worker = await start(response_generator=generate)
    answer = await worker.post(body=worker.envelope(b'{"a": 1}'))
    assert (answer.status, answer.body) == (202, b'<{"a": 1}>')
    assert answer.header(b"content-type") == b"text/x"
    assert answer.header(b"x-own") == b"yes"


async def test_a_stream_response_that_is_not_brought_to_its_end_is_ended(start: Any) -> None:
    async def generate(request: Any, _response: Any) -> Any:
        out = web.StreamResponse()
        await out.prepare(request)
        await out.write(b"all of it")
        return out

    worker = await start(response_generator=generate)
    answer = await worker.post()
    assert (answer.status, answer.body) == (200, b"all of it")


# --- failures


async def test_what_it_raises_is_a_500_with_an_id_that_the_log_has(
    start: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        raise RuntimeError("the password is 12345")

    worker = await start(response_generator=generate)
    answer = await worker.post()
    assert answer.status == 500
    assert "12345" not in answer.body.decode()
    said = "".join(capsys.readouterr()) + caplog.text
    assert answer.json()["error_id"] in said
    assert "RuntimeError" in said


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, BaseException])
async def test_no_handlers_own_code_can_end_the_worker(start: Any, error: type) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        raise error

    worker = await start(response_generator=generate)
    assert (await worker.post()).status == 500
    assert (await worker.post()).status == 500


async def test_a_parser_that_exits_is_a_500(start: Any) -> None:
    def parse(_payload: Any) -> Any:
        raise SystemExit(3)

    worker = await start(request_parser=parse)
    assert (await worker.post()).status == 500


@pytest.mark.parametrize("returned", [None, 5, Response(5), Response("x", status=99)], ids=str)
async def test_what_cannot_be_sent_is_a_500(start: Any, returned: Any) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        return returned

    worker = await start(response_generator=generate)
    assert (await worker.post()).status == 500


async def test_a_header_cannot_break_the_answer_apart(start: Any) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        return Response("x", headers={"x-a": "1\r\nx-b: 2"})

    worker = await start(response_generator=generate)
    assert (await worker.post()).status == 500


async def test_a_stream_that_raises_is_cut(start: Any) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError

    async def generate(_request: Any, _response: Any) -> Any:
        return parts()

    worker = await start(response_generator=generate)
    reader, _ = await worker.connect("/echo")
    async with asyncio.timeout(10):
        data = await reader.read()
    assert b"half" in data
    assert not data.endswith(b"0\r\n\r\n")


async def test_a_model_server_that_dies_is_502(start: Any, control: Control) -> None:
    async def generate(_request: Any, response: Any) -> Any:
        return await response.read()

    worker = await start("/die", response_generator=generate)
    assert (await worker.post("/die")).status == 502
    await control.until(lambda: [f for f in control.finished if f.status == "Error"])


async def test_a_client_that_leaves_cancels_the_code_and_the_model_servers_request(
    start: Any, model: Model, control: Control
) -> None:
    ended = asyncio.Event()

    async def generate(_request: Any, response: Any) -> Any:
        try:
            return await response.read()
        finally:
            ended.set()

    worker = await start("/stream", response_generator=generate)
    _, writer = await worker.connect("/stream")
    await model.until(lambda: model.waiting)
    writer.close()
    await model.until(lambda: model.left)
    async with asyncio.timeout(10):
        await ended.wait()
    await control.until(lambda: [f for f in control.finished if f.status == "Cancelled"])


async def test_a_route_with_a_timeout_answers_504(start: Any, model: Model) -> None:
    worker = await start("/wait", timeout=0.3)  # the request must reach the model server first
    assert (await worker.post("/wait")).status == 504
    await model.until(lambda: model.left)


async def test_a_timeout_cuts_code_as_well(start: Any) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        await asyncio.Event().wait()

    worker = await start(response_generator=generate, timeout=0.05)
    assert (await worker.post()).status == 504


# --- every job ends, and ends once


async def nothing_runs(worker: Worker, control: Control) -> None:
    """Until the control plane knows of no request at work, and a further one is served."""
    await control.until(lambda: control.last.num_requests_working == 0)
    app = worker.running._app
    assert (app.working, app.queued, app.tasks) == (0, 0, set())
    assert worker.running._meter.live == 0


async def generate_nothing(_request: Any, _response: Any) -> Any:
    return b""


async def test_code_that_is_cancelled_before_its_first_step_ends(
    start: Any, model: Model, control: Control
) -> None:
    worker = await start(response_generator=generate_nothing)
    auth = control.auth()
    body = encode({"auth_data": auth, "payload": {}})
    session = (await worker.post("/session/create", body)).json()["session_id"]
    inside = encode({"auth_data": auth, "session_id": session, "payload": {}})
    ended = encode({"session_id": session, "session_auth": auth})
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b"
    first = asyncio.get_running_loop().create_future()
    app = worker.running._app
    admit = app.admit

    def admit_and_end(job: Any) -> None:
        admit(job)
        app.sessions.end(job.session)  # in the same turn: its task has not taken a step
        first.set_result(None)

    app.admit = admit_and_end
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.running.port)
    writer.write(head % (b"/echo", len(inside), inside))
    async with asyncio.timeout(10):
        await first
        assert b" 410 " in await reader.readline()
    app.admit = admit
    writer.close()
    assert (await worker.post("/session/end", ended)).status == 400
    await nothing_runs(worker, control)
    assert (await worker.post()).status == 200


async def test_something_else_that_was_cancelled_is_a_failure_of_the_code(
    start: Any, control: Control
) -> None:
    async def confused(**_fields: Any) -> None:
        other = asyncio.create_task(asyncio.sleep(3600))
        other.cancel()
        await other

    worker = await start("/f", **remote(confused))
    answer = await worker.post("/f")
    assert (answer.status, "error_id" in answer.json()) == (500, True)
    await nothing_runs(worker, control)


async def test_code_that_does_not_let_itself_be_cancelled_ends_with_its_timeout(
    start: Any, control: Control
) -> None:
    async def stubborn(_request: Any, _response: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return b"too late"

    worker = await start(response_generator=stubborn, timeout=0.05)
    await worker.post()
    await control.until(lambda: [f for f in control.finished if f.status == "Error"])
    await nothing_runs(worker, control)


async def test_code_that_is_slow_to_clean_up_is_told_of_in_the_last_report(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    begun, clean = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any, _response: Any) -> Any:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            asyncio.get_running_loop().call_later(0.05, clean.set)
            await clean.wait()

    config = one_route(model, response_generator=slow)
    worker = await start_worker(config=config, settings={"drain_timeout": 0.0})
    auth = control.auth()
    await worker.connect("/echo", worker.envelope(auth=auth))
    async with asyncio.timeout(10):
        await begun.wait()
        worker.running.stop()
        await worker.running.wait_stopped()
    ended = [(f.request_idx, f.status) for f in control.finished]
    assert ended == [(auth["request_idx"], "Error")]
    await nothing_runs(worker, control)


async def test_a_calculator_that_fails_on_the_usage_leaks_no_place(
    start: Any, control: Control
) -> None:
    class Broken(LlmTokens):
        def of_usage(self, prompt_tokens: int, completion_tokens: int) -> float:
            raise ValueError

    worker = await start(workload_calculator=Broken(), max_queue_time=None)
    payload = b'{"usage": {"prompt_tokens": 1, "completion_tokens": 2}}'
    for _ in range(2):
        assert (await worker.post(body=worker.envelope(payload))).status == 200
    await nothing_runs(worker, control)


async def test_no_answer_makes_a_load_beyond_belief(start: Any, control: Control) -> None:
    worker = await start(workload_calculator=LlmTokens(), max_queue_time=None)
    payload = b'{"usage": {"prompt_tokens": 1, "completion_tokens": 999999999999}}'
    await worker.post(body=worker.envelope(payload))
    await control.until(lambda: control.finished)
    assert control.total("cur_perf") <= MAX_COST


# --- payloads that a handler's own code refuses


async def test_a_request_parser_may_refuse_a_payload(start: Any) -> None:
    def parse(_payload: dict[str, Any]) -> dict[str, Any]:
        raise JsonDataException({"text": "missing"})

    worker = await start(request_parser=parse)
    answer = await worker.post()
    assert (answer.status, answer.json()["fields"]) == (422, {"payload.text": "missing"})


async def test_a_response_generator_may_refuse_a_payload(start: Any, control: Control) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        raise JsonDataException({"text": "too long"})

    worker = await start(response_generator=generate)
    answer = await worker.post()
    assert (answer.status, answer.json()["fields"]) == (422, {"payload.text": "too long"})
    await nothing_runs(worker, control)


@pytest.mark.parametrize(
    "payload",
    [b'{"a": "\xff"}', b'{"a": 1e999}', b'{"a": %b}' % (b"9" * 5000)],
    ids=["not UTF-8", "no number", "a long number"],
)
async def test_a_payload_that_cannot_be_decoded_is_the_callers_fault(
    start: Any, payload: bytes
) -> None:
    worker = await start(request_parser=dict)
    answer = await worker.post(body=worker.envelope(payload))
    assert (answer.status, list(answer.json()["fields"])) == (422, ["payload"])


@pytest.mark.parametrize(
    "returned",
    [Response("x", headers={"set cookie": "a"}), Response("x", headers={"": "a"})],
    ids=["a blank", "nothing"],
)
async def test_a_header_name_that_is_none_is_a_500(start: Any, returned: Response) -> None:
    async def generate(_request: Any, _response: Any) -> Any:
        return returned

    worker = await start(response_generator=generate)
    assert (await worker.post()).status == 500


async def test_a_part_that_is_a_number_is_not_sent_as_so_many_bytes(start: Any) -> None:
    async def parts() -> AsyncIterator[Any]:
        yield 5

    async def generate(_request: Any, _response: Any) -> Any:
        return parts()

    worker = await start(response_generator=generate)
    reader, _ = await worker.connect("/echo")
    async with asyncio.timeout(10):
        assert not (await reader.read()).endswith(b"0\r\n\r\n")


# --- functions without a model server


async def add(a: int = 0, b: int = 0) -> dict[str, int]:
    return {"sum": a + b}


def remote(function: Any, **more: Any) -> dict[str, Any]:
    return {"is_remote_dispatch": True, "remote_function": function} | more


async def test_a_function_gets_the_fields_and_its_result_is_the_answer(start: Any) -> None:
    worker = await start("/add", **remote(add))
    answer = await worker.post("/add", worker.envelope(b'{"a": 2, "b": 3}'))
    assert (answer.status, answer.json()) == (200, {"result": {"sum": 5}})


async def test_a_payload_class_counts_the_load_of_a_function(start: Any, control: Control) -> None:
    async def echo(text: str) -> str:
        return text

    worker = await start("/add", remote_function=echo, payload_class=Text)
    answer = await worker.post("/add", worker.envelope(b'{"text": "hello"}'))
    assert (answer.status, answer.json()) == (200, {"result": "hello"})
    await control.until(lambda: control.total("cur_perf") == 5.0)


async def test_the_test_payload_of_a_class_measures_a_function(start_worker: StartWorker) -> None:
    asked = []

    async def echo(generated: str) -> str:
        asked.append(generated)
        return generated

    own = HandlerConfig(
        "/f",
        remote_function=echo,
        payload_class=Text,
        benchmark_config=BenchmarkConfig(runs=1, do_warmup=False),
    )
    await start_worker(config=WorkerConfig(model_server_url=None, handlers=[own]))
    assert asked == ["test"]


async def test_a_field_that_a_function_does_not_know_is_named(start: Any) -> None:
    worker = await start("/add", **remote(add))
    answer = await worker.post("/add", worker.envelope(b'{"c": 2}'))
    assert answer.status == 422
    assert "'c'" in answer.json()["fields"]["payload"]


async def test_a_worker_of_functions_alone_needs_no_model_server(
    start_worker: StartWorker,
) -> None:
    benchmark = BenchmarkConfig(dataset=[{"a": 1}], runs=1)
    worker = await start_worker(
        config=WorkerConfig(
            model_server_url=None,
            model_server_port=None,
            handlers=[HandlerConfig("/add", benchmark_config=benchmark, **remote(add))],
        )
    )
    assert (await worker.post("/add", worker.envelope(b'{"a": 1}'))).json() == {
        "result": {"sum": 1}
    }


async def test_a_function_that_fails_in_the_benchmark_says_why(
    start_worker: StartWorker, control: Control
) -> None:
    async def broken(**_fields: Any) -> None:
        raise ValueError("no weights")

    benchmark = BenchmarkConfig(dataset=[{}], runs=1)
    await start_worker(
        config=WorkerConfig(
            model_server_url=None,
            handlers=[HandlerConfig("/f", benchmark_config=benchmark, **remote(broken))],
        ),
        ready=False,
    )
    await control.until(lambda: control.reports and control.last.error_msg)
    assert control.last.error_msg == "benchmark of /f failed: /f failed: ValueError: no weights"


# --- classes


class Text(ApiPayload):
    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def for_test(cls) -> Text:
        return cls("test")

    def generate_payload_json(self) -> dict[str, Any]:
        return {"generated": self.text}

    def generate_payload_multipart(self) -> dict[str, Any] | None:
        return {"f": ("a.txt", b"data", "text/plain")} if self.text == "form" else None

    def count_workload(self) -> float:
        return float(len(self.text))

    @classmethod
    def from_json_msg(cls, json_msg: dict[str, Any]) -> Text:
        if "text" not in json_msg:
            raise JsonDataException({"text": "missing"})
        return cls(json_msg["text"])


class Shout(EndpointHandler[Text]):
    @property
    def endpoint(self) -> str:
        return "/parallel"

    @property
    def healthcheck_endpoint(self) -> str | None:
        return None

    @classmethod
    def payload_cls(cls) -> type[Text]:
        return Text

    def make_benchmark_payload(self) -> Text:
        return Text.for_test()

    async def generate_client_response(self, client_request: Any, model_response: Any) -> Any:
        return web.json_response({"loud": (await model_response.json())["generated"].upper()})


async def test_a_payload_class_makes_the_model_servers_payload_and_counts_its_load(
    start: Any, model: Model, control: Control
) -> None:
    worker = await start(payload_class=Text)
    answer = await worker.post(body=worker.envelope(b'{"text": "hello"}'))
    assert answer.json() == {"generated": "hello"}
    await control.until(lambda: control.total("cur_perf") == 5.0)


async def test_a_payload_class_may_send_a_form(start: Any, model: Model) -> None:
    worker = await start(payload_class=Text)
    await worker.post(body=worker.envelope(b'{"text": "form"}'))
    request = model.seen[-1]
    assert request.header(b"content-type").startswith(b"multipart/form-data; boundary=")
    assert b'filename="a.txt"' in request.body


async def test_a_payload_that_its_class_refuses_is_422_and_over(
    start: Any, control: Control
) -> None:
    worker = await start(payload_class=Text)
    auth = control.auth()
    answer = await worker.post(body=worker.envelope(b"{}", auth))
    assert (answer.status, answer.json()["fields"]) == (422, {"payload.text": "missing"})
    index = auth["request_idx"]
    await control.until(lambda: [f for f in control.finished if f.request_idx == index])


async def test_a_handler_class_is_a_whole_route(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    config = one_route(model, "/shout", with_benchmark=False, handler_class=Shout)
    worker = await start_worker(config=config)
    assert model.bodies("/parallel")[0] == b'{"generated":"test"}'  # the benchmark
    answer = await worker.post("/shout", worker.envelope(b'{"text": "hey"}'))
    assert (answer.status, answer.json()) == (200, {"loud": "HEY"})


async def test_the_test_payload_of_a_class_is_the_benchmark_without_another(
    start_worker: StartWorker, model: Model
) -> None:
    config = one_route(
        model,
        with_benchmark=False,
        payload_class=Text,
        benchmark_config=BenchmarkConfig(runs=1),
    )
    await start_worker(config=config)
    assert set(model.bodies("/echo")) == {b'{"generated":"test"}'}


async def test_a_handler_class_that_works_in_parallel_does(
    start_worker: StartWorker, model: Model
) -> None:
    class Both(Shout):
        endpoint = "/wait"  # type: ignore[assignment]
        allow_parallel_requests = True

        def make_benchmark_payload(self) -> Text:
            return Text.for_test()

    handlers = [
        HandlerConfig("/parallel", benchmark_config=BENCHMARK),
        HandlerConfig("/both", handler_class=type("Own", (Both,), {"has_benchmark": False})),
    ]
    worker = await start_worker(
        config=WorkerConfig(
            model_server_port=model.port, model_healthcheck_url="/health", handlers=handlers
        )
    )
    body = b'{"text": "hey"}'
    asked = [asyncio.create_task(worker.post("/both", worker.envelope(body))) for _ in range(3)]
    await model.until(lambda: len(model.waiting) == 3)
    for exchange in model.waiting:
        exchange.respond(200, exchange.body)
    assert [(await one).json() for one in asked] == [{"loud": "HEY"}] * 3


# --- lifecycle


async def test_a_lifecycle_brings_the_model_up_and_takes_it_down(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    said, go = [], asyncio.Event()

    @contextlib.asynccontextmanager
    async def lifecycle() -> AsyncIterator[None]:
        said.append("up")
        await go.wait()
        yield
        said.append("down")

    config = one_route(model)
    config.lifecycle = lifecycle()
    worker = await start_worker(config=config, ready=False)
    await control.until(lambda: control.reports)
    assert (await worker.post()).status == 503
    go.set()
    await control.until(lambda: control.last.loadtime)
    assert (await worker.post()).status == 200
    await worker.running.close()
    assert said == ["up", "down"]


async def test_a_lifecycle_that_fails_is_reported(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    @contextlib.asynccontextmanager
    async def lifecycle() -> AsyncIterator[None]:
        raise OSError("weights are not there")
        yield

    config = one_route(model)
    config.lifecycle = lifecycle()
    await start_worker(config=config, ready=False)
    await control.until(lambda: control.reports and control.last.error_msg)
    assert control.last.error_msg == "the lifecycle failed: OSError: weights are not there"


# --- what is left behind


async def test_nothing_is_held_of_requests_that_are_over(start: Any) -> None:
    async def generate(_request: Any, response: Any) -> Any:
        return await response.read()

    worker = await start(response_generator=generate)
    for _ in range(20):
        await worker.post(body=worker.envelope(encode({"a": "x" * 1000})))
    gc.collect()
    from stoker.worker.custom import CustomJob

    assert not [one for one in gc.get_objects() if isinstance(one, CustomJob)]
