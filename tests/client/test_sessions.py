"""Sessions of the client; tests/worker/test_session_calls.py has the worker's side of them."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stoker.client import Client, RequestFailedError
from stoker.client.sessions import MAX_SESSIONS, Proofs
from stoker.errors import StokerError


class Sessions:
    """A worker's sessions, by the rules of `stoker.worker.session_calls`."""

    def __init__(self, system: Any) -> None:
        self.proofs: dict[str, Any] = {}
        self.served: list[tuple[str, Any]] = []
        system.answers = [self.answer]

    async def answer(self, request: Request, body: dict[str, Any]) -> Response:
        path = request.url.path
        if path == "/session/create":
            name = f"s{len(self.proofs)}"
            self.proofs[name] = body["auth_data"]
            return JSONResponse({"session_id": name, "expiration": 5e9}, 201)
        known = self.proofs.get(body["session_id"])
        if path == "/session/health":
            return JSONResponse({"ok": known is not None and known == body["session_auth"]})
        if path == "/session/end":
            if known != body["session_auth"]:
                return JSONResponse({"error": "no such session"}, 400)
            del self.proofs[body["session_id"]]
            return JSONResponse({"ended": True})
        if known is None:
            return JSONResponse({"error": "no such session"}, 410)
        if known != body["auth_data"]:
            return JSONResponse({"error": "session_auth is not valid"}, 401)
        self.served.append((body["session_id"], body["payload"]))
        return JSONResponse({})


@pytest.fixture
def sessions(system: Any) -> Sessions:
    return Sessions(system)


async def test_requests_of_a_session_go_to_its_worker_with_what_it_was_opened_with(
    client: Client, system: Any, sessions: Sessions
) -> None:
    async with client.session("llm", cost=5, lifetime=30) as session:
        await session.request("/x", {"n": 1})
        async with session.stream("/x", {"n": 2}) as answer:
            assert answer.status == 200
        await client.request("llm", "/x", {"n": 3}, session_id=session.id)
        assert await session.alive()
    assert [payload["n"] for _, payload in sessions.served] == [1, 2, 3]
    assert len(system.calls("/route/")) == 1
    assert system.calls("/session/create")[0]["payload"] == {"lifetime": 30}
    assert sessions.proofs == {}


async def test_a_session_that_was_opened_by_other_means_is_found_by_its_worker(
    client: Client, sessions: Sessions
) -> None:
    auth = await client.route("llm")
    await client.route("llm")
    sessions.proofs["mine"] = auth
    for _ in range(2):
        assert (await client.request("llm", "/x", {}, session_id="mine")).status == 200


@pytest.mark.usefixtures("sessions")
async def test_a_session_that_this_client_did_not_open_is_an_error(client: Client) -> None:
    await client.route("llm")
    with pytest.raises(StokerError, match="open one with Client.session"):
        await client.request("llm", "/x", {}, session_id="of another")


async def test_a_session_that_has_ended_is_an_error_and_its_end_none(
    client: Client, sessions: Sessions
) -> None:
    async with client.session("llm") as session:
        sessions.proofs.clear()
        with pytest.raises(RequestFailedError) as caught:
            await session.request("/x", {})
        assert caught.value.status == 410
        assert not await session.alive()
        await session.end()


async def test_a_worker_that_is_full_is_asked_again_and_no_other(
    client: Client, system: Any, sessions: Sessions, refuse: Any
) -> None:
    async with client.session("llm") as session:
        system.answers = [refuse(429, "busy", **{"retry-after": "0"}), sessions.answer]
        assert (await session.request("/x", {})).status == 200
        system.answers = [refuse(401, "no")]
        with pytest.raises(StokerError, match="no"):
            await session.request("/x", {})
        system.answers = [sessions.answer]
    assert len(system.calls("/route/")) == 1


def test_what_is_remembered_of_sessions_is_bounded() -> None:
    proofs = Proofs()
    for number in range(2 * MAX_SESSIONS):
        proofs.opened(str(number), {})
        proofs.routed("llm", {"n": number})
    assert len(proofs._of) == MAX_SESSIONS
    assert proofs.of(str(2 * MAX_SESSIONS - 1)) is not None
    assert len(proofs.candidates("llm")) == 64
