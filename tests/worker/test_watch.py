"""The model server is watched through its real log file and its real port."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

from stoker.worker import BenchmarkConfig, HandlerConfig, LogActionConfig, WorkerConfig
from stoker.worker.benchmark import ResultFile
from stoker.worker.watch import ModelWatch

Worker = Any
Model = Any
Control = Any
StartWorker = Any


def write(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def rotate(log: Path) -> None:
    log.rename(log.with_suffix(".1"))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "model.log"


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


async def test_an_error_line_is_reported_and_a_new_load_makes_it_ready_again(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control, log: Path
) -> None:
    write(log, "model loaded\n")
    worker = await start_worker(config=config_for(model, log))
    write(log, "api_key=topsecret CUDA error: out of memory\n")
    await control.until(lambda: control.last.error_msg)
    assert "CUDA error: out of memory" in control.last.error_msg
    assert "topsecret" not in control.last.error_msg
    assert (await worker.post()).status == 503
    rotate(log)  # as the launcher does at a restart
    write(log, "model loaded\n")
    await control.until(lambda: control.last.error_msg == "")
    assert (await worker.post()).status == 200


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


async def test_the_log_says_what_the_worker_waits_for(tmp_path: Path, log: Path) -> None:
    handler = HandlerConfig("/a", benchmark_config=BenchmarkConfig(dataset=[{}]))
    config = WorkerConfig(
        handlers=[handler], log_action_config=LogActionConfig(on_load=["up and running"])
    )
    watch = ModelWatch(config, str(log), ResultFile(tmp_path, handler), lambda: None)
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(watch.run())
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    (line,) = [line for line in lines if line["event"] == "waiting for the model server"]
    assert line["file"] == str(log)
    assert line["a_line_with"] == ["up and running"]
