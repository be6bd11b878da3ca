"""Review links, and the key that signs their addresses and seals what pages hold."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0003"
down_revision: str | None = "0002"


def upgrade() -> None:
    """Make both tables; whoever opens the database first fills in the key."""
    op.create_table(
        "icr_links",
        sql.Column("id", sql.String(64), primary_key=True),
        sql.Column("run_id", sql.String(64), nullable=False, index=True),
        *(sql.Column(name, sql.Text, nullable=False) for name in ("language", "queue", "guidelines", "gold")),
        sql.Column("iteration", sql.Integer, nullable=False),
        sql.Column("base", sql.Integer),
        sql.Column("items", sql.Integer, nullable=False),
        sql.Column("overlap", sql.Integer, nullable=False),
        sql.Column("expires_at", sql.String(32), nullable=False),
        sql.Column("created_at", sql.String(32), nullable=False),
    )
    op.create_table(
        "icr_keys",
        sql.Column("name", sql.String(64), primary_key=True),
        sql.Column("value", sql.String(128), nullable=False),
    )
