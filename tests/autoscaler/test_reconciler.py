import asyncio

from stoker.autoscaler.acting import DRAIN_LIMIT, REPEAT_AFTER
from stoker.autoscaler.states import WorkerState


async def test_a_note_is_said_once_however_long_it_holds(house):
    record = await house.endpoint(backend=None)
    await house.route()
    await house.settle(rounds=6)
    assert (await house.log(record.id))["info0"].count("no workergroup") == 1


async def test_a_provider_that_cannot_be_listed_is_complained_of_once(house):
    record = await house.endpoint()
    house.shelf.fail = "list"
    await house.settle(rounds=6)
    assert (await house.log(record.id))["info0"].count("the shelf cannot be read") == 1


async def test_a_worker_with_a_request_is_not_stopped_before_its_drain_has_lasted_too_long(house):
    await house.endpoint()
    worker = await house.ready_worker()
    house.plane.reconciler.release(worker, "destroy", house.plane.now(), "destroy worker 1: test")
    await house.report(worker, num_requests_working=1, cur_load=10.0)
    await house.settle()
    assert worker.state is WorkerState.DRAINING
    house.clock.seconds += DRAIN_LIMIT
    await house.report(worker, num_requests_working=1, cur_load=10.0)
    await house.settle()
    assert house.shelf.instances == {}


async def test_a_provider_that_hangs_holds_up_neither_the_round_nor_a_second_call(house):
    await house.endpoint()

    async def never(_spec):
        await asyncio.Event().wait()

    house.shelf.before_create = never
    await house.route()
    for _ in range(4):
        house.clock.seconds += REPEAT_AFTER
        await asyncio.wait_for(house.plane.step(), 5.0)
    assert [verb for verb, _ in house.shelf.asked] == ["create"]
    await house.plane.reconciler.close()


async def test_the_seconds_of_a_worker_are_counted_by_its_state(house):
    await house.endpoint()
    await house.ready_worker()
    await house.settle(rounds=1)
    house.clock.seconds += 3.0
    await house.settle(rounds=1)
    assert house.plane.reconciler.worker_seconds["llm", "idle"] == 3.0
