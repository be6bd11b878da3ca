"""Rows that could not be made. Each goes to a drops table with its reason, the others go on, and too many of them fail the stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from icr_platform.core.config import WHERE, Config, setting
from icr_platform.core.errors import IcrError

TOO_LONG = "too-long"
REFUSED = "refused"
TEMPLATE = "chat-template"
CONTROL_TOKENS = "control-tokens"
ENDPOINT_ERROR = "endpoint-error"
ENGINE_CRASH = "engine-crash"
NOT_FINITE = "not-finite"
UNKNOWN_TOKEN = "unknown-token"


class Fault(NamedTuple):
    """What people are told of rows that were dropped for one reason.

    because: completes "3 prompts were dropped because ...".
    fix: what to do.
    may_pass: whether the same row may succeed when it is tried again.
    """

    because: str
    fix: str
    may_pass: bool


FAULTS: dict[str, Fault] = {
    TOO_LONG: Fault(
        "they do not fit into the model's context", "shorten or remove them, or take a longer context", False
    ),
    TEMPLATE: Fault("the chat template refuses them", "change or remove them, or repair the template", False),
    CONTROL_TOKENS: Fault(
        "they write control tokens, which a server takes for its own",
        "change or remove them, or sample with transformers or vllm, which take them for text",
        False,
    ),
    REFUSED: Fault("the endpoint refused them", "change or remove them, or ask another endpoint", False),
    ENDPOINT_ERROR: Fault("the endpoint failed on them", "run the same command again: it asks for these only", True),
    NOT_FINITE: Fault("the model's logits overflow on them", "give --dtype float32", False),
    UNKNOWN_TOKEN: Fault(
        "they contain a token for which the model has no embedding", "write that token's text otherwise", False
    ),
    ENGINE_CRASH: Fault("the engine died of them", "shorten or remove them; the engine's lines above say more", True),
}
"""By the reason in the drops table. Filters (empty, truncated, ...) are not faults: they measure the policy."""


class FaultSettings(Config):
    """How many rows a stage may lose to faults."""

    heading = place_heading = WHERE

    max_dropped: float = setting(
        5.0,
        "percent of the rows that may be dropped because they do not fit into the context or because the endpoint or engine "
        "failed on them, before the stage fails, after everything is kept",
        "place",
        ge=0,
        le=100,
    )


def fault_notes(language: str, counts: Mapping[str, int], noun: str, table: str) -> list[str]:
    """One line on each reason for which rows of a language were dropped.

    counts: rows by reason. noun: what a row is, in the plural. table: where they are listed.

    >>> fault_notes("es", {"too-long": 2, "empty": 1}, "prompts", "generation_drops")
    ["es: 2 prompts were dropped because they do not fit into the model's context; generation_drops lists them"]
    """
    return [
        f"{language}: {count} {noun} were dropped because {FAULTS[reason].because}; {table} lists them"
        for reason, count in counts.items()
        if reason in FAULTS and count
    ]


def require_few_faults(
    counts: Mapping[str, int],
    total: int,
    max_dropped: float,
    noun: str,
    kept: str = "",
    error: type[IcrError] = IcrError,
) -> None:
    """Raise `error` when more than `max_dropped` percent of `total` rows were dropped for a fault.

    counts: rows by reason. noun: what a row is, in the plural. kept: where finished work is, or what else is to be said of it.
    """
    faults = {reason: count for reason, count in counts.items() if reason in FAULTS and count}
    dropped = sum(faults.values())
    if not total or 100.0 * dropped / total <= max_dropped:
        return
    most = max(faults, key=lambda reason: faults[reason])
    raise error(
        f"{dropped} of {total} {noun} were dropped ({100.0 * dropped / total:.1f}%, above max_dropped {max_dropped:g}%), most "
        f"as {most!r} ({faults[most]}): {FAULTS[most].because}; {FAULTS[most].fix}, or raise --max-dropped"
        + (f"; {kept}" if kept else "")
    )
