"""What was learnt of endpoints' load."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "forecasts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "endpoint_id",
            sa.Integer,
            sa.ForeignKey("endpoints.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("figures", sa.Text, nullable=False),
        sa.UniqueConstraint("endpoint_id", name="uq_forecasts_endpoint_id"),
        sqlite_autoincrement=True,
    )
