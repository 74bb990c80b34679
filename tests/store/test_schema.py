from __future__ import annotations

import asyncio
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from stoker.errors import StokerError
from stoker.store import Store, schema, upgrade
from stoker.store.tables import metadata


def shape(connection: sa.Connection) -> dict[str, Any]:
    """All that SQLite knows of each table but the order of its columns."""
    run = connection.exec_driver_sql
    found = {}
    for name, text in run("SELECT name, sql FROM sqlite_master WHERE type = 'table'").all():
        indices = set()
        for _, index, unique, origin, partial in run(f"PRAGMA index_list({name})").all():
            columns = [column for _, _, column in run(f"PRAGMA index_info({index})")]
            # The names of indices that a UNIQUE constraint makes are SQLite's own.
            indices.add((origin == "c" and index, unique, origin, partial, *columns))
        found[name] = (
            {tuple(column[1:]) for column in run(f"PRAGMA table_info({name})")},
            indices,
            {tuple(key[2:]) for key in run(f"PRAGMA foreign_key_list({name})")},
            "AUTOINCREMENT" in text,
        )
    conditions = run(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql LIKE '% WHERE %'"
    )
    found["where"] = {name: sql.partition(" WHERE ")[2] for name, sql in conditions}
    found["revision"] = run("SELECT * FROM alembic_version").all()
    return found


def test_a_new_database_has_the_tables_that_the_migrations_make() -> None:
    shapes = []
    for make in (schema.migrate, upgrade.upgrade):
        with sa.create_engine("sqlite://").begin() as connection:
            make(connection)
            shapes.append(shape(connection))
    new, migrated = shapes
    assert new == migrated
    assert {"workers", "api_keys"} < new.keys()


def test_the_migrations_make_the_tables_that_the_code_expects() -> None:
    with sa.create_engine("sqlite://").begin() as connection:
        upgrade.upgrade(connection)
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


async def test_alembic_is_loaded_only_where_there_is_something_to_migrate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "stoker.store.upgrade", None)  # so its import fails
    for _ in range(2):  # new, and up to date
        await _opens(tmp_path / "x.db")
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(ImportError):
        await Store.open(tmp_path / "x.db")


async def test_a_database_of_the_first_version_is_brought_up_to_date(first_version: Path) -> None:
    with sqlite3.connect(first_version) as connection:
        run = connection.execute
        run("INSERT INTO endpoints VALUES (1, 'llm', '{}', 'nonce', 1, 5.0, NULL)")
        run(
            "INSERT INTO workergroups VALUES "
            "(1, 1, 'vllm', 'vllm', NULL, '{}', '', '', NULL, NULL, NULL, 5.0)"
        )
        for number, backend in ((2, "vllm"), (3, "/srv/ocr.py"), (4, "vllm")):
            run(
                "INSERT INTO workergroups VALUES "
                f"({number}, 1, '', '{backend}', NULL, '{{}}', '', '', NULL, NULL, NULL, 5.0)"
            )
        run(
            "INSERT INTO workers VALUES (1, 1, 1, 'local', 0, 'nonce', 5.0, 'i1', 'cpu', 0.5, "
            "'ready', 'run', 'http://127.0.0.1:1', 9.0, 80.0, 2.0, '')"
        )
    async with await Store.open(first_version) as store:
        groups, (worker,) = await store.list_workergroups(), await store.list_workers()
        (endpoint,) = await store.list_endpoints()
    group = groups[0]
    assert [g.name for g in groups] == ["vllm", "vllm-2", "ocr", "vllm-3"]
    assert {endpoint.origin, *(g.origin for g in groups)} == {"unknown"}
    assert (group.weight, group.revision, group.updating) == (1.0, 0, False)
    assert (worker.perf, worker.revision, worker.stoppable) == (80.0, 0, True)
    assert worker.state_seconds == {}


async def test_every_table_counts_its_ids_up_for_ever(store: Store) -> None:
    async with store._reading() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
        )
        assert {row[0] for row in rows} == set(metadata.tables)


def test_a_migration_that_fails_midway_leaves_the_database_as_it_was(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "v0001_broken.py").write_text(
        "from alembic import op\nimport sqlalchemy as sa\n"
        "revision = '0001'\ndown_revision = None\n"
        "def upgrade():\n"
        "    op.create_table('half', sa.Column('id', sa.Integer))\n"
        "    raise RuntimeError('cut')\n"
    )
    monkeypatch.setattr(upgrade, "MIGRATIONS", versions.parent)
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute(schema._VERSION_TABLE)  # there is something to migrate

    async def attempt() -> None:
        await Store.open(path)

    with pytest.raises(RuntimeError, match="cut"):
        asyncio.run(attempt())
    engine = sa.create_engine(f"sqlite:///{path}")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
    monkeypatch.undo()
    asyncio.run(_opens(path))


async def _opens(path: Any) -> None:
    async with await Store.open(path) as store:
        assert await store.list_endpoints() == []


async def test_a_row_without_its_parent_stops_the_migration(store: Store) -> None:
    async with store._writing() as connection:
        await connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        await connection.exec_driver_sql(
            "INSERT INTO endpoint_log (endpoint_id, level, at, text) VALUES (99, 'x', 0, 'x')"
        )
        with pytest.raises(StokerError, match="1 rows without their parent"):
            await connection.run_sync(upgrade.upgrade)
        await connection.exec_driver_sql("DELETE FROM endpoint_log")
