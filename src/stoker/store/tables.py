"""The tables. A change here needs a migration: a test compares the two.

Ids are AUTOINCREMENT: SQLite would otherwise give the id of the newest deleted row to the next one,
and with it whatever was derived from that id.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer, primary_key=True, autoincrement=True)


def _endpoint() -> sa.Column[int]:
    return sa.Column(
        "endpoint_id",
        sa.Integer,
        sa.ForeignKey("endpoints.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    )


endpoints = sa.Table(
    "endpoints",
    metadata,
    _id(),
    sa.Column("endpoint_name", sa.Text, nullable=False),
    sa.Column("parameters", sa.Text, nullable=False),
    sa.Column("key_nonce", sa.Text, nullable=False),
    sa.Column("user_id", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("destroyed_at", sa.Float),
    sa.Column("origin", sa.Text, nullable=False, server_default="command"),
    sa.Column("declared", sa.Text, nullable=False, server_default="[]"),
    sa.Column("key_created_at", sa.Float),
    sa.Column("key_used_at", sa.Float),
    # Partial: the name of an endpoint that is being destroyed is free again at once.
    sa.Index(
        "uq_endpoints_live_name",
        "endpoint_name",
        unique=True,
        sqlite_where=sa.text("destroyed_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

workergroups = sa.Table(
    "workergroups",
    metadata,
    _id(),
    _endpoint(),
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
    sa.Column("weight", sa.Float, nullable=False, server_default="1.0"),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("updating", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("name", sa.Text, nullable=False, server_default=""),
    sa.Column("instance", sa.Text, nullable=False, server_default="{}"),
    sa.Column("origin", sa.Text, nullable=False, server_default="command"),
    sa.Column("declared", sa.Text, nullable=False, server_default="[]"),
    sa.Index("uq_workergroups_endpoint_id_name", "endpoint_id", "name", unique=True),
    sqlite_autoincrement=True,
)

removed = sa.Table(
    "removed",
    metadata,
    _id(),
    sa.Column("endpoint_name", sa.Text, nullable=False),
    # Empty: the whole endpoint.
    sa.Column("workergroup_name", sa.Text, nullable=False),
    sa.Column("removed_at", sa.Float, nullable=False),
    sa.UniqueConstraint("endpoint_name", "workergroup_name"),
    sqlite_autoincrement=True,
)

marks = sa.Table(
    "marks",
    metadata,
    _id(),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    # Microseconds since 1970 do not fit into 32 bits.
    sa.Column("value", sa.BigInteger, nullable=False),
    sqlite_autoincrement=True,
)

experience = sa.Table(
    "experience",
    metadata,
    _id(),
    sa.Column(
        "workergroup_id",
        sa.Integer,
        sa.ForeignKey("workergroups.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    sa.Column("figures", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

forecasts = sa.Table(
    "forecasts",
    metadata,
    _id(),
    sa.Column(
        "endpoint_id",
        sa.Integer,
        sa.ForeignKey("endpoints.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    sa.Column("figures", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)

workers = sa.Table(
    "workers",
    metadata,
    _id(),
    # RESTRICT: the row of a worker is what we know of an instance that may cost money.
    sa.Column(
        "endpoint_id",
        sa.Integer,
        sa.ForeignKey("endpoints.id", ondelete="RESTRICT"),
        nullable=False,
        index=True,
    ),
    # No foreign key: a worker outlives its workergroup for as long as it takes to destroy it.
    sa.Column("workergroup_id", sa.Integer, index=True),
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
    sa.Column("hardware", sa.Text, nullable=False, server_default=""),
    sa.Column("stoppable", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("spot", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("boot_id", sa.Text, nullable=False, server_default=""),
    sa.Column("state_since", sa.Float, nullable=False, server_default="0.0"),
    sa.Column("state_seconds", sa.Text, nullable=False, server_default="{}"),
    sqlite_autoincrement=True,
)

templates = sa.Table(
    "templates",
    metadata,
    _id(),
    sa.Column("hash_id", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("options", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _id(),
    sa.Column("sha256", sa.Text, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    # NULL: a key of the account.
    sa.Column(
        "endpoint_id", sa.Integer, sa.ForeignKey("endpoints.id", ondelete="CASCADE"), index=True
    ),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("used_at", sa.Float),
    sa.Column("expires_at", sa.Float),
    sa.Column("revoked_at", sa.Float),
    sqlite_autoincrement=True,
)

endpoint_log = sa.Table(
    "endpoint_log",
    metadata,
    _id(),
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
    sa.Index("ix_endpoint_log_endpoint_id_id", "endpoint_id", "id"),
    sqlite_autoincrement=True,
)
