from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from stoker.store import Store

KEY = "stk_account-key-of-the-tests"

GUARDED = [
    ("GET", "/api/v0/endptjobs/"),
    ("POST", "/api/v0/endptjobs/"),
    ("GET", "/api/v0/endptjobs/1/"),
    ("PUT", "/api/v0/endptjobs/1/"),
    ("DELETE", "/api/v0/endptjobs/1/"),
    ("GET", "/api/v0/workergroups/"),
    ("GET", "/api/v0/endptjobs/1/explain/"),
    ("POST", "/api/v0/workergroups/"),
    ("GET", "/api/v0/autojobs/1/"),
    ("PUT", "/api/v0/autojobs/1/"),
    ("DELETE", "/api/v0/autojobs/1/"),
    ("POST", "/api/v0/apply/"),
    ("GET", "/api/v0/template/"),
    ("POST", "/api/v0/template/"),
    ("GET", "/api/v0/template/1/"),
    ("DELETE", "/api/v0/template/1/"),
    ("GET", "/api/v0/endptjobs/1/trace/"),
    ("GET", "/api/v0/workers/"),
    ("POST", "/api/v0/attached/"),
    ("DELETE", "/api/v0/attached/1/"),
    ("GET", "/api/v0/backends/"),
    ("GET", "/api/v0/users/current/"),
    ("POST", "/api/v0/sign_cert/?instance_id=1"),
    ("GET", "/api/v0/status/"),
    ("GET", "/api/v0/endptjobs/1/logs/"),
    ("GET", "/api/v0/workers/1/logs/"),
    ("GET", "/api/v0/keys/"),
    ("POST", "/api/v0/keys/"),
    ("GET", "/api/v0/keys/name/"),
    ("PUT", "/api/v0/keys/name/"),
    ("DELETE", "/api/v0/keys/name/"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({}, "is needed|mtoken"),
        ({"authorization": "Bearer wrong"}, "not known|mtoken"),
        ({"authorization": f"Basic {KEY}"}, "is needed|mtoken"),
        ({"authorization": "Bearer ste_1"}, "of the account|mtoken"),
    ],
)
async def test_only_the_account_gets_in(
    stranger: httpx.AsyncClient, method: str, path: str, headers: dict[str, str], says: str
) -> None:
    reply = await stranger.request(method, path, headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (401, "unauthorized")
    assert any(part in reply.json()["msg"] for part in says.split("|"))
    assert reply.headers["www-authenticate"] == "Bearer"
    assert "wrong" not in reply.text


async def test_every_route_is_guarded_or_known_to_be_public(stranger: httpx.AsyncClient) -> None:
    transport: Any = stranger._transport
    paths = {route.path.rstrip("/") for route in transport.app.routes}
    tested = {
        path.partition("?")[0].rstrip("/").replace("/1", "/{id:number}").replace("/name", "/{key}")
        for _, path in GUARDED
    }
    both_names = {path.replace("workergroups", "autojobs") for path in tested} | {
        path.replace("autojobs", "workergroups") for path in tested
    }
    # The second says what the caller's own key opens, whichever that is.
    assert paths - tested - both_names == {"/static/{name}.cer", "/api/v0/keys/current"}


@pytest.mark.parametrize("way", ["bearer", "query", "body"])
async def test_the_key_may_come_in_each_of_three_ways(
    stranger: httpx.AsyncClient, way: str
) -> None:
    sent: dict[str, dict[str, Any]] = {
        "bearer": {"headers": {"authorization": f"bearer {KEY}"}},
        "query": {"params": {"api_key": KEY}},
        "body": {"json": {"api_key": KEY}},
    }
    reply = await stranger.request("GET", "/api/v0/endptjobs/", **sent[way])
    assert reply.status_code == 200


async def test_the_current_user_is_the_owner(owner: httpx.AsyncClient) -> None:
    body = (await owner.get("/api/v0/users/current")).json()
    assert (body["id"], body["username"]) == (1, "owner")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api/v0/",
        "/api/v0/endptjobs/x/",
        "/api/v0/endptjobs/-1/",
        pytest.param(f"/api/v0/endptjobs/{'9' * 6_000}/", id="6,000 digits"),
    ],
)
async def test_an_unknown_path_is_not_found(owner: httpx.AsyncClient, path: str) -> None:
    reply = await owner.get(path)
    assert (reply.status_code, reply.json()["error"]) == (404, "not_found")


async def test_a_wrong_method_is_refused_and_the_right_ones_named(owner: httpx.AsyncClient) -> None:
    reply = await owner.delete("/api/v0/endptjobs/")
    assert reply.status_code == 405
    assert reply.json()["success"] is False
    assert set(reply.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


async def test_head_is_answered_like_get(owner: httpx.AsyncClient) -> None:
    assert (await owner.head("/api/v0/endptjobs/")).status_code == 200


async def test_a_large_body_is_refused_before_it_is_read_whole(owner: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 200 * 2**20:
            sent += 65_536
            yield b"x" * 65_536

    reply = await owner.post("/api/v0/endptjobs/", content=endless())
    assert (reply.status_code, reply.json()["error"]) == (413, "too_large")
    assert reply.headers["connection"] == "close"


async def test_an_internal_error_shows_an_id_and_nothing_else(
    owner: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    reply = await owner.post(
        "/api/v0/template/", json={"name": "x", "backend": "vllm", "options": {"explode": True}}
    )
    body = reply.json()
    assert (reply.status_code, body["error"]) == (500, "internal_error")
    assert len(body["id"]) == 12
    assert "swordfish" not in reply.text
    assert "Traceback" not in reply.text
    out, err = capfd.readouterr()
    assert body["id"] in out + err


async def test_a_store_that_cannot_be_written_is_unavailable_and_says_why(
    owner: httpx.AsyncClient, store: Store
) -> None:
    connections = [await store._engine.connect() for _ in range(4)]
    connections.append(await store._writer.connect())
    for connection in connections:
        await connection.exec_driver_sql("PRAGMA query_only = 1")
        await connection.close()
    reply = await owner.post("/api/v0/endptjobs/", json={"endpoint_name": "x"})
    assert (reply.status_code, reply.json()["error"]) == (503, "unavailable")
    assert "database cannot be used" in reply.json()["msg"]
    assert (await owner.get("/api/v0/endptjobs/")).status_code == 200


async def test_a_write_stands_when_the_control_plane_cannot_take_it_over(
    owner: httpx.AsyncClient, plane: Any
) -> None:
    plane.failing = True
    reply = await owner.post("/api/v0/endptjobs/", json={"endpoint_name": "x"})
    assert reply.status_code == 200
    assert len((await owner.get("/api/v0/endptjobs/")).json()["results"]) == 1
