"""Requests without an envelope, with real model servers, WebSocket peers and a control plane."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from stoker.http import Response, fetch
from stoker.wire import encode
from stoker.worker import BenchmarkConfig, HandlerConfig, WorkerConfig
from stoker.worker.calculators import Constant
from stoker.worker.direct import DirectRoutes

Worker = Any  # the fixtures of conftest.py, which cannot be imported
Model = Any
Control = Any
StartWorker = Any

BENCHMARK = BenchmarkConfig(dataset=[{"benchmark": True}], runs=1, concurrency=1)
PARALLEL: dict[str, Any] = {"allow_parallel_requests": True}


def configured(port: int, *handlers: HandlerConfig, health: str | None = "/health") -> WorkerConfig:
    measured = HandlerConfig("/parallel", benchmark_config=BENCHMARK, **PARALLEL)
    return WorkerConfig(
        model_server_port=port, model_healthcheck_url=health, handlers=[measured, *handlers]
    )


def shown(auth: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64encode(encode(auth)).rstrip(b"=")


@pytest.fixture
async def worker(start_worker: StartWorker, model: Model) -> Worker:
    return await start_worker(
        config=configured(
            model.port,
            HandlerConfig("/echo", methods=("GET", "POST", "PUT"), **PARALLEL),
            HandlerConfig("/files/*", methods=("GET", "DELETE"), **PARALLEL),
            HandlerConfig("/files/deep/*", methods=("PUT",), **PARALLEL),
            HandlerConfig("/wait", methods=("GET",), **PARALLEL),
            HandlerConfig("/small", methods=("PUT",), max_body_bytes=10, **PARALLEL),
        )
    )


async def ask(
    worker: Worker,
    method: str,
    path: str,
    *,
    auth: dict[str, Any] | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    body: bytes = b"",
) -> Response:
    proof = shown(worker.control.auth() if auth is None else auth)
    lines = [(b"stoker-auth", proof), *headers]
    return await fetch(worker.url + path, method=method, headers=lines, body=body, timeout=10)


async def test_a_request_is_passed_on_as_it_is(worker: Worker, model: Model) -> None:
    answer = await ask(
        worker, "PUT", "/echo?a=1&b=%20", headers=((b"x-own", b"yes"),), body=b"\x00\xff"
    )
    assert (answer.status, answer.body) == (200, b"\x00\xff")
    seen = model.seen[-1]
    assert (seen.method, seen.target) == ("PUT", b"/echo?a=1&b=%20")
    assert seen.header(b"x-own") == b"yes"


async def test_nothing_that_authorises_reaches_the_model_server(
    worker: Worker, model: Model
) -> None:
    await ask(
        worker,
        "GET",
        "/echo?api_key=SECRET&a=1&api_key=SECRET",
        headers=(
            (b"authorization", b"Bearer SECRET"),
            (b"cookie", b"k=SECRET"),
            (b"origin", b"https://SECRET"),
            (b"x-hop", b"SECRET"),
            (b"connection", b"x-hop"),
        ),
    )
    seen = model.seen[-1]
    assert b"SECRET" not in repr((seen.target, seen.headers)).encode()
    assert seen.header(b"stoker-auth") is None
    assert seen.target == b"/echo?a=1"


async def test_no_header_with_an_underscore_reaches_the_model_server(
    worker: Worker, model: Model
) -> None:
    """Where names become variables, `X_Real_Name` would be `X-Real-Name`."""
    answer = await ask(worker, "GET", "/echo", headers=((b"x_real_name", b"1"), (b"x-own", b"2")))
    assert answer.status == 200
    assert model.seen[-1].header(b"x_real_name") is None
    assert model.seen[-1].header(b"x-own") == b"2"
    refused = await ask(worker, "GET", "/echo", headers=((b"content_length", b"1"),))
    assert refused.status == 400


async def test_each_request_needs_a_ticket_of_its_own(worker: Worker) -> None:
    auth = worker.control.auth()
    assert (await ask(worker, "GET", "/echo", auth=auth)).status == 200
    assert (await ask(worker, "GET", "/echo", auth=auth)).status == 401


@pytest.mark.parametrize(
    ("proof", "status"),
    [(None, 401), (b"", 401), (b"***", 422), (b"e30", 422), (b"W10", 422), (b"eyJ1cmwiOjV9", 422)],
)
async def test_without_a_proof_nobody_gets_in(
    worker: Worker, model: Model, proof: bytes | None, status: int
) -> None:
    before = len(model.seen)
    headers = [] if proof is None else [(b"stoker-auth", proof)]
    answer = await fetch(worker.url + "/echo", headers=headers, timeout=10)
    assert answer.status == status
    assert len(model.seen) == before


async def test_a_forged_ticket_is_refused_before_its_body_is_read(worker: Worker) -> None:
    forged = worker.control.auth(key="another")
    answer = await ask(worker, "PUT", "/echo", auth=forged, body=b"x" * 5_000_000)
    assert answer.status == 401


async def test_a_post_without_the_header_is_an_envelope(worker: Worker) -> None:
    assert (await worker.post("/echo")).body == b'{"a": 1}'
    assert (await ask(worker, "POST", "/echo", body=b"raw")).body == b"raw"


async def test_a_route_ends_in_a_star_for_all_that_lies_below_it(
    worker: Worker, model: Model
) -> None:
    assert (await ask(worker, "GET", "/files/a/b.png")).status == 200
    assert model.seen[-1].path == "/files/a/b.png"
    assert (await ask(worker, "GET", "/files")).status == 404
    assert (await ask(worker, "GET", "/files/../echo")).status == 404


async def test_the_longest_route_counts(worker: Worker) -> None:
    assert (await ask(worker, "PUT", "/files/deep/x")).status == 200
    refused = await ask(worker, "GET", "/files/deep/x")
    assert (refused.status, refused.header(b"allow")) == (405, b"PUT")


async def test_a_method_that_is_not_declared_is_refused(worker: Worker) -> None:
    answer = await ask(worker, "DELETE", "/echo")
    assert (answer.status, answer.header(b"allow")) == (405, b"POST, GET, PUT")


async def test_a_body_above_the_routes_limit_is_refused(worker: Worker, model: Model) -> None:
    assert (await ask(worker, "PUT", "/small", body=b"x" * 10)).status == 200
    assert (await ask(worker, "PUT", "/small", body=b"x" * 11)).status == 413


async def test_a_large_body_passes_whole(worker: Worker, model: Model) -> None:
    body = bytes(range(256)) * 2**17  # 32 MiB: twice what an envelope may hold
    answer = await ask(worker, "PUT", "/echo", body=body[: 12 * 2**20])
    assert answer.body == body[: 12 * 2**20]


async def test_the_load_is_the_cost_of_the_ticket(worker: Worker, control: Control) -> None:
    await ask(worker, "GET", "/echo", auth=control.auth(cost=7.0))
    await control.until(lambda: control.total("cur_perf") == 7.0)


async def test_a_calculator_sets_the_load_instead(
    start_worker: StartWorker, model: Model, control: Control
) -> None:
    light = HandlerConfig("/echo", methods=("GET",), workload_calculator=Constant(2.0), **PARALLEL)
    worker = await start_worker(config=configured(model.port, light))
    await ask(worker, "GET", "/echo", auth=control.auth(cost=7.0))
    await control.until(lambda: control.total("cur_perf") == 2.0)


async def test_a_session_passes_requests_without_further_tickets(
    worker: Worker, control: Control
) -> None:
    auth = control.auth()
    body = encode({"auth_data": auth, "payload": {}})
    session = (await worker.post("/session/create", body)).json()["session_id"].encode()
    for _ in range(2):
        header = ((b"stoker-session", session),)
        assert (await ask(worker, "GET", "/echo", auth=auth, headers=header)).status == 200
    wrong = ((b"stoker-session", b"made-up"),)
    assert (await ask(worker, "GET", "/echo", auth=auth, headers=wrong)).status == 410


async def test_an_open_worker_passes_requests_without_a_proof(
    start_worker: StartWorker, model: Model
) -> None:
    route = HandlerConfig("/echo", methods=("GET",), **PARALLEL)
    worker = await start_worker(config=configured(model.port, route), settings={"unsecured": True})
    assert (await fetch(worker.url + "/echo?x=1", timeout=10)).status == 200


async def test_a_route_for_all_that_lies_below_is_none_for_the_workers_own(
    start_worker: StartWorker, model: Model
) -> None:
    everything = HandlerConfig("/*", methods=("GET", "POST"), websocket=True, **PARALLEL)
    worker = await start_worker(config=configured(model.port, everything))
    assert (await worker.get("/healthz")).json()["ready"] is True
    assert (await worker.get("/metrics")).status == 200
    body = encode({"auth_data": worker.control.auth(), "payload": {}})
    assert (await worker.post("/session/create", body)).status == 201
    assert (await ask(worker, "GET", "/%6detrics")).status == 404
    assert (await ask(worker, "GET", "/anything")).status == 200
    with pytest.raises(InvalidStatus) as caught:
        await connect(worker.url.replace("http", "ws") + "/session/x")
    assert caught.value.response.status_code == 501


async def test_a_route_of_its_own_is_none_of_the_route_above_it(
    start_worker: StartWorker, model: Model
) -> None:
    own = HandlerConfig("/v1/own", **PARALLEL)
    above = HandlerConfig("/v1/*", methods=("GET", "POST"), **PARALLEL)
    worker = await start_worker(config=configured(model.port, own, above))
    proof = [(b"stoker-auth", shown(worker.control.auth()))]
    answer = await worker.post("/v1/own", headers=proof)
    assert (answer.status, answer.body) == (200, b'{"a": 1}')
    assert (await ask(worker, "GET", "/v1/own")).status == 405
    assert (await ask(worker, "GET", "/v1/%6fwn")).status == 404


async def test_an_open_worker_passes_posts_below_a_route_without_a_proof(
    start_worker: StartWorker, model: Model
) -> None:
    route = HandlerConfig("/v1/*", methods=("POST",), **PARALLEL)
    worker = await start_worker(config=configured(model.port, route), settings={"unsecured": True})
    answer = await fetch(worker.url + "/v1/x", method="POST", body=b"raw", timeout=10)
    assert (answer.status, answer.body) == (200, b"raw")


@pytest.mark.parametrize("query", [b"api%5Fkey=S", b"API_KEY=S", b"a=1&api_key=S", b"api_key"])
async def test_an_api_key_is_withheld_however_it_is_spelt(
    worker: Worker, model: Model, query: bytes
) -> None:
    await ask(worker, "GET", "/echo?" + query.decode())
    assert model.seen[-1].query in (b"", b"a=1")


CLIMBING = {"..", "%2e%2e", "%2E.", "..%2fa", "a%5c.."}
SEGMENTS = st.lists(st.sampled_from([".", "a", "...", "", *sorted(CLIMBING)]), max_size=5)


@given(SEGMENTS)
def test_no_path_climbs_out_of_a_route(segments: list[str]) -> None:
    class Here:
        path, direct = "/files/*", True

    routes = DirectRoutes(None, [Here()])  # type: ignore[list-item, arg-type]
    path = "/files/" + "/".join(segments)
    assert (routes.find(path) is None) == bool(CLIMBING & set(segments))


# --- WebSockets


class Talk:
    """A WebSocket server that answers what it hears."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.gone = asyncio.Event()
        self.port = 0

    async def __call__(self, socket: ServerConnection) -> None:
        self.requests.append(socket.request)
        try:
            async for message in socket:
                if message == "bye":
                    await socket.close(4001, "as you wish")
                    return
                await socket.send(message)
        except ConnectionClosed:
            pass
        finally:
            self.gone.set()


@pytest.fixture
async def talk() -> AsyncIterator[Talk]:
    talk = Talk()

    def select(_socket: ServerConnection, offered: Any) -> Any:
        return "chat" if "chat" in offered else None

    async with serve(talk, "127.0.0.1", 0, select_subprotocol=select) as server:
        talk.port = next(iter(server.sockets)).getsockname()[1]
        yield talk


async def opened(
    worker: Worker, auth: dict[str, Any] | None = None, **more: Any
) -> ClientConnection:
    proof = shown(worker.control.auth() if auth is None else auth).decode()
    return await connect(
        worker.url.replace("http", "ws") + "/ws",
        **({"additional_headers": {"Stoker-Auth": proof}} | more),
    )


@pytest.fixture
async def talking(start_worker: StartWorker, model: Model, control: Control, talk: Talk) -> Worker:
    """A worker whose model server speaks WebSocket; it is measured by a function."""

    async def measured(**_fields: Any) -> None:
        return None

    function = HandlerConfig(
        "/f", is_remote_dispatch=True, remote_function=measured, benchmark_config=BENCHMARK
    )
    socket = HandlerConfig("/ws", websocket=True, **PARALLEL)
    return await start_worker(
        config=WorkerConfig(model_server_port=talk.port, handlers=[function, socket])
    )


async def test_a_websocket_passes_both_ways(talking: Worker, talk: Talk) -> None:
    async with await opened(talking) as socket:
        for message in ("text", b"\x00binary", "x" * 300_000):
            await socket.send(message)
            assert await socket.recv() == message


async def test_the_close_code_of_the_model_server_arrives(talking: Worker) -> None:
    async with await opened(talking) as socket:
        await socket.send("bye")
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
    assert caught.value.rcvd is not None
    assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4001, "as you wish")


async def test_a_websocket_needs_a_proof(talking: Worker, talk: Talk) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await opened(talking, additional_headers={})
    assert caught.value.response.status_code == 401
    assert talk.requests == []


async def test_a_browser_shows_its_proof_as_a_subprotocol(talking: Worker, talk: Talk) -> None:
    proof = shown(talking.control.auth()).decode()
    offers = ["stoker", f"stoker.auth.{proof}"]
    async with await opened(talking, additional_headers={}, subprotocols=offers) as socket:
        assert socket.subprotocol == "stoker"
        await socket.send("hi")
        assert await socket.recv() == "hi"
    assert talk.requests[-1].headers.get("Sec-WebSocket-Protocol") is None


async def test_subprotocols_that_are_not_ours_reach_the_model_server(
    talking: Worker, talk: Talk
) -> None:
    async with await opened(talking, subprotocols=["chat", "stoker"]) as socket:
        assert socket.subprotocol == "chat"
    assert talk.requests[-1].headers["Sec-WebSocket-Protocol"] == "chat"


async def test_a_websocket_is_one_request_from_its_opening_to_its_end(
    talking: Worker, control: Control
) -> None:
    auth = control.auth(cost=9.0)
    socket = await opened(talking, auth)
    await control.until(lambda: auth["request_idx"] in control.last.working_request_idxs)
    await control.until(lambda: control.last.cur_load == 9.0)
    await socket.close()
    await control.until(lambda: control.total("cur_perf") == 9.0)
    await control.until(lambda: control.finished)
    ended = [(f.request_idx, f.status) for f in control.finished]
    assert ended == [(auth["request_idx"], "Success")]


async def test_a_client_that_is_cut_off_ends_the_model_servers_side(
    talking: Worker, talk: Talk
) -> None:
    socket = await opened(talking)
    socket.transport.abort()
    async with asyncio.timeout(10):
        await talk.gone.wait()


async def test_the_end_of_a_session_cuts_its_websocket(talking: Worker, talk: Talk) -> None:
    auth = talking.control.auth()
    body = encode({"auth_data": auth, "payload": {}})
    session = (await talking.post("/session/create", body)).json()["session_id"]
    headers = {"Stoker-Auth": shown(auth).decode(), "Stoker-Session": session}
    socket = await opened(talking, additional_headers=headers)
    ended = encode({"session_id": session, "session_auth": auth})
    assert (await talking.post("/session/end", ended)).status == 200
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        await talk.gone.wait()


async def test_a_draining_worker_cuts_websockets_when_its_time_is_up(
    start_worker: StartWorker, talk: Talk, capfd: pytest.CaptureFixture[str]
) -> None:
    async def measured(**_fields: Any) -> None:
        return None

    function = HandlerConfig(
        "/f", is_remote_dispatch=True, remote_function=measured, benchmark_config=BENCHMARK
    )
    socket = HandlerConfig("/ws", websocket=True, **PARALLEL)
    worker = await start_worker(
        config=WorkerConfig(model_server_port=talk.port, handlers=[function, socket]),
        settings={"drain_timeout": 0.05},
    )
    await opened(worker)
    worker.running.stop()
    async with asyncio.timeout(10):
        await worker.running.wait_stopped()
        await talk.gone.wait()
    said = capfd.readouterr().err
    assert "requests are cut off" in said
    assert "the model server failed" not in said


async def test_a_subprotocol_that_only_begins_like_ours_is_the_model_servers(
    talking: Worker,
) -> None:
    async with await opened(talking, subprotocols=["stokerfoo"]) as socket:
        assert socket.subprotocol is None


async def test_a_websocket_that_nobody_uses_is_no_failure_of_the_model_server(
    talking: Worker, control: Control
) -> None:
    socket = await opened(talking)
    await control.until(lambda: control.last.num_requests_working)
    server = talking.running._server
    server.sweep(server.now + server.limits.tunnel_idle_timeout + 10.0)
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    await control.until(lambda: control.finished)
    assert control.finished[0].status == "Success"
    assert talking.running._app.request_seconds == 0.0


async def test_a_websocket_that_no_route_declares_is_refused(worker: Worker) -> None:
    with pytest.raises(InvalidStatus) as caught:
        await opened(worker)
    assert caught.value.response.status_code == 501
