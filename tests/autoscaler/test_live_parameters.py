"""Each parameter of an endpoint, edited by PUT while it runs: the planner acts on it."""

from collections import Counter

import httpx
import pytest

from stoker.autoscaler.states import ACTIVE, LEAVING
from stoker.console import create_app
from stoker.wire import EndpointParameters

PERF = 100.0
BASE = EndpointParameters(
    min_load=50.0, cold_workers=1, max_workers=8, cold_mult=1.0, inactivity_timeout=-1.0
)


async def serve(house, load):
    """A request that is over at once."""
    answer = await house.route(cost=load)
    if "url" in answer:
        worker = house.plane.fleet.workers[int(answer["url"].rpartition(":")[2]) - 4000]
        done = [{"request_idx": answer["request_idx"]}]
        body = {"worker_id": worker.id, "mtoken": worker.token, "requests": done}
        await house.post("/delete_requests/", body, key=None)


@pytest.fixture
async def put(house):
    """An endpoint with one ready worker, and what changes it; returns workers by what they are."""
    house.shelf.capacity = 10
    record = await house.endpoint(parameters=BASE)
    app = create_app(house.store, house.plane)
    headers = {"authorization": "Bearer an account key of the tests"}
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://console", headers=headers
    ) as client:

        async def change(*, rounds=4, load=0.0, **parameters):
            if parameters:
                reply = await client.put(f"/api/v0/endptjobs/{record.id}/", json=parameters)
                assert reply.status_code == 200, reply.text
            for _ in range(rounds):
                house.clock.seconds += 1.0
                if load:
                    await serve(house, load)
                await house.settle(rounds=1)
                for worker in house.plane.fleet.workers.values():
                    one = house.shelf.instances.get(worker.instance_id)
                    if one is not None and one.status == "running" and worker.state not in LEAVING:
                        await house.report(worker)
            states = [worker.state for worker in house.plane.fleet.workers.values()]
            return Counter("active" if s in ACTIVE else s.value for s in states)

        assert await change() == {"active": 1}
        yield change


async def test_min_load_is_the_floor_of_active_capacity(put):
    assert (await put(min_load=250.0))["active"] == 3


async def test_min_cold_load_is_the_floor_of_total_capacity(put):
    assert sum((await put(min_cold_load=350.0)).values()) == 4


async def test_cold_workers_have_the_model_however_low_the_load(put):
    assert sum((await put(cold_workers=3)).values()) == 3
    assert sum((await put(min_workers=4)).values()) == 4


async def test_max_workers_is_a_cap_at_once(put):
    assert sum((await put(min_load=500.0)).values()) == 5
    assert sum((await put(max_workers=2, rounds=8)).values()) == 2
    assert sum((await put(max_workers=0, rounds=8)).values()) == 0


async def test_target_util_is_the_room_above_the_load(put, house):
    before = await put(load=90.0, rounds=60, target_util=1.0)
    after = await put(load=90.0, rounds=10, target_util=0.3)
    assert after["active"] > before["active"]


async def test_cold_mult_is_the_reserve_above_the_load(put):
    before = await put(load=60.0, rounds=60)
    after = await put(load=60.0, rounds=10, cold_mult=6.0)
    assert sum(after.values()) > sum(before.values())


async def test_target_queue_time_is_the_wait_above_which_it_scales_up_hard(put, house):
    for _ in range(4):
        await house.route(cost=50.0)
    calm = await put(target_queue_time=30.0, rounds=1)
    hard = await put(target_queue_time=1.0, rounds=2)
    # 200 load in 1 s.
    assert (calm["active"], hard["active"]) == (1, 2)


async def test_max_queue_time_is_the_wait_above_which_nothing_is_routed(put, house):
    await put(max_queue_time=1.0, max_workers=1, rounds=1)
    await house.route(cost=500.0)
    assert "url" not in await house.route(cost=500.0)
    await put(max_queue_time=1_000.0, rounds=1)
    assert "url" in await house.route(cost=500.0)


async def test_inactivity_timeout_allows_zero_after_so_many_idle_seconds(put, house):
    await put(min_load=0.0, cold_workers=0, rounds=60)
    assert len(house.plane.fleet.workers) == 1  # negative: never to zero
    assert sum((await put(inactivity_timeout=5.0, rounds=20)).values()) == 0


async def test_a_suspended_endpoint_stays_as_it_is_and_an_active_one_goes_on(put):
    assert await put(endpoint_state="suspended", min_load=500.0, rounds=20) == {"active": 1}
    assert (await put(endpoint_state="active"))["active"] == 5


async def test_a_stopped_endpoint_has_no_active_worker_and_comes_back(put, house):
    stopped = await put(endpoint_state="stopped", rounds=10)
    assert (stopped["active"], stopped["stopped"]) == (0, 1)
    assert (await put(endpoint_state="active"))["active"] == 1
    assert [entry[0] for entry in house.shelf.asked] == ["create", "stop", "start"]


async def test_contradicting_parameters_are_refused_or_told(put, house):
    record = next(iter(house.plane.fleet.endpoints.values())).record
    await put(cold_workers=9, max_workers=2)
    assert "cold_workers 9 is above max_workers 2" in (await house.log(record.id))["info0"]
    with pytest.raises(AssertionError, match="target_util"):
        await put(target_util=1.5)
