"""Votes of people on two responses, as other tools and the inspector itself write them: one row, or one reviewer's response to a record, a vote.

Read are the inspector's exported verdicts; tables that name the side (`chosen`, `before`, ...) of an item; every layout of two responses that
`data.text_pairs` reads, such as battles of Chatbot Arena and LMArena, and MENLO; and Argilla's exports, as records or as a data set.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from icr_platform.data.row_fields import BadRow, identity_of
from icr_platform.data.row_files import SourceRow, file_rows
from icr_platform.data.row_sources import LANGUAGE_FIELDS, language_of
from icr_platform.data.text_pairs import LABELS, texts_of
from icr_platform.data.wording import short

SIDES = ("chosen", "rejected", "before", "after")
CHOICES = ("left", "right", "tie", "both-bad", "skip", "withdrawn")
VOTER_FIELDS = (
    "reviewer", "annotator", "annotator_id", "user", "user_id", "username", "judge", "judge_hash", "worker", "worker_id", "rater", "rater_id",
    "evaluator", "evaluator_id",
)  # fmt: skip
NOTE_FIELDS = ("note", "notes", "comment", "comments", "explanation", "rationale", "justification", "feedback")
_REASON_FIELDS = ("reasons", "reason", "tags")
_TIME_FIELDS = ("created_at", "tstamp", "timestamp", "submitted_at", "updated_at", "inserted_at", "time", "date")
_SECONDS_FIELDS = ("seconds", "duration", "time_spent", "lead_time")
_FIELDS = "two responses and which is better, or a prompt id and the side that is"
_BOTH_BAD = re.compile(r"(tie )?\(?(both[ _-]?bad|neither|both are bad|bad)\)?", re.IGNORECASE)
_MILLISECONDS = 1e11  # no vote was given in the year 5138
_SUBMITTED = ("submitted", "completed", "")


class Vote(NamedTuple):
    """One vote.

    where: file and row. digest: of the row, the same whenever it is read. voter: '' where the row names nobody.
    language, prompt_id: '' where the row has none. pair_index, iteration, base: None likewise.
    asked, left, right: the instruction and the two texts, '' where the row has none. left_name, right_name: one of SIDES where it names them.
    choice: one of CHOICES. created_at: UTC, ISO 8601, or ''. own: the other fields of a verdict that the inspector exported, else empty.
    """

    where: str
    digest: str
    voter: str
    language: str
    prompt_id: str
    pair_index: int | None
    iteration: int | None
    base: int | None
    asked: str
    left: str
    right: str
    left_name: str
    right_name: str
    choice: str
    reasons: tuple[str, ...]
    note: str
    blind: bool
    seconds: float
    created_at: str
    own: Mapping[str, Any]


class UnusableVote(NamedTuple):
    """A row, or a response to a record, that is no vote: where it is, and what was seen and what to do."""

    where: str
    fault: str


def read_votes(path: str) -> Iterator[Vote | UnusableVote]:
    """The votes of a file, read one after another.

    Raises:
        InputError: the file cannot be read as rows; one line that names it and the row.
    """
    for row in file_rows(Path(path), _FIELDS):
        try:
            responses = list(_responses(row.fields))
        except BadRow as error:
            yield UnusableVote(row.where, str(error))
            continue
        for fields in responses:
            try:
                yield _vote(row, fields)
            except BadRow as error:
                yield UnusableVote(row.where, str(error))


def _vote(row: SourceRow, fields: Mapping[str, Any]) -> Vote:
    reasons = _listed(_first(fields, _REASON_FIELDS))
    about: dict[str, Any] = {
        "where": row.where,
        "digest": _digest(fields),
        "voter": str(_first(fields, VOTER_FIELDS) or "").strip(),
        "language": _language(fields),
        "prompt_id": identity_of(fields) or "",
        **{name: _whole(fields, name) for name in ("pair_index", "iteration", "base")},
        "reasons": tuple(reasons),
        "note": _unquoted(str(_first(fields, NOTE_FIELDS) or "")),
        "blind": _truth(fields, "blind", _truth(fields, "anony", True)),
        "seconds": max(_number(_first(fields, _SECONDS_FIELDS)) or 0.0, 0.0),
        "created_at": _time(_first(fields, _TIME_FIELDS)),
        "own": {},
    }
    if fields.get("left") in SIDES and fields.get("right") in SIDES and "choice" in fields:
        return _exported(fields, about)
    if (named := _named_side(fields)) is not None:
        first, second, choice = named
        return Vote(**about, asked="", left="", right="", left_name=first, right_name=second, choice=choice)
    texts = texts_of(_unpacked(fields), keeps_ties=True)
    better, worse = texts.sides
    # As the file has them: the first of two columns stands left.
    is_first = better < worse
    left, right = (texts.chosen, texts.rejected) if is_first else (texts.rejected, texts.chosen)
    choice = "left" if is_first else "right"
    if texts.is_tie:
        said = [str(fields[name]) for name in texts.columns if name in fields]
        choice = (
            "both-bad"
            if any(_BOTH_BAD.fullmatch(one.strip()) for one in said) or _truth(fields, "both_bad", False)
            else "tie"
        )
    return Vote(
        **about, asked=texts.asked.instruction, left=left, right=right, left_name="", right_name="", choice=choice
    )


def _unpacked(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with turns as texts, where it is one of the arena's with a JSON list of turns in each field, of which there is one."""
    names = ("prompt", "response_a", "response_b")
    if "winner_model_a" not in fields or not all(str(fields.get(name)).startswith('["') for name in names):
        return fields
    turns = {name: _listed_json(fields[name]) for name in names}
    if any(len(texts) != 1 for texts in turns.values()):
        raise BadRow("the battle has several turns; only those of one turn can be matched by their texts")
    return {**fields, **{name: texts[0] for name, texts in turns.items()}}


def _exported(fields: Mapping[str, Any], about: dict[str, Any]) -> Vote:
    """A verdict as the inspector exports it."""
    choice = str(fields["choice"]).strip()
    if choice not in CHOICES:
        raise BadRow(f"field 'choice' is {short(repr(choice))}; give one of {', '.join(CHOICES)}")
    if not about["voter"]:
        raise BadRow("field 'reviewer' is missing or empty; give the name of who judged")
    if not about["prompt_id"] or not about["language"]:
        missing = "prompt_id" if not about["prompt_id"] else "language"
        raise BadRow(f"field {missing!r} is missing or empty; an exported verdict has it")
    item = str(fields.get("item") or "")
    number = item.partition(":")[0].partition(".")[2]
    about["pair_index"] = (
        int(number) if number.isdigit() else about["pair_index"] if about["pair_index"] is not None else 0
    )
    if fields.get("submission"):
        about["digest"] = _digest({"submission": _unquoted(str(fields["submission"]))})
    about["own"] = {
        "submission": _unquoted(str(fields.get("submission") or "")), "run_id": str(fields.get("run_id") or ""),
        "queue": _unquoted(str(fields.get("queue") or "")), "gold": str(fields.get("gold") or ""),
        "disclosed": _truth(fields, "disclosed", False), "fast": _truth(fields, "fast", False),
        **{name: _whole(fields, name) for name in ("left_characters", "right_characters")},
    }  # fmt: skip
    about |= {"voter": _unquoted(about["voter"]), "prompt_id": _unquoted(about["prompt_id"])}
    return Vote(
        **about,
        asked="",
        left="",
        right="",
        left_name=str(fields["left"]),
        right_name=str(fields["right"]),
        choice=choice,
    )


def _named_side(fields: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """Names of both sides and the choice, where a label names a side of an item; None where no label does."""
    for name in LABELS:
        said = str(fields.get(name) or "").strip().lower().replace("_", "-")
        if said in SIDES:
            names = ("chosen", "rejected") if said in SIDES[:2] else ("before", "after")
            return *names, "left" if said == names[0] else "right"
        has_texts = any(
            key in fields for key in ("response_a", "response_1", "response1", "conversation_a", "chosen", "output_1")
        )
        if not has_texts and said in ("tie", "both-bad", "skip"):
            names = ("before", "after") if fields.get("base") not in (None, "") else ("chosen", "rejected")
            return *names, said
    return None


def _responses(fields: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The row itself; of one of Argilla's records, what each of its users answered, beside the record's fields."""
    given = fields.get("responses")
    questions = [name.removesuffix(".responses") for name in fields if name.endswith(".responses")]
    if isinstance(fields.get("fields"), Mapping) and isinstance(given, (Mapping, list)):
        record = {
            **(fields.get("metadata") or {}),
            **fields["fields"],
            "id": fields.get("external_id") or fields.get("id"),
        }
        answers = _by_user(given)
    elif questions:
        record = {
            name: value for name, value in fields.items() if ".responses" not in name and ".suggestion" not in name
        }
        record = {name.removeprefix("metadata."): value for name, value in record.items()}
        answers = _by_column(fields, questions)
    else:
        yield fields
        return
    if not answers:
        raise BadRow("the record has no response yet; nobody has voted")
    for user, (status, said) in answers.items():
        if status not in _SUBMITTED:
            raise BadRow(f"the response of {short(repr(user))} is {status}; only submitted ones are votes")
        yield {**record, **_labelled(said), "user_id": user}


_Answers = dict[str, tuple[str, dict[str, Any]]]


def _by_user(given: Any) -> _Answers:
    """What each user answered to each question, and the response's status: of a record in the layout of Argilla 2, or of 1."""
    found: _Answers = {}
    if isinstance(given, Mapping):
        for question, responses in given.items():
            for response in responses or ():
                user = str(response.get("user_id") or "")
                found.setdefault(user, (str(response.get("status") or ""), {}))[1][question] = response.get("value")
        return found
    for response in given:
        said = {question: (value or {}).get("value") for question, value in (response.get("values") or {}).items()}
        found[str(response.get("user_id") or len(found))] = (str(response.get("status") or ""), said)
    return found


def _by_column(fields: Mapping[str, Any], questions: list[str]) -> _Answers:
    """As `_by_user`, of a data set that Argilla wrote: lists of values, users and statuses side by side."""
    found: _Answers = {}
    for question in questions:
        values = _listed_json(fields[f"{question}.responses"])
        users = _listed_json(fields.get(f"{question}.responses.users"))
        statuses = _listed_json(fields.get(f"{question}.responses.status"))
        for place, value in enumerate(values):
            user = str(users[place]) if place < len(users) else str(place)
            status = str(statuses[place]) if place < len(statuses) else ""
            found.setdefault(user, (status, {}))[1][question] = value
    return found


def _labelled(said: Mapping[str, Any]) -> dict[str, Any]:
    """Answers by name, with that on which response is better under a name of a label: a ranking's first one, or a tie."""
    about = {name: value for name, value in said.items() if name in (*NOTE_FIELDS, *_REASON_FIELDS)}
    others = {name: value for name, value in said.items() if name not in about}
    if not others:
        raise BadRow("the response says nothing of which of the two is better")
    name = next((name for name in LABELS if name in others), next(iter(others)))
    value = others[name]
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        best = min(_number(one.get("rank")) or math.inf for one in value)
        first = [one.get("value") for one in value if (_number(one.get("rank")) or math.inf) == best]
        value = first[0] if len(first) == 1 else "tie"
    text = str(value).strip().lower().replace("-", "_") if isinstance(value, str) else value
    return {**about, "preference": text}


def _language(fields: Mapping[str, Any]) -> str:
    said = next((str(fields[name]).strip() for name in LANGUAGE_FIELDS if fields.get(name)), "")
    return "" if said.lower() in ("", "unknown", "und", "none", "nan") else language_of(said)


def _first(fields: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((fields[name] for name in names if fields.get(name) not in (None, "", [])), None)


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.split("|")
    return [str(one).strip() for one in value or () if str(one).strip()] if isinstance(value, (list, tuple)) else []


def _listed_json(value: Any) -> list[Any]:
    """A list, or the JSON of one, as CSV has it."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise BadRow(f"{short(repr(value))} begins as a list and is not JSON; correct it") from None
    return list(value) if isinstance(value, (list, tuple)) else []


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _whole(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    number = _number(value)
    if number is None or number != int(number) or not 0 <= number < 2**31:
        raise BadRow(f"field {name!r} is {short(repr(value))}; give a whole number from 0")
    return int(number)


def _truth(fields: Mapping[str, Any], name: str, otherwise: bool) -> bool:
    value = fields.get(name)
    if value is None or value == "":
        return otherwise
    return str(value).strip().lower() in ("true", "1", "1.0", "yes")


def _time(value: Any) -> str:
    """UTC, ISO 8601, of seconds or milliseconds since 1970 or of a date; '' where it is neither."""
    number = _number(value)
    try:
        if number is not None:
            found = datetime.fromtimestamp(number / 1000 if number > _MILLISECONDS else number, UTC)
        else:
            found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
            found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return found.isoformat(timespec="microseconds")


def _unquoted(text: str) -> str:
    """Text of a field before which the inspector's CSV put a quote, so that no spreadsheet takes it for a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in ("=", "+", "-", "@", "\t", "\r") else text


def _digest(fields: Mapping[str, Any]) -> str:
    plain = json.dumps(fields, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()
