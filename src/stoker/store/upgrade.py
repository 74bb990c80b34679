"""Brings a database of another version to the tables this version knows, or leaves it as it was.

All migrations run in the one transaction of the caller. On SQLite that transaction holds the write
lock from its beginning, so a second process that opens the same file waits, then finds the work
done; and a process that is killed here leaves the old tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from stoker.errors import StokerError

MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(connection: sa.Connection) -> None:
    """Run the migrations that this database has not had.

    Raises:
        StokerError: when the database was written by a newer Stoker.
    """
    scripts = ScriptDirectory(str(MIGRATIONS))

    def steps(current: Any, _context: MigrationContext) -> Any:
        return scripts._upgrade_revs("head", current)  # what `alembic upgrade head` calls

    context = MigrationContext.configure(connection, opts={"fn": steps})
    known = {script.revision for script in scripts.walk_revisions()}
    if unknown := set(context.get_current_heads()) - known:
        raise StokerError(
            f"the database is at revision {', '.join(sorted(unknown))}, which this version of "
            "Stoker does not know: it was written by a newer one; upgrade Stoker, or use another "
            "state directory"
        )
    with Operations.context(context):
        context.run_migrations()
    # Foreign keys are off while migrating (a table is rebuilt by dropping it), so check them.
    if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
        raise StokerError(f"the migration would leave {len(broken)} rows without their parent")
