"""The table of stages, and what it promises: a row is all that a new stage needs, and a stage reads its inputs once, if at all."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from pkgutil import resolve_name

import pytest

import icr_platform
from icr_platform.cli.commands import run as icr
from icr_platform.core.config import Config
from icr_platform.core.errors import InputError
from icr_platform.pipeline import arm_results, stages
from icr_platform.pipeline.runner import run_stage
from icr_platform.pipeline.session import RunOptions, StageRun, open_session
from icr_platform.pipeline.stages import CONFIGURED, STAGES
from tests.support.counting_stage import ROW, CountingConfig


@pytest.mark.parametrize("row", CONFIGURED.values(), ids=lambda row: row.name)
def test_a_row_names_a_configuration_that_has_what_the_runner_asks_for(row: stages.ConfiguredCommand) -> None:
    assert issubclass(row.config, Config)
    assert {"seeds" if row is stages.SWEEP else "seed", "output", *row.required} <= set(row.config.model_fields)
    assert all(row.config.model_fields[name].default == "" for name in row.required)
    assert row.command == row.command.lower()
    assert "_" not in row.command


@pytest.mark.parametrize("row", STAGES.values(), ids=lambda row: row.name)
def test_a_row_names_a_stage(row: stages.StageRow) -> None:
    stage = row.load()
    assert len(inspect.signature(stage.read).parameters) == 1
    assert len(inspect.signature(stage.run).parameters) == 2
    assert not row.show or callable(resolve_name(row.show))


def test_no_folder_belongs_to_two_stages() -> None:
    """But for the checkpoint of trainings, of which a folder takes one: it names its work, and another training is refused."""
    folders = [folder for row in STAGES.values() for folder in row.folders]
    shared = {folder for folder in folders if folders.count(folder) > 1}
    assert shared == set(STAGES["train"].folders) == set(STAGES["sft"].folders)


def test_the_files_that_a_report_depends_on_are_there_under_these_names() -> None:
    package = Path(icr_platform.__file__).parent
    assert all((package / name).is_file() for name in (*arm_results._COMPARING, *arm_results._REPORTING))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text file in an empty working folder, with the stage that lists its words in the table."""
    monkeypatch.setitem(STAGES, ROW.name, ROW)
    monkeypatch.setitem(CONFIGURED, ROW.name, ROW)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "words.txt"
    path.write_text("one two")
    return path


def list_words(words: Path, own_process: bool = False, **settings: object) -> tuple[StageRun, list[str]]:
    """The finished stage, and what it did: "read", "run"."""
    journal = words.with_name("journal")
    journal.write_text("")
    session = open_session(RunOptions())
    try:
        config = CountingConfig.model_validate({"words": str(words), "journal": str(journal), **settings})
        return run_stage(session, ROW.name, config, own_process=own_process), journal.read_text().split()
    finally:
        session.close()


@pytest.mark.parametrize("own_process", [False, True])
def test_inputs_are_read_once_and_not_at_all_for_finished_work(words: Path, own_process: bool) -> None:
    first, did = list_words(words, own_process)
    assert did == ["read", "run"]
    again, did = list_words(words, own_process)
    assert did == []
    assert (again.reused, again.result.metrics) == (True, first.result.metrics)
    for change in ({"suffix": "!"}, {}):
        words.write_text(words.read_text() + ("" if change else " three"))
        other, did = list_words(words, own_process, **change)
        assert (other.reused, did) == (False, ["read", "run"])


@pytest.mark.parametrize("own_process", [False, True])
def test_bad_input_is_found_before_anything_is_written(words: Path, own_process: bool) -> None:
    list_words(words)
    words.write_text(" ")
    before = sorted((words.parent / ".icr").iterdir())
    with pytest.raises(InputError, match=r"contains no word"):
        list_words(words, own_process)
    assert words.with_name("journal").read_text().split() == ["read"]
    assert sorted((words.parent / ".icr").iterdir()) == before
    session = open_session(RunOptions())
    assert session.tracker is not None
    runs = session.tracker.client.search_runs([session.tracker.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]


def test_finished_work_that_nothing_tracks_is_read_once(words: Path) -> None:
    journal = words.with_name("journal")
    command = ["counting-stage", f"--words={words}", f"--journal={journal}", "--no-tracking", "--output=out"]
    for _ in range(2):
        journal.write_text("")
        assert icr(command) == 0
        assert journal.read_text().split() == ["read", "run"]


def test_a_row_is_a_command(words: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flags, help, required fields, preset and what is shown in the end, all from the row."""
    Path("mine.yaml").write_text(f"words: {words}\njournal: journal\nsuffix: '?'\n")
    assert icr(["counting-stage", "--config=mine.yaml", "--suffix=!"]) == 0
    shown = capsys.readouterr().out
    assert "2 words of words.txt\n" in shown
    assert "list: runs:/" in shown
    assert icr(["counting_stage"]) == 2
    assert "field 'words' is missing for counting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["eval", "--prompts=p", "--reference-outputs=o", "--judge=openai"], "field 'policy' is missing for eval"),
        (["reward-bench", "--pairs=pairs.jsonl"], "field 'policy' is missing for reward-bench"),
        (["reward-bench", "--pairs=pairs.jsonl", "--policy=p"], "field 'reference' is missing for reward-bench"),
        (["instructions", "--prompts=p"], "field 'policy' is missing for instructions"),
        (["reward-bench", "--checker=nonsense"], "should be one of instructions, demo, or your own as MODULE:NAME"),
    ],
)
def test_what_only_some_work_needs_is_named_by_its_field(
    command: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search for finished work looks at every model before the stage reads its inputs."""
    monkeypatch.chdir(tmp_path)
    row = {"id": "1", "instruction": "Nenne eine Frucht.", "language": "de"}
    verifiable = {"key": 1, "prompt": "Sag hallo.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    Path("pairs.jsonl").write_text(json.dumps(row | {"chosen": "Ein Apfel.", "rejected": "Rot."}) + "\n")
    for folder, content in (
        ("p", verifiable if command[0] == "instructions" else row),
        ("o", row | {"output": "Ein Apfel."}),
    ):
        Path(folder).mkdir()
        (Path(folder) / "de.jsonl").write_text(json.dumps(content) + "\n")
    assert icr([*command, "--no-tracking", "--output=out"]) == 2
    assert said in capsys.readouterr().err
