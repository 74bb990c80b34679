"""Keys as they are made, used and ended, seen at the front door."""

import asyncio

import pytest

from stoker.autoscaler.keys import KeysMarker, LastKeyError
from stoker.errors import InvalidMessageError, NotFoundError

from .conftest import API_KEY


async def status_of(house, key, endpoint="llm", **more):
    status, _ = await house.post("/route/", {"endpoint": endpoint, "cost": 1.0} | more, key=key)
    return status


async def test_a_new_key_opens_the_account_and_a_revoked_one_nothing(house):
    await house.endpoint()
    made, key = await house.plane.keys.create("laptop")
    assert await status_of(house, key) == 200
    await house.plane.keys.revoke(made.id)
    assert await status_of(house, key) == 401
    assert await status_of(house, API_KEY) == 200


async def test_a_key_for_one_endpoint_opens_that_one_alone(house):
    mine, _ = await house.endpoint("mine"), await house.endpoint("other")
    _, key = await house.plane.keys.create("ci", endpoint_id=mine.id)
    assert key.startswith("ste_")
    assert await status_of(house, key, "mine") == 200
    assert await status_of(house, key, "other") == 404
    assert (await house.post("/get_endpoint_workers/", {"id": mine.id}, key=key))[0] == 200


async def test_a_key_ends_at_its_time(house):
    await house.endpoint()
    _, key = await house.plane.keys.create("guest", expires_in=60.0)
    house.clock.seconds += 59.0
    assert await status_of(house, key) == 200
    house.clock.seconds += 1.0
    assert await status_of(house, key) == 401
    assert "guest" not in [one.name for one in await house.plane.keys.list()]


async def test_a_client_on_the_line_is_refused_when_its_key_is_revoked(house):
    await house.endpoint(backend=None)
    made, key = await house.plane.keys.create("guest")
    waiting = asyncio.create_task(
        house.post("/route/", {"endpoint": "llm", "cost": 1.0, "wait": 30.0}, key=key)
    )
    await house.on_the_line()
    await house.plane.keys.revoke(made.id)
    await house.plane.step()
    status, body = await waiting
    assert status == 401
    assert "revoked" in body["error"]


async def test_a_worker_that_comes_free_is_not_given_to_a_revoked_key(house):
    await house.endpoint()
    made, key = await house.plane.keys.create("guest")
    waiting = asyncio.create_task(
        house.post("/route/", {"endpoint": "llm", "cost": 1.0, "wait": 30.0}, key=key)
    )
    await house.on_the_line()
    await house.settle()
    await house.plane.keys.revoke(made.id)
    await house.report(next(iter(house.plane.fleet.workers.values())))
    status, body = await waiting
    assert status == 401
    assert "url" not in body


async def test_an_endpoints_own_key_is_replaced_when_it_is_revoked(house):
    record = await house.endpoint()
    former = house.plane.endpoint_key(record)
    await house.plane.keys.revoke("llm")
    assert await status_of(house, former) == 401
    present = house.plane.endpoint_key(await house.store.get_endpoint(record.id))
    assert await status_of(house, present) == 200


async def test_an_endpoints_former_key_goes_on_for_the_overlap(house):
    record = await house.endpoint()
    former = house.plane.endpoint_key(record)
    await house.plane.keys.expire(f"e{record.id}", 3600.0)
    present = house.plane.endpoint_key(await house.store.get_endpoint(record.id))
    assert present != former
    assert [await status_of(house, key) for key in (former, present)] == [200, 200]
    house.clock.seconds += 3600.0
    assert [await status_of(house, key) for key in (former, present)] == [401, 200]


async def test_a_key_that_is_replaced_goes_on_until_it_is_ended(house):
    await house.endpoint()
    former, old = await house.plane.keys.create("ci")
    made, new = await house.plane.keys.create(replaces="ci")
    assert made.name == "ci"
    assert [await status_of(house, key) for key in (old, new)] == [200, 200]
    await house.plane.keys.expire(former.id, 60.0)
    house.clock.seconds += 60.0
    assert [await status_of(house, key) for key in (old, new)] == [401, 200]


async def test_the_last_key_of_the_account_is_not_ended_unless_that_is_meant(house):
    await house.endpoint()
    keys = house.plane.keys
    (only,) = [one for one in await keys.list() if one.kind == "account"]
    await keys.create("guest", expires_in=60.0)  # no way in for long
    for attempt in (keys.revoke(only.id), keys.expire(only.id, 60.0)):
        with pytest.raises(LastKeyError, match="stoker key create --state"):
            await attempt
    assert await status_of(house, API_KEY) == 200
    await keys.revoke(only.id, force=True)
    assert await status_of(house, API_KEY) == 401


async def test_of_the_last_two_keys_one_stays_when_both_are_revoked_at_once(house):
    keys = house.plane.keys
    await keys.create("other")
    both = [one.id for one in await keys.list() if one.kind == "account"]
    outcomes = await asyncio.gather(*map(keys.revoke, both), return_exceptions=True)
    assert [type(one) for one in outcomes].count(LastKeyError) == 1
    assert len([one for one in await keys.list() if one.kind == "account"]) == 1


async def test_the_last_use_of_a_key_is_listed_and_kept_over_a_restart(house):
    record = await house.endpoint()
    _, key = await house.plane.keys.create("ci")
    house.clock.seconds += 5.0
    await status_of(house, key)
    await status_of(house, house.plane.endpoint_key(record))
    at = house.clock.wall()

    async def used():
        return {one.name: one.used_at for one in await house.plane.keys.list()}

    assert (await used())["ci"] == pytest.approx(at)
    await house.plane.keys.note_use()
    await house.reopen()
    assert (await used())["ci"] == pytest.approx(at)
    assert (await used())["llm (own key)"] == pytest.approx(at)


async def test_no_listing_holds_a_key(house):
    record = await house.endpoint()
    _, key = await house.plane.keys.create("ci")
    shown = str(await house.plane.keys.list())
    assert key not in shown
    assert house.plane.endpoint_key(record) not in shown


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e12])
async def test_an_end_that_cannot_be_is_refused(house, seconds):
    with pytest.raises(InvalidMessageError, match="expires_in"):
        await house.plane.keys.create("x", expires_in=seconds)


async def test_a_key_that_is_not_there_is_named(house):
    with pytest.raises(NotFoundError, match="'nobody'"):
        await house.plane.keys.revoke("nobody")


def test_a_marker_is_another_each_time_and_is_answered(tmp_path):
    marker = KeysMarker(tmp_path)
    assert marker.asked() == marker.taken() == b""
    tokens = {marker.ask() for _ in range(3)}
    assert len(tokens) == 3
    marker.take(marker.asked())
    assert marker.taken() in tokens


@pytest.mark.parametrize("name", ["7", "e1", "current", ".", ".."])
async def test_no_key_has_a_name_that_means_another_key(house, name):
    await house.endpoint()
    with pytest.raises(InvalidMessageError, match="name other keys"):
        await house.plane.keys.create(name)
