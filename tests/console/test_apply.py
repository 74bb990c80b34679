"""`POST /api/v0/apply/`: what `stoker apply` asks for."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from stoker.store import Store

PATH = "/api/v0/apply/"


def chat(**group: Any) -> dict[str, Any]:
    group = {"backend": "llamacpp", **group}
    return {"name": "chat", "parameters": {"max_workers": 2}, "workergroups": [group]}


async def apply(owner: httpx.AsyncClient, *endpoints: dict[str, Any], **more: Any) -> Any:
    reply = await owner.post(PATH, json={"endpoints": list(endpoints), **more})
    assert reply.status_code == 200, reply.text
    return reply.json()


def kinds(answer: Any) -> list[str]:
    return [change["kind"] for change in answer["changes"]]


async def test_a_file_is_applied_once_and_then_there_is_nothing_to_do(
    owner: httpx.AsyncClient, store: Store, plane: Any
) -> None:
    looked = await apply(owner, chat(), dry_run=True)
    assert (kinds(looked), looked["applied"]) == (["create", "create"], False)
    assert await store.list_endpoints() == []
    done = await apply(owner, chat(), expect=looked["fingerprint"])
    assert kinds(done) == ["create", "create"]
    assert plane.changes == 1
    assert kinds(await apply(owner, chat())) == ["keep", "keep"]
    (endpoint,), (group,) = await store.list_endpoints(), await store.list_workergroups()
    assert (endpoint.parameters.max_workers, endpoint.parameters.cold_workers) == (2, "auto")
    assert (endpoint.origin, group.origin, group.name) == ("file", "file", "llamacpp")


async def test_other_options_are_a_rolling_update_that_the_log_tells_of(
    owner: httpx.AsyncClient, store: Store
) -> None:
    await apply(owner, chat())
    (before,) = await store.list_workergroups()
    answer = await apply(owner, chat(options={"parallel": 4}))
    (after,) = await store.list_workergroups()
    assert (after.id, after.revision, after.updating) == (before.id, 1, True)
    assert answer["changes"][1]["rolling"] is True
    logs = await store.read_log(after.endpoint_id)
    assert "the settings file changed options.parallel" in str(logs)


async def test_orphans_are_deleted_by_prune_alone_and_a_deletion_by_others_is_kept_in_mind(
    owner: httpx.AsyncClient, store: Store
) -> None:
    await apply(owner, chat(), {"name": "talk"})
    assert kinds(await apply(owner, chat())) == ["keep", "keep", "orphan"]
    assert len(await store.list_endpoints()) == 2
    assert kinds(await apply(owner, chat(), prune=True)) == ["keep", "keep", "delete"]
    assert [e.endpoint_name for e in await store.list_endpoints()] == ["chat"]
    assert await store.list_removed() == []  # the file itself wanted that
    (endpoint,) = await store.list_endpoints()
    await owner.delete(f"/api/v0/endptjobs/{endpoint.id}/")
    assert kinds(await apply(owner, chat(), restore=False)) == ["removed"]
    assert kinds(await apply(owner, chat())) == ["create", "create"]
    assert await store.list_removed() == []


async def test_a_plan_that_changed_since_it_was_looked_at_is_refused(
    owner: httpx.AsyncClient, store: Store
) -> None:
    looked = await apply(owner, chat(), dry_run=True)
    await store.create_endpoint("chat")
    body = {"endpoints": [chat()], "expect": looked["fingerprint"]}
    reply = await owner.post(PATH, json=body)
    assert (reply.status_code, reply.json()["error"]) == (409, "changed")
    assert await store.list_workergroups() == []


async def test_everything_that_is_wrong_is_named_and_nothing_is_made(
    owner: httpx.AsyncClient, store: Store
) -> None:
    wrong = {
        "name": "a/b",
        "parameters": {"target_util": 2.0},
        "workergroups": [
            {"backend": "llamacpp", "name": "x", "options": {"paralel": 2}},
            {"backend": "llamacpp", "name": "x", "fields": {"weight": -1}},
        ],
    }
    reply = await owner.post(PATH, json={"endpoints": [wrong, chat(), chat()]})
    assert reply.status_code == 400
    assert set(reply.json()["fields"]) == {
        "endpoint[0].name",
        "endpoint[0].target_util",
        "endpoint[0].workergroup[0].options",
        "endpoint[0].workergroup[1].weight",
        "endpoint[0].workergroup[1].name",
        "endpoint[2].name",
    }
    assert await store.list_endpoints() == []


async def test_more_than_anybody_means_is_refused_at_once(owner: httpx.AsyncClient) -> None:
    many = {"name": "chat", "workergroups": [{"backend": "vllm"}] * 1_001}
    reply = await owner.post(PATH, json={"endpoints": [many]})
    assert reply.json()["fields"] == {"endpoint[0].workergroup": "at most 1000"}
    reply = await owner.post(PATH, json={"endpoints": [{"name": "x"}] * 10_001})
    assert reply.json()["fields"] == {"endpoints": "at most 10000"}


@pytest.mark.parametrize(
    ("group", "field"),
    [
        ({"backend": "/srv/evil.py"}, ".backend"),
        ({"instance": {"steps": [{"kind": "run", "command": ["id"]}]}}, ""),
        ({"instance": {"env": {"A": "b"}}}, ""),
    ],
)
async def test_whoever_holds_a_key_has_no_file_and_no_command_run(
    owner: httpx.AsyncClient,
    store: Store,
    plane: Any,
    group: dict[str, Any],
    field: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plane, "check_options", lambda _backend, _options: None)
    reply = await owner.post(PATH, json={"endpoints": [chat(**group)]})
    assert reply.status_code == 400
    said = reply.json()["fields"][f"endpoint[0].workergroup[0]{field}"]
    assert "only by `stoker up`" in said
    assert await store.list_endpoints() == []


async def test_what_stoker_up_gave_an_instance_may_stay(
    owner: httpx.AsyncClient, store: Store
) -> None:
    env = {"env": {"TOKEN": "swordfish"}}
    await apply(owner, chat())
    (group,) = await store.list_workergroups()
    await store.update_workergroup(group.id, instance=env)
    assert kinds(await apply(owner, chat(instance=env))) == ["keep", "keep"]
    reply = await owner.post(PATH, json={"endpoints": [chat()]})
    assert reply.status_code == 400  # to take it away is a change as well
    assert "swordfish" not in (await owner.get("/api/v0/workergroups/")).text


@pytest.mark.parametrize(
    "body", [{}, {"endpoints": 1}, {"endpoints": [], "x": 1}, {"endpoints": [{}]}]
)
async def test_a_body_of_another_form_is_refused(
    owner: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await owner.post(PATH, json=body)).status_code == 400
