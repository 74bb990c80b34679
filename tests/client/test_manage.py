from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stoker.client import Client, RequestFailedError, UnauthorizedError
from stoker.errors import NotFoundError
from stoker.wire import Recorded


def _reply(body: Any) -> Callable[[Request, Any], Awaitable[Response]]:
    async def answer(_request: Request, _body: Any) -> Response:
        return JSONResponse(body)

    return answer


CALLS: list[tuple[Callable[[Client], Awaitable[Any]], Any, Any, str, str, Any]] = [
    (
        lambda c: c.endpoints(),
        {"results": [{"id": 1}]},
        [{"id": 1}],
        "GET",
        "/api/v0/endptjobs/",
        {},
    ),
    (
        lambda c: c.create_endpoint("llm", min_load=2.0),
        {"success": True, "result": 5},
        5,
        "POST",
        "/api/v0/endptjobs/",
        {"endpoint_name": "llm", "min_load": 2.0},
    ),
    (
        lambda c: c.update_endpoint(5, max_workers=1),
        {"result": {"id": 5}},
        {"id": 5},
        "PUT",
        "/api/v0/endptjobs/5/",
        {"max_workers": 1},
    ),
    (
        lambda c: c.delete_endpoint(5),
        {"success": True},
        None,
        "DELETE",
        "/api/v0/endptjobs/5/",
        {},
    ),
    (
        lambda c: c.workergroups(),
        {"results": []},
        [],
        "GET",
        "/api/v0/workergroups/",
        {},
    ),
    (
        lambda c: c.create_workergroup(endpoint_name="llm", template_hash="llamacpp"),
        {"success": True, "id": 8},
        8,
        "POST",
        "/api/v0/workergroups/",
        {"endpoint_name": "llm", "template_hash": "llamacpp"},
    ),
    (
        lambda c: c.update_workergroup(8, max_workers=1),
        {"result": {"id": 8}},
        {"id": 8},
        "PUT",
        "/api/v0/workergroups/8/",
        {"max_workers": 1},
    ),
    (
        lambda c: c.delete_workergroup(8),
        {"success": True},
        None,
        "DELETE",
        "/api/v0/workergroups/8/",
        {},
    ),
    (lambda c: c.templates(), {"results": []}, [], "GET", "/api/v0/template/", {}),
    (
        lambda c: c.create_template("small", "llamacpp", {"ctx": 1}),
        {"template": {"hash_id": "h"}},
        {"hash_id": "h"},
        "POST",
        "/api/v0/template/",
        {"name": "small", "backend": "llamacpp", "options": {"ctx": 1}},
    ),
    (
        lambda c: c.delete_template(3),
        {"success": True},
        None,
        "DELETE",
        "/api/v0/template/3/",
        {},
    ),
    (lambda c: c.backends(), {"results": []}, [], "GET", "/api/v0/backends/", {}),
    (lambda c: c.workers(), {"results": []}, [], "GET", "/api/v0/workers/", {}),
    (
        lambda c: c.workers(5),
        {"results": [{"id": 2}]},
        [{"id": 2}],
        "GET",
        "/api/v0/workers/?endpoint_id=5",
        {},
    ),
    (
        lambda c: c.logs(5, tail=7),
        {"info0": "a\n"},
        {"info0": "a\n"},
        "POST",
        "/get_endpoint_logs/",
        {"id": 5, "tail": 7},
    ),
    (
        lambda c: c.log(5, level="trace", tail=7, after=9),
        {"results": [{"id": 10}]},
        [{"id": 10}],
        "GET",
        "/api/v0/endptjobs/5/logs/?level=trace&tail=7&after=9",
        {},
    ),
    (
        lambda c: c.worker_logs(3, log="model"),
        {"results": [{"log": "model", "text": "x"}], "after": "y"},
        ([{"log": "model", "text": "x"}], "y"),
        "GET",
        "/api/v0/workers/3/logs/?log=model&tail=100",
        {},
    ),
    (
        lambda c: c.status(),
        {"result": {"endpoints": []}},
        {"endpoints": []},
        "GET",
        "/api/v0/status/",
        {},
    ),
    (
        lambda c: c.revoke_key("ci", force=True),
        {"result": {"id": "3"}},
        {"id": "3"},
        "DELETE",
        "/api/v0/keys/ci/",
        {"force": True},
    ),
    (
        lambda c: c.workergroup_logs(8),
        {"info0": ""},
        {"info0": ""},
        "POST",
        "/get_autogroup_logs/",
        {"id": 8, "tail": 100},
    ),
    (
        lambda c: c.trace(5, seconds=60.0),
        {"result": {"started_at": 9, "seconds": 60, "complete": True, "requests": [[1, 2.5]]}},
        Recorded(9.0, 60.0, True, [(1.0, 2.5)]),
        "GET",
        "/api/v0/endptjobs/5/trace/?seconds=60.0",
        {},
    ),
    (
        lambda c: c.attach("llm"),
        {"id": 3, "environment": {"CONTAINER_ID": "3"}},
        {"CONTAINER_ID": "3"},
        "POST",
        "/api/v0/attached/",
        {"endpoint": "llm", "address": None},
    ),
    (
        lambda c: c.detach(3),
        {"success": True},
        None,
        "DELETE",
        "/api/v0/attached/3/",
        {},
    ),
]


@pytest.mark.parametrize(("call", "reply", "result", "method", "target", "body"), CALLS)
async def test_each_call_sends_and_returns_what_the_protocol_says(
    client: Client,
    system: Any,
    call: Callable[[Client], Awaitable[Any]],
    reply: Any,
    result: Any,
    method: str,
    target: str,
    body: Any,
) -> None:
    system.others = [_reply(reply)]
    assert await call(client) == result
    assert [entry[:3] for entry in system.seen] == [(method, target, body)]
    assert system.seen[0][3]["authorization"].startswith("Bearer ")


OTHER_FORMS: list[Any] = [[], {}, {"results": 4, "result": "x", "id": None}]


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (call, reply)
        for call, _, result, _, target, _ in CALLS
        for reply in OTHER_FORMS
        # Any object is a log: its names are levels.
        if result is not None and not (target.startswith("/get_") and reply != [])
    ],
)
async def test_an_answer_of_another_form_is_an_error(
    client: Client, system: Any, call: Callable[[Client], Awaitable[Any]], reply: Any
) -> None:
    system.others = [_reply(reply)]
    with pytest.raises(RequestFailedError, match="another form"):
        await call(client)


async def test_an_endpoint_is_found_by_its_name_or_its_id(client: Client, system: Any) -> None:
    record = {"id": 4, "endpoint_name": "llm"}
    system.others = [_reply({"results": [{"id": 1, "endpoint_name": "4"}, record]})]
    assert await client.endpoint("llm") == record
    assert await client.endpoint(4) == record
    with pytest.raises(NotFoundError, match="'chat'"):
        await client.endpoint("chat")


async def test_a_refusal_carries_what_is_wrong_by_field(client: Client, system: Any) -> None:
    async def answer(_request: Request, _body: Any) -> Response:
        body = {"success": False, "error": "invalid_args", "msg": "m", "fields": {"min_load": "x"}}
        return JSONResponse(body, 400)

    system.others = [answer]
    with pytest.raises(RequestFailedError) as caught:
        await client.create_endpoint("llm", min_load=-1)
    assert (caught.value.status, caught.value.message) == (400, "m")
    assert caught.value.fields == {"min_load": "x"}


async def test_a_key_that_is_not_good_is_told_apart(
    client: Client, system: Any, refuse: Callable[..., Any]
) -> None:
    system.others = [refuse(401, "not known")]
    with pytest.raises(UnauthorizedError, match="not known"):
        await client.endpoints()


@pytest.mark.parametrize("key", [None, 5, "stk_\x1b[2J"])
async def test_what_can_be_no_key_is_not_taken_for_one(
    client: Client, system: Any, key: Any
) -> None:
    system.others = [_reply({"result": {"id": "1", "name": "a", "api_key": key}})]
    with pytest.raises(RequestFailedError, match="another form"):
        await client.create_key("a")


async def test_a_list_of_something_else_than_records_is_an_error(
    client: Client, system: Any
) -> None:
    system.others = [_reply({"results": [{"id": 1}, 4]})]
    with pytest.raises(RequestFailedError, match="another form"):
        await client.endpoints()
