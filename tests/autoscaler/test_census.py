from hypothesis import given
from hypothesis import strategies as st

from stoker.autoscaler.census import believed, match
from stoker.autoscaler.fleet import Worker
from stoker.autoscaler.states import WorkerState
from stoker.providers import Instance
from stoker.store import WorkerRecord


def worker(number, instance_id=None, state=WorkerState.READY):
    record = WorkerRecord(
        id=number,
        endpoint_id=1,
        workergroup_id=1,
        provider="p",
        attached=False,
        nonce="",
        created_at=0.0,
    )
    return Worker(record=record, token="", state=state, state_since=0.0, instance_id=instance_id)


def instance(name, number, status="running"):
    return Instance(id=name, provider="p", worker_id=number, status=status)


def test_an_instance_is_its_workers_by_our_books_whatever_worker_the_list_names():
    census = match([instance("a", 2), instance("b", 1)], [worker(1, "a"), worker(2, "b")])
    assert {number: one.id for number, one in census.found.items()} == {1: "a", 2: "b"}
    assert census.strays == []


def test_a_worker_that_waits_for_its_instance_gets_the_one_that_names_it():
    census = match([instance("z", 1), instance("a", 1)], [worker(1)])
    assert (census.found[1].id, [one.id for one in census.strays]) == ("a", ["z"])


def test_a_second_instance_of_a_worker_and_one_of_nobody_are_strays():
    census = match([instance("a", 1), instance("b", 1), instance("c", 9)], [worker(1, "a")])
    assert (census.found[1].id, [one.id for one in census.strays]) == ("a", ["b", "c"])


def test_an_instance_that_is_listed_twice_has_the_status_that_costs_most():
    listed = [instance("a", 1, "stopped"), instance("a", 1, "running"), instance("a", 1, "failed")]
    assert match(listed, [worker(1, "a")]).found[1].status == "running"


_instances = st.builds(
    instance,
    st.sampled_from("abcdef"),
    st.integers(0, 4),
    st.sampled_from(["creating", "running", "stopping", "stopped", "failed"]),
)
_books = st.dictionaries(st.integers(1, 4), st.sampled_from([None, "a", "b", "c"]), max_size=4)


@given(listed=st.lists(_instances, max_size=8), books=_books)
def test_every_instance_is_one_workers_or_a_stray_whatever_is_listed(listed, books):
    workers = [worker(number, name) for number, name in books.items()]
    census = match(listed, workers)
    found = [one.id for one in census.found.values()]
    strays = [one.id for one in census.strays]
    assert sorted(found + strays) == sorted({one.id for one in listed})
    for number, one in census.found.items():
        assert books[number] in (one.id, None)


def test_what_we_asked_for_is_believed_at_once_and_anything_else_when_it_is_said_again():
    coming = worker(1, "a", WorkerState.CREATING)
    assert believed(coming, "running")
    ready = worker(1, "a")
    assert [believed(ready, "stopped") for _ in range(2)] == [False, True]
    flickering = worker(1, "a")
    said = ["failed", "running", "failed", "stopped", "running"]
    assert [believed(flickering, status) for status in said] == [False] * 5
