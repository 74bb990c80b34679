from __future__ import annotations

import asyncio
import logging
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from stoker.errors import StokerError, StoreError
from stoker.store import Store

WRITER = """
import asyncio, sys
from stoker.store import LogEntry, Store

async def main():
    store = await Store.open(sys.argv[1])
    endpoint = await store.create_endpoint("e" + sys.argv[2])
    print("open", flush=True)
    number = 0
    while True:
        # Three rows that belong together: all of them are there after a kill, or none.
        await store.append_logs(
            LogEntry(endpoint_id=endpoint.id, text=f"{number}.{part}", at=0.0) for part in range(3)
        )
        await store.create_worker(endpoint.id, None, "local")
        number += 1
        print(number, flush=True)

asyncio.run(main())
"""

OPENER = """
import asyncio, sys
from stoker.store import Store

async def main():
    sys.stdin.readline()
    async with await Store.open(sys.argv[1]) as store:
        await store.create_endpoint(sys.argv[2])

asyncio.run(main())
"""


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def _open_and_close(path: Path) -> None:
    await (await Store.open(path)).close()


async def _names(path: Path) -> set[str]:
    async with await Store.open(path) as store:
        return {endpoint.endpoint_name for endpoint in await store.list_endpoints()}


async def _written(path: Path, name: str) -> tuple[list[str], int]:
    async with await Store.open(path) as store:
        endpoint = await store.find_endpoint(name)
        assert endpoint is not None
        lines = [entry.text for entry in await store.read_log(endpoint.id, 2000)]
        return lines, len(await store.list_workers(endpoint.id))


async def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    async with await Store.open(path) as store:
        made = await store.create_endpoint("llm")
    async with await Store.open(f"sqlite:///{path}") as store:
        assert await store.list_endpoints() == [made]


async def test_the_database_is_readable_by_its_owner_alone(path: Path) -> None:
    async with await Store.open(path) as store:
        await store.create_endpoint("llm")
        files = sorted(path.parent.iterdir())
        modes = {_mode(file) for file in files}
    assert path in files
    assert modes == {0o600}
    assert _mode(path.parent) == 0o700


def test_a_database_that_others_could_read_is_closed_to_them(path: Path) -> None:
    path.parent.mkdir()
    path.touch(0o644)
    asyncio.run(_open_and_close(path))
    assert _mode(path) == 0o600


async def test_it_writes_ahead_and_holds_foreign_keys(store: Store) -> None:
    async with store._reading() as connection:
        found = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        ]
    assert found == ["wal", 1, 2, 30_000]


async def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    async def fail() -> None:
        async with store._writing() as connection:
            await connection.exec_driver_sql("UPDATE endpoints SET endpoint_name = 'other'")
            raise RuntimeError

    endpoint = await store.create_endpoint("llm")
    with pytest.raises(RuntimeError):
        await fail()
    assert await store.get_endpoint(endpoint.id) == endpoint


async def test_a_cancelled_write_leaves_nothing_and_the_store_usable(store: Store) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with store._writing() as connection:
            await connection.exec_driver_sql("UPDATE endpoints SET endpoint_name = 'other'")
            inside.set()
            await asyncio.Event().wait()

    endpoint = await store.create_endpoint("llm")
    task = asyncio.create_task(write())
    await asyncio.wait_for(inside.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.update_endpoint(endpoint.id, endpoint_name="new")
    assert (await store.get_endpoint(endpoint.id)).endpoint_name == "new"


async def test_a_full_disk_is_a_clear_error_and_loses_nothing(store: Store) -> None:
    endpoint = await store.create_endpoint("llm")
    async with store._engine.connect() as connection:
        pages = (await connection.exec_driver_sql("PRAGMA page_count")).scalar()
    # SQLite says the same at its own limit as on a full disk. Each connection has its own limit.
    connections = [await store._engine.connect() for _ in range(4)]
    connections.append(await store._writer.connect())
    for connection in connections:
        await connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        await connection.close()
    for _ in range(40):
        try:
            await store.append_log(endpoint.id, "x" * 4000)
        except StokerError as error:
            assert "full" in str(error)
            assert "xxx" not in str(error)
            break
    else:
        pytest.fail("the disk never filled up")
    assert await store.list_endpoints() == [endpoint]


async def test_a_newer_database_is_refused_and_left_alone(path: Path) -> None:
    await (await Store.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StokerError, match=r"9999.*newer"):
        await Store.open(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("this is not a database, " * 100)
    with pytest.raises(StokerError, match="cannot open the database"):
        asyncio.run(_open_and_close(path))
    assert path.read_text().startswith("this is not")


async def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StokerError, match="cannot open the database"):
        await Store.open(tmp_path)


@pytest.mark.parametrize("url", ["postgresql://localhost/x", ":memory:", "sqlite:///", ""])
async def test_a_url_that_cannot_be_served_is_refused(url: str) -> None:
    with pytest.raises(StokerError, match="SQLite|must be a file"):
        await Store.open(url)


async def test_opening_leaves_the_logging_of_the_process_alone(path: Path) -> None:
    root = logging.getLogger()
    mine = logging.getLogger("mine.own")
    before = (root.level, list(root.handlers), mine.disabled)
    await (await Store.open(path)).close()
    assert (root.level, list(root.handlers), mine.disabled) == before


@pytest.mark.real
def test_many_processes_can_open_a_new_file_at_once(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(path), f"e{number}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert asyncio.run(_names(path)) == {"e0", "e1", "e2", "e3"}


@pytest.mark.real
def test_a_killed_writer_leaves_whole_transactions_alone(path: Path) -> None:
    for attempt in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(attempt)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        said = 0
        try:
            for line in process.stdout:
                if line != b"open\n":
                    said = int(line)
                if said >= 3 + attempt:
                    break
        finally:
            process.kill()
            process.wait(30)
            process.stdout.close()
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        lines, workers = asyncio.run(_written(path, f"e{attempt}"))
        steps = len(lines) // 3
        assert lines == [f"{number}.{part}" for number in range(steps) for part in range(3)]
        # What the writer said it had written is there; at most the step after it besides.
        assert 3 <= said <= workers <= steps <= workers + 1


async def test_a_database_that_is_damaged_while_it_is_used_is_named(
    store: Store, path: Path
) -> None:
    damage(path)
    with pytest.raises(StoreError, match=r"the database cannot be used: .* (malformed|database)"):
        await store.create_endpoint("llm")


def damage(path: Path) -> None:
    for file in path.parent.glob(f"{path.name}*"):
        file.write_bytes(b"\xff" * 200_000)
