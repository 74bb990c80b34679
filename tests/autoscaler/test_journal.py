import shutil

import pytest

from stoker.autoscaler.journal import MAX_LINE, MAX_PENDING, Journal
from stoker.errors import InvalidMessageError, NotFoundError, ProviderError, StokerError
from stoker.store import Store


@pytest.fixture
async def store(tmp_path, empty_database):
    shutil.copyfile(empty_database, tmp_path / "stoker.db")
    store = await Store.open(tmp_path / "stoker.db")
    yield store
    await store.close()


@pytest.fixture
async def endpoint(store):
    return (await store.create_endpoint("chat")).id


@pytest.fixture
def journal(store):
    return Journal(store, lambda: 86_400.25, str)


async def test_each_level_holds_those_above_it(journal, endpoint):
    journal.note(endpoint, "info0", "create worker 1")
    journal.note(endpoint, "info1", "worker 1: creating -> idle")
    journal.note(endpoint, "trace", "the provider was asked")
    levels = await journal.levels(endpoint, None, 10)
    assert [len(levels[name].splitlines()) for name in levels] == [1, 2, 3, 3]


async def test_a_line_begins_with_its_time_in_utc(journal, endpoint):
    journal.note(endpoint, "info0", "create worker 1")
    levels = await journal.levels(endpoint, None, 10)
    assert levels["info0"] == "1970-01-02 00:00:00.250 create worker 1\n"


async def test_the_last_lines_are_shown_oldest_first(journal, endpoint):
    for number in range(5):
        journal.note(endpoint, "info0", f"decision {number}")
    levels = await journal.levels(endpoint, None, 2)
    assert [line[-1] for line in levels["info0"].splitlines()] == ["3", "4"]


async def test_a_line_is_one_line_of_bounded_length_without_secrets(journal, endpoint):
    journal.note(endpoint, "info0", "worker said:\nmtoken=s3cret " + "x" * 10_000)
    text = (await journal.levels(endpoint, None, 10))["info0"]
    assert text.count("\n") == 1
    assert "s3cret" not in text
    assert len(text) <= MAX_LINE + len("1970-01-02 00:00:00.250 \n")


class FullDisk:
    """A store that cannot be written until somebody makes room."""

    def __init__(self):
        self.full, self.kept = True, []

    async def append_logs(self, entries):
        if self.full:
            raise StokerError("database or disk is full")
        self.kept += [entry.text for entry in entries]


async def test_lines_that_cannot_be_written_are_written_later_in_their_order():
    disk = FullDisk()
    journal = Journal(disk, lambda: 0.0, str)
    journal.note(1, "info0", "first")
    await journal.flush()
    journal.note(1, "info0", "second")
    disk.full = False
    await journal.flush()
    assert disk.kept == ["first", "second"]


async def test_lines_that_wait_for_the_disk_are_bounded_and_the_oldest_go_first():
    disk = FullDisk()
    journal = Journal(disk, lambda: 0.0, str)
    for number in range(MAX_PENDING + 3):
        kind = "x" * (number // 50)  # lines that differ in numbers alone are one kind
        journal.note(1, "info0", f"{kind}{number}")
    disk.full = False
    await journal.flush()
    assert (len(disk.kept), disk.kept[0], journal.lost) == (MAX_PENDING, "3", 3)


async def test_many_lines_of_a_worker_are_counted_in_a_line():
    disk, now = FullDisk(), [0.0]
    disk.full = False
    journal = Journal(disk, lambda: 0.0, str, clock=lambda: now[0])
    for _ in range(5000):
        journal.note(1, "info1", "worker 3: idle -> error")
    await journal.flush()
    now[0] = 11.0
    await journal.flush()
    assert len(disk.kept) == 21
    assert disk.kept[-1].startswith(
        "4980 more such lines within 10 s are left out; the last: worker"
    )


async def test_a_disk_that_stays_full_is_told_once(capfd):
    disk = FullDisk()
    journal = Journal(disk, lambda: 0.0, str)
    journal.note(1, "info0", "first")
    for _ in range(5):
        await journal.flush()
    disk.full = False
    await journal.flush()
    said = "".join(capfd.readouterr())
    assert said.count("cannot be written") == 1
    assert said.count("can be written again") == 1


async def test_a_log_is_followed_from_line_to_line(house):
    record = await house.endpoint(backend=None)
    note = house.plane.journal.note
    note(record.id, "info0", "one")
    note(record.id, "debug", "detail")
    first = await house.plane.log(record.id, "info1", tail=10)
    assert first[-1].text == "one"
    note(record.id, "info1", "two")
    note(record.id, "debug", "detail")
    later = await house.plane.log(record.id, "info1", tail=10, after=first[-1].id)
    assert [line.text for line in later] == ["two"]
    assert await house.plane.log(record.id, "info1", tail=10, after=later[-1].id) == []


async def test_a_level_or_an_endpoint_that_is_not_there_is_refused(house):
    record = await house.endpoint(backend=None)
    with pytest.raises(InvalidMessageError, match="level"):
        await house.plane.log(record.id, "loud", tail=10)
    with pytest.raises(NotFoundError):
        await house.plane.log(99, "info1", tail=10)


async def test_the_logs_of_a_worker_come_from_its_provider(house):
    await house.endpoint()
    worker = await house.ready_worker()
    part = await house.plane.worker_logs(worker.id, ("model",), tail=5, after="x")
    assert part.lines[0].text == f"line of {worker.instance_id}"
    assert house.shelf.asked[-1] == ("logs", worker.instance_id, ("model",), 5, "x")


async def test_logs_that_are_not_here_are_refused_with_the_reason(house):
    await house.endpoint()
    with pytest.raises(NotFoundError, match="there is no worker 99"):
        await house.plane.worker_logs(99, ("model",), tail=5)
    worker = await house.ready_worker()
    house.shelf.fail = "logs"
    with pytest.raises(ProviderError, match="no logs"):
        await house.plane.worker_logs(worker.id, ("model",), tail=5)
    attached = int((await house.plane.attach("llm"))["CONTAINER_ID"])
    with pytest.raises(NotFoundError, match="its logs are on its own machine"):
        await house.plane.worker_logs(attached, ("model",), tail=5)
