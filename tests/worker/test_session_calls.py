"""Sessions over HTTP, with a real model server and a real control plane."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from stoker.http import Response, fetch
from stoker.wire import encode
from stoker.worker import session_calls

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any


async def call(worker: Worker, name: str, **body: Any) -> Response:
    return await worker.post(f"/session/{name}", encode(body))


async def create(worker: Worker, auth: dict[str, Any] | None = None, **payload: Any) -> Response:
    shown = worker.control.auth() if auth is None else auth
    return await call(worker, "create", auth_data=shown, session_id=None, payload=payload)


class Opened:
    """A session that a test has opened."""

    def __init__(self, worker: Worker, auth: dict[str, Any], reply: dict[str, Any]) -> None:
        self.worker, self.auth, self.id = worker, auth, reply["session_id"]
        self.shown = {"session_id": self.id, "session_auth": auth}

    async def call(self, name: str) -> Response:
        return await call(self.worker, name, **self.shown)

    def body(self, payload: Any = None) -> bytes:
        return encode(
            {"auth_data": self.auth, "session_id": self.id, "payload": payload or {"a": 1}}
        )

    async def post(self, path: str = "/echo") -> Response:
        return await self.worker.post(path, self.body())


async def opened(worker: Worker, **payload: Any) -> Opened:
    auth = worker.control.auth()
    answer = await create(worker, auth, **payload)
    assert answer.status == 201, answer.body
    return Opened(worker, auth, answer.json())


async def test_a_session_is_opened_with_a_ticket_and_says_when_it_expires(worker: Worker) -> None:
    answer = await create(worker, lifetime=60)
    assert answer.status == 201
    assert set(answer.json()) == {"session_id", "expiration"}
    assert 50 < answer.json()["expiration"] - time.time() < 70


async def test_a_ticket_opens_one_session_alone(worker: Worker) -> None:
    auth = worker.control.auth()
    assert (await create(worker, auth)).status == 201
    assert (await create(worker, auth)).status == 401


async def test_a_stranger_opens_none(worker: Worker) -> None:
    forged = worker.control.auth(key="another")
    assert (await create(worker, forged)).status == 401


async def test_requests_in_a_session_need_no_further_ticket(worker: Worker) -> None:
    session = await opened(worker)
    for _ in range(3):
        assert (await session.post()).status == 200


async def test_each_request_puts_the_end_off(worker: Worker) -> None:
    session = await opened(worker, lifetime=60)
    before = (await session.call("get")).json()["expiration"]
    await session.post()
    assert (await session.call("get")).json()["expiration"] == pytest.approx(before + 60, abs=1)


async def test_another_proof_does_not_get_into_a_session(worker: Worker) -> None:
    session = await opened(worker)
    session.auth = worker.control.auth()
    assert (await session.post()).status == 401
    session.shown["session_auth"] = session.auth
    for name in ("get", "health", "end"):
        assert (await session.call(name)).status == 401


async def test_an_unknown_session_is_410_for_requests_and_400_for_calls(worker: Worker) -> None:
    session = await opened(worker)
    session.shown["session_id"] = session.id = "made-up"
    assert (await session.post()).status == 410
    assert (await session.call("get")).status == 400
    assert (await session.call("end")).status == 400
    assert (await session.call("health")).json() == {"ok": False}


async def test_it_tells_what_it_was_opened_with(worker: Worker) -> None:
    session = await opened(worker, lifetime=9, on_close_route="/bye", on_close_payload={"z": 1})
    told = (await session.call("get")).json()
    assert told["session_id"] == session.id
    assert told["auth_data"]["url"] == session.auth["url"]
    assert told["auth_data"]["ticket"] == session.auth["ticket"]
    assert (told["lifetime"], told["on_close_route"], told["on_close_payload"]) == (
        *(9, "/bye"),
        {"z": 1},
    )
    assert (await session.call("health")).json() == {"ok": True}


async def test_its_end_is_told_once_to_the_model_server(worker: Worker, model: Model) -> None:
    session = await opened(worker, on_close_route="/bye", on_close_payload={"z": 1})
    answer = await session.call("end")
    assert answer.json() == {"ended": True, "removed_session": session.id}
    assert (await session.call("end")).status == 400
    assert (await session.post()).status == 410
    await model.until(lambda: model.bodies("/bye"))
    assert [json.loads(b) for b in model.bodies("/bye")] == [{"z": 1, "session_id": session.id}]


async def test_its_end_cancels_what_runs_and_what_waits(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(max_concurrency=1)
    session = await opened(worker)
    first = asyncio.create_task(session.post("/wait"))
    await model.until(lambda: model.waiting)
    second = asyncio.create_task(session.post("/wait"))
    stream, _ = await worker.connect("/stream", session.body())
    async with asyncio.timeout(10):
        await stream.readuntil(b"data: 1\n\n")
    await session.call("end")
    assert (await first).status == 410
    assert (await second).status == 410
    async with asyncio.timeout(10):
        assert not (await stream.read()).endswith(b"0\r\n\r\n")
    await model.until(lambda: len(model.left) == 2)


async def test_what_expires_is_ended(worker: Worker, model: Model) -> None:
    session = await opened(worker, lifetime=60, on_close_route="/bye")
    calls = worker.running._app.sessions
    calls.sweep(time.monotonic() + 59)
    assert (await session.call("health")).json() == {"ok": True}
    calls.sweep(time.monotonic() + 61)
    assert (await session.call("health")).json() == {"ok": False}
    await model.until(lambda: model.bodies("/bye"))


@pytest.mark.parametrize("step", [3600.0, -3600.0])
async def test_a_step_of_the_wall_clock_neither_ends_nor_prolongs_a_session(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    session = await opened(worker, lifetime=60)
    real = time.time
    monkeypatch.setattr(session_calls, "time", lambda: real() + step)
    monkeypatch.setattr(time, "time", lambda: real() + step)
    calls = worker.running._app.sessions
    calls.sweep(time.monotonic() + 59)
    assert (await session.call("health")).json() == {"ok": True}
    # What a client is told is the time of day at which it ends, by the clock as it stands now.
    left = (await session.call("get")).json()["expiration"] - time.time()
    assert 0 < left <= 60
    calls.sweep(time.monotonic() + 61)
    assert (await session.call("health")).json() == {"ok": False}


async def test_no_more_than_max_sessions_are_open(
    start_worker: StartWorker, config_for: Any, model: Model, control: Control
) -> None:
    config = config_for(model)
    config.max_sessions = 1
    worker = await start_worker(config=config)
    session = await opened(worker)
    auth = control.auth()
    full = await create(worker, auth)
    assert full.status == 429
    assert 1 <= int(full.header(b"retry-after") or 0) <= 60
    await control.until(
        lambda: (
            (auth["request_idx"], "Rejected")
            in [(f.request_idx, f.status) for f in control.finished]
        )
    )
    await session.call("end")
    assert (await create(worker)).status == 201


async def test_a_session_is_one_request_for_the_router_however_many_it_holds(
    worker: Worker, control: Control
) -> None:
    session = await opened(worker)
    index = session.auth["request_idx"]
    await control.until(lambda: index in control.last.working_request_idxs)
    for _ in range(3):
        await session.post()
    await control.until(lambda: control.total("cur_perf") == 300.0)
    assert control.finished == []
    await session.call("end")
    await control.until(lambda: control.finished)
    assert [(f.request_idx, f.status) for f in control.finished] == [(index, "Success")]


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        ({"lifetime": "x"}, "payload.lifetime"),
        ({"lifetime": -1}, "payload.lifetime"),
        ({"on_close_route": 5}, "payload.on_close_route"),
        ({"on_close_payload": "x"}, "payload.on_close_payload"),
    ],
)
async def test_a_wrong_setting_is_named_and_costs_no_ticket(
    worker: Worker, payload: dict[str, Any], field: str
) -> None:
    auth = worker.control.auth()
    answer = await create(worker, auth, **payload)
    assert (answer.status, list(answer.json()["fields"])) == (422, [field])
    assert (await create(worker, auth)).status == 201


@pytest.mark.parametrize("name", ["get", "health", "end"])
@pytest.mark.parametrize("body", [b"{}", b'{"session_id": 5}', b"[]", b"{", b""])
async def test_a_call_that_cannot_be_read_is_refused(
    worker: Worker, name: str, body: bytes
) -> None:
    answer = await worker.post(f"/session/{name}", body)
    assert answer.status in (400, 422)
    assert answer.json()["fields"]


async def test_calls_are_posts_and_there_are_no_others(worker: Worker) -> None:
    assert (await worker.get("/session/get")).status == 405
    assert (await worker.post("/session/steal")).status == 404


async def test_the_model_server_ends_a_session_by_its_id_over_plain_http(worker: Worker) -> None:
    session = await opened(worker)
    url = f"http://127.0.0.1:{worker.running.http_port}/session/"
    body = encode({"session_id": session.id})
    assert (await fetch(url + "end", method="POST", body=body)).status == 200
    assert (await session.call("health")).json() == {"ok": False}
    assert (await fetch(url + "get", method="POST", body=body)).status == 404


async def test_a_draining_worker_goes_on_with_its_sessions_and_opens_none(
    worker: Worker, model: Model, control: Control
) -> None:
    session = await opened(worker, on_close_route="/bye")
    worker.running.stop()
    assert (await session.post()).status == 200
    assert (await create(worker)).status == 503
    await session.call("end")
    async with asyncio.timeout(10):
        await worker.running.wait_stopped()
    assert model.bodies("/bye")
    assert control.finished


async def test_sessions_end_with_the_worker(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    worker = await start_worker(settings={"drain_timeout": 0.05})
    await opened(worker, on_close_route="/bye")
    worker.running.stop()
    async with asyncio.timeout(10):
        await worker.running.wait_stopped()
    assert len(model.bodies("/bye")) == 1


async def test_a_callback_that_is_not_answered_is_given_up(
    worker: Worker, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.worker.session_calls.CLOSE_SECONDS", 0.1)
    session = await opened(worker, on_close_route="/wait")
    assert (await session.call("end")).status == 200
    await model.until(lambda: model.waiting)
    await model.until(lambda: not worker.running._app.sessions._closing)


async def test_a_callback_that_fails_harms_nobody(worker: Worker, model: Model) -> None:
    session = await opened(worker, on_close_route="/die")
    assert (await session.call("end")).status == 200
    await model.until(lambda: model.bodies("/die"))
    assert (await worker.post()).status == 200


@pytest.mark.parametrize("route", ["/admin/shutdown", "/echo/below", "/bye/more", "/bye2", "/ops"])
async def test_only_declared_routes_are_called_at_the_end(worker: Worker, route: str) -> None:
    answer = await create(worker, on_close_route=route)
    assert (answer.status, list(answer.json()["fields"])) == (422, ["payload.on_close_route"])


@pytest.mark.parametrize("route", ["/echo", "/bye", "/bye?a=1", "/ops/close"])
async def test_declared_routes_and_those_that_the_operator_opens_are_called(
    start_worker: StartWorker, model: Model, route: str
) -> None:
    worker = await start_worker(settings={"session_close_routes": ("/bye", "/ops/*")})
    session = await opened(worker, on_close_route=route)
    assert (await session.call("end")).status == 200
    await model.until(lambda: model.bodies(route.partition("?")[0]))


async def test_a_session_without_a_request_ends_however_long_it_was_to_live(
    start_worker: StartWorker, control: Control
) -> None:
    worker = await start_worker(settings={"session_idle_timeout": 0.2})
    answer = await create(worker, worker.control.auth(cost=0.0), lifetime=86_400)
    assert answer.json()["expiration"] - time.time() < 10
    await control.until(lambda: control.finished)
    assert (await create(worker)).status == 201
