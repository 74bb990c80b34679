"""`stoker workergroup` against a real control plane without machines."""

import json

import pytest

from stoker.cli.workergroups import find_group
from stoker.errors import NotFoundError


async def test_a_workergroup_is_made_changed_shown_and_deleted(ask):
    async def run(*arguments, code=0):
        done = await ask(*arguments)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    await run("endpoint", "create", "chat", "--min-load", "0", "--cold-workers", "0")
    made = await run("workergroup", "create", "chat", "--backend", "simulated", "--json")
    number = str(json.loads(made)["id"])
    changes = ("--max-workers", "3", "--weight", "2", "--name", "main")
    await run("workergroup", "update", "chat", *changes)
    shown = json.loads(await run("workergroup", "show", "chat/main", "--json"))
    assert (shown["max_workers"], shown["weight"], shown["revision"]) == (3, 2.0, 0)
    await run("workergroup", "create", "chat", "--backend", "llamacpp")
    assert "could mean several" in await run("workergroup", "show", "chat", code=3)
    listed = json.loads(await run("workergroup", "list", "chat", "--json"))
    assert [one["name"] for one in listed] == ["main", "llamacpp"]

    changed = await run(
        *("workergroup", "update", number, "--options", '{"slots": 3}', "--roll", "--json")
    )
    assert json.loads(changed)["revision"] == 1
    assert "did you mean" in await run(
        *("workergroup", "update", number, "--options", '{"slot": 3}'), code=3
    )
    assert "nothing to change" in await run("workergroup", "update", number, code=2)
    await run("workergroup", "delete", "chat/llamacpp")
    await run("workergroup", "show", "chat")
    assert "chat/main" in await run("workergroup", "delete", "chat/nothing", code=3)


class Known:
    async def workergroups(self):
        return [
            {"id": 1, "endpoint_name": "chat", "name": "vllm"},
            {"id": 2, "endpoint_name": "chat", "name": "vllm-2"},
            {"id": 3, "endpoint_name": "1", "name": "llamacpp"},
        ]


@pytest.mark.parametrize(
    ("text", "found"), [("1", 1), ("chat/vllm-2", 2), ("1/llamacpp", 3), ("3", 3)]
)
async def test_a_workergroup_is_meant_by_its_id_or_its_endpoint_and_name(text, found):
    assert (await find_group(Known(), text))["id"] == found


@pytest.mark.parametrize("text", ["chat", "chat/", "nothing", "chat/none", ""])
async def test_what_is_no_workergroup_is_refused_with_those_there_are(text):
    with pytest.raises(NotFoundError, match="chat/vllm-2"):
        await find_group(Known(), text)
