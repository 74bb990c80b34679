"""A control plane that ends between two lines, or a word that arrives late, loses no worker."""

import pytest
from msgspec.structs import replace

from stoker.autoscaler.acting import DRAINS_WAIT
from stoker.autoscaler.explain import explain
from stoker.autoscaler.numbering import MARK, Numbers
from stoker.autoscaler.pace import REPORT_DEADLINE
from stoker.autoscaler.planning import Action, ActionKind, Plan
from stoker.autoscaler.states import ACTIVE, Event, WorkerState
from stoker.wire import EndpointParameters

KEPT = EndpointParameters(
    min_load=0.0, cold_workers=1, max_workers=1, inactivity_timeout=5.0, cold_mult=1.0
)
THREE = EndpointParameters(
    min_load=250.0, cold_workers=0, max_workers=3, inactivity_timeout=-1.0, cold_mult=1.0
)
ONE = EndpointParameters(min_load=1.0, cold_workers=1, max_workers=2)


async def stopped_worker(house):
    """Scale to zero, and keep the worker with its model on disk."""
    await house.endpoint(parameters=KEPT)
    worker = await house.ready_worker()
    await house.settle()
    await house.report(worker)
    for _ in range(30):
        house.clock.seconds += 10.0
        if worker.state is WorkerState.READY:
            await house.report(worker)
        await house.settle()
        if worker.state is WorkerState.STOPPED:
            return worker
    raise AssertionError(f"it did not stop: {worker.state}")


async def test_a_worker_that_starts_again_is_not_blamed_for_its_silence_while_it_was_stopped(house):
    worker = await stopped_worker(house)
    house.clock.seconds += 100.0
    await house.route()
    await house.settle(rounds=1)
    house.clock.seconds += 1.0
    await house.settle(rounds=3)
    assert worker.state in (WorkerState.STARTING, WorkerState.LOADING)


async def test_a_start_that_was_written_but_not_asked_for_is_asked_for_after_a_restart(house):
    worker = await stopped_worker(house)
    # As if the process had ended between the row and the call.
    await house.store.update_worker(worker.id, state="starting", desired="run")
    house.shelf.asked.clear()
    await house.reopen()
    await house.route()
    for _ in range(4):
        house.clock.seconds += 10.0
        await house.settle()
    assert ("start", worker.instance_id) in house.shelf.asked


async def test_a_worker_that_stopped_for_a_fault_of_its_own_is_believed_after_a_restart(house):
    await house.endpoint(parameters=KEPT)
    worker = await house.ready_worker()
    await house.settle()
    await house.report(worker, boot_id="", loadtime=0.0, max_perf=0.0, draining=True)
    assert worker.state is WorkerState.STOPPING
    await house.settle()
    await house.reopen()
    await house.settle()
    again = house.plane.fleet.workers[worker.id]
    await house.report(again)
    assert again.available


async def test_reports_that_wait_while_the_control_plane_is_paused_are_read_first(house):
    await house.endpoint()
    worker = await house.ready_worker()
    house.plane.reconciler.hearing.beat(house.clock.seconds)
    house.clock.seconds += 20.0
    await house.settle()
    assert worker.available
    house.plane.reconciler.hearing.beat(house.clock.seconds)
    await house.settle()
    assert worker.available


async def test_a_clock_that_was_set_back_over_a_restart_makes_no_number_come_twice(house):
    await house.endpoint()
    worker = await house.ready_worker()
    first = await house.route()
    house.clock.jumped -= 86_400.0
    await house.reopen()
    again = house.plane.fleet.workers[worker.id]
    await house.report(again)
    second = await house.route()
    assert second["reqnum"] > first["reqnum"]
    assert second["request_idx"] > first["request_idx"]


async def test_a_clock_that_is_set_while_we_run_moves_no_tickets_expiry(house):
    await house.endpoint()
    await house.ready_worker()
    before = (await house.route())["ticket"].split(".")[1]
    house.clock.jumped -= 3_600.0
    assert (await house.route())["ticket"].split(".")[1] == before


@pytest.mark.parametrize("kind", ["stop", "destroy", "update", "plan"])
async def test_what_a_worker_still_has_is_not_cut_by_a_restart_while_it_drains(house, kind):
    await house.endpoint(parameters=KEPT)
    worker = await house.ready_worker()
    await house.settle(rounds=2)
    house.planner = lambda _snapshot, _now: Plan()
    busy = {"num_requests_working": 1, "working_request_idxs": house.routed, "cur_load": 10.0}
    await house.report(worker, **busy)
    if kind == "update":
        group = worker.record.workergroup_id
        await house.store.update_workergroup(group, options={"parallel": 2}, updating=True)
        house.plane.changed_state(worker, Event.PLAN_DRAIN, house.plane.now())
    elif kind == "plan":
        house.plane.changed_state(worker, Event.PLAN_DRAIN, house.plane.now())
    else:
        house.plane.reconciler.release(worker, kind, house.plane.now(), "by hand")
    await house.settle(rounds=1)
    assert worker.state is WorkerState.DRAINING
    await house.reopen()
    house.shelf.asked.clear()
    again = house.plane.fleet.workers[worker.id]
    if kind in ("update", "plan"):
        what = ActionKind.REBOOT if kind == "update" else ActionKind.STOP
        action = Action(what, "by hand", worker_id=worker.id)
        house.planner = lambda _snapshot, _now: Plan((action,))
    await house.settle(rounds=3)
    await house.report(again, **busy)
    await house.settle(rounds=3)
    assert (again.state, house.shelf.asked) == (WorkerState.DRAINING, [])
    await house.report(again)
    await house.settle(rounds=3)
    verb = "stop" if kind == "plan" else kind
    assert (verb, again.instance_id) in [entry[:2] for entry in house.shelf.asked]


async def test_a_worker_that_drained_and_is_not_heard_of_after_a_restart_is_not_waited_for(house):
    await house.endpoint()
    worker = await house.ready_worker()
    await house.settle(rounds=2)
    house.plane.reconciler.release(worker, "destroy", house.plane.now(), "by hand")
    await house.settle(rounds=1)
    await house.reopen()
    house.clock.seconds += REPORT_DEADLINE + 1.0
    await house.settle(rounds=2)
    assert ("destroy", worker.instance_id) in house.shelf.asked


async def test_a_worker_that_died_while_we_were_away_is_made_up_for(house):
    """Its provider says that it runs; it is no capacity to come for as long as a model may load."""
    await house.endpoint(parameters=ONE)
    await house.settle(rounds=2)
    (worker,) = house.plane.fleet.workers.values()
    await house.report(worker)
    await house.settle(rounds=2)
    await house.reopen()
    for _ in range(8):
        await house.settle(rounds=1)
        house.clock.seconds += 10.0
    assert ("destroy", worker.instance_id) in house.shelf.asked
    assert [verb for verb, _ in house.shelf.asked].count("create") == 2


async def test_a_worker_that_drained_on_its_own_while_we_were_away_is_not_cut(house):
    await house.endpoint(parameters=ONE)
    await house.settle(rounds=2)
    (worker,) = house.plane.fleet.workers.values()
    await house.report(worker)
    await house.settle(rounds=2)
    await house.reopen()
    again = house.plane.fleet.workers[worker.id]
    for _ in range(8):
        await house.report(again, draining=True, num_requests_working=1)
        await house.settle(rounds=1)
        house.clock.seconds += 10.0
    assert again.state is WorkerState.STOPPING
    assert ("destroy", worker.instance_id) not in house.shelf.asked


async def test_a_worker_whose_machine_starts_anew_with_us_has_the_time_to_load(house):
    """After a power cut nobody reports until the model is there, and the provider says so."""
    await house.endpoint(parameters=ONE)
    await house.settle(rounds=2)
    (worker,) = house.plane.fleet.workers.values()
    await house.report(worker)
    await house.settle(rounds=2)
    (real,) = house.shelf.instances.values()
    house.shelf.instances[real.id] = replace(real, status="creating")
    await house.reopen()
    for status in ("creating", "running"):
        house.shelf.instances[real.id] = replace(real, status=status)
        for _ in range(8):
            await house.settle(rounds=2)
            house.clock.seconds += 10.0
    assert house.plane.fleet.workers[worker.id].state is WorkerState.LOADING
    assert ("destroy", real.id) not in house.shelf.asked


@pytest.mark.parametrize(("state", "drained"), [("active", []), ("stopped", [1, 2, 3])])
async def test_workers_that_a_load_needs_are_kept_over_a_restart(house, state, drained):
    """How much comes is known a minute later; until then it looks as if next to nothing did."""
    record = await house.endpoint(parameters=THREE)
    await house.settle()
    for worker in list(house.plane.fleet.workers.values()):
        await house.report(worker)
    await house.settle(rounds=2)
    parameters = replace(THREE, min_load=1.0, endpoint_state=state)
    await house.store.update_endpoint(record.id, parameters=parameters)
    await house.reopen()
    workers = list(house.plane.fleet.workers.values())
    for _ in range(int(DRAINS_WAIT / 5)):
        for worker in workers:
            await house.report(worker)
        await house.settle(rounds=1)
        house.clock.seconds += 5.0
    assert [one.id for one in workers if one.state not in ACTIVE] == drained
    for _ in range(4):
        for worker in workers:
            await house.report(worker)
        await house.settle(rounds=1)
        house.clock.seconds += 5.0
    assert len([one for one in workers if one.state in ACTIVE]) == (0 if drained else 1)


async def test_drains_that_are_withheld_after_a_restart_are_told_as_such(house):
    record = await house.endpoint(parameters=THREE)
    await house.settle()
    for worker in list(house.plane.fleet.workers.values()):
        await house.report(worker)
    await house.settle(rounds=2)
    await house.store.update_endpoint(record.id, parameters=replace(THREE, min_load=1.0))
    await house.reopen()
    started = house.plane.wall()
    workers = list(house.plane.fleet.workers.values())
    found = []
    for seconds in (DRAINS_WAIT - 0.5, 1.0):
        house.clock.seconds += seconds
        for worker in workers:
            await house.report(worker)
        await house.settle(rounds=1)
        found.append(explain(house.plane, record.id, house.plane.reconciler.plans[record.id]))
    early, due = found
    assert early["actions"] == []
    assert [reason.split(":")[0] for reason in early["withheld"]] == [
        "drain worker 3",
        "drain worker 2",
    ]
    assert early["withheld_until"] == pytest.approx(started + DRAINS_WAIT, abs=0.1)
    (note,) = (line for line in early["lines"] if line.startswith("note"))
    assert note.startswith("note: no worker is drained in the first 60 s after a start")
    assert [line.partition(" UTC: ")[2] for line in early["lines"][-2:]] == early["withheld"]
    assert early["lines"][-1].startswith("withheld until ")
    assert (due["withheld"], due["withheld_until"]) == ([], None)
    assert len(due["actions"]) == 2


async def test_the_mark_in_the_store_stays_above_all_numbers_that_are_given_out(house):
    numbers = Numbers(wall=4e9, now=0.0)  # above those of the house itself
    for now in range(0, 400, 10):
        await numbers.keep(house.store, float(now))
        assert await house.store.read_mark(MARK) >= numbers.at(now + 50.0)
