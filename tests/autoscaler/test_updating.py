"""A rolling update, as the control plane carries it out; plans are made by hand."""

import pytest

from stoker.autoscaler.acting import REPEAT_AFTER
from stoker.autoscaler.calls import MAX_REFUSED
from stoker.autoscaler.planning import Action, ActionKind, Plan, plan
from stoker.autoscaler.reconciler import REBOOT_LIMIT
from stoker.autoscaler.states import WorkerState
from stoker.wire import EndpointParameters

ONE = EndpointParameters(min_load=1.0, cold_workers=1, max_workers=1)


@pytest.fixture
async def worker(house):
    await house.endpoint()
    one = await house.ready_worker()
    await finish_all(house, one)
    await house.settle(rounds=2)
    return one


async def finish_all(house, worker):
    """The requests that it was sent are over."""
    done = [{"request_idx": index} for index in house.routed]
    body = {"worker_id": worker.id, "mtoken": worker.token, "requests": done}
    await house.post("/delete_requests/", body, key=None)


async def change(house, worker, *, update=True, **options):
    """New settings, and an update to them."""
    group = worker.record.workergroup_id
    await house.store.update_workergroup(group, options=options or {"parallel": 2})
    await house.plane.changed()
    if update:
        return await house.post("/update_workers/", {"workergroup_id": group})
    return None


async def do(house, worker, *kinds):
    """A round for each kind of action, as if the planner had decided so."""
    for kind in kinds:
        actions = (Action(kind, f"{kind} worker {worker.id}: by hand", worker_id=worker.id),)
        house.planner = lambda _snapshot, _now, actions=actions: Plan(actions)
        await house.settle(rounds=1)
    house.planner = lambda _snapshot, _now: Plan()


UPDATE = (ActionKind.UPDATE, ActionKind.DRAIN, ActionKind.REBOOT)


def asked(house, verb="update"):
    return [entry for entry in house.shelf.asked if entry[0] == verb]


async def test_an_update_ends_with_the_new_settings_and_says_so(house, worker):
    await change(house, worker)
    await do(house, worker, *UPDATE)
    assert worker.state is WorkerState.UPDATE_REBOOTING
    assert (asked(house), worker.revision) == ([("update", worker.instance_id, 1)], 1)
    await house.report(worker, boot_id="after", loadtime=0.0, max_perf=0.0)
    assert worker.state is WorkerState.UPDATE_STARTING
    await house.report(worker, boot_id="after")
    await house.settle(rounds=1)
    assert worker.available
    assert not house.plane.fleet.groups[worker.record.workergroup_id].updating
    log = await house.log(worker.endpoint_id)
    assert "the update is finished; 1 workers run revision 1" in log["info0"]


async def test_a_worker_that_waits_for_its_turn_takes_requests(house, worker):
    await change(house, worker)
    await do(house, worker, ActionKind.UPDATE)
    assert worker.state is WorkerState.UPDATE_READY
    assert (await house.route())["url"] == worker.url


async def test_a_worker_that_has_requests_is_not_started_anew(house, worker):
    await change(house, worker)
    await do(house, worker, ActionKind.UPDATE)
    await house.route()
    await do(house, worker, ActionKind.REBOOT, ActionKind.REBOOT)
    assert (worker.state, asked(house)) == (WorkerState.DRAINING, [])
    await finish_all(house, worker)
    await do(house, worker, ActionKind.REBOOT)
    assert worker.state is WorkerState.UPDATE_REBOOTING


async def test_what_the_former_boot_says_after_its_end_was_ordered_is_not_believed(house, worker):
    await change(house, worker)
    await do(house, worker, *UPDATE)
    for figures in ({}, {"draining": True}, {"boot_id": "", "draining": True}):
        await house.report(worker, **figures)
        assert (worker.state, worker.available) == (WorkerState.UPDATE_REBOOTING, False)
    house.clock.seconds += 100.0
    await house.settle(rounds=1)
    assert worker.state is WorkerState.UPDATE_REBOOTING  # its silence is no fault
    await house.report(worker, boot_id="", error_msg="CUDA error", draining=True)
    assert worker.state is WorkerState.ERROR


async def test_a_worker_that_names_no_boots_is_updated_too(house, worker):
    worker.boot_id = ""
    await change(house, worker)
    await do(house, worker, *UPDATE)
    await house.report(worker, boot_id="")
    assert worker.state is WorkerState.UPDATE_REBOOTING
    await house.report(worker, boot_id="", loadtime=0.0, max_perf=0.0)
    await house.report(worker, boot_id="")
    assert worker.state is WorkerState.READY


async def test_a_cancelled_update_leaves_those_that_wait_as_they_are(house, worker):
    await change(house, worker)
    await do(house, worker, ActionKind.UPDATE)
    status, body = await house.post(
        "/update_workers/",
        {"workergroup_id": worker.record.workergroup_id, "cancel_update": True},
    )
    assert (status, body["msg"].endswith("1 of 1 workers keep theirs")) == (200, True)
    assert (body["cancelled"], body["workers_to_update"]) == (True, 0)
    await do(house, worker, ActionKind.START)
    assert (worker.state, worker.revision, asked(house)) == (WorkerState.READY, 0, [])
    assert asked(house, "start") == []


async def test_asking_twice_or_for_nothing_says_so_and_changes_nothing(house, worker):
    group = worker.record.workergroup_id
    for cancel, said in [(False, "all 1 workers run"), (True, "no update is under way")]:
        _, body = await house.post("/update_workers/", {"id": group, "cancel_update": cancel})
        assert said in body["msg"]
        assert (body["cancelled"], body["workers_to_update"]) == (cancel, 0)
    await change(house, worker)
    _, body = await house.post("/update_workers/", {"workergroup_id": group})
    assert "an update is under way; 1 of 1 workers are to come" in body["msg"]
    assert (body["cancelled"], body["workers_to_update"]) == (False, 1)


@pytest.mark.parametrize(
    ("body", "status"), [({"workergroup_id": 99}, 404), ({}, 400), ({"workergroup_id": "x"}, 400)]
)
async def test_an_update_of_what_is_not_there_is_refused(house, body, status):
    assert (await house.post("/update_workers/", body))[0] == status


async def test_a_stopped_worker_starts_with_the_new_settings(house, worker):
    await do(house, worker, ActionKind.DRAIN, ActionKind.STOP)
    await house.settle()
    assert worker.state is WorkerState.STOPPED
    await change(house, worker)
    await do(house, worker, ActionKind.START)
    assert (asked(house, "start"), asked(house)[0][2]) == ([], 1)
    assert (worker.state, worker.revision) == (WorkerState.STARTING, 1)


async def test_a_start_with_new_settings_whose_answer_is_lost_is_asked_again(house, worker):
    await do(house, worker, ActionKind.DRAIN, ActionKind.STOP)
    await house.settle()
    await change(house, worker)
    real = house.shelf.update

    async def lose(instance_id, spec):
        await real(instance_id, spec)
        raise TimeoutError

    house.shelf.update = lose
    await do(house, worker, ActionKind.START)
    assert (worker.state, worker.revision) == (WorkerState.STARTING, 0)
    house.shelf.update = real
    house.clock.seconds += REPEAT_AFTER
    await house.settle(rounds=1)
    assert (worker.state, worker.revision) == (WorkerState.STARTING, 1)


async def test_an_update_that_was_written_but_not_asked_for_is_asked_for_after_a_restart(
    house, worker
):
    await change(house, worker)
    await do(house, worker, *UPDATE)
    house.plane.writer.kick()
    await house.plane.writer.idle()
    # As if the process had ended between the row and the call.
    await house.store.update_worker(worker.id, state="update_rebooting", revision=0)
    house.shelf.asked.clear()
    await house.reopen()
    house.clock.seconds += REPEAT_AFTER
    await house.settle()
    assert asked(house) == [("update", worker.instance_id, 1)]
    again = house.plane.fleet.workers[worker.id]
    await house.report(again)  # its former boot
    assert again.state is WorkerState.UPDATE_REBOOTING
    await house.report(again, boot_id="after")
    assert (again.state, again.revision) == (WorkerState.READY, 1)


async def test_a_provider_that_refuses_an_update_for_good_makes_the_worker_fail(house, worker):
    await change(house, worker)
    house.shelf.fail = "cannot be updated"
    await do(house, worker, *UPDATE)
    for _ in range(MAX_REFUSED):
        house.clock.seconds += REPEAT_AFTER
        await house.settle(rounds=1)
    assert (worker.state, worker.error) == (WorkerState.ERROR, "cannot be updated")


async def test_new_workers_get_the_new_settings_at_once(house):
    await house.endpoint()
    specs = []

    async def keep(spec):
        specs.append(spec)

    house.shelf.before_create = keep
    (group,) = house.plane.fleet.groups
    env = {"env": {"A": "1"}}
    await house.store.update_workergroup(group, options={"parallel": 3}, instance=env)
    await house.plane.changed()
    house.planner = plan
    worker = await house.ready_worker()
    assert (specs[0].options, specs[0].instance) == ({"parallel": 3}, env)
    assert (specs[0].revision, worker.revision) == (1, 1)


async def test_an_instance_of_a_creation_asked_again_after_a_change_runs_the_new_settings(house):
    """The provider made it by the first order, whose answer was lost, and with those settings."""
    record = await house.endpoint(parameters=ONE)
    listed, made = house.shelf.list, house.shelf.create

    async def nothing():
        return []

    async def lose(offer_id, spec):
        await made(offer_id, spec)
        raise RuntimeError("the line broke")

    house.shelf.list, house.shelf.create = nothing, lose
    await house.settle(rounds=1)
    (group,) = house.plane.fleet.groups_of(record.id)
    await house.store.update_workergroup(group.id, options={"parallel": 2})
    await house.plane.changed()
    house.shelf.create = made
    house.clock.seconds += REPEAT_AFTER
    await house.settle(rounds=1)
    house.shelf.list = listed
    await house.settle()
    (worker,) = house.plane.fleet.workers.values()
    assert [verb for verb, *_ in house.shelf.asked] == ["create", "create", "update"]
    assert (worker.revision, asked(house)) == (1, [("update", worker.instance_id, 1)])


async def test_a_worker_that_its_provider_does_not_start_anew_is_replaced(house, worker):
    """It said "done"; or did it before, by an order whose answer we did not live to see."""
    await change(house, worker)
    await do(house, worker, *UPDATE)
    for _ in range(5):
        house.clock.seconds += REBOOT_LIMIT / 4
        await house.report(worker)
        await house.settle(rounds=2)
    assert ("destroy", worker.instance_id) in house.shelf.asked
    log = await house.log(worker.endpoint_id)
    assert "was not started anew" in log["info0"]


async def test_a_worker_that_is_long_in_coming_after_its_update_is_waited_for(house, worker):
    await change(house, worker)
    await do(house, worker, *UPDATE)
    await house.report(worker, draining=True)
    for _ in range(8):
        house.clock.seconds += REBOOT_LIMIT / 4
        await house.settle(rounds=2)
    assert worker.state is WorkerState.UPDATE_REBOOTING
