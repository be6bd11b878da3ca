"""Arms of translated answers and of given pairs: their chain of stages, a second command, the report and the inspector."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr_platform.cli.commands import run as icr
from icr_platform.cli.flags import parse
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import PREFERENCES, TEXT_TRANSLATIONS
from icr_platform.pipeline.arm import Arm
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import open_session
from icr_platform.tracking.reader import TrackingReader
from tests.support.small_tables import write_prompt_folder
from tests.support.tiny_models import PROMPTS, RESPONSES
from ui.pages import spot_check
from ui.pages.inspector import Inspector
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES
from ui.review.verdict_store import VerdictStore
from ui.tables.queries import QueryEngine
from ui.tables.runs import Catalogue
from ui.tables.view import View

OWN = {
    "translator": "tests.support.own_translators:tagging",
    "language_identifier": "tests.support.own_translators:tags",
}


@pytest.fixture
def values(tmp_path: Path, tiny_models: tuple[Path, Path], own_store: Path) -> dict[str, Any]:
    """What both arms have in common."""
    policy, reference = tiny_models
    return {
        "iterations": 1,
        "policy": str(policy),
        "reference": str(reference),
        "prompts": str(write_prompt_folder(tmp_path / "prompts")),
        "languages": ["en", "es"],
        "seed": 1,
        "generate": {"samples": 2, "max_tokens": 24},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "translate": OWN,
        "train": {"learning_rate": 1e-4, "batch_size": 4, "accumulation": 1},
    }


def run(values: dict[str, Any], tmp_path: Path) -> Arm:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    config, options = parse("iterate", [f"--config={path}"])
    return iterate(open_session(options), config)  # type: ignore[arg-type]


def predicted_rows(capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, int]:
    """What `icr check` says of each stage of mine.yaml."""
    capsys.readouterr()
    assert icr(["check", "mine.yaml", *flags]) == 0
    shown = capsys.readouterr().out
    return {
        name: int(rows.replace(",", "")) for name, rows in re.findall(r"^│ (\w+) +│ +([\d,]+) │", shown, re.MULTILINE)
    }


def test_an_arm_of_translated_answers(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values["annotate"] |= {"pair_source": "translation"}
    arm = run(values, tmp_path)
    assert [stage for number, stage in arm.stages if number == 1] == ["generate", "translate", "annotate", "train"]
    again = run(values, tmp_path)  # whose artifacts are the store's
    assert all(stage.reused for stage in again.stages.values())
    predicted = predicted_rows(capsys)
    translated = open_artifact(again.stages[1, "translate"].artifact("text_translations"), TEXT_TRANSLATIONS)
    assert list(predicted) == ["generate", "translate", "annotate", "train"]
    assert predicted["translate"] == predicted["generate"] // 2, "one answer to each prompt, of two, either way"
    assert 0.5 * predicted["translate"] < translated.rows <= predicted["translate"]
    pairs = open_artifact(again.stages[1, "annotate"].artifact("preferences"), PREFERENCES).read().to_pylist()
    assert {row["language"] for row in pairs} == {"en", "es"}
    assert {(row["language"], row["chosen_translated_from"], row["rejected_translated_from"]) for row in pairs} == {
        ("en", None, "es"),
        ("es", "en", None),
    }
    assert arm.metrics[1]["train/pairs"] == len(pairs)
    assert "margin/median/es" not in arm.metrics[1]
    report = (tmp_path / "report-icr.html").read_text(encoding="utf-8")
    assert any(row["instruction"] in report for row in pairs)  # of the examples
    assert "margin nan" not in report
    assert arm.run is not None
    _look(arm.run.run_id, pairs[0], tmp_path)


def _look(run_id: str, pair: dict[str, Any], tmp_path: Path) -> None:
    """At every page of the inspector that shows pairs."""
    catalogue = Catalogue(TrackingReader(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path)
    inspector = Inspector(catalogue, QueryEngine(), VerdictStore(str(tmp_path / "verdicts.db")))
    pages = {page.address: page for page in PAGES}
    asked = {"run": run_id, "iteration": "1"}
    for page in PAGES:
        assert "Something went wrong" not in render_page(inspector, page, asked, page.show)
    listed = render_page(inspector, pages["pairs"], {**asked, "sort": "margin"}, pages["pairs"].show)
    assert "no pair: the prompt was dropped" not in listed
    key = {"id": pair["prompt_id"], "id_language": pair["language"]}
    detail = render_page(inspector, pages["pairs"], asked | key, pages["pairs"].show)
    assert "No reward made this pair: the rejected response was translated from" in detail
    assert "Spanish" in detail
    assert "Reward after length" not in detail
    margins = render_page(inspector, pages["margins"], asked, pages["margins"].show)
    assert "were made without rewards: they have no margins" in margins
    focus = inspector.focus(View(run=run_id, iteration=1))
    assert focus is not None
    offered = spot_check.offer(inspector, focus, "ana").content.main
    assert pair["instruction"] in offered or "Which" in offered


def test_an_arm_of_given_pairs_that_are_translated(
    values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [
        {"prompt": PROMPTS["en"][n], "better": RESPONSES["en"][n], "rejected": RESPONSES["en"][n - 1]} for n in range(6)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    values |= {"preferences": "pairs.jsonl", "preference_columns": {"chosen": "better"}}
    values["translate"] = {**OWN, "into": ["en", "es"]}
    arm = run(values, tmp_path)
    assert [stage for number, stage in arm.stages if number == 1] == ["translate", "train"]
    assert (arm.metrics[1]["train/pairs"], arm.metrics[1]["translated/es"]) == (12.0, 6.0)
    again = run(values, tmp_path)
    assert all(stage.reused for stage in again.stages.values())
    translated = open_artifact(again.stages[1, "translate"].artifact("text_translations"), TEXT_TRANSLATIONS)
    assert predicted_rows(capsys) == {"translate": translated.rows, "train": 12}
    trained = arm.stages[1, "train"].fingerprint
    values["translate"] = OWN
    plain = run(values, tmp_path)  # the pairs as they are
    assert [stage for number, stage in plain.stages if number == 1] == ["train"]
    assert plain.metrics[1]["train/pairs"] == 6.0
    assert plain.stages[1, "train"].fingerprint != trained
    assert predicted_rows(capsys) == {"train": 6}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, "preferences": "nowhere.jsonl"}))
    capsys.readouterr()
    assert icr(["check", "mine.yaml"]) == 2
    assert "nowhere.jsonl: no such file or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"translate": {"into": ["es"]}}, "field 'translate.into' is given, and nothing is translated"),
        ({"annotate": {"pair_source": "translation", "rejected": "random"}}, "field 'rejected' is 'random', which is of rewards"),
        ({"annotate": {"pair_source": "translation"}, "translate": {"translation_template": "Translate {txt}."}},
         "{txt} is not one of {text}"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_work(
    change: dict[str, Any], said: str, values: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, **change}))
    for command in (["check"], ["iterate", "--config"]):
        assert icr([*command, "mine.yaml"]) == 2
        assert said in capsys.readouterr().err
