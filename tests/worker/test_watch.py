"""The model server is watched through its real log file and its real port."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stoker import logs
from stoker.http import HttpServer, fetch
from stoker.worker import BenchmarkConfig, HandlerConfig, LogActionConfig, WorkerConfig
from stoker.worker.benchmark import BenchmarkError, ResultFile
from stoker.worker.preparing import Prepared
from stoker.worker.readiness import ALL_BAD, ENOUGH, Event
from stoker.worker.watch import MAX_TOLD, ModelWatch, Rhythm, answerer

Worker = Any
Model = Any
Control = Any
StartWorker = Any
Told = Callable[[], list[dict[str, Any]]]


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def rotate(log: Path) -> None:
    log.rename(log.with_suffix(".1"))


def make_directory(log: Path) -> None:
    log.mkdir()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "model.log"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """The lines of our own log."""
    stream = io.StringIO()
    monkeypatch.setattr(logs, "_output", logs._output)
    logs.configure(json=True, stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_it_is_ready_after_the_line_the_benchmark_and_the_health_check(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    worker = await start_worker(config=config_for(model, log), ready=False)
    await control.until(lambda: len(control.reports) >= 2)
    assert not model.bodies("/echo")
    assert (await worker.post()).status == 503
    write(log, "[info] model loaded\n")
    await control.until(lambda: control.last.loadtime)
    assert len(model.bodies("/echo")) == 5
    assert (await worker.post()).status == 200


async def test_the_benchmark_waits_for_a_port_that_opens_after_the_line(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    write(log, "model loaded\n")
    config = config_for(model, log)
    await model.stop()
    await start_worker(config=config, ready=False)
    await control.until(lambda: len(control.reports) >= 3)
    assert control.last.error_msg == ""
    await model.start()
    await control.until(lambda: control.last.loadtime)


async def test_the_benchmark_is_run_once_and_its_result_used_at_the_next_boot(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker()
    perf = control.last.max_perf
    await worker.running.close()
    assert len(model.bodies("/echo")) == 5
    await start_worker()
    assert len(model.bodies("/echo")) == 5
    assert control.last.max_perf == perf


async def test_a_benchmark_that_fails_is_reported_with_its_reason(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control
) -> None:
    config = config_for(model)
    config.handlers[1].benchmark_config = config.handlers[0].benchmark_config
    config.handlers[0].benchmark_config = None
    worker = await start_worker(config=config, ready=False)
    await control.until(lambda: control.last.error_msg if control.reports else None)
    assert "/refuse answered 422" in control.last.error_msg
    assert control.last.loadtime == 0.0
    assert (await worker.post()).status == 503


async def test_a_benchmark_that_failed_is_tried_again_until_it_succeeds(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    model.broken = True  # as a server that warms up
    write(log, "model loaded\n")
    worker = await start_worker(config=config_for(model, log), ready=False)
    await model.until(lambda: len(model.bodies("/echo")) > 4)
    assert (await worker.post()).status == 503
    model.broken = False
    await control.until(lambda: control.last.loadtime)
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


@pytest.mark.parametrize("written", ["", "POST /v1/chat/completions 200\n"])
async def test_health_that_holds_stands_in_for_a_ready_line_that_never_comes(
    start_worker: StartWorker,
    config_for: Any,
    model: Model,
    control: Control,
    log: Path,
    written: str,
) -> None:
    write(log, written)
    worker = await start_worker(config=config_for(model, log), ready=False)
    await control.until(lambda: control.reports and control.last.loadtime)
    assert (await worker.post()).status == 200


async def test_a_log_that_cannot_be_read_is_told_once(
    start_worker: StartWorker,
    config_for: Any,
    model: Model,
    control: Control,
    log: Path,
    told: Told,
) -> None:
    make_directory(log)
    await start_worker(config=config_for(model, log), ready=False)
    await control.until(lambda: control.reports and control.last.loadtime)
    said = [line["why"] for line in told() if "log cannot be read" in line["event"]]
    assert said == ["it is not a regular file"]


async def test_a_ready_line_without_its_newline_is_seen(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    write(log, "loading\nmodel loaded")
    worker = await start_worker(config=config_for(model, log), ready=False, rhythm={"hold": 1e6})
    await control.until(lambda: control.reports and control.last.loadtime)
    assert (await worker.post()).status == 200


async def test_lines_that_repeat_a_clients_words_change_nothing(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    write(log, "model loaded\n")
    worker = await start_worker(config=config_for(model, log))
    states: list[str] = []
    worker.running._watch._on_change = lambda: states.append(worker.running._state())
    read: list[str] = []
    worker.running._watch._read_line = lambda line, old: read.append(line)
    before = len(model.bodies("/echo"))
    for _ in range(3):
        write(log, "prompt: 'model loaded'\nprompt: 'what is a CUDA error'\n")
    await control.until(lambda: len(read) == 6 or None)
    watch = worker.running._watch
    for line in read:
        type(watch)._read_line(watch, line, old=False)
    assert (await worker.post()).status == 200
    assert states == []
    assert len(model.bodies("/echo")) == before + 1


async def test_an_error_line_is_named_with_the_health_check_that_fails(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    write(log, "model loaded\n")
    worker = await start_worker(config=config_for(model, log))
    model.healthy = False
    write(log, "api_key=topsecret CUDA error: out of memory\n")
    await control.until(lambda: control.last.error_msg)
    assert "answered 503" in control.last.error_msg
    assert "CUDA error: out of memory" in control.last.error_msg
    assert "topsecret" not in control.last.error_msg
    assert (await worker.post()).status == 503
    model.healthy = True
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


async def test_lines_that_a_client_can_cause_do_not_flood_the_log(
    tmp_path: Path, log: Path, told: Told
) -> None:
    watch = a_watch(tmp_path, log)
    for _ in range(1000):
        watch._read_line("no", old=False)
    assert 0 < len(told()) <= 2 * MAX_TOLD  # the loop may pass from one second to the next


def a_watch(tmp_path: Path, log: Path, **rhythm: float) -> ModelWatch:
    """One that does not run."""
    handler = HandlerConfig("/a", benchmark_config=BenchmarkConfig(dataset=[{}]))
    config = WorkerConfig(handlers=[handler], log_action_config=LogActionConfig(on_error=["no"]))
    results = ResultFile(tmp_path, handler)
    return ModelWatch(config, str(log), results, lambda: None, rhythm=Rhythm(**rhythm))


def test_an_error_line_is_named_for_a_minute(tmp_path: Path, log: Path) -> None:
    watch = a_watch(tmp_path, log)
    watch._hint = (0.0, "CUDA error")
    assert "CUDA error" in watch._explained("answered 503", 59.0)
    assert "CUDA error" not in watch._explained("answered 503", 61.0)


@pytest.mark.parametrize(
    ("problems", "ready"), [(["answered 500", ""], True), (["answered 500"] * 2, False)]
)
async def test_two_bad_answers_to_the_workers_own_request_take_a_server_out_and_one_does_not(
    tmp_path: Path, log: Path, problems: list[str], ready: bool
) -> None:
    watch = a_watch(tmp_path, log, retry=0.0)
    watch.readiness.measured = True
    for event in (Event.LOADED, Event.HEALTHY):
        watch.readiness.apply(event, 0.0)

    async def own_request() -> str:
        return problems.pop(0)

    watch._own_request = own_request  # type: ignore[method-assign]
    await watch._ask_ourselves("most answers are errors")
    assert (watch.readiness.ready, problems) == (ready, [])


@pytest.mark.parametrize(
    ("status", "kind"), [(500, b"text/plain"), (200, b"application/json")], ids=str
)
async def test_no_secret_in_an_answer_of_the_model_server_is_reported(
    status: int, kind: bytes
) -> None:
    body = json.dumps({"error": "api_key=topsecret is wrong"}).encode()
    server = HttpServer(lambda exchange: exchange.respond(status, body, content_type=kind))
    origin = f"http://127.0.0.1:{await server.listen()}"
    handler = HandlerConfig("/a", benchmark_config=BenchmarkConfig(dataset=[{}]))
    with pytest.raises(BenchmarkError, match=r"api_key=\*\*\* is wrong") as caught:
        await answerer(handler, origin, 5.0)(Prepared(1.0, b"{}", kind, {}))
    assert "topsecret" not in str(caught.value)
    await server.drain(0.0)


# --- answers


async def answers(worker: Worker, path: str, count: int) -> list[int]:
    return [(await worker.post(path)).status for _ in range(count)]


async def test_a_server_whose_every_answer_is_an_error_is_out_though_its_check_is_good(
    worker: Worker, model: Model, control: Control
) -> None:
    model.broken = True
    assert await answers(worker, "/echo", ENOUGH) == [500] * ENOUGH
    await control.until(lambda: control.last.error_msg)
    assert f"{ENOUGH} of the last {ENOUGH} answers are errors" in control.last.error_msg
    assert (await worker.post()).status == 503
    model.broken = False
    readiness = worker.running._watch.readiness
    readiness.retry_at = 0.0  # its back-off is ten seconds
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


async def test_a_client_that_provokes_errors_takes_no_worker_out(
    worker: Worker, model: Model, control: Control
) -> None:
    before = len(model.bodies("/echo"))
    assert await answers(worker, "/break", 40) == [500] * 40
    await model.until(lambda: len(model.bodies("/echo")) > before)
    assert await answers(worker, "/break", 40) == [500] * 40
    assert (await worker.post()).status == 200
    # The worker's own request, once, and the client's.
    assert len(model.bodies("/echo")) == before + 2


async def test_errors_that_are_the_requests_fault_are_no_evidence(
    worker: Worker, model: Model
) -> None:
    before = len(model.bodies("/echo"))
    assert await answers(worker, "/refuse", 20) == [422] * 20
    assert len(model.bodies("/echo")) == before
    assert (await worker.post()).status == 200


async def test_without_authentication_errors_alone_are_enough(
    start_worker: StartWorker, control: Control
) -> None:
    worker = await start_worker(settings={"unsecured": True})
    statuses = await answers(worker, "/break", ALL_BAD)
    assert statuses == [500] * ALL_BAD
    await control.until(lambda: control.last.error_msg)
    assert (await worker.post()).status == 503


# --- a busy model server


async def test_a_server_that_streams_is_alive_though_it_answers_no_health_check(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(rhythm={"check_timeout": 0.02})
    reader, writer = await worker.connect("/stream")
    await model.until(lambda: model.waiting)
    model.deaf = True
    worker.running._watch.look_now()
    await model.until(lambda: model.unanswered)
    watch = worker.running._watch
    failed = 0
    count = watch._health.failed

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal failed
        failed += 1
        model.notify()
        return count(*args, **more)

    watch._health.failed = counted
    await model.until(lambda: failed >= 5)  # three would do for an idle one
    assert (await worker.post()).status == 200
    assert len(model.unanswered) == 1  # its queue of connections is not filled
    watch._keep_check = 0.0
    await model.until(lambda: len(model.unanswered) > 1)  # the first may have been lost
    local = await fetch(f"http://127.0.0.1:{worker.running.http_port}/healthz")
    assert local.json()["busy"] is True
    assert local.json()["perf"].endswith(" load/s")
    model.waiting[0].finish()
    await reader.readuntil(b"\r\n0\r\n\r\n")  # its end: the connection itself stays open
    for exchange in model.unanswered:
        exchange.respond(200)
    writer.close()


async def test_a_client_that_leaves_a_server_at_work_does_not_make_it_look_dead(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(rhythm={"check_timeout": 0.02})
    model.deaf = True  # it takes one at a time, and does not see that the client has left
    _, writer = await worker.connect("/wait")
    await model.until(lambda: model.waiting)
    writer.close()
    await model.until(lambda: model.left)
    watch = worker.running._watch
    await model.until(lambda: model.unanswered)
    failed = 0
    count = watch._health.failed

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal failed
        failed += 1
        model.notify()
        return count(*args, **more)

    watch._health.failed = counted
    await model.until(lambda: failed >= 5)
    assert watch.readiness.ready
    assert watch.busy
    for exchange in model.unanswered:
        exchange.respond(200)
    await model.until(lambda: len(model.unanswered) > 1)
    assert not worker.running._app.allowed


async def test_a_check_that_is_answered_late_each_time_is_good(
    start_worker: StartWorker, model: Model
) -> None:
    """It takes longer than one check may, and less than the three that must fail."""
    model.deaf = True
    worker = await start_worker(rhythm={"check_timeout": 0.05}, ready=False)
    watch = worker.running._watch
    count = watch._health.failed

    def answered_late(*args: Any, **more: Any) -> Any:
        for exchange in model.unanswered:
            if not exchange.started:
                exchange.respond(200)
        return count(*args, **more)

    watch._health.failed = answered_late
    await model.until(lambda: watch.readiness.ready and len(model.unanswered) > 5)


async def test_a_server_with_nothing_to_do_that_answers_no_check_is_out(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(rhythm={"check_timeout": 0.02})
    model.deaf = True
    await control.until(lambda: control.last.error_msg)
    assert "no answer within 0.02 s" in control.last.error_msg
    model.deaf = False
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


async def test_how_far_the_benchmark_is_can_be_seen(
    start_worker: StartWorker, config_for: Any, model: Model
) -> None:
    config = config_for(model)
    config.handlers[2].benchmark_config = config.handlers[0].benchmark_config
    config.handlers[0].benchmark_config = None
    worker = await start_worker(config=config, ready=False)
    await model.until(lambda: len(model.waiting) == 1)  # the warm-up
    model.waiting.pop().respond(200)
    await model.until(lambda: len(model.waiting) == 2)  # the first run
    assert (await worker.get("/healthz")).json()["benchmark"] == {"run": 0, "runs": 2}
    while model.waiting:
        model.waiting.pop().respond(200)
    await model.until(lambda: len(model.waiting) == 2)  # the second
    told = (await worker.get("/healthz")).json()
    assert (told["state"], told["benchmark"]) == ("benchmarking", {"run": 1, "runs": 2})


async def test_a_model_server_that_answers_its_check_badly_is_out_until_it_is_well(
    worker: Worker, model: Model, control: Control
) -> None:
    model.healthy = False
    await control.until(lambda: control.last.error_msg)
    assert "answered 503" in control.last.error_msg
    assert (await worker.post()).status == 503
    model.healthy = True
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


async def test_without_a_health_check_the_port_itself_is_tried(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control
) -> None:
    config = config_for(model)
    config.model_healthcheck_url = None
    worker = await start_worker(config=config)
    await model.stop()
    await control.until(lambda: control.last.error_msg)
    await model.start()
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


async def test_a_worker_that_was_ready_reports_an_error_until_it_is_again(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    write(log, "model loaded\n")
    worker = await start_worker(config=config_for(model, log))
    model.healthy = False
    write(log, "model loaded\n")  # restarted, faster than a health check could notice
    await control.until(lambda: control.last.error_msg)
    model.healthy = True
    before = len(control.reports)
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200
    assert all(report.loadtime for report in control.reports[before:])


async def test_the_log_says_what_the_worker_waits_for(
    tmp_path: Path, log: Path, told: Told
) -> None:
    handler = HandlerConfig("/a", benchmark_config=BenchmarkConfig(dataset=[{}]))
    config = WorkerConfig(
        handlers=[handler], log_action_config=LogActionConfig(on_load=["up and running"])
    )
    watch = ModelWatch(config, str(log), ResultFile(tmp_path, handler), lambda: None)
    running = asyncio.create_task(watch.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    (line,) = [line for line in told() if line["event"] == "waiting for the model server"]
    assert line["file"] == str(log)
    assert line["a_line_with"] == ["up and running"]
