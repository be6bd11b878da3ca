"""`icr verdicts`: reviewers' verdicts become a table and metrics of their MLflow run, or files that the platform reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from icr_platform.cli.commands import run
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.data.labelled_pairs import read_labelled_pairs
from tests.support import synthetic_runs
from ui.review.exports import VERDICTS
from ui.review.items import Facts, Item, facts_of, is_first_left
from ui.review.recording import new_token, record
from ui.server.app import open_inspector
from ui.server.options import InspectOptions


def icr(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from icr_platform.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)


def run_in_process(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    assert run(list(arguments)) == 0
    return capsys.readouterr().out.splitlines()


def test_publish_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the store below is named on the command line
    run_id = synthetic_runs.small_run(
        synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", per_language=3
    ).run_id
    uri, verdicts = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "verdicts.db")
    flags = ["--tracking-uri", uri, "--verdicts", verdicts]
    none_yet = icr("verdicts", "publish", run_id, *flags)
    assert none_yet.returncode == 2
    assert "has no verdicts yet" in none_yet.stderr
    inspector = open_inspector(InspectOptions(tracking_uri=uri, verdicts=verdicts))
    for language, prompt_id in (("es", "p0"), ("es", "p1"), ("bn", "p0")):
        item = Item("pair", 2, None, language, prompt_id)
        token = new_token(inspector.links.secret, item, run_id, "random", True, "chosen")
        record(inspector, inspector.verdicts, inspector.links, "ana", "left", token, ["untrue"], "note")
    for times in (1, 2):
        done = icr("verdicts", "publish", run_id, *flags)
        assert (done.returncode, done.stdout) == (0, f"published 3 verdicts to run {run_id}\n"), done.stderr
        client = mlflow.MlflowClient(uri)
        metrics = client.get_run(run_id).data.metrics
        assert {name for name in metrics if name.startswith("human_agreement/")} == {
            "human_agreement/all",
            "human_agreement/bn",
            "human_agreement/es",
        }
        assert metrics["human_agreement_n/es"] == 2
        assert len(client.get_metric_history(run_id, "human_agreement/es")) == times
        table = open_artifact(Path(client.download_artifacts(run_id, "verdicts", str(tmp_path))), VERDICTS).read()
        assert table.column("language").to_pylist() == ["es", "es", "bn"]
        assert table.column("reviewer").to_pylist() == ["reviewer 1"] * 3
    rehearsed = run_in_process(capsys, "verdicts", "publish", run_id, *flags, "--dry-run")
    assert rehearsed[:2] == [
        f"To run {run_id} would be added:",
        "table 'verdicts' of 3 rows, withdrawn verdicts included, 3 with a note as it was written",
    ]
    assert "  reviewer 1  (is 'ana'; only this preview says so): 3 rows" in rehearsed
    assert "  human_agreement_n/es = 2" in rehearsed
    assert len(client.get_metric_history(run_id, "human_agreement/es")) == 2, "nothing was published"
    assert run_in_process(capsys, "verdicts", "publish", run_id, *flags, "--names") == [
        f"published 3 verdicts to run {run_id}"
    ]
    table = open_artifact(Path(client.download_artifacts(run_id, "verdicts", str(tmp_path))), VERDICTS).read()
    assert table.column("reviewer").to_pylist() == ["ana"] * 3
    unknown = icr("verdicts", "publish", "0" * 32, *flags)
    assert unknown.returncode == 2
    assert len(unknown.stderr.splitlines()) == 1


def test_exported_verdicts_are_labelled_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each item is one pair with the label of the majority; both bad, a tie and reviewers who disagree are ties."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    run_id = synthetic_runs.small_run(
        synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", per_language=3
    ).run_id
    flags = ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", "--verdicts", str(tmp_path / "verdicts.db")]
    inspector = open_inspector(InspectOptions(tracking_uri=flags[1], verdicts=flags[3]))
    said = {
        ("es", "p0"): {"ana": "chosen", "ben": "chosen", "eva": "rejected"},
        ("es", "p1"): {"ana": "rejected"},
        ("es", "p2"): {"ana": "chosen", "ben": "rejected"},
        ("bn", "p0"): {"ana": "both-bad"},
        ("bn", "p1"): {"ana": "tie", "ben": "tie", "eva": "chosen"},
        ("bn", "p2"): {"ana": "skip"},
    }
    for (language, prompt_id), choices in said.items():
        item = Item("pair", 2, None, language, prompt_id)
        for reviewer, choice in choices.items():
            first_left = is_first_left(inspector.links.secret, reviewer, item, blind=True)
            sides = {"chosen": "left", "rejected": "right"} if first_left else {"chosen": "right", "rejected": "left"}
            token = new_token(
                inspector.links.secret, item, run_id, "random", True, "chosen" if first_left else "rejected"
            )
            record(inspector, inspector.verdicts, inspector.links, reviewer, sides.get(choice, choice), token, [], "")
    inspector.catalogue.close()

    assert run(["verdicts", "export", run_id, *flags, "--output", str(tmp_path / "out")]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in written] == [
        "verdicts.csv", "verdicts.parquet", "preferences-trl.jsonl", "labelled-pairs.jsonl", "items.csv",
    ]  # fmt: skip
    assert all(path.stat().st_mode & 0o077 == 0 for path in written)
    read = read_labelled_pairs(str(tmp_path / "out" / "labelled-pairs.jsonl"))
    found = {(pair.language, pair.prompt_id): pair for pair in read.pairs}
    assert {key: pair.is_tie for key, pair in found.items()} == {
        ("es", "p0"): False, ("es", "p1"): False, ("es", "p2"): True, ("bn", "p0"): True, ("bn", "p1"): True,
    }  # fmt: skip
    first, second = (facts_in(flags, run_id, Item("pair", 2, None, "es", name)) for name in ("p0", "p1"))
    assert (found["es", "p0"].chosen.text, found["es", "p0"].rejected.text) == (first.first.text, first.second.text)
    assert (found["es", "p1"].chosen.text, found["es", "p1"].rejected.text) == (second.second.text, second.first.text)
    assert found["es", "p0"].asked == first.asked
    assert found["es", "p0"].english == first.english
    with pytest.raises(InputError, match=r"without the texts.*labelled-pairs\.jsonl"):
        read_labelled_pairs(str(written[0]))


def facts_in(flags: list[str], run_id: str, item: Item) -> Facts:
    inspector = open_inspector(InspectOptions(tracking_uri=flags[1], verdicts=flags[3]))
    try:
        return facts_of(inspector, inspector.catalogue.arm(run_id), item)
    finally:
        inspector.catalogue.close()
