import pytest
from msgspec.structs import replace as altered

from stoker.autoscaler.experience import Experience
from stoker.autoscaler.learnt import MAX_REFUSALS, REMEMBERED
from stoker.autoscaler.states import WorkerState
from stoker.store import WorkergroupRecord

OFFER = ("local", "shelf")


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


async def test_whether_a_worker_with_former_settings_comes_up_says_nothing_of_the_present_ones(
    worker,
):
    group = worker.record.workergroup_id
    learnt = Experience(lambda group: 1)
    worker.revision, worker.state = 0, WorkerState.ERROR
    learnt.note(worker, WorkerState.LOADING, 1.0)
    assert learnt.of(group).failures == 0
    worker.revision = 1
    learnt.note(worker, WorkerState.LOADING, 2.0)
    assert learnt.of(group).failures == 1
    worker.revision, worker.state = 0, WorkerState.READY
    learnt.note(worker, WorkerState.MODEL_LOADING, 3.0)
    assert learnt.of(group).failures == 1


async def test_an_error_of_a_worker_that_had_been_ready_is_no_failure_to_come_up(worker):
    learnt = Experience()
    worker.state = WorkerState.ERROR
    learnt.note(worker, WorkerState.READY, 1.0)
    assert learnt.of(worker.record.workergroup_id).failures == 0


async def test_an_attached_worker_teaches_no_group(worker):
    learnt = Experience()
    worker.record = altered(worker.record, workergroup_id=None)
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    assert learnt._groups == {}


def failed(learnt, worker, before, now):
    worker.state = WorkerState.ERROR
    learnt.note(worker, before, now)


async def test_another_revision_makes_a_group_forget_and_another_change_clears_its_failures(worker):
    learnt = Experience()
    group = worker.record.workergroup_id
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    failed(learnt, worker, WorkerState.LOADING, 2.0)
    before = group_record(group)
    learnt.changed(before, altered(before, max_workers=9))
    known = learnt.of(group)
    assert (known.perf, known.failures, known.offers) == (100.0, 0, {})
    learnt.changed(before, altered(before, revision=1))
    assert learnt.of(group).perf == 0.0


def group_record(group_id):
    return WorkergroupRecord(
        id=group_id, endpoint_id=1, template_hash="a", backend="a", created_at=0.0
    )


async def test_perf_is_learnt_by_class_of_machine(worker):
    learnt = Experience()
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    worker.record, worker.perf = altered(worker.record, hardware="other"), 300.0
    learnt.note(worker, WorkerState.MODEL_LOADING, 2.0)
    known = learnt.of(worker.record.workergroup_id)
    assert known.perfs == {"test": 100.0, "other": 300.0}
    assert known.perf == pytest.approx(160.0)


async def test_old_times_to_come_up_are_forgotten(worker):
    learnt = Experience()
    for number in range(REMEMBERED + 1):
        worker.coming_since, worker.was_ready = 0.0, False
        learnt.note(worker, WorkerState.MODEL_LOADING, 100.0 if number == 0 else 10.0)
    known = learnt.of(worker.record.workergroup_id)
    assert (len(known.created_in), max(known.created_in)) == (REMEMBERED, 10.0)


async def test_an_offer_is_blamed_for_its_failures_in_a_row(worker):
    learnt = Experience()
    known = learnt.of(worker.record.workergroup_id)
    failed(learnt, worker, WorkerState.LOADING, 1.0)
    failed(learnt, worker, WorkerState.LOADING, 5.0)
    assert (known.offers[OFFER].failures, known.offers[OFFER].last_at) == (2, 5.0)
    worker.state = WorkerState.READY
    learnt.note(worker, WorkerState.MODEL_LOADING, 6.0)
    assert known.offers == {}


async def test_refused_orders_delay_the_next_but_never_use_up_the_budget(worker):
    learnt = Experience()
    worker.instance_id = None
    for number in range(50):
        failed(learnt, worker, WorkerState.CREATING, float(number))
    known = learnt.of(worker.record.workergroup_id)
    assert (known.failures, known.last_failure_at) == (MAX_REFUSALS, 49.0)


async def test_a_worker_destroyed_after_loading_for_too_long_has_failed(worker):
    learnt = Experience()
    known = learnt.of(worker.record.workergroup_id)
    worker.state, worker.coming_since = WorkerState.DESTROYING, 0.0
    learnt.note(worker, WorkerState.MODEL_LOADING, 60.0)
    assert known.failures == 0
    learnt.note(worker, WorkerState.MODEL_LOADING, 3_600.0)
    assert known.failures == 1


async def test_an_instance_that_is_gone_before_it_was_ready_is_a_failure_unless_it_was_announced(
    worker,
):
    learnt = Experience()
    worker.state = WorkerState.LOADING
    worker.leaves_at = 5.0
    learnt.vanished(worker, 6.0)
    assert learnt.of(worker.record.workergroup_id).failures == 0
    worker.leaves_at = None
    learnt.vanished(worker, 6.0)
    assert learnt.of(worker.record.workergroup_id).failures == 1


async def test_what_was_learnt_comes_back_with_its_moments_on_the_new_clock(worker):
    learnt, group = Experience(), group_record(worker.record.workergroup_id)
    worker.coming_since, worker.was_ready = 10.0, False
    learnt.note(worker, WorkerState.MODEL_LOADING, 14.0)
    failed(learnt, worker, WorkerState.LOADING, 20.0)
    text = learnt.written(group, lambda moment: moment + 1e9)
    again = Experience()
    again.read(group, text, lambda unix: unix - 1e9 + 500.0)
    known = again.of(group.id)
    assert (known.perf, known.perfs, known.create_seconds) == (100.0, {"test": 100.0}, 4.0)
    assert (known.failures, known.last_failure_at) == (1, 520.0)
    assert known.offers[OFFER].last_at == 520.0


async def test_what_was_learnt_of_other_settings_or_is_damaged_is_left_out(worker):
    learnt, group = Experience(), group_record(worker.record.workergroup_id)
    learnt.note(worker, WorkerState.MODEL_LOADING, 1.0)
    text = learnt.written(group, float)
    for record, kept in ((altered(group, revision=1), text), (group, "{"), (group, "[]")):
        again = Experience()
        again.read(record, kept, float)
        assert again.of(group.id).perf == 0.0


@pytest.mark.parametrize("after", [WorkerState.ERROR, WorkerState.STOPPED])
async def test_a_worker_whose_last_word_is_that_it_drains_has_failed_to_come_up(worker, after):
    """It depends on the moment whether a worker that cannot start gets to say so."""
    learnt = Experience()
    group = worker.record.workergroup_id
    worker.state, worker.coming_since = after, 1.0
    learnt.note(worker, WorkerState.STOPPING, 2.0)
    assert learnt.of(group).failures == 1
    worker.state = WorkerState.STOPPING
    learnt.vanished(worker, 3.0)
    assert learnt.of(group).failures == 2


@pytest.mark.parametrize(("goal", "coming"), [("stop", 1.0), ("run", None)])
async def test_a_worker_that_was_told_to_stop_or_was_ready_has_not_failed(worker, goal, coming):
    learnt = Experience()
    worker.goal, worker.coming_since, worker.state = goal, coming, WorkerState.STOPPED
    learnt.note(worker, WorkerState.STOPPING, 2.0)
    worker.state = WorkerState.STOPPING
    learnt.vanished(worker, 3.0)
    assert learnt.of(worker.record.workergroup_id).failures == 0
