import pytest

from stoker.autoscaler.observe import Experience, snapshot
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


@pytest.fixture
async def worker(house):
    await house.endpoint()
    return await house.ready_worker()


async def test_the_time_a_worker_took_to_come_is_learnt(worker):
    learnt = Experience()
    worker.coming_since, worker.was_ready = 10.0, False
    learnt.note(worker, WorkerState.MODEL_LOADING, 14.0)
    known = learnt.of(worker.record.workergroup_id)
    assert (known.create_seconds, known.start_seconds, known.perf) == (4.0, 0.0, 100.0)


async def test_a_start_is_learnt_apart_from_a_creation(worker):
    learnt = Experience()
    worker.coming_since, worker.was_ready = 10.0, True
    learnt.note(worker, WorkerState.MODEL_LOADING, 12.0)
    known = learnt.of(worker.record.workergroup_id)
    assert (known.create_seconds, known.start_seconds) == (0.0, 2.0)


async def test_a_later_observation_moves_a_learnt_figure_by_less_than_a_third(worker):
    learnt = Experience()
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    worker.perf = 200.0
    learnt.note(worker, WorkerState.MODEL_LOADING, 2.0)
    assert learnt.of(worker.record.workergroup_id).perf == pytest.approx(130.0)


async def test_failures_to_come_up_are_counted_until_one_succeeds(worker):
    learnt = Experience()
    group = worker.record.workergroup_id
    worker.state = WorkerState.ERROR
    learnt.note(worker, WorkerState.LOADING, 1.0)
    learnt.note(worker, WorkerState.MODEL_LOADING, 2.0)
    assert learnt.of(group).failures == 2
    worker.state = WorkerState.READY
    learnt.note(worker, WorkerState.MODEL_LOADING, 3.0)
    assert learnt.of(group).failures == 0


async def test_an_error_of_a_worker_that_had_been_ready_is_no_failure_to_come_up(worker):
    learnt = Experience()
    worker.state = WorkerState.ERROR
    learnt.note(worker, WorkerState.READY, 1.0)
    assert learnt.of(worker.record.workergroup_id).failures == 0


async def test_changed_settings_make_a_group_forget(worker):
    learnt = Experience()
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    learnt.forget(worker.record.workergroup_id)
    assert learnt.of(worker.record.workergroup_id).perf == 0.0


async def test_an_attached_worker_teaches_no_group(worker):
    learnt = Experience()
    from msgspec.structs import replace as altered

    worker.record = altered(worker.record, workergroup_id=None)
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    assert learnt._groups == {}
