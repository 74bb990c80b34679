"""Opens a database with the tables this version of Stoker knows; see `stoker.store.upgrade`.

Alembic is loaded only where there is something to migrate: it takes a third of the CPU time of the
control plane's start, and nearly every start finds the newest tables, or no tables.
"""

from __future__ import annotations

import sqlalchemy as sa

from stoker.store.tables import metadata

REVISION = "0006"
"""The newest migration; a test holds it equal to the files. `tables` is what it leads to."""

_VERSION_TABLE = (
    "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
    "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
)
"""As Alembic makes it."""


def migrate(connection: sa.Connection) -> None:
    """Make the tables where there are none, or upgrade them.

    Raises:
        StokerError: when the database was written by a newer Stoker.
    """
    run = connection.exec_driver_sql
    there = {name for (name,) in run("SELECT name FROM sqlite_master")}
    if not there:
        metadata.create_all(connection, checkfirst=False)
        run(_VERSION_TABLE)
        run("INSERT INTO alembic_version VALUES (?)", (REVISION,))
        return
    if "alembic_version" in there:
        revisions = [number for (number,) in run("SELECT version_num FROM alembic_version")]
        if revisions == [REVISION]:
            return
    from stoker.store.upgrade import upgrade

    upgrade(connection)
