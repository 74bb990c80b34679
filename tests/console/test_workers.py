from __future__ import annotations

from typing import Any

import httpx
import pytest

from stoker.console import create_app
from stoker.store import Store
from stoker.wire import WorkerInfo

KEY = "stk_account-key-of-the-tests"


async def test_workers_are_listed_by_endpoint_or_all(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    a, b = await store.create_endpoint("a"), await store.create_endpoint("b")
    plane.infos = {
        a.id: [WorkerInfo(id=4, status="idle", provider="local")],
        b.id: [WorkerInfo(id=5, status="loading")],
    }
    every = (await owner.get("/api/v0/workers/")).json()["results"]
    assert [(w["id"], w["endpoint_name"]) for w in every] == [(4, "a"), (5, "b")]
    reply = await owner.get("/api/v0/workers", params={"endpoint_id": b.id})
    assert [(w["id"], w["status"], w["endpoint_id"]) for w in reply.json()["results"]] == [
        (5, "loading", b.id)
    ]
    reply = await owner.request("GET", "/api/v0/workers/", json={"endpoint_id": a.id})
    assert [w["id"] for w in reply.json()["results"]] == [4]


async def test_workers_of_an_unknown_endpoint_are_an_error(owner: httpx.AsyncClient) -> None:
    reply = await owner.get("/api/v0/workers/", params={"endpoint_id": 4})
    assert reply.status_code == 404
    for bad in ("x", "1.5", "-1", "9" * 30):
        reply = await owner.get("/api/v0/workers/", params={"endpoint_id": bad})
        assert (reply.status_code, list(reply.json()["fields"])) == (400, ["endpoint_id"])


@pytest.mark.parametrize("field", ["endpoint", "endpoint_name"])
async def test_attaching_gives_the_environment_of_a_worker(
    owner: httpx.AsyncClient, store: Store, plane: Any, field: str
) -> None:
    await store.create_endpoint("llm")
    reply = await owner.post("/api/v0/attached/", json={field: "llm"})
    body = reply.json()
    assert reply.status_code == 200
    assert body["environment"] == {
        "CONTAINER_ID": str(body["id"]),
        "MASTER_TOKEN": f"mtoken-{body['id']}",
    }
    assert plane.attached == [body["id"]]
    assert reply.headers["cache-control"] == "no-store"
    reply = await owner.delete(f"/api/v0/attached/{body['id']}/")
    assert (reply.status_code, plane.attached) == (200, [])


async def test_attaching_to_what_is_not_there_is_an_error(owner: httpx.AsyncClient) -> None:
    assert (await owner.post("/api/v0/attached/", json={"endpoint": "no"})).status_code == 404
    reply = await owner.post("/api/v0/attached/", json={})
    assert (reply.status_code, list(reply.json()["fields"])) == (400, ["endpoint"])
    assert (await owner.delete("/api/v0/attached/3/")).status_code == 404


async def test_a_worker_may_be_attached_with_its_address(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    await store.create_endpoint("llm")
    for address in ("203.0.113.7", "2001:db8::1", "gpu.example.org"):
        reply = await owner.post("/api/v0/attached/", json={"endpoint": "llm", "address": address})
        assert reply.status_code == 200
    assert plane.addresses == ["203.0.113.7", "2001:db8::1", "gpu.example.org"]
    for wrong in ("203.0.113.7:3000", "http://a.example", "a b", "../x", 7):
        reply = await owner.post("/api/v0/attached/", json={"endpoint": "llm", "address": wrong})
        assert (reply.status_code, list(reply.json()["fields"])) == (400, ["address"])


async def test_backends_are_listed(owner: httpx.AsyncClient) -> None:
    reply = await owner.get("/api/v0/backends/")
    assert reply.json()["results"] == [{"name": "llamacpp"}, {"name": "vllm"}]


async def test_without_a_state_directory_there_is_no_certificate(store: Store, plane: Any) -> None:
    transport = httpx.ASGITransport(create_app(store, plane))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://x", headers={"authorization": f"Bearer {KEY}"}
    ) as client:
        assert (await client.get("/static/jvastai_root.cer")).status_code == 404
        reply = await client.post("/api/v0/sign_cert/?instance_id=1", content=b"x")
        assert (reply.status_code, reply.json()["error"]) == (503, "unavailable")


async def test_the_logs_of_a_worker_are_read_and_followed(owner: httpx.AsyncClient) -> None:
    answer = (await owner.get("/api/v0/workers/7/logs/?log=model&tail=5")).json()
    assert answer["results"] == [{"log": "model", "text": "5 after ''"}]
    path = f"/api/v0/workers/7/logs/?tail=0&after={answer['after']}"
    assert [line["log"] for line in (await owner.get(path)).json()["results"]] == [
        "launcher",
        "setup",
        "model",
        "worker",
    ]


@pytest.mark.parametrize(
    ("query", "field"),
    [("log=secret.key", "log"), ("tail=-1", "tail"), ("tail=10001", "tail"), ("tail=x", "tail")],
)
async def test_a_wrong_question_for_logs_is_named(
    owner: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await owner.get(f"/api/v0/workers/7/logs/?{query}")
    assert answer.status_code == 400
    assert answer.json()["fields"].keys() == {field}


async def test_the_log_of_an_endpoint_is_followed_by_the_ids_of_its_lines(
    owner: httpx.AsyncClient,
) -> None:
    answer = await owner.get("/api/v0/endptjobs/1/logs/?after=41&level=trace&tail=3")
    (line,) = answer.json()["results"]
    assert (line["id"], line["text"]) == (42, "trace 3 after 41")
    assert (await owner.get("/api/v0/endptjobs/1/logs/?tail=0")).status_code == 400
