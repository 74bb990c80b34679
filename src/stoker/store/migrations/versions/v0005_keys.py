"""Keys of endpoints beside those of the account; where each is from, when it was used, and ends."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # A new table, because SQLite cannot add a foreign key to one that is there.
    op.create_table(
        "new_api_keys",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column(
            "endpoint_id",
            sa.Integer,
            sa.ForeignKey("endpoints.id", ondelete="CASCADE"),
        ),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("used_at", sa.Float),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
        sa.UniqueConstraint("sha256", name="uq_api_keys_sha256"),
        sqlite_autoincrement=True,
    )
    op.execute(
        "INSERT INTO new_api_keys (id, sha256, name, source, created_at) "
        "SELECT id, sha256, label, "
        "CASE label WHEN 'from the environment' THEN 'environment' ELSE 'made' END, created_at "
        "FROM api_keys"
    )
    op.drop_table("api_keys")
    op.rename_table("new_api_keys", "api_keys")
    op.create_index("ix_api_keys_endpoint_id", "api_keys", ["endpoint_id"])
    op.add_column("endpoints", sa.Column("key_created_at", sa.Float))
    op.add_column("endpoints", sa.Column("key_used_at", sa.Float))
