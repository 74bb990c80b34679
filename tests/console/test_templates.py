from __future__ import annotations

from typing import Any

import httpx
import pytest

PATH = "/api/v0/template/"


async def test_a_template_is_stored_listed_shown_and_deleted(
    owner: httpx.AsyncClient, plane: Any
) -> None:
    sent = {"name": "small", "backend": "llamacpp", "options": {"parallel": 2}}
    reply = await owner.post(PATH, json=sent)
    body = reply.json()
    assert reply.status_code == 200
    assert {name: body["template"][name] for name in sent} == sent
    assert body["hash_id"] == body["template"]["hash_id"]
    assert (await owner.get(PATH)).json()["templates"] == [body["template"]]
    shown = await owner.get(f"{PATH}{body['id']}/")
    assert shown.json()["result"] == body["template"]
    assert (await owner.delete(f"{PATH}{body['id']}")).status_code == 200
    assert (await owner.get(f"{PATH}{body['id']}")).status_code == 404
    assert (await owner.delete(f"{PATH}{body['id']}")).status_code == 404
    assert plane.changes == 2


@pytest.mark.parametrize(
    ("given", "blamed"),
    [
        ({}, {"name", "backend"}),
        ({"name": "a/b", "backend": "nope"}, {"name", "backend"}),
        ({"name": "a", "backend": "vllm", "options": {"paralel": 1}}, {"options"}),
        ({"name": "a", "backend": 4, "options": 5}, {"backend", "options"}),
    ],
)
async def test_every_bad_field_of_a_template_is_named(
    owner: httpx.AsyncClient, given: dict[str, Any], blamed: set[str]
) -> None:
    reply = await owner.post(PATH, json=given)
    assert reply.status_code == 400
    assert set(reply.json()["fields"]) == blamed
