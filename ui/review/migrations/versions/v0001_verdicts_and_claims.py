"""The tables that servers made themselves before there were versions. A database that has them already is left as it is."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make the tables that are missing."""
    existing = set(sql.inspect(op.get_bind()).get_table_names())
    if "icr_verdicts" not in existing:
        op.create_table(
            "icr_verdicts",
            sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
            sql.Column("submission", sql.String(64), nullable=False, unique=True),
            # A digest: an item's text is too long to index everywhere.
            sql.Column("item_key", sql.String(64), nullable=False, index=True),
            *(
                sql.Column(name, sql.Text, nullable=False)
                for name in ("item", "kind", "language", "prompt_id", "queue", "left", "right")
            ),
            sql.Column("reviewer", sql.String(200), nullable=False, index=True),
            sql.Column("run_id", sql.String(64), nullable=False, index=True),
            sql.Column("iteration", sql.Integer, nullable=False),
            sql.Column("base", sql.Integer),
            sql.Column("choice", sql.String(16), nullable=False),
            sql.Column("reasons", sql.Text, nullable=False),
            sql.Column("note", sql.Text, nullable=False),
            sql.Column("blind", sql.Boolean, nullable=False),
            *(sql.Column(name, sql.Float) for name in ("seconds", "margin", "left_score", "right_score")),
            *(sql.Column(name, sql.Integer, nullable=False) for name in ("left_characters", "right_characters")),
            sql.Column("created_at", sql.String(32), nullable=False),
        )
    if "icr_claims" not in existing:
        op.create_table(
            "icr_claims",
            sql.Column("item_key", sql.String(64), primary_key=True),
            # '' for an item of one reviewer, her name where all see it.
            sql.Column("slot", sql.String(200), primary_key=True),
            sql.Column("reviewer", sql.String(200), nullable=False),
            sql.Column("created_at", sql.String(32), nullable=False),
        )
