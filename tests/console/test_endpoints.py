from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stoker.store import Store

PATH = "/api/v0/endptjobs/"

CREATE_BY_COMMAND_LINE = {
    "client_id": "me",
    "min_load": 2.0,
    "min_cold_load": 0.0,
    "target_util": 0.8,
    "cold_mult": 2.5,
    "cold_workers": 3,
    "max_workers": 20,
    "endpoint_name": "foo",
    "max_queue_time": None,
    "target_queue_time": None,
    "inactivity_timeout": None,
    "autoscaler_instance": "prod",
}


async def _create(owner: httpx.AsyncClient, name: str = "llm", **fields: Any) -> int:
    reply = await owner.post(PATH, json={"endpoint_name": name, **fields})
    assert reply.status_code == 200, reply.text
    return int(reply.json()["result"])


async def test_what_the_command_line_sends_creates_an_endpoint(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    reply = await owner.post(PATH, json=CREATE_BY_COMMAND_LINE)
    record = await store.find_endpoint("foo")
    assert record is not None
    assert (reply.status_code, reply.json()) == (200, {"success": True, "result": record.id})
    assert record.parameters.target_util == 0.8
    assert (record.parameters.max_queue_time, record.parameters.target_queue_time) == (30.0, 10.0)
    assert plane.changes == 1


async def test_a_list_has_every_field_that_the_protocol_names(
    owner: httpx.AsyncClient, store: Store
) -> None:
    number = await _create(owner)
    record = await store.get_endpoint(number)
    reply = await owner.request("GET", PATH, json={"client_id": "me", "api_key": "whatever"})
    assert reply.json() == {
        "success": True,
        "results": [
            {
                "id": number,
                "endpoint_name": "llm",
                "api_key": f"ste_{number}_{record.key_nonce}",
                "user_id": 1,
                "created_at": 1_700_000_000.5,
                "min_load": 1.0,
                "min_cold_load": 0.0,
                "target_util": 0.9,
                "cold_mult": 3.0,
                "cold_workers": 5,
                "max_workers": 16,
                "max_queue_time": 30.0,
                "target_queue_time": 10.0,
                "inactivity_timeout": None,
                "endpoint_state": "active",
                "auto_delete_in_seconds": None,
                "auto_delete_due_24h": False,
            }
        ],
    }
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["/api/v0/endptjobs/{}/", "/api/v0/endptjobs/{}"])
async def test_one_endpoint_is_shown_with_and_without_the_slash(
    owner: httpx.AsyncClient, path: str
) -> None:
    number = await _create(owner, max_workers=2)
    reply = await owner.get(path.format(number))
    assert reply.status_code == 200
    assert (reply.json()["result"]["id"], reply.json()["result"]["max_workers"]) == (number, 2)


async def test_an_endpoint_is_created_without_the_slash_too(owner: httpx.AsyncClient) -> None:
    reply = await owner.post("/api/v0/endptjobs", json={"endpoint_name": "x"})
    assert (reply.status_code, reply.json()["success"]) == (200, True)


async def test_an_update_keeps_what_is_null_or_absent(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    number = await _create(owner, min_load=7.0, inactivity_timeout=60)
    reply = await owner.put(
        f"{PATH}{number}/",
        json={
            "client_id": "me",
            "endptjob_id": number,
            "min_load": None,
            "max_workers": 4,
            "endpoint_name": "renamed",
            "endpoint_state": "suspended",
        },
    )
    assert reply.status_code == 200
    assert reply.json()["result"]["max_workers"] == 4
    assert "api_key" not in reply.json()["result"]
    record = await store.get_endpoint(number)
    assert record.endpoint_name == "renamed"
    assert (record.parameters.min_load, record.parameters.inactivity_timeout) == (7.0, 60.0)
    assert (record.parameters.max_workers, record.parameters.endpoint_state) == (4, "suspended")
    assert plane.changes == 2


async def test_a_parameter_can_be_unset(owner: httpx.AsyncClient, store: Store) -> None:
    number = await _create(owner, inactivity_timeout=60)
    reply = await owner.put(f"{PATH}{number}/", json={"unset": ["inactivity_timeout"]})
    assert reply.status_code == 200
    assert (await store.get_endpoint(number)).parameters.inactivity_timeout is None


async def test_two_updates_at_once_do_not_undo_each_other(
    owner: httpx.AsyncClient, store: Store
) -> None:
    number = await _create(owner)
    await asyncio.gather(
        owner.put(f"{PATH}{number}/", json={"min_load": 9.0}),
        owner.put(f"{PATH}{number}/", json={"max_workers": 3}),
        owner.put(f"{PATH}{number}/", json={"cold_workers": 2}),
    )
    parameters = (await store.get_endpoint(number)).parameters
    assert (parameters.min_load, parameters.max_workers, parameters.cold_workers) == (9.0, 3, 2)


async def test_a_deleted_endpoint_is_gone_and_its_name_free(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    number = await _create(owner)
    reply = await owner.request(
        "DELETE", f"{PATH}{number}/", json={"client_id": "me", "endptjob_id": number}
    )
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    assert (await store.get_endpoint(number)).destroyed
    assert plane.changes == 2
    assert (await owner.get(f"{PATH}{number}/")).status_code == 404
    assert (await owner.request("DELETE", f"{PATH}{number}/")).status_code == 404
    assert (await owner.get(PATH)).json()["results"] == []
    await _create(owner)


async def test_a_taken_name_is_a_conflict(owner: httpx.AsyncClient, plane: Any) -> None:
    await _create(owner, "a")
    number = await _create(owner, "b")
    for reply in (
        await owner.post(PATH, json={"endpoint_name": "a"}),
        await owner.put(f"{PATH}{number}/", json={"endpoint_name": "a"}),
    ):
        assert reply.status_code == 409
        assert reply.json()["error"] == "already_exists"
        assert "'a'" in reply.json()["msg"]
    assert plane.changes == 2


async def test_every_bad_field_is_named_at_once(owner: httpx.AsyncClient, store: Store) -> None:
    reply = await owner.post(
        PATH,
        json={
            "min_load": "plenty",
            "target_util": 1.5,
            "cold_workers": -1,
            "max_workers": 2.5,
            "inactivity_timeout": [],
            "endpoint_state": "destroyed",
        },
    )
    body = reply.json()
    assert (reply.status_code, body["success"], body["error"]) == (400, False, "invalid_args")
    assert set(body["fields"]) == {
        "endpoint_name",
        "min_load",
        "target_util",
        "cold_workers",
        "max_workers",
        "inactivity_timeout",
        "endpoint_state",
    }
    assert all(name in body["msg"] for name in body["fields"])
    assert await store.list_endpoints() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("min_load", -1),
        ("min_load", 1e10),
        ("min_load", True),
        ("min_cold_load", -0.5),
        ("target_util", 0),
        ("cold_mult", 0.5),
        ("cold_workers", 100_001),
        ("max_workers", 10**30),
        ("max_workers", 10**4000),
        ("max_queue_time", -1),
        ("target_queue_time", "soon"),
        ("endpoint_name", ""),
        ("endpoint_name", "a/b"),
        ("endpoint_name", "a\nb"),
        ("endpoint_name", " a"),
        ("endpoint_name", "x" * 129),
        ("endpoint_name", 5),
        ("min_laod", 3),
        ("unset", ["nothing"]),
        ("unset", "min_load"),
        ("min_workers", "x"),
        ("min_workers", -1),
        ("cold_workers", 5.5),
        ("cold_workers", 10**4000),
    ],
)
async def test_a_bad_value_is_refused_and_named(
    owner: httpx.AsyncClient, store: Store, name: str, value: Any
) -> None:
    reply = await owner.post(PATH, json={"endpoint_name": "ok", name: value})
    assert reply.status_code == 400
    assert list(reply.json()["fields"]) == [name]
    assert await store.list_endpoints() == []


@pytest.mark.parametrize("name", ["cold_workers", "min_workers"])
async def test_cold_workers_are_a_number_or_auto(
    owner: httpx.AsyncClient, store: Store, name: str
) -> None:
    reply = await owner.post(PATH, json={"endpoint_name": "ok", name: "atuo"})
    problem = 'must be a whole number from 0, or "auto", not "atuo"'
    assert reply.json()["fields"] == {name: problem}
    number = await _create(owner, **{name: "auto"})
    assert (await store.get_endpoint(number)).parameters.cold_workers == "auto"
    await owner.put(f"{PATH}{number}/", json={"max_workers": 3})
    shown = await owner.get(f"{PATH}{number}/")
    assert shown.json()["result"]["cold_workers"] == "auto"  # what was stored, unless it is changed
    await owner.put(f"{PATH}{number}/", json={"unset": ["cold_workers"]})
    assert (await store.get_endpoint(number)).parameters.cold_workers == 5


async def test_a_typing_error_gets_the_nearest_name(owner: httpx.AsyncClient) -> None:
    reply = await owner.post(PATH, json={"endpoint_name": "ok", "max_worker": 3})
    assert reply.json()["fields"] == {"max_worker": "unknown; did you mean 'max_workers'?"}


async def test_min_workers_is_another_name_of_cold_workers(
    owner: httpx.AsyncClient, store: Store
) -> None:
    number = await _create(owner, min_workers=2)
    assert (await store.get_endpoint(number)).parameters.cold_workers == 2
    reply = await owner.put(f"{PATH}{number}/", json={"min_workers": 1, "cold_workers": 2})
    assert list(reply.json()["fields"]) == ["min_workers"]


async def test_a_cap_below_the_cold_workers_is_accepted(owner: httpx.AsyncClient) -> None:
    # The default of cold_workers is 5, and `max_workers: 2` alone must be possible: the cap wins.
    await _create(owner, max_workers=2)


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"\xff\xfe", b'{"min_load": NaN}', b"[" * 100_000, b"null"]
)
async def test_an_unreadable_body_is_refused(owner: httpx.AsyncClient, body: bytes) -> None:
    reply = await owner.post(PATH, content=body)
    assert reply.status_code == 400
    assert "body" in reply.json()["fields"]


async def test_a_number_beyond_every_float_is_refused(owner: httpx.AsyncClient) -> None:
    reply = await owner.post(PATH, content=b'{"endpoint_name": "x", "min_load": 1e999}')
    assert reply.status_code == 400


async def test_too_many_fields_are_refused(owner: httpx.AsyncClient) -> None:
    reply = await owner.post(PATH, json={f"min_loae{number}": 1 for number in range(5000)})
    assert reply.status_code == 400
    assert "more than" in reply.json()["msg"]


@pytest.mark.parametrize("number", ["99", str(2**63), "9" * 400])
async def test_an_unknown_endpoint_is_not_found(owner: httpx.AsyncClient, number: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        reply = await owner.request(method, f"{PATH}{number}/", json={})
        assert (reply.status_code, reply.json()["error"]) == (404, "not_found")


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    body=st.dictionaries(
        st.sampled_from(
            ["endpoint_name", "min_load", "cold_workers", "inactivity_timeout", "unset", "zzz"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner),
            max_leaves=4,
        ),
    )
)
async def test_nothing_that_is_sent_breaks_it(
    owner: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    reply = await owner.post(PATH, content=json.dumps(body, allow_nan=True).encode())
    assert reply.status_code in (200, 400, 409)
    assert "success" in reply.json()


async def test_the_recorded_requests_of_an_endpoint_are_told(owner: httpx.AsyncClient) -> None:
    number = await _create(owner)
    reply = await owner.get(f"{PATH}{number}/trace/", params={"seconds": "60"})
    told = {
        "started_at": 5.0,
        "seconds": 60.0,
        "complete": True,
        "requests": [[0.5, 10.0 * number]],
    }
    assert reply.json() == {"success": True, "result": told}
    assert (await owner.get(f"{PATH}{number}/trace")).json()["result"]["seconds"] == 100.0
    assert (await owner.get(f"{PATH}{number + 1}/trace/")).status_code == 404


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x", ["1"]])
async def test_a_time_that_is_none_is_refused(owner: httpx.AsyncClient, seconds: Any) -> None:
    number = await _create(owner)
    reply = await owner.request("GET", f"{PATH}{number}/trace/", json={"seconds": seconds})
    assert (reply.status_code, list(reply.json()["fields"])) == (400, ["seconds"])


async def test_the_plan_of_an_endpoint_is_explained(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    endpoint = await store.create_endpoint("llm")
    plane.infos = {endpoint.id: []}
    for slash in ("", "/"):
        reply = await owner.get(f"/api/v0/endptjobs/{endpoint.id}/explain{slash}")
        assert (reply.status_code, reply.json()["result"]["summary"]) == (
            200,
            "min_load needs 1.0/s",
        )
    assert (await owner.get("/api/v0/endptjobs/99/explain/")).status_code == 404
