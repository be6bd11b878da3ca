"""Review links, and the secret of the inspectors that share a database of verdicts."""

from __future__ import annotations

import secrets
from contextlib import suppress
from functools import cached_property
from typing import Any

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from icr_platform.core.errors import InputError
from ui.review.database import Database
from ui.review.links import ReviewLink, as_row, from_row, id_in
from ui.review.secret import KEY_BYTES, Secret

# As the steps in ui.review.migrations leave them.
_metadata = sql.MetaData()
_links = sql.Table(
    "icr_links",
    _metadata,
    sql.Column("id", sql.Text, primary_key=True),
    *(
        sql.Column(n, sql.Text)
        for n in ("run_id", "language", "queue", "guidelines", "gold", "expires_at", "created_at")
    ),
    *(sql.Column(n, sql.Integer) for n in ("iteration", "base", "items", "overlap")),
)
_keys = sql.Table("icr_keys", _metadata, *(sql.Column(n, sql.Text) for n in ("name", "value")))
_SEAL = "seal"


class LinkStore:
    """The table of links. Links are never changed: what reviewers were given stays what the lead made.

    Raises, from every method:
        IcrError: the database is locked, full or gone.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @cached_property
    def secret(self) -> Secret:
        """The key in the database; made by whoever asks first."""
        asked = sql.select(_keys.c.value).where(_keys.c.name == _SEAL)
        with self._database.transaction(read=True) as connection:
            known = connection.execute(asked).scalar()
        if known is None:
            made = {"name": _SEAL, "value": secrets.token_hex(KEY_BYTES)}
            with suppress(IntegrityError), self._database.transaction() as connection:  # another server was faster
                connection.execute(sql.insert(_keys).values(made))
            with self._database.transaction(read=True) as connection:
                known = connection.execute(asked).scalar_one()
        return Secret(bytes.fromhex(known))

    def add(self, link: ReviewLink) -> ReviewLink:
        """Store a new link."""
        with self._database.transaction() as connection:
            connection.execute(sql.insert(_links).values(as_row(link)))
        return link

    def of_run(self, run_id: str) -> list[ReviewLink]:
        """The links into a run, the newest first."""
        asked = sql.select(_links).where(_links.c.run_id == run_id).order_by(_links.c.created_at.desc(), _links.c.id)
        return [from_row(row) for row in self._rows(asked)]

    def named(self, link_id: str) -> ReviewLink:
        """The link of an id, such as a verdict has.

        Raises:
            InputError: there is none, as in another database.
        """
        rows = self._rows(sql.select(_links).where(_links.c.id == link_id))
        if not rows:
            raise InputError("This review link is not known here any more. Ask the person who sent it for a new one.")
        return from_row(rows[0])

    def opened(self, typed: str) -> ReviewLink:
        """The link that an address names, whether it has ended or not.

        Raises:
            InputError: the address was changed or cut, or is another inspector's.
        """
        return self.named(id_in(typed, self.secret))

    def _rows(self, asked: sql.Select[Any]) -> list[dict[str, Any]]:
        with self._database.transaction(read=True) as connection:
            return [dict(row) for row in connection.execute(asked).mappings()]
