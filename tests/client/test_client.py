from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from stoker.client import (
    AnswerFailedError,
    Client,
    Piece,
    RequestFailedError,
    RouteTimeoutError,
    UnauthorizedError,
    connection,
)
from stoker.client import client as module
from stoker.errors import InvalidMessageError, StokerError

KEY = "stk_client-test-key"


@pytest.fixture
def closed_port() -> str:
    """A URL at which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_request_is_routed_and_sent_with_the_whole_answer_as_auth_data(
    client: Client, system: Any
) -> None:
    answer = await client.request("llm", "/v1/x", {"prompt": "é"}, cost=7.0)
    assert (answer.status, answer.json()) == (200, {"payload": {"prompt": "é"}})
    assert answer.headers["content-type"] == "application/json"
    asked, sent = system.calls("/route/")[0], system.calls("/v1/x")[0]
    assert (asked["endpoint"], asked["cost"], asked["request_idx"]) == ("llm", 7.0, 0)
    assert 0 < asked["wait"] <= 30
    assert sent["session_id"] is None
    assert sent["auth_data"]["unknown_addition"] == [1]
    assert sent["auth_data"]["ticket"] == "v1.0.x"


@pytest.mark.parametrize("affinity", ["conversation-7", ["a", "ab"]])
async def test_what_a_request_shares_with_others_is_told_to_the_router_alone(
    client: Client, system: Any, affinity: Any
) -> None:
    await client.request("llm", "/x", {}, affinity=affinity)
    await client.request("llm", "/x", {})
    first, second = system.calls("/route/")
    assert first["affinity"] == affinity
    assert "affinity" not in second
    assert "affinity" not in system.calls("/x")[0]


async def test_an_affinity_that_is_too_long_is_refused_before_anything_is_sent(
    client: Client, system: Any
) -> None:
    with pytest.raises(InvalidMessageError, match="affinity"):
        await client.request("llm", "/x", {}, affinity="x" * 200)
    assert system.seen == []


async def test_the_key_is_shown_to_the_control_plane_alone_and_in_no_url(
    client: Client, system: Any
) -> None:
    await client.request("llm", "/v1/x", {})
    (_, route_target, route_body, to_plane), (_, target, body, to_worker) = system.seen
    assert to_plane["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in to_worker
    assert KEY not in f"{route_target}{route_body}{target}{body}{to_worker}{client!r}"


async def test_it_polls_with_its_request_idx_until_there_is_a_worker(
    client: Client, system: Any
) -> None:
    system.routes = [system.hold, system.hold, system.assign]
    told: list[str] = []
    await client.request("llm", "/x", {}, on_status=told.append)
    assert [call["request_idx"] for call in system.calls("/route/")] == [0, 41, 41]
    assert told == ["waiting for a worker: 1 loading"]


async def test_who_watches_is_told_of_the_wait_at_once(client: Client, system: Any) -> None:
    system.routes = [system.hold, system.assign]
    await client.request("llm", "/x", {}, on_status=lambda _: None)
    assert [call["wait"] for call in system.calls("/route/")] == [0.0, module.SHOWN_POLL]


async def test_who_does_not_watch_is_held_at_the_control_plane(client: Client, system: Any) -> None:
    await client.request("llm", "/x", {})
    assert [call["wait"] for call in system.calls("/route/")] == [module.LONG_POLL]


async def test_without_long_polls_it_pauses_between_its_calls(client: Client, system: Any) -> None:
    system.routes = [system.hold]
    with pytest.raises(RouteTimeoutError):
        await client.route("llm", wait=0, timeout=0.3)
    assert {call["wait"] for call in system.calls("/route/")} == {0.0}
    assert len(system.calls("/route/")) <= 5


async def test_route_alone_returns_the_control_planes_answer(client: Client, system: Any) -> None:
    reply = await client.route("llm", 3.0, request_idx=9, wait=1.5)
    assert (reply["url"], reply["request_idx"], reply["cost"]) == (system.url, 9, 3.0)
    assert system.calls("/route/")[0]["wait"] == 1.5


async def test_without_a_worker_it_gives_up_at_the_timeout_and_says_why(
    client: Client, system: Any
) -> None:
    system.routes = [system.hold]
    with pytest.raises(RouteTimeoutError, match=r"'llm'.*0\.3 s.*1 loading"):
        await client.request("llm", "/x", {}, timeout=0.3)
    # It paused between its calls, as this control plane does not hold them.
    assert len(system.calls("/route/")) <= 5


@pytest.mark.parametrize("status", [401, 429, 503])
async def test_a_refused_request_is_routed_again_under_the_same_index(
    client: Client, system: Any, refuse: Callable[..., Any], status: int
) -> None:
    system.answers = [refuse(status, "busy here"), system.echo]
    told: list[str] = []
    answer = await client.request("llm", "/x", {"a": 1}, on_status=told.append)
    assert answer.json() == {"payload": {"a": 1}}
    assert [call["request_idx"] for call in system.calls("/route/")] == [0, 41]
    assert len(system.calls("/x")) == 2
    assert told == ["busy here; asking for another worker"]


async def test_a_worker_that_cannot_be_reached_is_left_for_another(
    client: Client, system: Any, closed_port: str
) -> None:
    system.targets = [closed_port]
    assert (await client.request("llm", "/x", {})).status == 200
    assert [call["request_idx"] for call in system.calls("/route/")] == [0, 41]


async def test_refusals_end_at_the_timeout_with_the_last_of_them(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    # It ends when the next pause would pass the timeout: a wait of an hour shortens nothing.
    system.answers = [refuse(503, "busy"), refuse(503, "draining", **{"retry-after": "3600"})]
    with pytest.raises(RequestFailedError, match="draining") as caught:
        await client.request("llm", "/x", {}, timeout=30)
    assert caught.value.status == 503
    assert len(system.calls("/x")) == 2


async def test_a_long_retry_after_beyond_the_timeout_ends_it_at_once(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.answers = [refuse(429, "queue is full", **{"retry-after": "3000"})]
    with pytest.raises(RequestFailedError, match="queue is full"):
        await client.request("llm", "/x", {}, timeout=20)
    assert len(system.calls("/x")) == 1


async def test_a_key_that_every_worker_refuses_is_an_error_soon(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.answers = [refuse(401, "forged")]
    with pytest.raises(UnauthorizedError, match="forged"):
        await client.request("llm", "/x", {})
    assert len(system.calls("/x")) == module.MAX_REFUSED_TICKETS


@pytest.mark.parametrize("status", [400, 404, 422, 500, 502, 504])
async def test_an_answer_of_the_model_server_is_never_asked_for_twice(
    client: Client, system: Any, refuse: Callable[..., Any], status: int
) -> None:
    system.answers = [refuse(status, "bad prompt")]
    with pytest.raises(RequestFailedError, match="bad prompt") as caught:
        await client.request("llm", "/x", {}, timeout=5)
    assert caught.value.status == status
    assert len(system.calls("/x")) == 1


async def test_a_worker_that_breaks_off_before_answering_is_not_asked_twice(
    client: Client, system: Any
) -> None:
    connections = 0

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    async with server:
        system.targets = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
        with pytest.raises(RequestFailedError, match="broke off") as caught:
            await client.request("llm", "/x", {})
    assert caught.value.status is None
    assert connections == 1


async def test_a_stream_arrives_piece_by_piece(client: Client, system: Any) -> None:
    released = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.wait_for(released.wait(), 10)
        yield b"second"

    async def answer(_request: Request, _body: Any) -> Response:
        return StreamingResponse(slowly())

    system.answers = [answer]
    async with client.stream("llm", "/x", {}) as stream:
        pieces = []
        async for piece in stream:
            pieces.append(piece)
            released.set()
    assert pieces == [b"first", b"second"]


async def test_a_stream_of_events_is_parsed(client: Client, system: Any) -> None:
    async def tokens() -> AsyncIterator[bytes]:
        yield b'data: {"a"'
        yield b": 1}\n\nevent: end\nda"
        yield b"ta: [DONE]\n\n"

    async def answer(_request: Request, _body: Any) -> Response:
        return StreamingResponse(tokens(), media_type="text/event-stream")

    system.answers = [answer]
    async with client.stream("llm", "/x", {}) as stream:
        events = [(event.event, event.data) async for event in stream.events()]
    assert events == [("message", '{"a": 1}'), ("end", "[DONE]")]


async def collect(source: AsyncIterable[Any], into: list[Any]) -> None:
    async for one in source:
        into.append(one)


FAILED = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: {"error": "dead"}\n\n'


@pytest.fixture
def failing(system: Any) -> None:
    async def answer(_request: Request, _body: Any) -> Response:
        return Response(FAILED, media_type="text/event-stream")

    system.answers = [answer]


@pytest.mark.usefixtures("failing")
async def test_an_answer_that_tells_of_an_error_raises_with_the_whole_answer(
    client: Client,
) -> None:
    with pytest.raises(AnswerFailedError, match="inside its answer: dead") as caught:
        await client.request("llm", "/x", {})
    assert caught.value.status == 200
    assert caught.value.response is not None
    assert caught.value.response.content == FAILED


@pytest.mark.usefixtures("failing")
async def test_a_stream_that_tells_of_an_error_raises_after_its_last_byte(client: Client) -> None:
    async with client.stream("llm", "/x", {}) as stream:
        got: list[bytes] = []
        with pytest.raises(AnswerFailedError, match="dead"):
            await collect(stream, got)
    assert b"".join(got) == FAILED


@pytest.mark.usefixtures("failing")
async def test_what_a_model_says_comes_in_pieces_whatever_its_dialect(client: Client) -> None:
    async with client.stream("llm", "/x", {}) as stream:
        assert stream.has_pieces
        pieces: list[Piece] = []
        with pytest.raises(AnswerFailedError, match="dead"):
            await collect(stream.pieces(), pieces)
    assert pieces == [Piece("Hi", "text")]


async def test_leaving_a_stream_early_ends_it_at_the_worker(client: Client, system: Any) -> None:
    gone = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            gone.set()

    async def answer(_request: Request, _body: Any) -> Response:
        return StreamingResponse(endless())

    system.answers = [answer]
    async with client.stream("llm", "/x", {}) as stream:
        async for _ in stream:
            break
    await asyncio.wait_for(gone.wait(), 10)


async def test_a_refused_stream_raises_before_the_block(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.answers = [refuse(422, "bad prompt")]
    with pytest.raises(RequestFailedError, match="bad prompt"):
        async with client.stream("llm", "/x", {}):
            pytest.fail("the block was entered")


async def test_a_cut_answer_is_an_error_and_not_a_short_answer(client: Client, system: Any) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        system.targets = [f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
        with pytest.raises(RequestFailedError, match="cut") as caught:
            await client.request("llm", "/x", {})
    assert caught.value.status == 200


async def test_an_answer_that_never_ends_is_bounded_by_the_timeout(
    client: Client, system: Any
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.Event().wait()

    async def answer(_request: Request, _body: Any) -> Response:
        return StreamingResponse(endless())

    system.answers = [answer]
    with pytest.raises(RequestFailedError, match="within|timed out"):
        await client.request("llm", "/x", {}, timeout=0.5)


async def test_a_wrong_key_is_an_error_at_once(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.routes = [refuse(401, "this API key is not known here")]
    with pytest.raises(UnauthorizedError, match="not known") as caught:
        await client.request("llm", "/x", {})
    assert KEY not in str(caught.value)
    assert len(system.seen) == 1


async def test_an_unknown_endpoint_is_an_error_at_once(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.routes = [refuse(404, "there is no endpoint 'llm'")]
    with pytest.raises(RequestFailedError, match="no endpoint") as caught:
        await client.request("llm", "/x", {})
    assert caught.value.status == 404


@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_control_plane_in_trouble_is_asked_again(
    client: Client, system: Any, refuse: Callable[..., Any], status: int
) -> None:
    system.routes = [refuse(status, "starting"), system.assign]
    assert (await client.request("llm", "/x", {})).status == 200


async def test_a_control_plane_that_is_not_there_is_an_error_soon(
    closed_port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PATIENCE", 0.3)
    told: list[str] = []
    async with Client(closed_port, KEY) as client:
        with pytest.raises(RequestFailedError, match="cannot be reached") as caught:
            await client.request("llm", "/x", {}, on_status=told.append)
    assert caught.value.status is None
    assert closed_port in str(caught.value)
    assert told[0].endswith("trying again")


async def test_a_control_plane_that_comes_back_is_asked_again_under_the_same_index(
    system: Any,
) -> None:
    bodies: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        bodies.append(json.loads(await reader.readexactly(length)))
        if len(bodies) not in (2, 3):  # then it is "killed": it closes without an answer
            reply: dict[str, Any] = {"endpoint": "llm", "request_idx": 41}
            if len(bodies) == 4:
                reply["url"] = system.url
            text = json.dumps(reply).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text) + text)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    told: list[str] = []
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(url, KEY) as client:
            assert (await client.request("llm", "/x", {}, on_status=told.append)).status == 200
    assert [body["request_idx"] for body in bodies] == [0, 41, 41, 41]
    assert any("cannot be reached" in text for text in told)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"request_idx": "x"}'])
async def test_something_else_at_the_url_is_an_error(
    client: Client, system: Any, body: bytes
) -> None:
    async def answer(_request: Request, _body: Any) -> Response:
        return Response(body)

    system.routes = [answer]
    with pytest.raises(RequestFailedError, match="no Stoker control plane|no control plane"):
        await client.request("llm", "/x", {})


async def test_a_cost_that_is_not_given_is_not_made_up_and_the_route_is_told(
    client: Client, system: Any
) -> None:
    await client.request("llm", "/v1/x", {})
    asked = system.calls("/route/")[0]
    assert "cost" not in asked
    assert asked["route"] == "/v1/x"


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf"), 1e12])
async def test_a_bad_cost_is_refused_before_anything_is_sent(
    client: Client, system: Any, cost: float
) -> None:
    with pytest.raises(InvalidMessageError, match="cost"):
        await client.request("llm", "/x", {}, cost=cost)
    assert system.seen == []


async def test_a_bad_argument_is_refused_before_anything_is_sent(
    client: Client, system: Any
) -> None:
    endless: list[Any] = []
    endless.append(endless)
    for call in (
        client.request("llm", "v1/x", {}),
        client.request("llm", "/x", object()),
        client.request("llm", "/x", endless),
        client.request("llm", "/x", {}, timeout=0),
        client.request("llm", "/x", {}, timeout=float("inf")),
    ):
        with pytest.raises(StokerError):
            await call
    assert system.calls("/x") == []


async def test_many_requests_at_once_are_all_answered(client: Client) -> None:
    answers = await asyncio.gather(
        *(client.request("llm", "/x", {"n": number}) for number in range(150))
    )
    assert [answer.json()["payload"]["n"] for answer in answers] == list(range(150))


async def test_a_cancelled_request_leaves_the_client_usable(client: Client, system: Any) -> None:
    inside = asyncio.Event()

    async def never(_request: Request, _body: Any) -> Response:
        inside.set()
        await asyncio.Event().wait()
        raise AssertionError

    system.answers = [never, system.echo]
    task = asyncio.create_task(client.request("llm", "/x", {}))
    await asyncio.wait_for(inside.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await client.request("llm", "/x", {})).status == 200


async def test_a_closed_client_says_so(system: Any) -> None:
    client = Client(system.url, KEY)
    await client.close()
    with pytest.raises(StokerError, match="closed"):
        await client.request("llm", "/x", {})


async def test_who_waits_is_told_why_no_worker_comes(client: Client, system: Any) -> None:
    async def failing(_request: Request, body: dict[str, Any]) -> Response:
        status = {"status": "1 error", "reason": "worker 3 failed: no \x1b[31mmemory"}
        return JSONResponse({"endpoint": body["endpoint"], "request_idx": 41} | status)

    system.routes = [failing]
    told: list[str] = []
    with pytest.raises(RouteTimeoutError, match=r"1 error \(worker 3 failed: no  \[31mmemory\)"):
        await client.request("llm", "/x", {}, timeout=0.3, on_status=told.append)
    assert told == ["waiting for a worker: 1 error (worker 3 failed: no  [31mmemory)"]


@pytest.mark.parametrize("status", [200, 400])
async def test_an_answer_of_nothing_but_brackets_is_an_error_of_ours(
    client: Client, system: Any, status: int
) -> None:
    async def brackets(_request: Request, _body: Any) -> Response:
        return Response(b"[" * 100_000, status, media_type="application/json")

    system.others = [brackets]
    with pytest.raises(RequestFailedError):
        await client.endpoints()
    if status == 400:
        system.answers = [brackets]
        with pytest.raises(RequestFailedError):
            await client.request("llm", "/x", {})


async def test_an_answer_that_no_control_plane_gives_is_not_read_to_its_end(
    client: Client, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def long(_request: Request, _body: Any) -> Response:
        return Response(b'"' + b"x" * 200_000 + b'"')

    system.others = [long]
    with pytest.raises(RequestFailedError, match="form"):  # read whole
        await client.endpoints()
    monkeypatch.setattr(connection, "MAX_ANSWER", 100_000)
    with pytest.raises(RequestFailedError, match="no Stoker control plane"):
        await client.endpoints()


async def test_the_text_of_a_refusal_is_cut(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.others = [refuse(400, "x" * 1_000_000)]
    with pytest.raises(RequestFailedError) as caught:
        await client.endpoints()
    assert len(str(caught.value)) < 3000


async def test_a_control_plane_that_redirects_is_not_followed_and_says_where_to(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.routes = [refuse(307, location=f"{system.url}/elsewhere/")]
    with pytest.raises(RequestFailedError, match="redirects to http.*/elsewhere/") as caught:
        await client.request("llm", "/x", {})
    assert "its address" in caught.value.hint
    assert [path for _, path, _, _ in system.seen] == ["/route/"]


async def test_a_model_server_that_redirects_has_not_answered(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.answers = [refuse(302, location="/elsewhere")]
    with pytest.raises(RequestFailedError, match="redirects to '/elsewhere'"):
        await client.request("llm", "/x", {})
    assert system.calls("/elsewhere") == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://user:pw@host", "unix:///s", "http://", "x", "http://a b"]
)
async def test_a_worker_is_only_asked_at_an_address(client: Client, system: Any, url: str) -> None:
    system.targets = [url]
    with pytest.raises(RequestFailedError, match="no address"):
        await client.request("llm", "/x", {})


async def test_a_control_plane_that_does_not_answer_is_not_waited_for_beyond_the_timeout(
    client: Client, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = asyncio.Event()

    async def silent(_request: Request, _body: Any) -> Response:
        await never.wait()
        return Response()

    monkeypatch.setattr(module, "LAST_ANSWER", 0.1)
    system.routes = [silent]
    async with asyncio.timeout(4):  # less than a call may take where the deadline is far
        with pytest.raises(RequestFailedError) as caught:
            await client.request("llm", "/x", {}, timeout=0.1)
    assert caught.value.kind == "timed out"
    never.set()


async def test_a_refusal_that_never_ends_is_bounded_by_the_timeout(
    client: Client, system: Any
) -> None:
    async def dripping(request: Request, _body: Any) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            while not await request.is_disconnected():
                yield b" "
                await asyncio.sleep(0.01)

        return StreamingResponse(pieces(), 400)

    system.answers = [dripping]
    async with asyncio.timeout(5):
        with pytest.raises(RequestFailedError):
            await client.request("llm", "/x", {}, timeout=0.2)


async def test_integers_of_any_size_reach_the_model_server(client: Client, system: Any) -> None:
    answer = await client.request("llm", "/x", {"seed": 2**70, "text": "é"})
    assert answer.json() == {"payload": {"seed": 2**70, "text": "é"}}
