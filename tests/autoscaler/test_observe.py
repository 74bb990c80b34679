from stoker.autoscaler.observe import snapshot
from stoker.autoscaler.states import WorkerState
from stoker.providers import Offer


async def seen(house, offers=()):
    endpoint = next(iter(house.plane.fleet.endpoints.values()))
    return snapshot(house.plane, endpoint, {"local": list(offers)}, house.plane.now())


async def test_only_offers_that_are_free_can_be_recruited(house):
    await house.endpoint()
    free = Offer(id="a", provider="local", hardware="x", price_per_hour=0.5, available=2)
    taken = Offer(id="b", provider="local", hardware="x", price_per_hour=0.1, available=0)
    group = (await seen(house, [free, taken])).groups[0]
    assert [(offer.id, offer.price) for offer in group.offers] == [("a", 0.5)]


async def test_a_worker_that_is_to_be_destroyed_is_seen_as_going_already(house):
    await house.endpoint()
    worker = await house.ready_worker()
    worker.goal = "destroy"
    assert (await seen(house)).workers[0].state is WorkerState.DESTROYING


async def test_a_worker_with_requests_is_not_idle(house):
    await house.endpoint()
    await house.ready_worker()
    busy = (await seen(house)).workers[0]
    assert (busy.requests, busy.idle_since) == (1, None)


async def test_without_a_request_since_the_start_the_start_counts_as_the_last_one(house):
    await house.endpoint()
    house.clock.seconds += 100.0
    assert (await seen(house)).demand.last_request_at == house.plane.loaded_at


async def test_what_is_learnt_of_an_offer_and_its_class_of_machine_is_with_it(house):
    await house.endpoint()
    worker = await house.ready_worker()
    group = worker.record.workergroup_id
    house.plane.experience.of(group).did_not_come(("local", "spot"), 7.0)
    spot = Offer(
        id="spot",
        provider="local",
        hardware="test",
        price_per_hour=0.1,
        available=1,
        spot=True,
        stoppable=False,
    )
    (offer,) = (await seen(house, [spot])).groups[0].offers
    assert (offer.hardware, offer.perf, offer.spot, offer.stoppable) == ("test", 100.0, True, False)
    assert (offer.failures, offer.last_failure_at) == (1, 7.0)


async def test_a_worker_is_seen_with_its_machine_its_slots_and_its_revision(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.report(worker, slots=3)
    worker.revision, worker.leaves_at = 2, 1_060.0
    (one,) = (await seen(house)).workers
    assert (one.hardware, one.slots, one.revision, one.leaves_at) == ("test", 3, 2, 1_060.0)
    assert (one.offer_id, one.stoppable) == ("shelf", True)


async def test_a_workergroup_is_seen_with_its_weight_and_its_update(house):
    record = await house.endpoint()
    (group,) = house.plane.fleet.groups_of(record.id)
    await house.store.update_workergroup(group.id, weight=0.25, options={"parallel": 2})
    await house.store.update_workergroup(group.id, updating=True)
    await house.plane.changed()
    (one,) = (await seen(house)).groups
    assert (one.weight, one.revision, one.updating) == (0.25, 1, True)
