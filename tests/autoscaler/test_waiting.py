"""What a client that waits is told of why no worker comes."""

import pytest
from msgspec.structs import replace

from stoker.autoscaler.observe import snapshot
from stoker.autoscaler.waiting import MAX_REASON, public
from stoker.wire import EndpointParameters

FOR_ONE = EndpointParameters(min_load=0.0, cold_workers=0, max_workers=1, cold_mult=1.0)


async def fail(house, worker, text):
    await house.report(worker, loadtime=0.0, max_perf=0.0, error_msg=text)


async def test_the_last_failure_of_a_worker_is_told_to_who_waits(house):
    await house.endpoint()
    index = (await house.route())["request_idx"]
    await house.settle()
    worker = next(iter(house.plane.fleet.workers.values()))
    await fail(house, worker, "model server: /srv/models/llama.gguf: No such file or directory")
    reply = await house.route(request_idx=index)
    assert "1 error" in reply["status"]
    assert f"worker {worker.id} failed: model server: …/llama.gguf: No such" in reply["reason"]


async def test_what_a_worker_stumbles_over_while_it_comes_up_is_told_to_who_waits(house):
    await house.endpoint()
    index = (await house.route())["request_idx"]
    await house.settle()
    ((key, instance),) = house.shelf.instances.items()
    why = "the control plane at https://10.0.0.1 cannot be told: its certificate is not trusted"
    house.shelf.instances[key] = replace(instance, error=why)
    await house.settle()
    reply = await house.route(request_idx=index)
    assert reply["reason"] == f"worker {instance.worker_id}: {why}"


async def test_the_failure_of_an_attached_worker_is_told_too(house):
    record = await house.endpoint(backend=None)
    number = int((await house.plane.attach("llm"))["CONTAINER_ID"])
    worker = house.plane.fleet.workers[number]
    await fail(house, worker, "the model server is not there")
    assert f"worker {number} failed: the model server is not there" in (
        house.plane.waiting_reason(record.id)
    )


async def test_a_failure_is_forgotten_when_a_worker_is_ready_again(house):
    record = await house.endpoint(parameters=FOR_ONE)
    worker = await house.ready_worker()
    await fail(house, worker, "out of memory")
    assert "out of memory" in house.plane.waiting_reason(record.id)
    await house.report(worker)
    assert "out of memory" not in house.plane.waiting_reason(record.id)


async def test_a_failure_that_was_answered_by_a_change_of_the_group_is_forgotten(house):
    record = await house.endpoint()
    await house.route()
    await house.settle()
    worker = next(iter(house.plane.fleet.workers.values()))
    await fail(house, worker, "unknown architecture")
    await house.store.update_workergroup(worker.record.workergroup_id, options={"parallel": 2})
    await house.plane.changed()
    assert "unknown architecture" not in house.plane.waiting_reason(record.id)


async def test_what_the_provider_refuses_is_told(house):
    await house.endpoint()
    house.shelf.fail = "the account has no credit"
    index = (await house.route())["request_idx"]
    await house.settle()
    assert "the account has no credit" in (await house.route(request_idx=index))["reason"]


async def test_the_cap_that_binds_is_told(house):
    record = await house.endpoint(parameters=FOR_ONE)
    await house.ready_worker()
    for _ in range(40):
        await house.route(cost=1000.0)
    await house.settle()
    assert "max_workers 1 is reached" in house.plane.waiting_reason(record.id)


async def test_a_stopped_endpoint_says_so(house):
    stopped = EndpointParameters(endpoint_state="stopped")
    await house.endpoint(parameters=stopped)
    assert (await house.route())["reason"] == "the endpoint is stopped"


async def test_who_holds_the_room_is_counted_and_not_named(house):
    mine = await house.endpoint("mine")
    await house.endpoint("the-secret-project")
    await house.route("the-secret-project")
    await house.settle()
    house.shelf.capacity = len(house.shelf.instances)
    key = house.plane.endpoint_key(mine)
    index = (await house.route("mine", key=key))["request_idx"]
    await house.settle()
    reason = (await house.route("mine", key=key, request_idx=index))["reason"]
    assert "provider local: max_instances allows 1 instances, all in use: 0 by this endpoint" in (
        reason
    )
    assert "1 by others" in reason
    assert "the-secret-project" not in reason
    log = await house.post("/get_endpoint_logs/", {"id": mine.id}, key=key)
    assert "max_instances" in str(log)
    assert "the-secret-project" not in str(log)
    # The owner of the account sees who it is.
    (provider,) = [p for p in house.plane.status()["providers"] if p["name"] == "local"]
    assert provider["instances"] == {"the-secret-project": 1}
    assert provider["offers"][0]["available"] == 0


async def test_a_provider_that_cannot_be_asked_is_told(house):
    record = await house.endpoint()
    house.shelf.fail = "list"
    await house.route()
    await house.settle()
    assert "provider local cannot be asked: the shelf cannot be read" in (
        house.plane.waiting_reason(record.id)
    )
    assert house.plane.status()["providers"][0]["problem"] == "the shelf cannot be read"
    house.shelf.fail = None
    await house.settle()
    assert house.plane.waiting_reason(record.id) == ""


async def test_without_a_provider_that_is_said(house):
    await house.endpoint()
    endpoint = next(iter(house.plane.fleet.endpoints.values()))
    seen = snapshot(house.plane, endpoint, {"attached": []}, house.plane.now())
    assert seen.groups[0].no_offer == "no provider is enabled"


async def test_the_status_has_every_endpoint_with_its_workers_and_what_is_wrong(house):
    await house.endpoint("idle", backend=None)
    await house.endpoint("llm")
    worker = await house.ready_worker()
    await fail(house, worker, "CUDA error\nin /opt/venv/lib/x.py")
    found = house.plane.status()
    assert [one["endpoint_name"] for one in found["endpoints"]] == ["idle", "llm"]
    llm = found["endpoints"][1]
    assert llm["workers"] == {"error": 1}
    assert llm["last_error"]["text"] == "CUDA error in …/x.py"
    assert found["workers"][0]["endpoint_name"] == "llm"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open /home/me/models/a.gguf", "cannot open …/a.gguf"),
        ("no ~/cache/x or '/a/b/c'", "no …/x or '…/c'"),
        (
            "GET http://127.0.0.1:80/v1/models: refused",
            "GET http://127.0.0.1:80/v1/models: refused",
        ),
        ("1/2 done, and/or not", "1/2 done, and/or not"),
        ("two\nlines\tand \x1b[31mred", "two lines and [31mred"),
        ("with hf_abcdefghijklmnop and api_key=xyz", "with *** and api_key=***"),
        ("x" * 5000, "x" * (MAX_REASON - 1) + "…"),
    ],
)
def test_a_public_text_has_no_folder_no_secret_and_one_line(text, shown):
    assert public(text) == shown
