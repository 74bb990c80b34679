"""Rolling updates, weights, times in each state, and what workers taught us."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    false, true = sa.false(), sa.true()
    for column in (
        sa.Column("weight", sa.Float, nullable=False, server_default="1.0"),
        sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
        sa.Column("updating", sa.Boolean, nullable=False, server_default=false),
    ):
        op.add_column("workergroups", column)
    for column in (
        sa.Column("hardware", sa.Text, nullable=False, server_default=""),
        sa.Column("stoppable", sa.Boolean, nullable=False, server_default=true),
        sa.Column("spot", sa.Boolean, nullable=False, server_default=false),
        sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
        sa.Column("boot_id", sa.Text, nullable=False, server_default=""),
        sa.Column("state_since", sa.Float, nullable=False, server_default="0.0"),
        sa.Column("state_seconds", sa.Text, nullable=False, server_default="{}"),
    ):
        op.add_column("workers", column)
    op.create_table(
        "experience",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "workergroup_id",
            sa.Integer,
            sa.ForeignKey("workergroups.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("figures", sa.Text, nullable=False),
        sa.UniqueConstraint("workergroup_id", name="uq_experience_workergroup_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "marks",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="uq_marks_name"),
        sqlite_autoincrement=True,
    )
