"""What the structure promises: a new part of each kind is a row in one table and a module, and `icr` knows it at once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import DROPS, JUDGMENTS, OUTPUTS, PREFERENCES, RESPONSES, REWARDS
from icr_platform.tracking.tracker import Tracker
from tests.support import extensions, synthetic_runs
from tests.support.extensions import Extension, icr, run_python
from tests.support.small_tables import write_responses
from tests.support.tiny_models import PROMPTS
from tests.support.tiny_models import RESPONSES as ANSWERS


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[Path, Path]:
    """(outputs, reference outputs): the reference is longer for the first prompt of each language, and shorter for the others."""
    for language, answers in ANSWERS.items():
        references = [f"{answer} And more." if i == 0 else answer[:-1] for i, answer in enumerate(answers)]
        for folder, texts in (("outputs", answers), ("references", references)):
            rows = [{"id": f"p{i}", "output": text} for i, text in enumerate(texts)]
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{language}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return tmp_path / "outputs", tmp_path / "references"


@pytest.mark.parametrize("name", ["REWARD_KIND", "JUDGE", "IDENTIFIER", "SAMPLER", "PAGE", "STAGE"])
def test_an_extension_touches_few_files(name: str) -> None:
    extension: Extension = getattr(extensions, name)
    assert len(extension.files) <= extension.most_files


def test_a_reward_kind(tmp_path: Path, tiny_models: tuple[Path, Path], prompt_folder: Path) -> None:
    tree = extensions.REWARD_KIND.applied(tmp_path / "tree")
    responses = write_responses(tmp_path / "responses", tiny_models[0])
    policy, reference = tiny_models
    icr(tree, "annotate", f"--policy={policy}", f"--reference={reference}", f"--prompts={prompt_folder}",
        f"--responses={responses}", "--reward-kind=brief", "--length-control=false", f"--output={tmp_path / 'out'}",
        "--no-tracking")  # fmt: skip
    rewards = open_artifact(tmp_path / "out" / "rewards", REWARDS).read()
    assert pc.unique(rewards["kind"]).to_pylist() == ["brief"]
    assert set(rewards["reward"].to_pylist()) == {0.0, -1.0, -2.0}
    pairs = open_artifact(tmp_path / "out" / "preferences", PREFERENCES).read()
    assert set(zip(pairs["chosen_index"].to_pylist(), pairs["rejected_index"].to_pylist(), strict=True)) == {(0, 2)}
    assert pairs.num_rows == sum(map(len, PROMPTS.values()))


def test_a_judge(tmp_path: Path, prompt_folder: Path, outputs: tuple[Path, Path]) -> None:
    tree = extensions.JUDGE.applied(tmp_path / "tree")
    printed = icr(tree, "eval", f"--prompts={prompt_folder}", f"--outputs={outputs[0]}", f"--reference-outputs={outputs[1]}",
                  "--judge=length", f"--output={tmp_path / 'out'}", "--no-tracking")  # fmt: skip
    judgments = open_artifact(tmp_path / "out" / "judgments", JUDGMENTS).read().to_pylist()
    assert {row["judge"] for row in judgments} == {"length"}
    assert {row["preference"] for row in judgments if row["prompt_id"] == "p0"} == {0.0}
    assert {row["preference"] for row in judgments if row["prompt_id"] != "p0"} == {1.0}
    assert "83.3" in printed, "five of six prompts are won"


def test_a_language_identifier(tmp_path: Path, prompt_folder: Path, outputs: tuple[Path, Path]) -> None:
    tree = extensions.IDENTIFIER.applied(tmp_path / "tree")
    icr(tree, "eval", f"--prompts={prompt_folder}", f"--outputs={outputs[0]}", "--language-identifier=marks",
        f"--output={tmp_path / 'out'}", "--no-tracking")  # fmt: skip
    found = open_artifact(tmp_path / "out" / "outputs", OUTPUTS).read().to_pylist()
    told = {row["output"]: row["detected_language"] for row in found}
    assert told["¡Hola, amigo!"] == "es"
    assert told["Gras ist grün."] == "de"
    assert told["Ein Apfel ist eine Frucht."] == "en", "no letter of it is German alone"


def test_a_sampler(tmp_path: Path, tiny_model: Path, prompt_folder: Path) -> None:
    tree = extensions.SAMPLER.applied(tmp_path / "tree")
    icr(tree, "generate", f"--policy={tiny_model}", f"--prompts={prompt_folder}", "--samples=2", "--sampler=echo",
        f"--output={tmp_path / 'out'}", "--no-tracking")  # fmt: skip
    responses = open_artifact(tmp_path / "out" / "responses", RESPONSES).read().to_pylist()
    prompts = {(language, f"p{i}"): text for language, texts in PROMPTS.items() for i, text in enumerate(texts)}
    assert Counter((row["language"], row["prompt_id"]) for row in responses) == dict.fromkeys(prompts, 2)
    assert all(row["response"] == prompts[row["language"], row["prompt_id"]] for row in responses)


SERVED = """
import sys, urllib.request
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES
from ui.server.app import open_inspector
from ui.server.gradio_app import serve
from ui.server.options import InspectOptions

options = InspectOptions(tracking_uri=sys.argv[1], port=0, verdicts=sys.argv[2])
inspector = open_inspector(options)
_, address, _ = serve(inspector, options, block=False)
print("status", urllib.request.urlopen(f"{address}iterations").status)
print(render_page(inspector, next(page for page in PAGES if page.address == "iterations"), {"run": sys.argv[3]}))
inspector.catalogue.close()
sys.stdout.flush()
import os; os._exit(0)
"""


def test_a_page_of_the_inspector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # put back afterwards; the runs have a store of their own
    run = synthetic_runs.small_run(synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", per_language=2)
    tree = extensions.PAGE.applied(tmp_path / "tree")
    printed = run_python(tree, SERVED, f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "verdicts.db"), run.run_id)
    assert "status 200" in printed
    assert "iteration 1: annotate, eval, generate" in printed
    assert ">Iterations</a>" in printed, "the navigation names it"


TWICE = """
import sys
from icr_platform.cli.commands import run

assert run(sys.argv[1:]) == 0
assert run(sys.argv[1:]) == 0
"""


def test_a_stage(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has flags, is tracked, and is found again by the fingerprint that follows from its row."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tree = extensions.STAGE.applied(tmp_path / "tree")
    responses = write_responses(tmp_path / "responses", tiny_model)
    printed = run_python(tree, TWICE, "count", f"--responses={responses}", "--least=8")
    places = [line.removeprefix("short: ") for line in printed.splitlines() if line.startswith("short: ")]
    run_id = places[0].split("/")[1]
    assert run_id in places[1], "the second command finds the work of the first"
    tracker = Tracker()
    run = tracker.client.get_run(run_id)
    assert (run.data.tags["icr.stage"], run.data.params["least"]) == ("count", "8")
    assert run.data.metrics["responses/es"] == 18
    short = open_artifact(Path(tracker.resolve(places[0])), DROPS).read()
    lengths = [len(answer) - 1 - sample for answers in ANSWERS.values() for answer in answers for sample in range(3)]
    assert short.num_rows == sum(length < 8 for length in lengths) > 0
