"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("endpoint_name", sa.Text, nullable=False),
        sa.Column("parameters", sa.Text, nullable=False),
        sa.Column("key_nonce", sa.Text, nullable=False),
        sa.Column("user_id", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("destroyed_at", sa.Float),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "uq_endpoints_live_name",
        "endpoints",
        ["endpoint_name"],
        unique=True,
        sqlite_where=sa.text("destroyed_at IS NULL"),
        postgresql_where=sa.text("destroyed_at IS NULL"),
    )
    op.create_table(
        "workergroups",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "endpoint_id",
            sa.Integer,
            sa.ForeignKey("endpoints.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("template_hash", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("template_id", sa.Integer),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("search_params", sa.Text, nullable=False),
        sa.Column("launch_args", sa.Text, nullable=False),
        sa.Column("gpu_ram", sa.Float),
        sa.Column("min_cold_load", sa.Float),
        sa.Column("max_workers", sa.Integer),
        sa.Column("created_at", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_workergroups_endpoint_id", "workergroups", ["endpoint_id"])
    op.create_table(
        "workers",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "endpoint_id",
            sa.Integer,
            sa.ForeignKey("endpoints.id", ondelete="RESTRICT"),
            nullable=False,
        ),
        sa.Column("workergroup_id", sa.Integer),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("attached", sa.Boolean, nullable=False),
        sa.Column("nonce", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("instance_id", sa.Text),
        sa.Column("offer_id", sa.Text, nullable=False),
        sa.Column("price_per_hour", sa.Float, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("desired", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("ready_at", sa.Float),
        sa.Column("perf", sa.Float, nullable=False),
        sa.Column("loadtime", sa.Float, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_workers_endpoint_id", "workers", ["endpoint_id"])
    op.create_index("ix_workers_workergroup_id", "workers", ["workergroup_id"])
    op.create_table(
        "templates",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("hash_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("options", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("hash_id", name="uq_templates_hash_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "endpoint_log",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column(
            "endpoint_id",
            sa.Integer,
            sa.ForeignKey("endpoints.id", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("workergroup_id", sa.Integer),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_endpoint_log_endpoint_id_id", "endpoint_log", ["endpoint_id", "id"])
