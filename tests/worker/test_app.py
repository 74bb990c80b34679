"""The way of a request, with a real model server and a real control plane on both sides."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from stoker.http import fetch
from stoker.tickets import possession
from stoker.wire import encode

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any


async def closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read()


# --- what is passed on


async def test_the_payload_reaches_the_model_server_byte_for_byte(
    worker: Worker, model: Model
) -> None:
    payload = b'{ "a" : 1.50, "b":"\\u00e9 \xc3\xa9" }'
    answer = await worker.post(body=worker.envelope(payload))
    assert (answer.status, answer.body) == (200, payload)
    assert model.bodies("/echo")[-1] == payload


async def test_neither_the_query_nor_the_headers_of_the_caller_are_passed_on(
    worker: Worker, model: Model
) -> None:
    await worker.post(
        "/echo?api_key=SECRET",
        headers=[
            (b"authorization", b"Bearer SECRET"),
            (b"cookie", b"SECRET"),
            (b"x-forwarded-for", b"1.2.3.4"),
            (b"accept", b"text/event-stream"),
        ],
    )
    seen = model.seen[-1]
    assert seen.target == b"/echo"
    assert {name for name, _ in seen.headers} == {
        b"host",
        b"content-type",
        b"content-length",
        b"accept",
        b"accept-encoding",
    }
    assert seen.header(b"accept") == b"text/event-stream"
    assert seen.header(b"content-type") == b"application/json"


async def test_the_model_servers_own_error_is_passed_on(worker: Worker) -> None:
    answer = await worker.post("/refuse")
    assert (answer.status, answer.json()) == (422, {"why": "because"})


async def test_lines_of_json_are_passed_on(worker: Worker) -> None:
    answer = await worker.post("/ndjson")
    assert answer.body == b'{"n": 1}\n{"n": 2}\n'
    assert answer.header(b"content-type") == b"application/x-ndjson"


async def test_a_binary_answer_is_passed_on_whole_with_its_headers(worker: Worker) -> None:
    answer = await worker.post("/binary")
    assert answer.body == bytes(range(256)) * 4096
    assert answer.header(b"content-type") == b"image/png"
    assert answer.header(b"x-seed") == b"7"


async def test_an_event_is_with_the_client_before_the_next_one_is_made(
    worker: Worker, model: Model
) -> None:
    reader, writer = await worker.connect("/stream")
    async with asyncio.timeout(10):
        await reader.readuntil(b"data: 1\n\n")
        upstream = model.waiting[0]
        upstream.write(b"data: 2\n\n")
        await reader.readuntil(b"data: 2\n\n")
        upstream.finish()
        await reader.readuntil(b"0\r\n\r\n")
    writer.close()


async def test_a_slow_client_holds_the_model_server_back(worker: Worker, model: Model) -> None:
    reader, writer = await worker.connect("/stream")
    upstream = await model.until(lambda: model.waiting and model.waiting[0])
    paused = asyncio.Event()
    upstream.on_pause = paused.set
    sent = 0
    async with asyncio.timeout(10):
        while not paused.is_set():
            upstream.write(b"x" * 65_536)
            sent += 65_536
            await asyncio.sleep(0)  # lets the loop see that the socket is full
    upstream.finish()
    received = 0
    async with asyncio.timeout(10):
        await reader.readuntil(b"\r\n\r\n")
        while (size := int(await reader.readline(), 16)) > 0:
            received += len(await reader.readexactly(size))
            await reader.readexactly(2)
    assert received == len(b"data: 1\n\n") + sent
    writer.close()


# --- who is let in


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"key": "another workers token"}, "forged"),
        ({"worker_id": 8}, "forged"),
        ({"boot_id": "an earlier boot"}, "forged"),
        ({"claimed_cost": 1.0}, "forged"),
        ({"lasts": -1.0}, "expired"),
    ],
)
async def test_a_request_without_a_good_ticket_is_refused(
    worker: Worker, control: Control, model: Model, changes: dict[str, Any], reason: str
) -> None:
    answer = await worker.post(body=worker.envelope(auth=control.auth(**changes)))
    assert (answer.status, answer.json()["reason"]) == (401, reason)
    assert not model.bodies("/echo")[4 + 1 :]  # nothing but the benchmark's requests
    assert (await worker.post()).status == 200


async def test_a_genuine_signature_does_not_stand_in_for_a_ticket(
    worker: Worker, control: Control
) -> None:
    answer = await worker.post(body=worker.envelope(auth=control.auth() | {"ticket": ""}))
    assert (answer.status, answer.json()["reason"]) == (401, "missing")


async def test_a_ticket_is_good_for_one_request(worker: Worker) -> None:
    body = worker.envelope()
    assert (await worker.post(body=body)).status == 200
    answer = await worker.post(body=body)
    assert (answer.status, answer.json()["reason"]) == (401, "replayed")


async def test_a_ticket_is_void_after_a_restart_of_the_worker(
    worker: Worker, start_worker: StartWorker
) -> None:
    used = worker.envelope()
    await worker.post(body=used)
    unused = worker.envelope()
    await worker.running.close()
    again = await start_worker()
    for body in (used, unused):
        answer = await again.post(body=body)
        assert (answer.status, answer.json()["reason"]) == (401, "forged")
    assert (await again.post()).status == 200


async def test_tickets_expire_by_the_clock_of_the_control_plane(
    control: Control, start_worker: StartWorker
) -> None:
    control.clock_ahead = -3600.0
    worker = await start_worker()
    assert (await worker.post()).status == 200
    expired = worker.envelope(auth=control.auth(lasts=-10.0))
    assert (await worker.post(body=expired)).status == 401


@pytest.mark.parametrize("tickets", [None, False])
async def test_signatures_are_taken_where_the_control_plane_has_no_tickets(
    control: Control, start_worker: StartWorker, tickets: bool | None
) -> None:
    control.tickets = tickets
    worker = await start_worker()
    auth = {k: v for k, v in control.auth().items() if k != "ticket"}
    body = worker.envelope(auth=auth)
    assert [(await worker.post(body=body)).status for _ in range(2)] == [200, 200]
    slash = control.auth(signed=worker.url + "/") | {"url": worker.url + "/"}
    assert (await worker.post(body=worker.envelope(auth=slash))).status == 200
    for bad in ({"url": "http://other:1"}, {"signature": "AAAA"}, {"signature": ""}):
        answer = await worker.post(body=worker.envelope(auth=auth | bad))
        assert answer.status == 401
    other = control.auth(signed="http://other:1") | {"url": "http://other:1"}
    answer = await worker.post(body=worker.envelope(auth=other))
    assert (answer.status, answer.json()["reason"]) == (401, "other_worker")
    assert control.pubkey_asked == 1


async def test_signatures_are_never_taken_where_the_launcher_demands_tickets(
    control: Control, start_worker: StartWorker
) -> None:
    control.tickets = False
    worker = await start_worker(settings={"tickets_required": True})
    answer = await worker.post(body=worker.envelope(auth=control.auth() | {"ticket": ""}))
    assert answer.status == 401
    assert (await worker.post()).status == 200


async def test_without_authentication_the_payload_alone_will_do(start_worker: StartWorker) -> None:
    worker = await start_worker(settings={"unsecured": True})
    answer = await worker.post(body=b'{"payload": {"a": 1}}')
    assert (answer.status, answer.body) == (200, b'{"a": 1}')


# --- what is wrong


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        (b"", 400, ["body"]),
        (b"not json", 400, ["body"]),
        (b"[]", 400, ["body"]),
        (b"{}", 422, ["auth_data", "payload"]),
        (b'{"auth_data": {}, "payload": {}}', 422, ["auth_data.url"]),
        (b'{"auth_data": {"url": 5, "cost": "x"}, "payload": 7, "session_id": 1}', 422, [
            "auth_data.cost", "auth_data.url", "payload", "session_id"]),
        (b'{"auth_data": {"url": "u", "cost": -1}, "payload": {}}', 422, ["auth_data.cost"]),
    ],
)  # fmt: skip
async def test_a_body_that_is_not_valid_is_refused_by_field(
    worker: Worker, body: bytes, status: int, fields: list[str]
) -> None:
    answer = await worker.post(body=body)
    assert answer.status == status
    assert sorted(answer.json()["fields"]) == fields


async def test_an_unknown_session_is_gone(worker: Worker, control: Control) -> None:
    body = encode({"auth_data": control.auth(), "session_id": "s", "payload": {}})
    assert (await worker.post(body=body)).status == 410


async def test_an_oversized_body_is_refused_and_the_next_request_served(worker: Worker) -> None:
    assert (await worker.post(body=b"x" * (17 * 2**20))).status == 413
    assert (await worker.post()).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/echo", 405),
        ("POST", "/nowhere", 404),
        ("POST", "/health", 404),
        ("POST", "/healthz", 405),
        ("GET", "/echo/", 404),
        ("POST", "//echo", 404),
    ],
)
async def test_only_the_routes_of_the_configuration_are_served(
    worker: Worker, method: str, path: str, status: int
) -> None:
    from stoker.http import fetch

    answer = await fetch(worker.url + path, method=method)
    assert answer.status == status
    assert "error" in answer.json()


# --- the model server fails


async def test_a_model_server_that_dies_in_its_answer_cuts_the_clients(
    worker: Worker, control: Control
) -> None:
    reader, writer = await worker.connect("/die")
    received = await closed(reader)
    writer.close()
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"half of it")
    assert (await worker.post()).status == 200
    await control.until(lambda: [r.status for r in control.finished] == ["Error", "Success"])


async def test_a_model_server_that_is_gone_is_502_then_503_and_ready_again_by_itself(
    worker: Worker, model: Model, control: Control
) -> None:
    await model.stop()
    assert (await worker.post()).status == 502
    await control.until(lambda: control.last.error_msg)
    answer = await worker.post()
    assert answer.status == 503
    assert answer.header(b"retry-after")
    await model.start()
    await control.until(lambda: not control.last.error_msg)
    assert (await worker.post()).status == 200


async def test_an_answer_that_is_no_http_is_502_and_the_next_request_is_served(
    start_worker: StartWorker, control: Control, config_for: Any, model: Model
) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST /garbage"):
            writer.write(b"\x00\x01 SSH-2.0 not http\r\n\r\n")
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    config = config_for(model)
    config.model_server_port = server.sockets[0].getsockname()[1]
    worker = await start_worker(config=config)
    assert (await worker.post("/garbage")).status == 502
    assert (await worker.post()).status == 200
    server.close()
    await control.until(lambda: [r.status for r in control.finished] == ["Error", "Success"])


# --- the worker's own routes


async def test_health_and_metrics_tell_of_the_worker_and_no_secrets(
    worker: Worker, control: Control
) -> None:
    await worker.post()
    health = (await worker.get("/healthz")).json()
    assert health["ready"] is True
    assert health["state"] == "ready"
    text = (await worker.get("/metrics")).body.decode()
    assert 'stoker_worker_requests_total{route="/echo",status="200"} 1.0' in text
    assert 'stoker_worker_state{state="ready"} 1.0' in text
    assert 'stoker_worker_served_load_total{route="/echo"} 100.0' in text
    assert 'stoker_worker_work_seconds_count{route="/echo"} 1.0' in text
    assert "process_cpu_seconds_total" in text
    assert "secret" not in text


async def test_metrics_are_for_whoever_shows_the_mtoken_or_the_key_for_them(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(settings={"metrics_key": "the key of the scraper"})
    for shown, status in [
        (b"", 401),
        (b"Bearer a guess", 401),
        (b"Bearer secret-of-this-worker", 200),
        (b"Bearer the key of the scraper", 200),
    ]:
        answer = await fetch(worker.url + "/metrics", headers=[(b"authorization", shown)])
        assert (answer.status, b"/echo" in answer.body) == (status, status == 200)


async def test_metrics_of_a_worker_without_authentication_are_open(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(settings={"unsecured": True})
    assert (await fetch(worker.url + "/metrics")).status == 200


async def test_a_stranger_cannot_add_labels_to_the_metrics(worker: Worker) -> None:
    before = len((await worker.get("/metrics")).body.splitlines())
    for number in range(20):
        await worker.post(f"/made-up-{number}")
    text = (await worker.get("/metrics")).body.decode()
    assert "made-up" not in text
    assert len(text.splitlines()) <= before + 2


# --- time-outs


async def test_a_route_with_a_timeout_of_its_own_is_not_cut_before(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(timeout=3600.0)
    asked = asyncio.create_task(worker.post("/wait"))
    exchange = await model.until(lambda: model.waiting and model.waiting[0])
    pool = worker.running._pool
    pool.sweep(asyncio.get_running_loop().time() + 3590.0)
    assert not exchange.disconnected
    exchange.respond(200, b"at last")
    assert (await asked).body == b"at last"


async def test_a_route_without_a_timeout_has_the_operators_limit_of_silence(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(settings={"silence_timeout": 1000.0})
    asked = asyncio.create_task(worker.post("/wait"))
    await model.until(lambda: model.waiting and model.waiting[0])
    pool = worker.running._pool
    now = asyncio.get_running_loop().time()
    pool.sweep(now + 990.0)
    assert not asked.done()
    pool.sweep(now + 1003.0)
    assert (await asked).status == 504


async def test_the_limit_of_silence_holds_inside_a_stream_as_well(
    start_worker: StartWorker, model: Model
) -> None:
    worker = await start_worker(settings={"silence_timeout": 1000.0})
    reader, _ = await worker.connect("/stream")
    await model.until(lambda: model.waiting)
    await reader.readuntil(b"\r\n\r\n")
    pool = worker.running._pool
    now = asyncio.get_running_loop().time()
    pool.sweep(now + 990.0)
    model.waiting[0].write(b"data: 1\n\n")
    await reader.readuntil(b"data: 1\n\n")
    pool.sweep(now + 3000.0)
    async with asyncio.timeout(5):
        assert b"\r\n0\r\n" not in await reader.read()  # cut, not ended


async def test_a_worker_proves_to_its_control_plane_who_it_is(worker: Worker) -> None:
    challenge = "0123456789abcdef" * 2
    told = (await worker.get(f"/healthz?challenge={challenge}")).json()
    assert told["proof"] == possession(b"secret-of-this-worker", 7, challenge)
    for other in ("", "?challenge=", "?challenge=zz", "?challenge=" + "a" * 65):
        assert "proof" not in (await worker.get("/healthz" + other)).json()


@pytest.mark.parametrize("coding", [b"gzip", b"br", b"deflate"])
async def test_a_compressed_envelope_is_refused_with_the_reason(
    worker: Worker, coding: bytes
) -> None:
    packed = gzip.compress(worker.envelope())
    answer = await worker.post(body=packed, headers=[(b"content-encoding", coding)])
    assert (answer.status, answer.header(b"accept-encoding")) == (415, b"identity")
    assert coding.decode() in answer.json()["msg"]
    plain = await worker.post(headers=[(b"content-encoding", b"identity")])
    assert plain.status == 200


async def test_the_model_server_is_asked_for_an_answer_that_can_be_read(
    worker: Worker, model: Model
) -> None:
    await worker.post(headers=[(b"accept-encoding", b"gzip, br")])
    assert model.seen[-1].header(b"accept-encoding") == b"identity"


PAGE = [(b"origin", b"https://app.example.org")]
PREFLIGHT = [*PAGE, (b"access-control-request-method", b"POST")]


async def test_pages_of_named_origins_may_call_routes_and_sessions_alone(
    start_worker: StartWorker,
) -> None:
    worker = await start_worker(settings={"cors_origins": ("https://app.example.org",)})

    async def allowed(path: str, method: str = "OPTIONS") -> bool:
        headers = PREFLIGHT if method == "OPTIONS" else PAGE
        answer = await fetch(worker.url + path, method=method, headers=headers, timeout=10)
        return answer.header(b"access-control-allow-origin") == b"https://app.example.org"

    assert await allowed("/echo")
    assert await allowed("/echo", "POST")
    assert await allowed("/session/create")
    for path in ("/metrics", "/healthz", "/nothing"):
        assert not await allowed(path)
        assert not await allowed(path, "GET")


@pytest.mark.parametrize(
    ("settings", "origin"), [({}, None), ({"unsecured": True, "cors_origins": ("*",)}, b"*")]
)
async def test_pages_are_let_in_only_where_that_is_set(
    start_worker: StartWorker, settings: dict[str, Any], origin: bytes | None
) -> None:
    worker = await start_worker(settings=settings)
    answer = await fetch(worker.url + "/echo", method="OPTIONS", headers=PREFLIGHT, timeout=10)
    assert answer.status == (204 if origin else 405)
    assert answer.header(b"access-control-allow-origin") == origin
    assert answer.header(b"access-control-allow-credentials") is None
