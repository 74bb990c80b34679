"""Writes that are cancelled, and a write lock that another process holds."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from stoker.errors import StoreError
from stoker.store import Store


@pytest.fixture
def other(store: Store, path: Path) -> Iterator[sqlite3.Connection]:
    """Another process's connection: a backup, or somebody's shell."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        yield connection
    finally:
        connection.close()


async def test_a_cancelled_write_holds_up_no_other(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    worker = await store.create_worker(endpoint.id, None, "local")
    for steps in range(40):
        write = asyncio.create_task(store.update_worker(worker.id, perf=float(steps)))
        for _ in range(steps):
            await asyncio.sleep(0)
        write.cancel()
        async with asyncio.timeout(5):
            await store.update_worker(worker.id, error=str(steps))


async def test_a_cancelled_read_holds_up_nothing(store: Store) -> None:
    for steps in range(40):
        read = asyncio.create_task(store.list_endpoints())
        for _ in range(steps):
            await asyncio.sleep(0)
        read.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(*(store.list_endpoints() for _ in range(8)))


async def test_a_write_that_was_begun_is_finished_though_nobody_waits_for_it(
    store: Store, other: sqlite3.Connection
) -> None:
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.create_task(store.create_endpoint("llm"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    write.cancel()
    other.execute("ROLLBACK")
    await store.create_endpoint("after")
    assert [e.endpoint_name for e in await store.list_endpoints()] == ["llm", "after"]


async def test_under_another_processs_lock_reads_go_on_and_writes_keep_their_order(
    store: Store, other: sqlite3.Connection
) -> None:
    endpoint = await store.create_endpoint("llm")
    worker = await store.create_worker(endpoint.id, None, "local")
    other.execute("BEGIN IMMEDIATE")
    writes = [
        asyncio.create_task(store.update_worker(worker.id, perf=float(number)))
        for number in range(10)
    ]
    async with asyncio.timeout(5):
        # More than there are connections: a write that waits takes none from the readers.
        for _ in range(8):
            assert (await store.get_worker(worker.id)).perf == 0.0
    assert not any(write.done() for write in writes)
    other.execute("ROLLBACK")
    records = await asyncio.gather(*writes)
    assert [record.perf for record in records] == [float(number) for number in range(10)]
    assert (await store.get_worker(worker.id)).perf == 9.0


async def test_closing_does_not_wait_for_another_processs_lock(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.store.database.CLOSE_TIMEOUT", 0.1)
    store = await Store.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    write = asyncio.create_task(store.create_endpoint("llm"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await store.close()
    with pytest.raises(StoreError, match="locked"):
        await write
    other.close()


async def test_a_lock_that_stays_is_an_error_after_the_time_out(
    store: Store, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stoker.store.database.BUSY_TIMEOUT", 0.2)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        await store.create_endpoint("llm")
