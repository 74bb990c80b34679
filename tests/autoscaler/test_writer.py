"""No round waits for the disk, and no order overtakes its row."""

import asyncio
import sqlite3

import pytest

from stoker.autoscaler.journal import FLUSH_PATIENCE
from stoker.autoscaler.states import WorkerState
from stoker.autoscaler.writer import Writer


@pytest.fixture
def other(house):
    """Another process's connection to the database: a backup, or somebody's shell."""
    connection = sqlite3.connect(house.directory / "stoker.db", isolation_level=None, timeout=1.0)
    yield connection
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    connection.close()


async def rounds(house, count=3):
    """Rounds as the loop makes them: nothing waits for what is written."""
    for _ in range(count):
        async with asyncio.timeout(2):
            await house.plane._round()
        await asyncio.sleep(0)


async def test_what_changes_while_it_writes_is_written_next_and_once():
    gate, written = asyncio.Event(), []

    async def work():
        written.append("rows")
        await gate.wait()

    async def once():
        written.append("once")
        await gate.wait()

    writer = Writer(work)
    for _ in range(3):
        writer.kick()
        writer.once("update 7", once())
        await asyncio.sleep(0)
    assert written == ["rows", "once"]
    gate.set()
    await writer.idle()
    assert written == ["rows", "once", "rows"]


async def test_a_round_does_not_wait_for_a_lock_and_a_long_poll_is_answered(house, other):
    await house.endpoint()
    other.execute("BEGIN IMMEDIATE")
    poll = asyncio.create_task(house.route(wait=2))
    await house.on_the_line()
    house.clock.seconds += 3
    await rounds(house)
    assert "url" not in await poll


async def test_an_instance_is_asked_for_once_its_row_is_written_and_not_before(house, other):
    await house.endpoint()
    await house.route()
    other.execute("BEGIN IMMEDIATE")
    await rounds(house)
    (worker,) = house.plane.fleet.workers.values()  # the rounds count on it, and order no other
    assert (house.shelf.asked, worker.written) == ([], False)
    other.execute("ROLLBACK")
    await house.plane.reconciler.idle()
    assert house.shelf.asked == [("create", worker.id)]
    assert [row.id for row in await house.store.list_workers()] == [worker.id]


async def test_a_creation_whose_row_cannot_be_written_is_not_asked_for_and_decided_anew(house):
    record = await house.endpoint()
    await house.route()
    await house.read_only()
    await house.settle()
    assert (house.shelf.asked, dict(house.plane.fleet.workers)) == ([], {})
    await house.read_only(on=False)
    await house.settle()
    ((_, worker_id),) = house.shelf.asked
    assert [row.id for row in await house.store.list_workers()] == [worker_id]
    lines = (await house.log(record.id))["info0"].splitlines()
    assert sum("create worker" in line for line in lines) == 1
    assert sum("the store" in line for line in lines) == 1


async def test_an_order_to_end_waits_for_its_row_only_so_long(house, other, monkeypatch):
    monkeypatch.setattr("stoker.autoscaler.reconciler.SAVE_LIMIT", 0.1)
    await house.endpoint()
    worker = await house.ready_worker()
    house.plane.reconciler.release(worker, "destroy", house.plane.now(), "destroy it")
    other.execute("BEGIN IMMEDIATE")
    await house.plane.reconciler.step(house.plane.now(), cut_drains=True)
    assert house.shelf.instances  # it waits for the row ...
    await house.plane.reconciler.idle()
    assert house.shelf.instances == {}  # ... and goes out without it
    other.execute("ROLLBACK")


async def test_what_changed_under_a_lock_is_written_when_it_is_over(house, other):
    await house.endpoint()
    worker = await house.ready_worker()
    other.execute("BEGIN IMMEDIATE")
    for number in range(5):
        await house.report(worker, error_msg="" if number % 2 else "ill")
        await rounds(house, 1)
    other.execute("ROLLBACK")
    await house.plane.writer.idle()
    (row,) = await house.store.list_workers()
    assert row.state == worker.state.value == WorkerState.ERROR.value


async def test_the_log_shows_what_waits_for_a_lock(house, other):
    record = await house.endpoint()
    other.execute("BEGIN IMMEDIATE")
    house.plane.journal.note(record.id, "info0", "noted under a lock")
    async with asyncio.timeout(FLUSH_PATIENCE + 4):
        assert (await house.log(record.id))["info0"].count("noted under a lock") == 1
    other.execute("ROLLBACK")
    await house.plane.journal.flush()
    assert (await house.log(record.id))["info0"].count("noted under a lock") == 1


async def test_closing_does_not_wait_long_for_a_lock(house, other, monkeypatch):
    monkeypatch.setattr("stoker.autoscaler.writer.CLOSE_LIMIT", 0.1)
    record = await house.endpoint()
    other.execute("BEGIN IMMEDIATE")
    house.plane.journal.note(record.id, "info0", "a line")
    async with asyncio.timeout(5):
        await house.plane.close()


async def test_an_attached_worker_stays_known_until_its_row_is_deleted(house, other):
    await house.endpoint()
    identity = await house.plane.attach("llm")
    worker_id = int(identity["CONTAINER_ID"])
    await house.plane.detach(worker_id)
    other.execute("BEGIN IMMEDIATE")
    await rounds(house)
    assert worker_id in house.plane.fleet.workers
    other.execute("ROLLBACK")
    await house.settle()
    assert worker_id not in house.plane.fleet.workers
    assert await house.store.list_workers() == []
