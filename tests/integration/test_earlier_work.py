"""Work is found again exactly as far as it is the same: whole stages, single rows, damaged parts, other code. Through `icr`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from icr_platform.cli.commands import run
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import JUDGMENTS, LOGPROBS, OUTPUTS, PREFERENCES, RESPONSES, REWARDS, TableSchema
from icr_platform.engines.judging.local_judge import LocalJudge
from icr_platform.engines.judging.pairwise import Pair
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.engines.scoring.logprobs import CompletionScorer
from icr_platform.pipeline.identity import Code, Identity
from icr_platform.pipeline.work import known_works, read_work, set_aside, write_work
from icr_platform.tracking.tracker import Tracker

PACKAGE = Path(__file__).parents[2] / "icr_platform"


class Made:
    """What the engines were asked for, since the last `clear`."""

    def __init__(self) -> None:
        self.prompts: list[tuple[str, str]] = []
        self.completions = 0
        self.pairs: list[tuple[str, str]] = []

    def clear(self) -> None:
        self.__init__()  # type: ignore[misc]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    sample, score, judge = TransformersSampler.sample, CompletionScorer.score, LocalJudge.judge

    def spy_sample(self, requests, *rest):  # type: ignore[no-untyped-def]
        made.prompts += [(request.language, request.prompt_id) for request in requests]
        return sample(self, requests, *rest)

    def spy_score(self, groups, *rest):  # type: ignore[no-untyped-def]
        made.completions += sum(len(group.completions) for group in groups)
        return score(self, groups, *rest)

    def spy_judge(self, parts):  # type: ignore[no-untyped-def]
        def seen() -> Iterator[Sequence[Pair]]:
            for part in parts:
                made.pairs += [(pair.language, pair.prompt_id) for pair in part]
                yield part

        return judge(self, seen())

    monkeypatch.setattr(TransformersSampler, "sample", spy_sample)
    monkeypatch.setattr(CompletionScorer, "score", spy_score)
    monkeypatch.setattr(LocalJudge, "judge", spy_judge)
    return made


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return tmp_path


SAMPLING = ["--max-tokens=12", "--shard-prompts=2", "--batch-size=8"]
UNFILTERED = ["--drop-wrong-language=false", "--drop-truncated=false", "--drop-empty=false"]


def generate(policy: Path, prompts: Path, *more: str) -> list[str]:
    return ["generate", f"--policy={policy}", f"--prompts={prompts}", "--samples=3", *SAMPLING, *more]


def newest(stage: str, artifact: str) -> Path:
    """Folder of an artifact of the newest finished run of a stage that was not a mere link to another."""
    tracker = Tracker()
    found = tracker.client.search_runs(
        [tracker.experiment_id],
        f"tags.\"icr.stage\" = '{stage}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    )
    run_ = next(item for item in found if "icr.reused_run" not in item.data.tags)
    return Path(tracker.resolve(f"runs:/{run_.info.run_id}/{artifact}"))


def rows(stage: str, artifact: str, table: TableSchema) -> dict[tuple[object, ...], dict[str, object]]:
    read = open_artifact(newest(stage, artifact), table).read().to_pylist()
    names = [name for name in ("language", "prompt_id", "sample_index", "kind", "order") if name in table.schema.names]
    return {tuple(row[name] for name in names): row for row in read}


def same(
    before: dict[tuple[object, ...], dict[str, object]], after: dict[tuple[object, ...], dict[str, object]]
) -> None:
    """Every row that both have is the same, and they have some."""
    both = before.keys() & after.keys()
    assert both
    assert {key: before[key] for key in both} == {key: after[key] for key in both}


def test_a_language_more_and_a_prompt_less_keep_all_other_rows(
    store: Path, made: Made, tiny_models: tuple[Path, Path], prompt_folder: Path
) -> None:
    policy, reference = tiny_models
    assert run(generate(policy, prompt_folder, "--languages=en,es")) == 0
    first = rows("generate", "responses", RESPONSES)
    responses = newest("generate", "responses")
    annotate = ["annotate", f"--policy={policy}", f"--reference={reference}", f"--prompts={prompt_folder}", *UNFILTERED]
    assert run([*annotate, f"--responses={responses}"]) == 0
    scored = rows("annotate", "rewards", REWARDS)
    assert len(made.prompts) == 12

    made.clear()
    assert run(generate(policy, prompt_folder, "--languages=en,es,de")) == 0
    assert {language for language, _ in made.prompts} == {"de"}
    second = rows("generate", "responses", RESPONSES)
    assert len(second) == 54
    same(first, second)
    assert run([*annotate, f"--responses={newest('generate', 'responses')}"]) == 0
    both = rows("annotate", "rewards", REWARDS)
    same(scored, both)
    assert len(both) == 54
    assert 0 < made.completions <= 2 * 18, "only the German ones, under two models"

    # Another kind of reward needs only that kind's scores; another beta, or filter, needs none.
    made.clear()
    assert run([*annotate, f"--responses={newest('generate', 'responses')}", "--beta=0.2"]) == 0
    assert made.completions == 0
    assert rows("annotate", "rewards", REWARDS).keys() == both.keys()

    made.clear()
    (prompt_folder / "es.jsonl").write_text(
        "".join(
            json.dumps(row | ({"instruction": "¿Qué es azul?"} if row["id"] == "p1" else {})) + "\n"
            for row in map(json.loads, (prompt_folder / "es.jsonl").read_text().splitlines())
            if row["id"] != "p4"
        )
    )
    assert run(generate(policy, prompt_folder, "--languages=en,es,de")) == 0
    assert made.prompts == [("es", "p1")]
    third = rows("generate", "responses", RESPONSES)
    same({key: row for key, row in second.items() if key[:2] != ("es", "p1")}, third)
    assert len(third) == 51

    made.clear()
    assert run(generate(policy, prompt_folder, "--languages=de,en", "--limit=4")) == 0
    assert made.prompts == []
    assert [key[0] for key in rows("generate", "responses", RESPONSES)][::12] == ["de", "en"]


def test_outputs_and_judgments_are_taken_by_prompt_and_by_pair(
    store: Path, made: Made, tiny_models: tuple[Path, Path], prompt_folder: Path
) -> None:
    policy, judge = tiny_models
    # The tiny judge has 512 positions.
    (store / "wording.yaml").write_text("- {role: user, content: '{instruction} m: {output_m} M: {output_M}'}")
    for language in ("en", "es", "de"):
        (store / "reference").mkdir(exist_ok=True)
        texts = [json.loads(line) for line in (prompt_folder / f"{language}.jsonl").read_text().splitlines()]
        (store / "reference" / f"{language}.jsonl").write_text(
            "".join(json.dumps({"id": row["id"], "output": f"{row['instruction']} {language}"}) + "\n" for row in texts)
        )
    command = ["eval", f"--policy={policy}", f"--prompts={prompt_folder}", "--reference-outputs=reference",
               "--judge=logprob", f"--judge-model={judge}", "--judge-template=wording.yaml",
               "--judge-min-mass=0", *SAMPLING]  # fmt: skip
    assert run([*command, "--languages=en,es"]) == 0
    outputs, judged = rows("eval", "outputs", OUTPUTS), rows("eval", "judgments", JUDGMENTS)
    assert (len(made.prompts), len(made.pairs)) == (12, 12)
    made.clear()
    assert run([*command, "--languages=en,es,de"]) == 0
    assert {language for language, _ in made.prompts} == {"de"}
    assert {language for language, _ in made.pairs} == {"de"}
    same(outputs, rows("eval", "outputs", OUTPUTS))
    same(judged, rows("eval", "judgments", JUDGMENTS))

    made.clear()  # one reference output edited: one pair is judged again, nothing is sampled
    path = store / "reference" / "es.jsonl"
    path.write_text(path.read_text().replace("Saluda. es", "¡Hola!"))
    assert run([*command, "--languages=en,es,de"]) == 0
    assert made.prompts == []
    assert made.pairs == [("es", "p5")]


def test_unfinished_work_gives_its_rows_to_a_command_that_asks_for_others(
    store: Path, made: Made, tiny_model: Path, prompt_folder: Path
) -> None:
    output = store / "out"
    assert run(generate(tiny_model, prompt_folder, "--languages=en,es", f"--output={output}", "--no-tracking")) == 0
    whole = open_artifact(output / "responses", RESPONSES).read()
    for path in ("manifest.json", "part-00005.parquet", "part-00004.parquet"):
        (output / "responses" / path).unlink()  # as a kill leaves it
    made.clear()
    more = generate(tiny_model, prompt_folder, "--languages=de,es,en", "--shard-prompts=3", f"--output={output}")
    assert run([*more, "--no-tracking"]) == 0
    assert sorted(made.prompts) == sorted(
        [*(("de", f"p{i}") for i in range(6)), *(("es", f"p{i}") for i in range(2, 6))]
    )
    table = open_artifact(output / "responses", RESPONSES).read()
    assert table.num_rows == 54
    old = pa.concat_tables([table.slice(36, 18), table.slice(18, 18)])
    assert old.equals(whole)
    assert not (output / ".earlier").exists()


def test_stages_that_share_a_folder_leave_each_other_alone(
    store: Path, made: Made, tiny_models: tuple[Path, Path], prompt_folder: Path
) -> None:
    policy, reference = tiny_models
    out = store / "out"
    own = [f"--output={out}", "--no-tracking"]
    assert run(generate(policy, prompt_folder, "--languages=en,es", *own)) == 0
    annotate = ["annotate", f"--policy={policy}", f"--reference={reference}", f"--prompts={prompt_folder}",
                f"--responses={out / 'responses'}", "--no-tracking", *UNFILTERED]  # fmt: skip
    assert run([*annotate, f"--output={out}"]) == 0
    scored = {path: path.read_bytes() for name in ("rewards", "preferences") for path in (out / name).iterdir()}
    for name in ("manifest.json", "part-00005.parquet"):
        (out / "responses" / name).unlink()
    made.clear()
    assert run(generate(policy, prompt_folder, "--languages=en,es,de", *own)) == 0
    assert sorted(made.prompts) == sorted([("es", "p4"), ("es", "p5"), *(("de", f"p{i}") for i in range(6))])
    assert {path: path.read_bytes() for path in scored} == scored, "annotate's artifacts are not generate's to move"
    assert run([*annotate, f"--output={out}"]) == 2, "finished work is never overwritten"
    made.clear()
    assert run([*annotate, f"--output={store / 'more'}"]) == 0
    assert 0 < made.completions <= 2 * 18, "the rows of the first annotate are found where it left them"


def test_a_damaged_part_of_finished_work_is_made_again_alone(
    store: Path, made: Made, tiny_models: tuple[Path, Path], prompt_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, reference = tiny_models
    command = generate(policy, prompt_folder, "--languages=en,es")
    assert run(command) == 0
    folder = newest("generate", "responses")
    digest = open_artifact(folder, RESPONSES).digest
    part = folder / "part-00004.parquet"  # es, p2 and p3
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes(data)
    made.clear()
    assert run(command) == 0
    assert sorted(made.prompts) == [("es", "p2"), ("es", "p3")]
    assert "part-00004.parquet" in capsys.readouterr().err
    assert open_artifact(newest("generate", "responses"), RESPONSES).digest == digest
    made.clear()
    assert run(command) == 0
    assert made.prompts == []

    output = store / "annotated"
    annotate = ["annotate", f"--policy={policy}", f"--reference={reference}", f"--prompts={prompt_folder}",
                f"--responses={newest('generate', 'responses')}", f"--output={output}", "--no-tracking", *UNFILTERED]  # fmt: skip
    assert run(annotate) == 0
    before = {name: (output / name / "manifest.json").read_text() for name in ("rewards", "preferences", "drops")}
    (output / "rewards" / "part-00002.parquet").unlink()
    preferences = output / "preferences" / "part-00000.parquet"
    preferences.write_bytes(preferences.read_bytes()[:-4])
    made.clear()
    assert run(annotate) == 0
    assert {name: (output / name / "manifest.json").read_text() for name in before} == before
    assert 0 < made.completions <= 2 * 6, "the two prompts of the lost part, under two models"
    open_artifact(output / "preferences", PREFERENCES).read()


def test_no_reuse_works_afresh_or_says_why_not(
    store: Path, made: Made, tiny_model: Path, prompt_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = generate(tiny_model, prompt_folder, "--languages=en")
    assert run([*command, "--artifacts=reference"]) == 0
    made.clear()
    assert run([*command, "--artifacts=reference", "--no-reuse"]) == 0
    assert len(made.prompts) == 6
    folders = [newest("generate", "responses"), *store.glob(".icr/generate-*/responses")]
    assert len({folder.resolve() for folder in folders}) == 2, "the first run's folder is not worked in again"
    capsys.readouterr()
    assert run([*command, "--artifacts=reference"]) == 0
    assert str(folders[0]) in capsys.readouterr().out, "the folder of the run whose figures are shown"
    explicit = [*command, f"--output={store / 'out'}"]
    assert run(explicit) == 0
    files = {path: path.stat().st_mtime_ns for path in (store / "out").rglob("*")}
    capsys.readouterr()
    assert run([*explicit, "--no-reuse"]) == 2
    assert "--no-reuse makes it again" in capsys.readouterr().err
    assert files == {path: path.stat().st_mtime_ns for path in (store / "out").rglob("*")}


def test_work_that_other_code_began_is_named_and_gone_on_with_when_told(
    store: Path, tiny_models: tuple[Path, Path], prompt_folder: Path
) -> None:
    policy, reference = tiny_models
    tree = store / "tree"
    shutil.copytree(PACKAGE, tree / "icr_platform", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PACKAGE.parent / "ui", tree / "ui", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(tree), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "before"], check=True)
    commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], check=True, capture_output=True, text=True)
    assert run(generate(policy, prompt_folder, "--output=made", "--no-tracking")) == 0
    command = [sys.executable, "-m", "icr_platform", "annotate", f"--policy={policy}", f"--reference={reference}",
               f"--prompts={prompt_folder}", "--responses=made/responses", "--output=out", *UNFILTERED]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tree)}
    process = subprocess.Popen(command, env=environment, cwd=store, stderr=subprocess.PIPE)
    work = store / "out" / "work" / "policy-logprobs"
    deadline = time.monotonic() + 120
    while not list(work.glob("part-*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    began = {path.name: path.read_bytes() for path in work.glob("part-*.parquet")}
    assert began
    assert not (store / "out" / "rewards" / "manifest.json").exists(), "killed too late to show anything"

    scorer = tree / "icr_platform" / "engines" / "scoring" / "logprobs.py"
    scorer.write_text(scorer.read_text() + "\n_EDITED = 1\n")
    refused = subprocess.run(command, env=environment, cwd=store, capture_output=True, text=True, check=False)
    assert refused.returncode == 2, refused.stderr
    assert commit.stdout.strip() in refused.stderr
    assert "--other-code use" in refused.stderr
    went_on = subprocess.run(
        [*command, "--other-code=use"], env=environment, cwd=store, capture_output=True, text=True, check=False
    )
    assert went_on.returncode == 0, went_on.stderr
    assert commit.stdout.strip() in went_on.stderr
    assert open_artifact(store / "out" / "rewards", REWARDS).rows == 54
    assert LOGPROBS.name


@pytest.mark.parametrize("change", ["shard", "order", "languages"])
@pytest.mark.parametrize("damage", ["killed", "lost part"])
def test_unfinished_work_is_cut_anew_where_its_rows_come_in_another_order_or_size(
    store: Path, made: Made, tiny_model: Path, prompt_folder: Path, change: str, damage: str
) -> None:
    command = generate(tiny_model, prompt_folder, "--output=out", "--no-tracking", "--samples=1")
    first, then = ["--languages=en,es"], ["--languages=en,es"]
    assert run([*command, *first]) == 0
    whole = open_artifact(store / "out" / "responses", RESPONSES).read()
    (store / "out" / "responses" / "part-00001.parquet").unlink()
    if damage == "killed":
        (store / "out" / "responses" / "manifest.json").unlink()
    if change == "shard":
        then.append("--shard-prompts=4")
    elif change == "languages":
        then = ["--languages=es,en"]
    else:
        for path in prompt_folder.glob("*.jsonl"):
            path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    made.clear()
    assert run([*command, *then]) == 0
    assert sorted(made.prompts) == [("en", "p2"), ("en", "p3")]
    table = open_artifact(store / "out" / "responses", RESPONSES).read()
    key = [("language", "ascending"), ("prompt_id", "ascending")]
    assert table.sort_by(key).equals(whole.sort_by(key))


def test_the_same_work_that_is_set_aside_twice_keeps_the_rows_of_both(tmp_path: Path) -> None:
    """Work on A gives way to work on B, goes on with A, and gives way again: what A had at first is still there."""
    identity = Identity(work="", rows={}, inputs={}, code=Code("", ""))
    for part in (0, 1):
        write_work(tmp_path, "generate", identity, "of A")
        (tmp_path / "responses").mkdir()
        (tmp_path / "responses" / f"part-0000{part}.parquet").touch()
        work = read_work(tmp_path, "generate")
        assert work is not None
        set_aside(work)
    places = [work.folder for work in known_works(tmp_path / "none", tmp_path, "generate")]
    assert sorted(path.name for place in places for path in place.rglob("part-*")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]


@pytest.mark.parametrize("text", ['{"digest": "x', '{"another": "tool\'s"}'], ids=["cut short", "another tool's"])
def test_a_damaged_manifest_and_an_unreadable_part_are_made_again_wherever_they_lie(
    store: Path, made: Made, tiny_model: Path, prompt_folder: Path, text: str
) -> None:
    command = generate(tiny_model, prompt_folder, "--languages=en", "--samples=1")
    assert run(command) == 0
    stored = newest("generate", "responses")
    digest = open_artifact(stored, RESPONSES).digest
    (stored / "manifest.json").write_text(text)
    assert run(command) == 0
    assert newest("generate", "responses") != stored
    assert open_artifact(newest("generate", "responses"), RESPONSES).digest == digest

    out = store / "out" / "responses"
    assert run([*command, "--output=out"]) == 0
    (out / "manifest.json").write_text(text)
    assert run([*command, "--output=out"]) == 0
    assert open_artifact(out, RESPONSES).digest == digest

    (out / "manifest.json").unlink()  # unfinished
    (out / "part-00001.parquet").write_bytes((out / "part-00001.parquet").read_bytes()[:-9])
    assert run([*command, "--output=out", "--no-tracking"]) == 0
    assert open_artifact(out, RESPONSES).digest == digest


def test_a_damaged_part_is_made_again_in_a_folder_that_stages_share(
    store: Path, made: Made, tiny_models: tuple[Path, Path], prompt_folder: Path
) -> None:
    policy, reference = tiny_models
    assert run(generate(policy, prompt_folder, "--languages=en", "--output=out", "--no-tracking")) == 0
    annotate = ["annotate", f"--policy={policy}", f"--reference={reference}", f"--prompts={prompt_folder}",
                "--responses=out/responses", "--output=out", "--no-tracking", *UNFILTERED]  # fmt: skip
    assert run(annotate) == 0
    digest = open_artifact(store / "out" / "rewards", REWARDS).digest
    (store / "out" / "rewards" / "part-00001.parquet").unlink()
    assert run(annotate) == 0
    assert open_artifact(store / "out" / "rewards", REWARDS).digest == digest
