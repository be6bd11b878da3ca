"""People's verdicts, an append-only table.

A verdict is never changed or deleted: an edit is a later row, an undo is a row whose choice is 'withdrawn'. The page gives each
submission a name, so that one that is sent twice, because the server died before it answered, is stored once.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError

from icr_platform.core.artifacts import text_digest
from icr_platform.core.errors import IcrError, InputError
from ui.review.database import Database
from ui.review.reviewers import LONGEST_NAME, first_typed, reviewer_key
from ui.review.verdicts import ADJUDICATION, CHOICES, COLUMNS, INSPECTOR, REASONS, Verdict, verdict_in

LONGEST_NOTE = 100_000
CLAIM_MINUTES = 30
"""How long an item shown to one reviewer is kept from the others before her verdict."""
_LONGEST_SUBMISSION = 64
_BATCH_ROWS = 5000
VOTES_SCHEMA = pa.schema(
    [
        *((name, pa.int64()) for name in ("id", "iteration", "base")),
        *(
            (name, pa.dictionary(pa.int32(), pa.string()))
            for name in ("kind", "language", "queue", "left", "right", "reviewer", "choice", "gold", "source")
        ),
        *((name, pa.string()) for name in ("item", "prompt_id")),
        *((name, pa.float64()) for name in ("margin", "left_score", "right_score")),
    ]
)
"""Columns of `VerdictStore.votes`."""

# As the steps in ui.review.migrations leave them: a new column needs a step there, and a line here.
_metadata = sql.MetaData()
_verdicts = sql.Table(
    "icr_verdicts",
    _metadata,
    sql.Column("id", sql.Integer, primary_key=True),
    *(
        sql.Column(name, sql.Text)
        for name in (
            "submission", "item_key", "item", "kind", "language", "prompt_id", "queue", "left", "right", "reviewer", "run_id", "choice",
            "reasons", "note", "created_at", "link", "gold", "source",
        )
    ),
    *(sql.Column(name, sql.Integer) for name in ("iteration", "base", "left_characters", "right_characters")),
    *(sql.Column(name, sql.Float) for name in ("seconds", "margin", "left_score", "right_score")),
    *(sql.Column(name, sql.Boolean) for name in ("blind", "disclosed", "fast")),
)  # fmt: skip
_claims = sql.Table(
    "icr_claims", _metadata, *(sql.Column(n, sql.Text) for n in ("item_key", "slot", "reviewer", "created_at"))
)
_told = sql.Table("icr_told", _metadata, *(sql.Column(n, sql.Text) for n in ("link", "reviewer", "created_at")))


class VerdictStore:
    """The table of verdicts, that of claims (who was shown which item, and when), and that of who was told what the run thinks.

    Raises, from every method:
        IcrError: the database is locked, full or gone; nothing was stored then.
    """

    def __init__(self, url: str) -> None:
        """Open the database, make its tables where there are none, and bring those of an earlier version up to date.

        Raises:
            InputError: this is not a database's URL, the driver is not installed, or a newer version wrote the database.
        """
        self.database = Database(url)

    def append(self, verdict: Verdict) -> Verdict:
        """Store a verdict and return it as stored; when this returns it is on disk. One sent again is not stored twice.

        Raises:
            InputError: an unknown choice or reason, a note that is too long, or no name.
        """
        verdict = replace(verdict, note=_storable(verdict.note), reviewer=_storable(verdict.reviewer))
        _check(verdict)
        key = item_key(verdict.run_id, verdict.item)
        stored = {**asdict(verdict), "created_at": _now(), "reasons": json.dumps(verdict.reasons), "item_key": key}
        try:
            with self.database.transaction() as connection:
                stored["disclosed"] = _is_told(connection, key, verdict.reviewer)
                connection.execute(sql.insert(_verdicts).values(stored))
            return verdict_in(stored)
        except IntegrityError:
            # The submission is there already: the server died after it stored the verdict and before it answered.
            query = sql.select(_verdicts).where(_verdicts.c.submission == verdict.submission)
            with self.database.transaction() as connection:
                row = connection.execute(query).mappings().first()
            if row is None:
                raise IcrError("The verdict store refused the verdict; it was not saved, try again.") from None
            return verdict_in(dict(row))

    def submissions(self, names: Collection[str]) -> set[str]:
        """Those of some submissions that are stored."""
        query = sql.select(_verdicts.c.submission).where(_verdicts.c.submission.in_(list(names)))
        with self.database.transaction(read=True) as connection:
            return set(connection.execute(query).scalars())

    def add(self, verdicts: Sequence[Verdict]) -> int:
        """Store verdicts that were given elsewhere, all or none, and return how many were new: of a submission the first one counts.

        They keep the time at which they were given, where they say one, and whether they were disclosed.

        Raises:
            InputError: as from `append`.
        """
        by_name: dict[str, dict[str, Any]] = {}
        for verdict in verdicts:
            verdict = replace(verdict, note=_storable(verdict.note), reviewer=_storable(verdict.reviewer))
            _check(verdict)
            row = {
                **asdict(verdict),
                "created_at": verdict.created_at or _now(),
                "reasons": json.dumps(verdict.reasons),
            }
            by_name.setdefault(verdict.submission, {**row, "item_key": item_key(verdict.run_id, verdict.item)})
        asked = sql.select(_verdicts.c.submission).where(_verdicts.c.submission.in_(list(by_name)))
        with self.database.transaction() as connection:
            known = set(connection.execute(asked).scalars())
            rows = [row for name, row in by_name.items() if name not in known]
            if rows:
                connection.execute(sql.insert(_verdicts), rows)
        return len(rows)

    def history(self, run_id: str = "", reviewer: str = "") -> list[Verdict]:
        """Every row ever stored, in the order stored; of one run or reviewer where given.

        A reviewer is known by `reviewer_key`, and shown by the name that she typed first.
        """
        query = sql.select(_verdicts).order_by(_verdicts.c.id)
        if run_id:
            query = query.where(_verdicts.c.run_id == run_id)
        with self.database.transaction(read=True) as connection:
            shown = _shown_names(connection)
            if reviewer:
                own = [name for name in shown if reviewer_key(name) == reviewer_key(reviewer)]
                query = query.where(_verdicts.c.reviewer.in_(own))
            rows = connection.execute(query).mappings()
            return [verdict_in({**row, "reviewer": shown[row["reviewer"]]}) for row in rows]

    def current(self, run_id: str = "", reviewer: str = "") -> list[Verdict]:
        """The last word of each reviewer on each item, in the order given; withdrawn ones are left out.

        What she says as one who adjudicates, or said elsewhere, does not take the place of her own verdict.
        """
        return _last_words(self.history(run_id, reviewer))

    def on_items(self, run_id: str, items: Collection[str]) -> list[Verdict]:
        """As `current`, of some items of a run, given by their identities: nothing else is read."""
        keys = [item_key(run_id, item) for item in items]
        query = sql.select(_verdicts).where(_verdicts.c.item_key.in_(keys)).order_by(_verdicts.c.id)
        with self.database.transaction(read=True) as connection:
            shown = _shown_names(connection)
            rows = connection.execute(query).mappings()
            return _last_words([verdict_in({**row, "reviewer": shown[row["reviewer"]]}) for row in rows])

    def reviewers(self, run_id: str, source: str = "") -> list[str]:
        """Who judged items of a run, in the order of their first verdicts, each once and as she first typed her name.

        source: only those of whom there are verdicts from there.
        """
        query = (
            sql.select(_verdicts.c.reviewer)
            .where(_verdicts.c.run_id == run_id, *([_verdicts.c.source == source] if source else []))
            .group_by(_verdicts.c.reviewer)
            .order_by(sql.func.min(_verdicts.c.id))
        )
        with self.database.transaction(read=True) as connection:
            shown = _shown_names(connection)
            return list(dict.fromkeys(shown[name] for name in connection.execute(query).scalars()))

    def votes(self, run_id: str) -> pa.Table:
        """Every row of a run without its texts, as VOTES_SCHEMA, for queries over many: some 100 bytes each, read in batches.

        `reviewer` is the reviewer's key, see `ui.review.reviewers`.
        """
        columns = [_verdicts.c[name] for name in VOTES_SCHEMA.names]
        query = sql.select(*columns).where(_verdicts.c.run_id == run_id).order_by(_verdicts.c.id)
        keys: dict[str, str] = {}
        batches = []
        with self.database.transaction(read=True) as connection:
            found = connection.execution_options(yield_per=_BATCH_ROWS).execute(query).mappings()
            for rows in found.partitions():
                plain = [
                    {**row, "reviewer": keys.setdefault(row["reviewer"], reviewer_key(row["reviewer"]))} for row in rows
                ]
                batches.append(pa.RecordBatch.from_pylist(plain, schema=VOTES_SCHEMA))
        return pa.Table.from_batches(batches, schema=VOTES_SCHEMA)

    def told_links(self, reviewer: str) -> set[str]:
        """Links whose reviewer was told what the run thinks of the items that she judged through them."""
        query = sql.select(_told.c.link).where(_told.c.reviewer == reviewer_key(reviewer))
        with self.database.transaction(read=True) as connection:
            return set(connection.execute(query).scalars())

    def names(self, run_id: str) -> dict[str, str]:
        """Names of a run's reviewers as they were typed, by first verdict on the run, each with the one to show: typed first anywhere."""
        typed = (
            sql.select(_verdicts.c.reviewer)
            .where(_verdicts.c.run_id == run_id)
            .group_by(_verdicts.c.reviewer)
            .order_by(sql.func.min(_verdicts.c.id))
        )
        with self.database.transaction(read=True) as connection:
            shown = _shown_names(connection)
            return {name: shown[name] for name in connection.execute(typed).scalars()}

    def count(self, run_id: str) -> int:
        """Rows ever stored on a run."""
        query = sql.select(sql.func.count()).where(_verdicts.c.run_id == run_id)
        with self.database.transaction(read=True) as connection:
            return int(connection.execute(query).scalar() or 0)

    def rows(self, run_id: str, size: int = 5000) -> Iterator[list[dict[str, Any]]]:
        """A run's rows in the order stored, at most `size` at a time: by column, as stored (reviewers' names as typed, reasons as JSON), with
        `id`, which grows. No list holds them all, and no transaction lasts longer than one of these lists takes."""
        after = 0
        columns = [_verdicts.c.id, *(_verdicts.c[name] for name in COLUMNS)]
        while True:
            query = sql.select(*columns).where(_verdicts.c.run_id == run_id, _verdicts.c.id > after)
            with self.database.transaction(read=True) as connection:
                found = connection.execute(query.order_by(_verdicts.c.id).limit(size)).mappings()
                rows = [dict(row) for row in found]
            if not rows:
                return
            after = rows[-1]["id"]
            yield rows

    def tell(self, link: str, reviewer: str) -> None:
        """Note that a reviewer is shown what the run thinks of the items that she judged through a link: she judges them blind no more."""
        row = {"link": link, "reviewer": reviewer_key(reviewer), "created_at": _now()}
        with suppress(IntegrityError), self.database.transaction() as connection:  # she was told before
            connection.execute(sql.insert(_told).values(row))

    def claim(self, run_id: str, items: Sequence[tuple[str, bool]], reviewer: str) -> int | None:
        """Keep the first free one of some items for a reviewer; its place in `items`, None when others hold them all.

        An item is another's when it was shown to her within the last half hour, or she judged it.

        Args:
            items: identity, and whether every reviewer gets the item.
        """
        keys, own = [item_key(run_id, item) for item, _ in items], reviewer_key(reviewer)
        with self.database.transaction() as connection:
            rows = connection.execute(sql.select(_claims).where(_claims.c.item_key.in_(keys))).mappings()
            held = {(row["item_key"], row["slot"]): row for row in rows}
            for place, (key, (_, shared)) in enumerate(zip(keys, items, strict=True)):
                slot = own if shared else ""
                claim = held.get((key, slot))
                if (claim is not None and reviewer_key(claim["reviewer"]) == own) or self._take(
                    connection, key, slot, reviewer, claim
                ):
                    return place
        return None

    def _take(self, connection: sql.Connection, key: str, slot: str, reviewer: str, held: Any) -> bool:
        """Claim a free item, or one whose claim is old and without a verdict."""
        own = {"reviewer": reviewer, "created_at": _now()}
        if held is None:
            try:
                with connection.begin_nested():
                    connection.execute(sql.insert(_claims).values(item_key=key, slot=slot, **own))
            except IntegrityError:  # another server process was faster
                return False
            return True
        if held["created_at"] > _now(-timedelta(minutes=CLAIM_MINUTES)):
            return False
        last = (
            sql.select(_verdicts.c.choice).where(_verdicts.c.item_key == key).order_by(_verdicts.c.id.desc()).limit(1)
        )
        if connection.execute(last).scalar() not in (None, "withdrawn"):
            return False  # the claim is old because its reviewer has judged the item
        # Of several who see the same old claim, the one whose update finds it unchanged takes it.
        same = (_claims.c.item_key == key, _claims.c.slot == slot, _claims.c.created_at == held["created_at"])
        return connection.execute(sql.update(_claims).where(*same).values(own)).rowcount == 1


def item_key(run_id: str, item: str) -> str:
    """Digest that stands for an item of a run in indexes."""
    return text_digest(run_id, item)


def _shown_names(connection: sql.Connection) -> dict[str, str]:
    """For each name that was ever typed the one that is shown."""
    typed = sql.select(_verdicts.c.reviewer).group_by(_verdicts.c.reviewer).order_by(sql.func.min(_verdicts.c.id))
    return first_typed(connection.execute(typed).scalars())


def _last_words(history: Iterable[Verdict]) -> list[Verdict]:
    latest: dict[tuple[str, ...], Verdict] = {}
    for verdict in history:
        role = ADJUDICATION if verdict.queue == ADJUDICATION else ""
        key = (verdict.reviewer, verdict.run_id, verdict.item, role, verdict.source)
        latest.pop(key, None)  # a later word takes its place at the end
        latest[key] = verdict
    return [verdict for verdict in latest.values() if verdict.choice != "withdrawn"]


def _is_told(connection: sql.Connection, key: str, reviewer: str) -> bool:
    """Whether a reviewer knows what the run thinks of an item: Spot-check says so after each verdict, a link when its batch is done."""
    own = reviewer_key(reviewer)
    earlier = sql.select(_verdicts.c.reviewer, _verdicts.c.link).where(
        _verdicts.c.item_key == key, _verdicts.c.source == INSPECTOR
    )
    links = {row.link for row in connection.execute(earlier) if reviewer_key(row.reviewer) == own}
    told = sql.select(_told.c.link).where(_told.c.reviewer == own, _told.c.link.in_(links))
    return "" in links or connection.execute(told).first() is not None


def _check(verdict: Verdict) -> None:
    if verdict.choice not in CHOICES:
        raise InputError(f"A verdict is one of {', '.join(CHOICES)}, not {verdict.choice[:40]!r}.")
    unknown = set(verdict.reasons) - set(REASONS)
    if unknown:
        raise InputError(f"Unknown reason {min(unknown)[:40]!r}; the reasons are {', '.join(REASONS)}.")
    if len(verdict.note) > LONGEST_NOTE:
        raise InputError(
            f"The note has {len(verdict.note):,} characters, at most {LONGEST_NOTE:,} are kept; nothing was saved, shorten it."
        )
    if not 0 < len(verdict.submission) <= _LONGEST_SUBMISSION:
        raise InputError("The page is out of date; load it again.")
    if not reviewer_key(verdict.reviewer) or len(verdict.reviewer) > LONGEST_NAME:
        raise InputError(f"A verdict needs the reviewer's name, of at most {LONGEST_NAME} characters.")


def _now(shift: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) + shift).isoformat(timespec="microseconds")


def _storable(text: str) -> str:
    """Text without what some databases refuse: NUL, and halves of surrogate pairs."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
