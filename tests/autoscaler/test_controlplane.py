import asyncio

from stoker.autoscaler.ledger import MAX_LATE
from stoker.autoscaler.planning import Action, ActionKind, Plan
from stoker.autoscaler.reconciler import GONE_AFTER
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters


def states(house):
    return sorted(worker.state.value for worker in house.plane.fleet.workers.values())


async def test_an_idle_endpoint_that_may_have_no_worker_has_none(house):
    await house.endpoint()
    await house.settle()
    assert house.shelf.asked == []


async def test_a_held_request_creates_one_worker_however_often_we_look(house):
    await house.endpoint()
    await house.route()
    await house.settle(rounds=8)
    assert [verb for verb, _ in house.shelf.asked] == ["create"]


async def test_the_row_of_a_worker_is_written_before_its_instance_is_asked_for(house):
    await house.endpoint()
    known = []

    async def look(spec):
        known.append([row.id for row in await house.store.list_workers()] == [spec.worker_id])

    house.shelf.before_create = look
    await house.route()
    await house.settle()
    assert known == [True]


async def test_a_store_that_cannot_be_written_is_told_once_and_made_up_for_later(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    await house.read_only()
    await house.settle(rounds=6)
    await house.read_only(on=False)
    await house.settle()
    told = [line for line in (await house.log(record.id))["info0"].splitlines() if "store" in line]
    assert len(told) == 1
    assert "cannot be used" in told[0]
    (row,) = await house.store.list_workers()
    assert (row.id, row.state) == (worker.id, WorkerState.READY.value)


async def test_a_long_poll_ends_while_the_store_cannot_be_written(house):
    await house.endpoint("other", backend=None)
    await house.endpoint()
    worker = await house.ready_worker()
    await house.read_only()
    house.plane.fleet.dirty.add(worker.id)
    waiting = asyncio.create_task(house.route("other", wait=2.0))
    await house.on_the_line()
    house.clock.seconds += 2.1
    await house.plane.step()
    assert "url" not in await waiting


async def test_workers_are_destroyed_at_the_end_though_the_store_cannot_be_written(house):
    await house.endpoint()
    await house.ready_worker()
    await house.settle()
    await house.read_only()
    hurry = asyncio.Event()
    hurry.set()
    async with asyncio.timeout(10):
        await house.plane.stop_instances(hurry)
    assert house.shelf.instances == {}
    await house.read_only(on=False)
    await house.reopen()  # finds the row that stayed, and no instance
    await house.settle()
    house.clock.seconds += GONE_AFTER
    await house.settle()
    assert await house.store.list_workers() == []


async def test_an_attached_worker_is_forgotten_only_when_its_row_is_gone(house):
    await house.endpoint()
    environment = await house.plane.attach("llm")
    number = int(environment["CONTAINER_ID"])
    await house.read_only()
    await house.plane.detach(number)
    await house.settle()
    assert number in house.plane.fleet.workers
    await house.read_only(on=False)
    await house.settle()
    assert house.plane.fleet.workers == {}
    assert await house.store.list_workers() == []


async def test_a_restart_finds_its_workers_again_and_creates_none(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.settle()
    await house.reopen()
    await house.settle()
    assert [verb for verb, _ in house.shelf.asked] == ["create"]
    again = house.plane.fleet.workers[worker.id]
    assert again.token == worker.token
    assert not again.available
    await house.report(again)
    assert again.available


async def test_a_restart_while_the_instance_was_being_created_makes_no_second_one(house):
    await house.endpoint()

    async def never(_spec):
        await asyncio.Event().wait()

    house.shelf.before_create = never
    await house.route()
    await house.plane.step()
    house.shelf.before_create = None
    await house.reopen()
    house.clock.seconds += 60.0
    await house.settle()
    assert house.shelf.instances == {}
    assert await house.store.list_workers() == []


async def test_an_instance_that_no_row_knows_is_destroyed(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.settle()
    house.plane.fleet.workers.clear()
    await house.store.delete_worker(worker.id)
    await house.reopen()
    await house.settle()
    assert house.shelf.instances == {}


async def test_a_provider_that_fails_is_not_asked_again_and_again(house):
    record = await house.endpoint()
    house.shelf.fail = "no machine is free"
    await house.route()
    await house.settle(rounds=10)
    assert len(house.shelf.asked) == 1
    assert "no machine is free" in (await house.log(record.id))["info1"]


async def test_a_provider_that_cannot_be_listed_loses_no_worker(house):
    await house.endpoint()
    worker = await house.ready_worker()
    house.shelf.fail = "list"
    await house.settle()
    assert worker.id in house.plane.fleet.workers
    assert worker.available


async def test_a_worker_that_falls_silent_leaves_the_rotation_and_returns_with_its_report(house):
    await house.endpoint()
    worker = await house.ready_worker()
    house.clock.seconds += 13.5
    await house.plane.step()
    assert not worker.available
    assert "url" not in await house.route()
    await house.report(worker)
    assert worker.available


async def test_a_worker_that_reports_an_error_leaves_the_rotation(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    await house.report(worker, error_msg="the model server is gone")
    assert not worker.available
    assert "the model server is gone" in (await house.log(record.id))["info1"]


async def test_a_new_boot_forgets_what_was_sent_to_the_old_one(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.route(cost=500.0)
    await house.report(worker, boot_id="another")
    assert worker.available
    # What is left is the request that is still held for its client.
    assert house.plane.router.worker(worker.id).load == 10.0


async def test_a_worker_without_boot_ids_that_loads_again_leaves_the_rotation(house):
    await house.endpoint()
    worker = await house.ready_worker()
    worker.boot_id = ""
    await house.report(worker, boot_id="", loadtime=0.0, max_perf=0.0)
    assert not worker.available
    await house.report(worker, boot_id="")
    assert worker.available


async def test_a_ready_worker_that_reports_no_perf_serves_by_a_default_until_it_tells(house):
    endpoint = await house.endpoint()
    await house.route()
    await house.settle()
    worker = next(iter(house.plane.fleet.workers.values()))
    await house.report(worker, max_perf=0.0)
    assert worker.available
    assert "it reports no perf; 100 load/s are reckoned with" in str(await house.log(endpoint.id))
    group = worker.record.workergroup_id
    assert house.plane.experience.of(group).perf == 0.0
    await house.report(worker, max_perf=40.0)
    assert house.plane.experience.of(group).perf == 40.0
    await house.report(worker, max_perf=0.0)
    assert worker.capacity == 40.0


async def test_a_launcher_that_speaks_for_its_worker_takes_it_out_of_the_rotation(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.report(worker, boot_id="", draining=True)
    assert not worker.available
    await house.report(worker, boot_id="the next")
    assert worker.available


async def test_after_the_load_the_fleet_goes_back_to_zero(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.settle()
    house.clock.seconds += 61.0  # the held request is forgotten and the endpoint is quiet
    await house.report(worker)
    await house.settle(rounds=8)
    house.clock.seconds += 6.0
    await house.report(worker)
    await house.settle(rounds=8)
    assert house.shelf.instances == {}
    assert await house.store.list_workers() == []


async def test_deleting_an_endpoint_destroys_its_workers_and_frees_its_name(house):
    record = await house.endpoint()
    await house.ready_worker()
    await house.store.delete_endpoint(record.id)
    await house.plane.changed()
    house.clock.seconds += 61.0
    await house.settle(rounds=8)
    assert house.shelf.instances == {}
    assert record.id not in house.plane.fleet.endpoints
    await house.endpoint()


async def test_a_worker_whose_workergroup_is_deleted_goes(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    group = worker.record.workergroup_id
    await house.store.delete_workergroup(group)
    await house.plane.changed()
    house.clock.seconds += 61.0
    await house.settle(rounds=8)
    assert house.shelf.instances == {}
    assert "no workergroup left" in (await house.log(record.id))["info0"]


async def test_an_attached_worker_serves_and_is_never_stopped(house):
    await house.endpoint(backend=None)
    environment = await house.plane.attach("llm")
    worker = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    assert worker.token == environment["MASTER_TOKEN"]
    await house.report(worker)
    assert (await house.route())["url"] == worker.url
    for _ in range(20):
        house.clock.seconds += 10.0
        await house.report(worker)
        await house.settle(rounds=1)
    assert worker.available


async def test_a_detached_worker_drains_and_is_forgotten(house):
    await house.endpoint(backend=None)
    environment = await house.plane.attach("llm")
    worker = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    await house.report(worker)
    reply = await house.route()
    await house.plane.detach(worker.id)
    await house.settle()
    assert worker.id in house.plane.fleet.workers
    assert "url" not in await house.route()
    message = {
        "worker_id": worker.id,
        "mtoken": worker.token,
        "requests": [{"request_idx": reply["request_idx"]}],
    }
    await house.post("/delete_requests/", message, key=None)
    await house.settle()
    assert worker.id not in house.plane.fleet.workers
    assert (await house.report(worker))[0] == 401


async def test_an_attached_worker_that_was_stopped_by_its_owner_comes_back(house):
    await house.endpoint(backend=None)
    environment = await house.plane.attach("llm")
    worker = house.plane.fleet.workers[int(environment["CONTAINER_ID"])]
    await house.report(worker)
    await house.report(worker, draining=True)
    assert not worker.available
    house.clock.seconds += 3600.0
    await house.settle()
    await house.report(worker, boot_id="the next day")
    assert worker.available


async def test_suspended_endpoints_keep_their_workers(house):
    record = await house.endpoint()
    worker = await house.ready_worker()
    await house.store.update_endpoint(
        record.id,
        parameters=EndpointParameters(
            min_load=0.0,
            cold_workers=0,
            max_workers=2,
            inactivity_timeout=5.0,
            endpoint_state="suspended",
        ),
    )
    await house.plane.changed()
    for _ in range(20):
        house.clock.seconds += 10.0
        await house.report(worker)
        await house.settle(rounds=1)
    assert states(house) == [WorkerState.READY.value]


async def test_stopping_the_server_destroys_every_instance(house):
    await house.endpoint()
    await house.ready_worker()
    hurry = asyncio.Event()
    hurry.set()
    await house.plane.stop_instances(hurry)
    assert house.shelf.instances == {}
    await house.plane.writer.idle()
    assert await house.store.list_workers() == []


async def test_a_late_report_of_a_former_boot_takes_nothing_from_the_present_one(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.report(worker, boot_id="second")
    await house.report(worker, boot_id="second")
    promised = await house.route()
    requests = house.plane.router.worker(worker.id).requests
    await house.report(worker, boot_id="boot", loadtime=0.0, max_perf=0.0, error_msg="the end")
    assert (worker.boot_id, worker.available, worker.error) == ("second", True, "")
    assert house.plane.router.worker(worker.id).requests == requests
    assert (await house.route())["url"] == promised["url"]


async def test_a_boot_that_goes_on_reporting_is_believed_though_it_was_called_former(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.report(worker, boot_id="second")
    for _ in range(MAX_LATE):
        await house.report(worker)
        assert worker.boot_id == "second"
    await house.report(worker)
    assert worker.boot_id == "boot"


async def one_busy_and_one_on_its_way(house):
    """One ready worker of one slot with 20 s of work, and a second one that is due in 2 s."""
    await house.endpoint()
    await house.route()
    await house.settle()
    (first,) = house.plane.fleet.workers.values()
    house.clock.seconds += 20.0  # what a worker takes to come
    await house.report(first, slots=1)
    busy = [await house.route(cost=1000.0) for _ in range(2)]
    named = [answer["request_idx"] for answer in busy]
    working = {"num_requests_working": 2, "working_request_idxs": named, "slots": 1}
    group = first.record.workergroup_id
    order = Action(ActionKind.CREATE, "by hand", group_id=group, offer_id="shelf", provider="local")
    house.planner = lambda _snapshot, _now: Plan((order,))
    await house.settle(rounds=1)
    house.planner = lambda _snapshot, _now: Plan()
    (second,) = (one for one in house.plane.fleet.workers.values() if one is not first)
    house.clock.seconds += 18.0
    await house.report(first, cur_load=2000.0, **working)
    return first, second, working


async def test_what_is_held_for_a_worker_that_boots_is_given_to_it_when_it_is_ready(house):
    first, second, working = await one_busy_and_one_on_its_way(house)
    line = asyncio.create_task(house.route(wait=30.0))
    await house.on_the_line()
    house.clock.seconds += 1.0
    await house.report(first, cur_load=1900.0, **working)
    await house.settle()
    assert not line.done()
    await house.report(second, slots=1)
    assert (await line)["url"] == second.url


async def test_what_is_held_for_a_worker_that_boots_is_released_when_that_fails(house):
    first, second, _ = await one_busy_and_one_on_its_way(house)
    line = asyncio.create_task(house.route(wait=30.0))
    await house.on_the_line()
    await house.report(second, max_perf=0.0, loadtime=0.0, error_msg="no memory")
    assert (await line)["url"] == first.url


async def test_nothing_is_held_for_a_worker_that_is_called_off(house):
    first, second, _ = await one_busy_and_one_on_its_way(house)
    line = asyncio.create_task(house.route(wait=30.0))
    await house.on_the_line()
    house.plane.reconciler.release(second, "destroy", house.plane.now(), "not needed")
    assert (await line)["url"] == first.url


async def test_nothing_is_held_for_a_worker_once_others_are_seen_to_take_longer(house):
    first, _, _ = await one_busy_and_one_on_its_way(house)
    line = asyncio.create_task(house.route(wait=30.0))
    await house.on_the_line()
    learnt = house.plane.experience.of(first.record.workergroup_id)
    learnt.came_in(100.0, again=False)
    await house.settle(rounds=1)
    assert (await line)["url"] == first.url
