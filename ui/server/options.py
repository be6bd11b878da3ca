"""What `icr inspect` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ui.review.exports import DEFAULT_FORMATS, FORMATS, ExportRequest
from ui.review.item_rows import RULES

VERDICTS_FILE = "verdicts.db"


def _option(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"help": doc})


@dataclass(frozen=True)
class InspectOptions:
    """Flags of `icr inspect`, of which help shows the texts."""

    tracking_uri: str = _option("", "MLflow store; empty: MLFLOW_TRACKING_URI, or MLflow's default")
    experiment: str = _option("", "show this experiment only; empty: all")
    outputs: str = _option(
        "",
        "files or folders of outputs, separated by commas, that Compare can set beside runs; a path may have {language} in it",
    )
    port: int = _option(7860, "port on 127.0.0.1; 0 takes a free one")
    verdicts: str = _option(VERDICTS_FILE, "where verdicts are stored: SQLAlchemy URL, or path of an SQLite file")
    auth_file: str = _option(
        "",
        "file of users and hashed passwords, to which `python -m ui.server.auth FILE NAME` adds one; empty: no login",
    )
    user_header: str = _option("", "request header in which a reverse proxy names the user; empty: none is trusted")
    public_host: str = _option(
        "",
        "host name under which a reverse proxy serves the inspector, with its port where that is not 443, in addition to 127.0.0.1 and "
        "localhost",
    )
    lead: str = _option(
        "",
        "users, separated by commas, who may publish verdicts and make review links, beside those whom the auth file marks; without a "
        "login everyone on this machine may",
    )


@dataclass(frozen=True)
class PublishOptions:
    """Flags of `icr verdicts publish`."""

    names: bool = _option(False, "publish reviewers' own names; without it they are numbered")
    dry_run: bool = _option(False, "say what would be published, and publish nothing")
    leave_out: tuple[str, ...] = _option(
        (), "a reviewer who is to be in no figure and no row of what is published; may be given several times"
    )


@dataclass(frozen=True)
class ExportOptions:
    """Flags of `icr verdicts export`."""

    output: str = _option("verdicts", "folder of the exported files")
    format: str = _option(
        ",".join(DEFAULT_FORMATS),
        f"formats, separated by commas, of {', '.join(FORMATS)}, or all: verdicts as CSV and Parquet, preferences for TRL, labelled pairs for "
        "`icr reward-bench --pairs`, items with texts for spreadsheets, a folder for datasets.load_dataset, files for LLM Comparator",
    )
    rule: str = _option(
        RULES[0],
        "what several votes on an item become: the majority's answer, an adjudicated one where a lead gave it, or all, a row for each vote",
    )
    leave_out: tuple[str, ...] = _option(
        (),
        "name of a reviewer whose verdicts are left out, or her number as in 'reviewer 2'; may be given several times",
    )
    names: bool = _option(
        False, "write reviewers' own names; without it they are numbered as `icr verdicts publish` numbers them"
    )
    language: str = _option("", "verdicts on items in this language only; empty: all")

    @property
    def request(self) -> ExportRequest:
        """What is asked of `ui.review.exports`."""
        formats = tuple(name for part in self.format.split(",") if (name := part.strip()))
        formats = tuple(FORMATS) if formats == ("all",) else formats
        return ExportRequest(formats, self.rule, tuple(self.leave_out), self.names, self.language)


@dataclass(frozen=True)
class LinkOptions:
    """Flags of `icr verdicts link`. Texts, as a form has them: `ui.review.making_links.asked_link` reads both."""

    language: str = _option("", "language of the items; empty: the run's only one")
    queue: str = _option("random", "which items: random, smallest-margin, largest-margin, regressions or disagree")
    iteration: str = _option("", "iteration of the items; empty: the last one that has any")
    base: str = _option("", "iteration to compare with, for regressions and disagree; empty: the one before")
    items: str = _option("30", "items that each reviewer judges")
    overlap: str = _option("20", "percent of them that all reviewers get, so that their agreement can be measured")
    gold: str = _option(
        "",
        "gold pairs, whose answer is certain, mixed in to check attention: how many to make by spoiling responses of the run, or a file of "
        "labelled pairs",
    )
    guidelines: str = _option("", "file of guidelines in Markdown, shown before the first item and by a key")
    days: str = _option("14", "how long the link can be used")


@dataclass(frozen=True)
class ImportOptions:
    """Flags of `icr verdicts import`."""

    source: str = _option("", "name of what the votes are from; empty: the file's")


VERDICT_ACTIONS: dict[str, type] = {
    "publish": PublishOptions, "export": ExportOptions, "link": LinkOptions, "import": ImportOptions,
}  # fmt: skip
"""What `icr verdicts` does, and the flags of each."""
