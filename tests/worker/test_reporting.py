"""What the control plane is told, whatever happens to it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from stoker.http import Exchange, Response
from stoker.wire import WorkerStatus
from stoker.worker.auth import Gate, Mode
from stoker.worker.metering import Meter
from stoker.worker.reporting import TRIES, Pace, Reporter, _reason

Worker = Any
Model = Any
Control = Any
StartWorker = Any


@pytest.mark.parametrize(
    ("changed", "since_last", "due"),
    [(True, 0.9, False), (True, 1.0, True), (False, 9.9, False), (False, 10.0, True)],
)
def test_a_report_is_due_each_second_of_change_and_each_ten_of_quiet(
    changed: bool, since_last: float, due: bool
) -> None:
    assert Pace().due(changed=changed, since_last=since_last) is due


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": "url: must be\\u001b[2J"}', ": url: must be [2J"),
        (b'{"error": 5}', ""),
        (b'["error"]', ""),
        (b"no JSON", ""),
    ],
)
def test_the_reason_of_a_refusal_is_told_if_there_is_one(body: bytes, reason: str) -> None:
    assert _reason(Response(400, [], body)) == reason


async def test_a_refused_report_is_in_the_log_with_its_reason(
    worker: Worker, control: Control, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.respond(400, b'{"error": "url: must be http(s)://host:port"}')
        control.attempts += 1
        control.notify()

    before = control.attempts
    control.answer_with(refuse)
    await control.until(lambda: control.attempts > before + TRIES)
    assert "url: must be http(s)://host:port" in "".join(capfd.readouterr())


def clocked() -> tuple[Reporter, Gate]:
    gate = Gate(mtoken="secret", worker_id=7, boot_id="boot")
    return Reporter((), Meter(), gate, lambda _figures: WorkerStatus(7)), gate


@pytest.mark.parametrize("unix", [60.0, 1.8e9, 4e9])
async def test_the_control_planes_clock_is_believed_however_far_it_is_off(unix: float) -> None:
    reporter, gate = clocked()
    await reporter._learn("http://a", b'{"now": %f, "tickets": true}' % unix, 1000.0, 1000.5)
    assert gate.clock_offset == unix - 1000.25


@pytest.mark.parametrize("body", [b'{"now": -5, "tickets": true}', b'{"now": 1e400}', b"no"])
async def test_a_time_that_is_none_changes_nothing(body: bytes) -> None:
    reporter, gate = clocked()
    gate.mode = Mode.TICKETS
    before = gate.clock_offset
    await reporter._learn("http://a", body, 1000.0, 1000.5)
    assert gate.clock_offset == before


async def test_a_slow_answer_tells_the_time_only_when_nothing_better_is_known() -> None:
    reporter, gate = clocked()
    await reporter._learn("http://a", b'{"now": 5000, "tickets": true}', 1000.0, 1000.2)
    good = gate.clock_offset
    await reporter._learn("http://a", b'{"now": 5014, "tickets": true}', 1010.0, 1014.0)
    assert gate.clock_offset == good
    await reporter._learn("http://a", b'{"now": 5104, "tickets": true}', 1100.0, 1104.0)
    assert gate.clock_offset == 5104 - 1102


async def test_requests_that_finished_are_told_with_unix_times(
    worker: Worker, control: Control
) -> None:
    before = time.time()
    await worker.post()
    await control.until(lambda: control.finished)
    (told,) = control.finished
    moments = (told.entered_queue_at, told.work_started_at, told.work_completed_at)
    assert before - 1 <= moments[0] <= moments[1] <= moments[2] <= time.time() + 1


async def test_a_worker_reports_who_it_is_and_how_it_is(worker: Worker, control: Control) -> None:
    report = control.last
    assert (report.id, report.mtoken, report.url) == (7, "secret-of-this-worker", worker.url)
    assert report.boot_id == worker.running.boot_id
    assert report.loadtime > 0.0
    assert report.max_perf > 0.0
    assert report.error_msg == ""
    assert report.disk_usage > 0.0


async def test_it_reports_while_it_loads_and_its_loadtime_is_nought(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    model.healthy = False
    await start_worker(ready=False)
    await control.until(lambda: len(control.reports) >= 3)
    assert {report.loadtime for report in control.reports} == {0.0}
    model.healthy = True
    await control.until(lambda: control.last.loadtime)


async def test_the_figures_of_many_requests_add_up(worker: Worker, control: Control) -> None:
    await asyncio.gather(*(worker.post() for _ in range(30)))
    await control.until(lambda: len(control.finished) == 30)
    await control.until(lambda: control.total("cur_perf") == 3000.0)
    assert control.total("new_load") == 3000.0
    assert control.total("num_requests_recieved") == 30
    assert sorted(r.request_idx for r in control.finished) == list(range(1, 31))
    await control.until(lambda: control.last.cur_load == 0.0)


async def test_requests_at_work_are_in_the_report(
    worker: Worker, model: Model, control: Control
) -> None:
    await worker.connect("/wait")
    await control.until(lambda: control.last.working_request_idxs == [1])
    assert control.last.cur_load == 100.0
    assert control.last.num_requests_working == 1
    await model.until(lambda: model.waiting)
    model.waiting.pop().respond(200)
    await control.until(lambda: control.last.working_request_idxs == [])


@pytest.mark.parametrize("how", ["gone", "failing"])
async def test_figures_arrive_once_the_control_plane_is_back_and_once_only(
    worker: Worker, control: Control, how: str
) -> None:
    auths = [worker.envelope() for _ in range(8)]
    if how == "gone":
        await control.stop()
    else:
        control.status = 500
    attempts = control.attempts
    for body in auths:
        assert (await worker.post(body=body)).status == 200
    if how == "failing":
        await control.until(lambda: control.attempts > attempts + 5)
    assert control.finished == []
    control.status = 200
    if how == "gone":
        await control.start()
    await control.until(lambda: len(control.finished) == 8)
    await control.until(lambda: control.total("cur_perf") >= 800.0)
    count = len(control.reports)
    await control.until(lambda: len(control.reports) > count + 2)
    assert control.total("cur_perf") == 800.0
    assert control.total("new_load") == 800.0


async def test_news_that_nobody_took_does_not_wait_for_the_next_quiet_report(
    start_worker: StartWorker, control: Control, model: Model
) -> None:
    pace = Pace(interval=0.02, quiet=3600.0, retry_pause=0.01, timeout=2.0)
    await start_worker(pace=pace)
    control.status = 500
    attempts = control.attempts
    model.healthy = False
    await control.until(lambda: control.attempts >= attempts + TRIES)
    control.status = 200
    await control.until(lambda: control.last.error_msg)


async def test_the_next_address_is_tried_and_then_stayed_with(
    start_worker: StartWorker, control: Control
) -> None:
    refused: list[bool] = []

    async def closing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refused.append(True)
        writer.close()

    first = await asyncio.start_server(closing, "127.0.0.1", 0)
    port = first.sockets[0].getsockname()[1]
    worker = await start_worker(
        settings={"report_addrs": (f"http://127.0.0.1:{port}", control.url)}
    )
    assert (await worker.post()).status == 200
    count = len(control.reports)
    await control.until(lambda: len(control.reports) > count + 3)
    assert len(refused) == 3
    first.close()


async def test_before_the_control_plane_has_answered_nobody_is_let_in(
    start_worker: StartWorker, control: Control, model: Model
) -> None:
    control.status = 503
    worker = await start_worker(ready=False)
    await model.until(lambda: len(model.bodies("/echo")) == 5)  # the benchmark is over
    body = b'{"auth_data": {"url": "u"}, "payload": {}}'
    answer = await worker.post(body=body)
    assert answer.status == 503
    assert answer.header(b"retry-after")
    control.status = 200
    await control.until(lambda: control.reports and control.last.loadtime)
    assert (await worker.post()).status == 200


async def test_a_stopping_worker_says_so_and_tells_everything_before_it_ends(
    worker: Worker, model: Model, control: Control
) -> None:
    reader, _ = await worker.connect("/wait")
    await model.until(lambda: model.waiting)
    kept, _ = await worker.connect("/echo")  # a connection that is open already
    async with asyncio.timeout(10):
        await kept.readuntil(b'{"a": 1}')
    worker.running.stop()
    worker.running.stop()
    await control.until(lambda: control.last.draining)
    assert control.last.num_requests_working == 1
    model.waiting.pop().respond(200, b"the answer")
    async with asyncio.timeout(10):
        await reader.readuntil(b"the answer")
        await worker.running.wait_stopped()
    assert control.last.draining
    assert sorted(r.request_idx for r in control.finished) == [1, 2]
    assert control.total("cur_perf") == 200.0


async def test_a_model_server_that_goes_during_a_drain_is_no_error(
    worker: Worker, model: Model, control: Control
) -> None:
    await worker.connect("/wait")
    await model.until(lambda: model.waiting)
    worker.running.stop()
    await control.until(lambda: control.last.draining)
    model.healthy = False
    told = len(control.reports)
    # Unhealthy after three checks 0.05 s apart; told of at once, and each 0.2 s in any case.
    await control.until(lambda: len(control.reports) >= told + 4)
    assert {report.error_msg for report in control.reports} == {""}


async def test_a_second_interrupt_cuts_what_still_runs(
    worker: Worker, model: Model, control: Control
) -> None:
    reader, _ = await worker.connect("/wait")
    await model.until(lambda: model.waiting)
    worker.running.interrupt()
    worker.running.interrupt()
    async with asyncio.timeout(10):
        await worker.running.wait_stopped()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"\r\n\r\n")
    assert [r.status for r in control.finished] == ["Error"]


async def test_a_drain_that_takes_too_long_is_cut(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(settings={"drain_timeout": 0.1})
    reader, _ = await worker.connect("/stream")
    await model.until(lambda: model.waiting)
    worker.running.stop()
    async with asyncio.timeout(10):
        await worker.running.wait_stopped()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readuntil(b"0\r\n\r\n")
    assert [r.status for r in control.finished] == ["Error"]


@pytest.mark.parametrize(("limit", "slots"), [(3, 3), (None, 0)])
async def test_a_worker_reports_how_many_requests_it_works_on_at_once(
    start_worker: StartWorker,
    config_for: Any,
    model: Model,
    control: Control,
    limit: int | None,
    slots: int,
) -> None:
    await start_worker(config=config_for(model, max_concurrency=limit))
    assert control.last.slots == slots


async def test_a_strict_queue_has_one_slot(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control
) -> None:
    config = config_for(model)
    for handler in config.handlers:
        handler.allow_parallel_requests = False
    await start_worker(config=config)
    assert control.last.slots == 1
