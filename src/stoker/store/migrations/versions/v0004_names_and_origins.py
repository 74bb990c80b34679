"""Names of workergroups, what an instance is given, and what is managed by a settings file."""

from __future__ import annotations

from pathlib import PurePath

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for table in ("endpoints", "workergroups"):
        op.add_column(table, sa.Column("origin", sa.Text, nullable=False, server_default="command"))
        op.add_column(table, sa.Column("declared", sa.Text, nullable=False, server_default="[]"))
        # What is there was made by a settings file or by a command: nobody wrote down which.
        op.execute(f"UPDATE {table} SET origin = 'unknown'")  # noqa: S608
    op.add_column("workergroups", sa.Column("name", sa.Text, nullable=False, server_default=""))
    op.add_column(
        "workergroups", sa.Column("instance", sa.Text, nullable=False, server_default="{}")
    )
    _name_workergroups()
    op.create_index(
        "uq_workergroups_endpoint_id_name", "workergroups", ["endpoint_id", "name"], unique=True
    )
    op.create_table(
        "removed",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("endpoint_name", sa.Text, nullable=False),
        sa.Column("workergroup_name", sa.Text, nullable=False),
        sa.Column("removed_at", sa.Float, nullable=False),
        sa.UniqueConstraint(
            "endpoint_name", "workergroup_name", name="uq_removed_endpoint_name_workergroup_name"
        ),
        sqlite_autoincrement=True,
    )


def _name_workergroups() -> None:
    """Each gets the name of its backend, numbered from the second on."""
    connection = op.get_bind()
    rows = connection.execute(
        sa.text("SELECT id, endpoint_id, backend FROM workergroups ORDER BY id")
    ).all()
    taken: set[tuple[int, str]] = set()
    for group_id, endpoint_id, backend in rows:
        base = PurePath(backend).stem if backend.endswith(".py") else backend
        name, number = base, 1
        while (endpoint_id, name) in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add((endpoint_id, name))
        connection.execute(
            sa.text("UPDATE workergroups SET name = :name WHERE id = :id"),
            {"name": name, "id": group_id},
        )
