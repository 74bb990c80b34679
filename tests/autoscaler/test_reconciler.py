import asyncio
from itertools import pairwise

import pytest
from msgspec.structs import replace

from stoker.autoscaler.acting import DRAIN_LIMIT, REPEAT_AFTER
from stoker.autoscaler.calls import Calls
from stoker.autoscaler.dayclock import HOLDS
from stoker.autoscaler.fleet import MAX_ERROR
from stoker.autoscaler.pace import REPORT_DEADLINE
from stoker.autoscaler.planning import Plan
from stoker.autoscaler.planning.season import DAY, SLOT
from stoker.autoscaler.reconciler import GONE_AFTER
from stoker.autoscaler.rows import FORECASTS_EVERY, KEEP_EVERY
from stoker.autoscaler.states import WorkerState
from stoker.errors import ProviderError
from stoker.providers import Instance
from stoker.wire import EndpointParameters

KEPT = EndpointParameters(
    min_load=1.0, cold_workers=1, max_workers=4, inactivity_timeout=-1.0, cold_mult=1.0
)


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


@pytest.fixture
async def worker(house):
    await house.endpoint(parameters=KEPT)
    one = await house.ready_worker()
    await house.settle(rounds=2)
    return one


def creations(house):
    return [number for verb, number in house.shelf.asked if verb == "create"]


async def test_a_worker_that_its_provider_forgets_for_a_round_stays_as_it_is(house, worker):
    kept = dict(house.shelf.instances)
    for _ in range(3):
        house.shelf.instances.clear()
        await house.settle(rounds=1)
        house.shelf.instances.update(kept)
        house.clock.seconds += 1.0
        await house.report(worker)
        await house.settle(rounds=2)
        assert worker.available
    assert creations(house) == [worker.id]


async def test_a_worker_that_is_gone_for_long_is_forgotten_and_made_up_for(house, worker):
    house.shelf.instances.clear()
    for _ in range(4):
        house.clock.seconds += GONE_AFTER / 2
        await house.settle(rounds=1)
    assert worker.id not in house.plane.fleet.workers
    assert len(creations(house)) == 2


async def test_a_worker_that_reports_is_there_whatever_its_provider_lists(house, worker):
    house.shelf.instances.clear()
    for _ in range(20):
        house.clock.seconds += 2.0
        await house.report(worker)
        await house.settle(rounds=1)
    assert worker.available


async def test_one_list_that_calls_a_worker_stopped_or_failed_costs_nothing(house, worker):
    (real,) = house.shelf.instances.values()
    for lie in ("stopped", "failed", "stopping"):
        house.shelf.instances = {real.id: replace(real, status=lie)}
        await house.settle(rounds=1)
        assert worker.available
        house.shelf.instances = {real.id: real}
        await house.settle(rounds=1)
    assert creations(house) == [worker.id]


async def test_a_creation_whose_answer_is_lost_is_asked_again_for_the_same_worker(house):
    await house.endpoint()
    lost = []

    async def lose(spec):
        if len(lost) < 2:
            lost.append(spec)
            raise TimeoutError

    house.shelf.before_create = lose
    await house.route()
    for _ in range(4):
        await house.route()
        await house.settle(rounds=1)
        house.clock.seconds += REPEAT_AFTER
    assert creations(house) == [1, 1, 1]
    assert list(house.plane.fleet.workers) == [1]
    log = await house.log(1)
    assert "create worker 1: no answer within 120 s: it is asked again" in log["trace"]
    assert "no answer" not in log["info1"]


async def test_an_instance_that_was_made_though_its_answer_was_lost_is_the_workers(house):
    await house.endpoint()

    async def make_and_lose(spec):
        made = Instance(id="x", provider="local", worker_id=spec.worker_id, status="running")
        house.shelf.instances[made.id] = made
        raise TimeoutError

    house.shelf.before_create = make_and_lose
    await house.route()
    await house.settle(rounds=2)
    (worker,) = house.plane.fleet.workers.values()
    assert (worker.instance_id, worker.state) == ("x", WorkerState.LOADING)
    house.clock.seconds += REPEAT_AFTER
    await house.settle(rounds=2)
    assert creations(house) == [1]


async def test_an_answer_of_another_worker_is_not_taken_for_ones_own(house, worker):
    other = next(iter(house.shelf.instances.values()))
    real = house.shelf.create

    async def confuse(offer_id, spec):
        await real(offer_id, spec)
        return other

    house.shelf.create = confuse
    for _ in range(5):  # more than one worker can have waiting
        await house.route(cost=1e6)
    await house.settle(rounds=1)
    second = max(house.plane.fleet.workers.values(), key=lambda one: one.id)
    assert (second is not worker, second.instance_id) == (True, None)
    await house.settle(rounds=1)
    assert second.instance_id == f"i{second.id}"  # from the list
    assert worker.instance_id == other.id


async def test_an_offer_that_is_gone_when_it_is_taken_is_tried_again_later_and_later(house):
    await house.endpoint()
    house.shelf.fail = "no such offer"
    moments = []
    for _ in range(60):
        before = len(creations(house))
        await house.route()
        await house.settle(rounds=2)
        if len(creations(house)) > before:
            moments.append(house.clock.seconds)
        house.clock.seconds += 1.0
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps == sorted(gaps)
    assert len(moments) <= 7
    assert house.plane.fleet.workers == {} or len(house.plane.fleet.workers) == 1


async def test_a_stray_is_reported_to_its_endpoint_counted_and_destroyed(house, worker):
    house.shelf.instances["twice"] = Instance(
        id="twice", provider="local", worker_id=worker.id, status="running"
    )
    await house.settle(rounds=1)
    assert "twice" in house.shelf.instances  # a list may be wrong once
    await house.settle(rounds=2)
    assert list(house.shelf.instances) == [worker.instance_id]
    log = await house.log(worker.endpoint_id)
    assert log["info0"].count("stray instance twice") == 1
    _, body = await house.post("/metrics", None, method="GET", raw=b"")
    assert b'stoker_stray_instances_total{provider="local"} 1.0' in body


async def test_a_stray_of_a_worker_that_was_forgotten_is_told_to_its_endpoint(house, worker):
    endpoint = worker.endpoint_id
    left = house.shelf.instances[worker.instance_id]
    house.plane.reconciler.release(worker, "destroy", house.plane.now(), "destroy worker 1: test")
    await house.settle()
    assert worker.id not in house.plane.fleet.workers
    house.shelf.instances[left.id] = left  # it was not destroyed after all
    await house.settle()
    assert left.id not in house.shelf.instances
    assert f"stray instance {left.id}" in (await house.log(endpoint))["info0"]


async def test_notice_that_a_machine_is_taken_away_reaches_the_planner_and_the_log(house, worker):
    seen = []
    house.planner = lambda snapshot, now: seen.append(snapshot) or Plan()
    (real,) = house.shelf.instances.values()
    leaves = house.clock.wall() + 120.0
    house.shelf.instances = {real.id: replace(real, leaves_at=leaves)}
    await house.settle(rounds=2)
    assert seen[-1].workers[0].leaves_at == house.plane.now() + 120.0
    log = await house.log(worker.endpoint_id)
    assert log["info1"].count("its provider takes it away in 120 s") == 1
    house.clock.seconds += 121.0
    await house.report(worker)
    house.shelf.instances.clear()
    await house.settle(rounds=1)
    assert worker.id not in house.plane.fleet.workers


async def test_a_provider_that_never_lists_holds_up_no_round_for_long(house, worker, monkeypatch):
    monkeypatch.setattr("stoker.autoscaler.reconciler.LIST_PATIENCE", 0.01)

    async def never():
        await asyncio.Event().wait()

    house.shelf.list = never
    for _ in range(3):
        await asyncio.wait_for(house.plane.step(), 5.0)
    assert worker.available
    log = await house.log(worker.endpoint_id)
    assert log["info0"].count("provider local: has not listed") == 1


async def test_a_provider_whose_complaints_differ_each_time_does_not_fill_the_log(house):
    record = await house.endpoint()
    numbers = iter(range(1000))

    async def broken():
        raise ProviderError(f"request {next(numbers)} failed")

    house.shelf.list = broken
    for _ in range(100):
        house.clock.seconds += 1.0
        await house.settle(rounds=1)
    assert (await house.log(record.id))["info0"].count("failed") <= 3


async def test_the_summary_is_in_the_log_at_debug_and_not_each_second(house, worker):
    count = iter(range(1000))
    house.planner = lambda _snapshot, _now: Plan(summary=f"need {next(count)}.0/s")
    for _ in range(60):
        house.clock.seconds += 1.0
        await house.report(worker)
        await house.settle(rounds=1)
    log = await house.log(worker.endpoint_id)
    assert 5 <= log["debug"].count("need ") <= 7
    assert "need " not in log["trace"]


async def test_calls_of_providers_and_their_answers_are_in_the_log_at_trace(house, worker):
    log = await house.log(worker.endpoint_id)
    assert f"provider local: create worker {worker.id}: done (0.00 s)" in log["trace"]
    assert f"provider local: worker {worker.id} is running" in log["trace"]
    assert "provider local" not in log["info1"]


async def test_times_in_each_state_go_on_after_a_restart(house, worker):
    house.clock.seconds += 5.0
    await house.report(worker)
    await house.settle(rounds=1)
    await house.reopen()
    again = house.plane.fleet.workers[worker.id]
    assert again.seconds(house.plane.now())["idle"] == pytest.approx(5.0)
    (info,) = house.plane.workers(worker.endpoint_id)
    assert info.state_seconds["idle"] == pytest.approx(5.0)


async def test_what_was_learnt_is_there_after_a_restart(house, worker):
    group = worker.record.workergroup_id
    await house.reopen()
    assert house.plane.experience.of(group).perfs == {"test": 100.0}


async def test_what_comes_each_day_is_known_after_a_restart(house, worker):
    today = house.plane.day_time() // DAY * DAY
    history = house.plane.forecasters[worker.endpoint_id].history
    for night in (today - 2 * DAY, today - DAY):
        history.add(70.0, 1, night, seconds=SLOT)
        history.add(0.0, 0, night + SLOT, seconds=DAY - SLOT)
    await house.reopen()
    history = house.plane.forecasters[worker.endpoint_id].history
    assert history.profile.recurring(today, today).load == pytest.approx(70.0)


async def test_a_forecaster_is_told_the_clock_on_the_wall_however_it_comes_to_be(house, worker):
    house.plane._utc_offset = lambda unix: 3600.0 if unix > 0 else 0.0
    another = await house.endpoint("another")
    await house.settle(rounds=1)
    text = house.plane.forecasters[another.id].written(house.plane.day_time())
    house.plane._read_forecast(worker.endpoint_id, text)
    for endpoint_id in (another.id, worker.endpoint_id):
        profile = house.plane.forecasters[endpoint_id].history.profile
        assert profile._local(1000) == 1000 + 3600 / SLOT


async def test_a_clock_that_is_set_after_the_start_puts_times_of_day_right(house, worker):
    right = house.plane.day_time()
    history = house.plane.forecasters[worker.endpoint_id].history
    today = right // DAY * DAY
    for night in (today - 2 * DAY, today - DAY):
        history.add(70.0, 1, night, seconds=SLOT)
        history.add(0.0, 0, night + SLOT, seconds=DAY - SLOT)
    house.clock.jumped = -1_700_000_000.0  # the machine starts without the time
    await house.reopen()
    house.clock.jumped = 0.0
    for _ in range(int(HOLDS) + 2):
        house.clock.seconds += 1.0
        await house.report(house.plane.fleet.workers[worker.id])
        await house.settle(rounds=1)
    assert house.plane.day_time() == pytest.approx(house.clock.wall())
    history = house.plane.forecasters[worker.endpoint_id].history
    assert history.profile.recurring(today, today).load == pytest.approx(70.0)


async def test_what_was_learnt_of_a_load_is_written_every_ten_minutes(house, worker):
    assert await house.store.read_forecasts() == {}
    house.clock.seconds += FORECASTS_EVERY
    await house.settle(rounds=1)
    first = await house.store.read_forecasts()
    assert set(first) == {worker.endpoint_id}
    house.clock.seconds += FORECASTS_EVERY / 2
    await house.settle(rounds=1)
    assert await house.store.read_forecasts() == first
    house.clock.seconds += FORECASTS_EVERY / 2
    await house.settle(rounds=1)
    assert await house.store.read_forecasts() != first


async def test_a_broken_forecast_in_the_store_is_no_harm(house, worker):
    house.plane.forecasters[worker.endpoint_id].written = lambda _now: "{"
    await house.reopen()
    await house.report(house.plane.fleet.workers[worker.id])
    await house.settle(rounds=1)
    assert house.plane.forecasters[worker.endpoint_id].history.mean(10) == 0.0


async def test_failures_that_used_up_the_budget_are_remembered_over_a_restart(house):
    await house.endpoint()
    (group,) = house.plane.fleet.groups
    learnt = house.plane.experience.of(group)
    for _ in range(10):
        learnt.failed.again(house.plane.now())
    house.plane.experience.dirty.add(group)
    await house.settle(rounds=1)
    await house.reopen()
    await house.route()
    house.clock.seconds += 1_000.0
    await house.route()
    await house.settle()
    assert creations(house) == []


async def test_a_status_that_nobody_knows_hides_no_instance(house, worker):
    """Not even the others of that list: their errors and their strays are seen all the same."""
    (real,) = house.shelf.instances.values()
    stray = Instance(id="i77", provider="local", worker_id=77, status="running")
    twice = replace(stray, status="rebuilding")
    house.shelf.instances = {
        "a": replace(real, status="rebuilding"),
        "b": stray,
        "c": twice,
        real.id: replace(real, status="rebuilding"),
    }
    for _ in range(4):
        house.clock.seconds += GONE_AFTER / 2
        await house.report(worker)
        await house.settle(rounds=1)
    assert worker.available
    assert ("destroy", "i77") in house.shelf.asked


async def test_a_second_order_about_a_worker_waits_for_the_first(house, worker):
    calls, ran = Calls(house.plane), []
    go = asyncio.Event()

    async def order(name):
        await go.wait()
        ran.append(name)

    calls.about(worker, "start", order("first"))
    calls.about(worker, "start", order("second"))
    go.set()
    await calls.idle()
    assert (ran, calls.busy(worker.id)) == (["first"], False)


async def test_nothing_is_learnt_of_a_workergroup_that_is_gone(house, worker):
    group = worker.record.workergroup_id
    await house.store.delete_workergroup(group)
    await house.plane.changed()
    await house.report(worker, max_perf=123.0)
    house.clock.seconds += KEEP_EVERY
    await house.settle(rounds=2)
    assert group not in house.plane.experience._groups


@pytest.mark.parametrize("restart", [False, True])
async def test_a_worker_that_said_it_drains_and_fell_silent_is_not_paid_for_ever(
    house, worker, restart
):
    await house.report(worker, draining=True)
    await house.settle(rounds=1)
    assert worker.state is WorkerState.STOPPING
    if restart:
        await house.reopen()
        worker = house.plane.fleet.workers[worker.id]
    house.shelf.asked.clear()
    for _ in range(4):
        house.clock.seconds += REPORT_DEADLINE / 2
        await house.settle(rounds=1)
    assert ("stop", worker.instance_id) in house.shelf.asked


async def test_a_worker_that_drains_on_its_own_is_let_be_while_it_reports(house, worker):
    for _ in range(4):
        await house.report(worker, draining=True)
        house.clock.seconds += REPORT_DEADLINE / 2
        await house.settle(rounds=1)
    assert ("stop", worker.instance_id) not in house.shelf.asked


async def test_why_a_running_instance_is_not_heard_is_told_once_and_only_until_it_is(house):
    record = await house.endpoint(parameters=KEPT)
    await house.settle()
    worker = next(iter(house.plane.fleet.workers.values()))
    (real,) = house.shelf.instances.values()
    why = "the control plane cannot be told: its certificate is not trusted"
    house.shelf.instances = {real.id: replace(real, status="running", error=why)}
    await house.settle(rounds=3)
    assert worker.error == why
    assert (await house.log(record.id))["info1"].count(why) == 1
    await house.report(worker)
    await house.settle(rounds=1)
    assert worker.error == ""


@pytest.mark.parametrize("where", ["refused", "listed"])
async def test_a_providers_words_are_kept_short_and_without_secrets(house, worker, where):
    text = "refused: api_key=hf_abcdefghijklmnopqrstuvwxyz0123456789 \x1b[31m" + "x" * 10_000
    if where == "listed":
        (real,) = house.shelf.instances.values()
        house.shelf.instances = {real.id: replace(real, status="failed", error=text)}
        await house.settle(rounds=2)
    else:
        house.plane.reconciler.release(worker, "stop", house.plane.now(), "by hand")

        async def refuse(_instance_id):
            raise ProviderError(text)

        house.shelf.stop = refuse
        await house.settle(rounds=2)
    assert 0 < len(worker.error) <= MAX_ERROR
    assert "hf_abc" not in worker.error
    assert "\x1b" not in worker.error
