from __future__ import annotations

from typing import Any

import httpx
import pytest

from stoker.store import EndpointRecord, Store

PATH = "/api/v0/workergroups/"
OLD_PATH = "/api/v0/autojobs/"


@pytest.fixture
async def endpoint(store: Store) -> EndpointRecord:
    return await store.create_endpoint("foo")


async def _create(owner: httpx.AsyncClient, **fields: Any) -> int:
    reply = await owner.post(PATH, json=fields)
    assert reply.status_code == 200, reply.text
    return int(reply.json()["id"])


async def test_what_the_command_line_sends_creates_a_workergroup(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord, plane: Any
) -> None:
    reply = await owner.post(
        OLD_PATH,
        json={
            "client_id": "me",
            "template_hash": "llamacpp",
            "template_id": None,
            "search_params": "verified=True gpu_ram>=8",
            "launch_args": None,
            "gpu_ram": None,
            "endpoint_name": "foo",
            "endpoint_id": None,
            "autoscaler_instance": "prod",
        },
    )
    assert reply.status_code == 200
    assert reply.json()["success"] is True
    record = await store.get_workergroup(reply.json()["id"])
    assert (record.endpoint_id, record.backend) == (endpoint.id, "llamacpp")
    assert record.search_params == "verified=True gpu_ram>=8"
    assert plane.changes == 1


@pytest.mark.usefixtures("endpoint")
async def test_a_search_given_as_an_object_is_kept_as_json(
    owner: httpx.AsyncClient, store: Store
) -> None:
    number = await _create(
        owner,
        endpoint_name="foo",
        template_hash="llamacpp",
        search_params={"gpu_ram": {"gte": 8}},
        launch_args="--env A=1",
        gpu_ram=24,
        min_cold_load=1.5,
        max_workers=3,
    )
    record = await store.get_workergroup(number)
    assert record.search_params == '{"gpu_ram":{"gte":8}}'
    assert (record.launch_args, record.gpu_ram) == ("--env A=1", 24.0)
    assert (record.min_cold_load, record.max_workers) == (1.5, 3)


@pytest.mark.parametrize("path", [PATH, PATH[:-1], OLD_PATH, OLD_PATH[:-1]])
async def test_workergroups_are_listed_under_both_names(
    owner: httpx.AsyncClient, endpoint: EndpointRecord, path: str
) -> None:
    number = await _create(owner, endpoint_id=endpoint.id, template_hash="llamacpp")
    assert (await owner.get(path)).json() == {
        "success": True,
        "results": [
            {
                "id": number,
                "endpoint_id": endpoint.id,
                "endpoint_name": "foo",
                "name": "llamacpp",
                "origin": "command",
                "template_hash": "llamacpp",
                "backend": "llamacpp",
                "template_id": None,
                "options": {},
                "search_params": "",
                "launch_args": "",
                "gpu_ram": None,
                "min_cold_load": None,
                "max_workers": None,
                "weight": 1.0,
                "revision": 0,
                "updating": False,
                "created_at": 1_700_000_000.5,
            }
        ],
    }


async def test_a_stored_template_is_named_by_its_hash_or_its_id(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord
) -> None:
    template = await store.create_template("small", "vllm", {"parallel": 2, "ctx": 1})
    for given in ({"template_hash": template.hash_id}, {"template_id": template.id}):
        number = await _create(owner, endpoint_id=endpoint.id, options={"ctx": 9}, **given)
        record = await store.get_workergroup(number)
        assert (record.backend, record.options) == ("vllm", {"parallel": 2, "ctx": 9})
        assert (record.template_hash, record.template_id) == (template.hash_id, template.id)


@pytest.mark.usefixtures("endpoint")
async def test_an_unknown_template_gets_the_nearest_and_the_known_ones(
    owner: httpx.AsyncClient, store: Store
) -> None:
    template = await store.create_template("small", "vllm")
    reply = await owner.post(PATH, json={"endpoint_name": "foo", "template_hash": "llama.cpp"})
    problem = reply.json()["fields"]["template_hash"]
    assert reply.status_code == 400
    assert "did you mean 'llamacpp'?" in problem
    assert "vllm" in problem
    assert template.hash_id in problem


async def test_every_bad_field_of_a_workergroup_is_named(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord
) -> None:
    reply = await owner.post(
        PATH,
        json={
            "endpoint_name": "fo",
            "template_hash": "x",
            "gpu_ram": -1,
            "max_workers": "many",
            "search_params": 5,
            "launch_args": "x" * 20_000,
            "min_cold_load": -2,
        },
    )
    fields = reply.json()["fields"]
    assert reply.status_code == 400
    assert set(fields) == {
        "endpoint_name",
        "template_hash",
        "gpu_ram",
        "max_workers",
        "search_params",
        "launch_args",
        "min_cold_load",
    }
    assert "did you mean 'foo'?" in fields["endpoint_name"]
    assert await store.list_workergroups(endpoint.id) == []


@pytest.mark.parametrize(
    ("given", "blamed"),
    [
        ({"template_hash": "llamacpp"}, "endpoint_name"),
        ({"template_hash": "llamacpp", "endpoint_id": 99}, "endpoint_id"),
        ({"template_hash": "llamacpp", "endpoint_id": 10**40}, "endpoint_id"),
        ({"template_hash": "llamacpp", "endpoint_id": 1, "endpoint_name": "b"}, "endpoint_name"),
        ({"endpoint_name": "foo"}, "template_hash"),
        ({"endpoint_name": "foo", "template_id": 4}, "template_id"),
        ({"endpoint_name": "foo", "template_id": 10**40}, "template_id"),
        (
            {"endpoint_name": "foo", "template_hash": "llamacpp", "options": {"paralel": 1}},
            "options",
        ),
        ({"endpoint_name": "foo", "template_hash": "llamacpp", "options": []}, "options"),
    ],
)
@pytest.mark.usefixtures("endpoint")
async def test_what_is_missing_or_contradicts_is_named(
    owner: httpx.AsyncClient, store: Store, given: dict[str, Any], blamed: str
) -> None:
    reply = await owner.post(PATH, json=given)
    assert reply.status_code == 400
    assert list(reply.json()["fields"]) == [blamed]
    assert await store.list_workergroups() == []


async def test_a_workergroup_is_updated_in_what_is_given(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord, plane: Any
) -> None:
    number = await _create(
        owner, endpoint_id=endpoint.id, template_hash="llamacpp", search_params="a=1"
    )
    reply = await owner.put(
        f"{OLD_PATH}{number}/",
        json={"client_id": "me", "autojob_id": number, "max_workers": 2, "search_params": None},
    )
    assert reply.status_code == 200
    record = await store.get_workergroup(number)
    assert (record.max_workers, record.search_params) == (2, "a=1")
    reply = await owner.put(f"{PATH}{number}/", json={"template_hash": "vllm"})
    assert (await store.get_workergroup(number)).backend == "vllm"
    reply = await owner.put(f"{PATH}{number}/", json={"options": {"ctx": 5}})
    record = await store.get_workergroup(number)
    assert (record.backend, record.options) == ("vllm", {"ctx": 5})
    assert plane.changes == 4


async def test_a_workergroup_does_not_move(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord
) -> None:
    other = await store.create_endpoint("other")
    number = await _create(owner, endpoint_id=endpoint.id, template_hash="llamacpp")
    reply = await owner.put(f"{PATH}{number}/", json={"endpoint_id": other.id})
    assert (reply.status_code, list(reply.json()["fields"])) == (400, ["endpoint_id"])
    reply = await owner.put(f"{PATH}{number}/", json={"endpoint_id": endpoint.id, "gpu_ram": 8})
    assert reply.status_code == 200


async def test_a_workergroup_is_deleted(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord, plane: Any
) -> None:
    number = await _create(owner, endpoint_id=endpoint.id, template_hash="llamacpp")
    assert (await owner.get(f"{PATH}{number}")).json()["result"]["id"] == number
    reply = await owner.request("DELETE", f"{PATH}{number}/", json={"client_id": "me"})
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    assert await store.list_workergroups() == []
    assert plane.changes == 2
    for method in ("GET", "PUT", "DELETE"):
        reply = await owner.request(method, f"{PATH}{number}/", json={})
        assert reply.status_code == 404


async def test_workergroups_of_a_deleted_endpoint_are_not_found(
    owner: httpx.AsyncClient, store: Store, endpoint: EndpointRecord
) -> None:
    number = await _create(owner, endpoint_id=endpoint.id, template_hash="llamacpp")
    await store.delete_endpoint(endpoint.id)
    assert (await owner.get(f"{PATH}{number}/")).status_code == 404
    assert (await owner.get(PATH)).json()["results"] == []


@pytest.mark.parametrize("weight", [-1, 1e7, "much"])
async def test_a_weight_that_cannot_be_is_refused(
    owner: httpx.AsyncClient, endpoint: EndpointRecord, weight: Any
) -> None:
    body = {"endpoint_id": endpoint.id, "template_hash": "llamacpp", "weight": weight}
    reply = await owner.post(PATH, json=body)
    assert (reply.status_code, list(reply.json()["fields"])) == (400, ["weight"])


async def test_another_weight_is_no_new_revision_and_other_options_are(
    owner: httpx.AsyncClient, endpoint: EndpointRecord
) -> None:
    number = await _create(owner, endpoint_id=endpoint.id, template_hash="llamacpp", weight=0.2)
    reply = await owner.put(f"{PATH}{number}/", json={"weight": 0.5})
    shown = reply.json()["result"]
    assert (shown["weight"], shown["revision"]) == (0.5, 0)
    reply = await owner.put(f"{PATH}{number}/", json={"options": {"parallel": 2}})
    assert reply.json()["result"]["revision"] == 1


@pytest.mark.usefixtures("endpoint")
async def test_workergroups_have_names_within_their_endpoint(
    owner: httpx.AsyncClient, store: Store
) -> None:
    await store.create_endpoint("bar")
    for fields in (
        {"endpoint_name": "foo"},
        {"endpoint_name": "foo"},
        {"endpoint_name": "foo", "name": "canary"},
        {"endpoint_name": "bar"},
    ):
        await _create(owner, template_hash="llamacpp", **fields)
    shown = (await owner.get(PATH)).json()["results"]
    assert [group["name"] for group in shown] == ["llamacpp", "llamacpp-2", "canary", "llamacpp"]


@pytest.mark.usefixtures("endpoint")
async def test_a_taken_or_impossible_name_of_a_workergroup_is_refused(
    owner: httpx.AsyncClient,
) -> None:
    await _create(owner, endpoint_name="foo", template_hash="llamacpp", name="main")
    other = await _create(owner, endpoint_name="foo", template_hash="llamacpp")
    group = {"endpoint_name": "foo", "template_hash": "llamacpp"}
    assert (await owner.post(PATH, json=group | {"name": "main"})).status_code == 409
    assert (await owner.put(f"{PATH}{other}/", json={"name": "main"})).status_code == 409
    assert (await owner.put(f"{PATH}{other}/", json={"name": "a/b"})).status_code == 400
    renamed = await owner.put(f"{PATH}{other}/", json={"name": "canary"})
    assert renamed.json()["result"]["name"] == "canary"
    assert renamed.json()["result"]["revision"] == 0  # its workers run what they ran
