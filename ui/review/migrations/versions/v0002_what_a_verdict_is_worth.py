"""What decides whether a verdict counts: its link, whether it was given after the run's own answer was known, how fast, and where it is from.

`icr_told` says which reviewer has been shown the results of which link: what she changes afterwards was not judged blind.
"""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision: str | None = "0001"


def upgrade() -> None:
    """Add the columns; what was there before came from the inspector, and nobody had been told anything."""
    columns = (
        # Defaults of the database itself: a server of the earlier version that still runs goes on storing verdicts.
        sql.Column("link", sql.String(64), nullable=False, server_default=""),
        sql.Column("disclosed", sql.Boolean, nullable=False, server_default=sql.false()),
        sql.Column("fast", sql.Boolean, nullable=False, server_default=sql.false()),
        sql.Column("gold", sql.String(16), nullable=False, server_default=""),
        sql.Column("source", sql.String(200), nullable=False, server_default="inspector"),
    )
    for column in columns:
        op.add_column("icr_verdicts", column)
    op.create_table(
        "icr_told",
        sql.Column("link", sql.String(64), primary_key=True),
        sql.Column("reviewer", sql.String(200), primary_key=True),  # by her key, see ui.review.reviewers
        sql.Column("created_at", sql.String(32), nullable=False),
    )
