import pytest

from stoker import wire
from stoker.autoscaler.fleet import Fleet, Worker
from stoker.autoscaler.states import Event, WorkerState
from stoker.store import WorkerRecord


def worker(worker_id=1, state=WorkerState.READY, **more):
    record = WorkerRecord(
        id=worker_id,
        endpoint_id=7,
        workergroup_id=1,
        provider="local",
        attached=False,
        nonce="",
        created_at=5.0,
        state=state.value,
        desired="run",
    )
    values = {"token": "t", "token_bytes": b"t", "url": "http://127.0.0.1:1"}
    return Worker(record=record, state=state, state_since=0.0, **(values | more))


@pytest.fixture
def fleet():
    return Fleet()


def report(**figures):
    return wire.WorkerStatus(id=1, mtoken="t", **figures)


@pytest.mark.parametrize(
    ("figures", "event"),
    [
        ({"loadtime": 2.0, "max_perf": 80.0}, Event.REPORT_READY),
        ({"loadtime": 2.0}, Event.REPORT_READY),
        ({"max_perf": 80.0}, Event.REPORT_LOADING),
        ({}, Event.REPORT_LOADING),
        ({"loadtime": 2.0, "max_perf": 80.0, "draining": True}, Event.REPORT_DRAINING),
        ({"loadtime": 2.0, "max_perf": 80.0, "error_msg": "gone"}, Event.REPORT_ERROR),
    ],
)
def test_what_a_report_amounts_to(fleet, figures, event):
    assert fleet.take_report(worker(), report(**figures), 1.0) is event


def test_a_report_without_work_leaves_a_worker_idle_since_its_last_work(fleet):
    one = worker()
    fleet.take_report(one, report(cur_load=5.0), 10.0)
    fleet.take_report(one, report(), 20.0)
    assert one.idle_since == 10.0


def test_a_new_perf_is_to_be_written_and_the_same_one_is_not(fleet):
    one = worker()
    fleet.take_report(one, report(max_perf=80.0), 1.0)
    assert fleet.dirty == {1}
    fleet.dirty.clear()
    fleet.take_report(one, report(max_perf=80.0), 2.0)
    assert fleet.dirty == set()


def test_an_event_that_changes_nothing_leaves_the_moment_of_the_last_change(fleet):
    one = worker()
    assert fleet.happen(one, Event.REPORT_READY, 9.0) is None
    assert one.state_since == 0.0
    assert fleet.happen(one, Event.REPORT_ERROR, 9.0) is WorkerState.ERROR
    assert one.state_since == 9.0


@pytest.mark.parametrize(
    "one",
    [
        worker(state=WorkerState.DRAINING),
        worker(goal="stop"),
        worker(url=""),
    ],
    ids=["draining", "to be stopped", "without a url"],
)
def test_a_worker_that_must_not_get_requests_is_not_available(one):
    assert worker().available
    assert not one.available


def test_who_waits_is_told_how_many_workers_are_in_each_state(fleet):
    assert fleet.status_text(7) == "no workers yet"
    fleet.add(worker(1))
    fleet.add(worker(2, WorkerState.MODEL_LOADING))
    fleet.add(worker(3, WorkerState.MODEL_LOADING))
    assert fleet.status_text(7) == "1 idle, 2 model_loading"


def test_a_token_opens_the_door_for_its_own_worker_alone(fleet):
    fleet.add(worker(1))
    fleet.add(worker(2, token="u", token_bytes=b"u"))
    assert fleet.is_worker(2, "u")
    assert not fleet.is_worker(1, "u")
    assert not fleet.is_worker(3, "t")
    assert not fleet.is_worker(3, "\0")
    assert not fleet.is_worker(3, "")


def test_people_see_a_perf_as_measured_only_while_the_worker_is_ready(fleet):
    fleet.add(worker(1, perf=80.0))
    fleet.add(worker(2, WorkerState.LOADING, perf=80.0))
    assert [info.measured_perf for info in fleet.infos(7, 0.0)] == [80.0, 0.0]
    assert [info.perf for info in fleet.infos(7, 0.0)] == [80.0, 80.0]


def test_a_worker_is_found_by_its_endpoint_and_its_provider_until_it_is_removed(fleet):
    one, two = worker(1), worker(2)
    fleet.add(one)
    fleet.add(two)
    assert (fleet.of_endpoint(7), fleet.of_provider("local")) == ([one, two], [one, two])
    fleet.remove(one)
    fleet.remove(one)
    assert (fleet.of_endpoint(7), fleet.of_provider("local")) == ([two], [two])
    fleet.remove(two)
    assert (fleet.of_endpoint(7), fleet.of_endpoint(8), fleet.workers) == ([], [], {})
