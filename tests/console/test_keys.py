from __future__ import annotations

import hashlib

import httpx
import pytest

from stoker.store import Store

API = "/api/v0/keys/"


async def made(owner: httpx.AsyncClient, **fields: object) -> dict[str, object]:
    answer = await owner.post(API, json=fields)
    assert answer.status_code == 200, answer.text
    result: dict[str, object] = answer.json()["result"]
    return result


async def test_a_key_is_told_at_its_creation_alone(owner: httpx.AsyncClient, store: Store) -> None:
    key = await made(owner, name="laptop")
    (stored,) = await store.list_api_keys()
    assert stored.sha256 == hashlib.sha256(str(key["api_key"]).encode()).hexdigest()
    listed = await owner.get(API)
    assert str(key["api_key"]) not in listed.text
    assert [one["name"] for one in listed.json()["results"]] == ["laptop"]


async def test_a_key_is_made_for_an_endpoint_by_its_name(
    owner: httpx.AsyncClient, store: Store
) -> None:
    endpoint = await store.create_endpoint("chat")
    key = await made(owner, name="ci", endpoint_name="chat", expires_in=60.0)
    assert (key["kind"], key["endpoint_id"]) == ("endpoint", endpoint.id)
    assert key["expires_at"] == 1_700_000_060.5


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"name": "a/b"}, 400, "name"),
        ({"name": "12"}, 400, "name"),
        ({"name": "x" * 129}, 400, "name"),
        ({"endpoint_name": "nowhere"}, 404, "nowhere"),
        ({"endpoint_id": 99}, 404, "99"),
        ({"endpoint_id": 2**70}, 400, "endpoint_id"),
        ({"expires_in": -1}, 400, "expires_in"),
        ({"expires_in": 0}, 400, "expires_in"),
        ({"expires_in": "soon"}, 400, "expires_in"),
        ({"replaces": "nobody"}, 404, "nobody"),
        ({"endpoint_nam": "typo"}, 400, "did you mean"),
    ],
)
async def test_a_wrong_field_of_a_new_key_is_named(
    owner: httpx.AsyncClient, store: Store, fields: dict[str, object], status: int, said: str
) -> None:
    answer = await owner.post(API, json=fields)
    assert answer.status_code == status
    assert said in answer.text
    assert await store.list_api_keys() == []


async def test_a_taken_name_is_a_conflict(owner: httpx.AsyncClient) -> None:
    await made(owner, name="ci")
    assert (await owner.post(API, json={"name": "ci"})).status_code == 409


async def test_a_key_is_revoked_by_its_name(owner: httpx.AsyncClient, store: Store) -> None:
    await made(owner, name="one")
    await made(owner, name="two")
    assert (await owner.delete(f"{API}one/")).json()["result"]["name"] == "one"
    assert [key.name for key in await store.list_api_keys()] == ["two"]


async def test_the_last_key_of_the_account_is_a_conflict_unless_it_is_forced(
    owner: httpx.AsyncClient, store: Store
) -> None:
    await made(owner, name="one")
    refused = await owner.delete(f"{API}one/")
    assert refused.status_code == 409
    assert "stoker key create --state" in refused.json()["msg"]
    forced = await owner.request("DELETE", f"{API}one/", json={"force": True})
    assert forced.status_code == 200
    assert await store.list_api_keys() == []


async def test_a_key_is_given_an_end(owner: httpx.AsyncClient) -> None:
    await made(owner, name="one")
    await made(owner, name="two")
    answer = await owner.put(f"{API}one/", json={"expires_in": 10})
    assert answer.json()["result"]["expires_at"] == 1_700_000_010.5
    assert (await owner.put(f"{API}one/", json={})).json()["fields"].keys() == {"expires_in"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_only_an_account_key_manages_keys(stranger: httpx.AsyncClient, method: str) -> None:
    path = API if method in {"GET", "POST"} else f"{API}1/"
    for key in ("ste_of_an_endpoint", "unknown"):
        answer = await stranger.request(
            method, path, headers={"authorization": f"Bearer {key}"}, json={}
        )
        assert answer.status_code == 401


async def test_an_endpoints_key_may_ask_what_it_is(
    stranger: httpx.AsyncClient, store: Store
) -> None:
    await store.create_endpoint("chat")
    answer = await stranger.get(f"{API}current/", headers={"authorization": "Bearer ste_x"})
    assert (answer.json()["result"]["kind"], answer.json()["result"]["endpoint_name"]) == (
        "own",
        "chat",
    )
    assert (await stranger.get(f"{API}current/")).status_code == 401
