"""`icr compare`: sides by every name that people have for them, on synthetic runs in a real store, and files of outputs that are judged."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from icr_platform.cli.commands import run
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import JUDGMENTS
from icr_platform.evaluation import scores
from icr_platform.evaluation.comparison_tables import difference_table, head_to_head_table, judgments_by_language
from icr_platform.pipeline.compare import Comparison, compare_sides
from icr_platform.pipeline.sides import Store, open_side, open_sides
from icr_platform.tracking.reader import TrackingReader
from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.tracker import Tracker
from tests.support.synthetic_runs import (
    IterationData,
    Prompt,
    evaluated,
    first_answer,
    log_arm,
    open_tracker,
    small_prompts,
    write_references,
)

PROMPTS = [prompt for prompt in small_prompts(12) if prompt.language in ("en", "es")]
OTHER_LANGUAGE = [prompt for prompt in small_prompts(12) if prompt.language == "zh"]


class World:
    """A store with arms: `before` (two seeds), `after` (two seeds), and what goes wrong with arms."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracker: Tracker = open_tracker(folder)
        self.references = write_references(folder / "references", PROMPTS, first_answer(99))
        self.ids: dict[str, str] = {}
        for seed in (1, 2):
            self.add(f"before-{seed}", "before", seed, (-1.0, -0.5))
            self.add(f"after-{seed}", "after", seed, (-1.0, 1.5))

    def data(self, strength: float, seed: int, prompts: list[Prompt] = PROMPTS, **params: str) -> IterationData:
        given = {"reference_outputs": str(self.references), "judge": "openai", "judge_api_model": "judge-a", **params}
        data = evaluated(prompts, first_answer(seed), first_answer(99), strength, seed, given)
        return IterationData(data.tables, {"cost/gpu_hours": 0.5}, data.eval_params)

    def add(
        self, key: str, arm: str, seed: int, strengths: tuple[float, ...], status: str = "FINISHED", parent: RunHandle | None = None,
        settings: str = "", prompts: list[Prompt] = PROMPTS, **params: str,
    ) -> str:  # fmt: skip
        iterations = {t: self.data(strength, 10 * seed + t, prompts, **params) for t, strength in enumerate(strengths)}
        given = {"iterate.seed": str(seed), "iterate.train.beta": settings or "0.1"}
        handle = log_arm(
            self.tracker, arm, iterations, self.folder / "data" / key, params=given, status=status, parent=parent
        )
        self.ids[key] = handle.run_id
        return handle.run_id

    @property
    def reader(self) -> TrackingReader:
        return TrackingReader(self.tracker.uri)

    @property
    def store(self) -> Store:
        return Store(self.reader, self.folder / "cache", self.folder)

    def compare(self, *given: str, **how: object) -> Comparison:
        how.setdefault("metrics", ("win_rate", "fidelity"))
        return compare_sides(open_sides(self.store, given), lambda path, seed: path, **how)  # type: ignore[arg-type]

    def stage_of(self, key: str, iteration: int) -> str:
        """Id of the eval run of an iteration."""
        arm = self.reader.run(self.ids[key])
        child = next(run for run in self.reader.children(arm) if run.tags["icr.iteration"] == str(iteration))
        return next(run.run_id for run in self.reader.children(child))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        # Standard errors of the stages' own scores, which nothing here reads, would take most of the time.
        patch.setattr(scores, "_BOOTSTRAP", 2)
        folder = tmp_path_factory.mktemp("compared")
        patch.chdir(folder)
        made = World(folder)
        patch.setenv("MLFLOW_TRACKING_URI", made.tracker.uri)
        made.add("unfinished", "unfinished", 1, (-1.0, 0.0), status="KILLED")
        made.add("longer", "longer", 1, (-1.0, 0.0, 0.5))
        made.add("twice-a", "twice", 1, (-1.0,))
        made.add("twice-b", "twice", 1, (-1.0,), settings="0.5")
        made.add("again-a", "again", 1, (-1.0, 0.2), status="FAILED")
        made.add("again-b", "again", 1, (-1.0, 0.2))
        made.add("judge-b", "judge-b", 1, (-1.0,), judge_api_model="judge-b")
        elsewhere = write_references(folder / "elsewhere", PROMPTS, first_answer(98))
        made.add("against-b", "against-b", 1, (-1.0,), reference_outputs=str(elsewhere))
        for seed, place in ((1, "references"), (2, "elsewhere")):  # as in a world that is made anew with each seed
            made.add(f"made-{seed}", "made", seed, (-1.0,), reference_outputs=str(folder / place))
            made.add(f"anew-{seed}", "anew", seed, (0.5,), reference_outputs=str(folder / place))
        made.add("fewer", "fewer", 1, (-1.0,), prompts=PROMPTS[:8] + PROMPTS[12:18])
        made.add("chinese", "chinese", 1, (-1.0,), prompts=OTHER_LANGUAGE)
        made.add("gone", "gone", 1, (-1.0,))
        made.tracker.client.delete_run(made.ids["gone"])
        sweep = made.tracker.start("grid", {"icr.kind": "sweep", "icr.sweep": "grid"})
        for seed in (1, 2):
            made.add(f"grid-x-{seed}", "grid-x", seed, (-1.0, 0.1), parent=sweep)
            made.add(f"grid-y-{seed}", "grid-y", seed, (-1.0, 0.9), parent=sweep)
        sweep.finish()
        (folder / "after-folder").mkdir()
        (folder / "before").mkdir()  # a folder of an arm's name
        yield made


def given(world: World, text: str) -> str:
    """`{KEY}` is the id of that run, `{KEY:6}` its first characters, `{eval KEY@N}` that of a stage, `{folder KEY@N}` its artifacts."""
    for key, run_id in world.ids.items():
        text = text.replace(f"{{{key}}}", run_id).replace(f"{{{key}:12}}", run_id[:12])
        for number in (0, 1):
            if f"{{eval {key}@{number}}}" in text:
                text = text.replace(f"{{eval {key}@{number}}}", world.stage_of(key, number))
            arm = key.rsplit("-", 1)[0] if key[-1] in "12" else key
            text = text.replace(
                f"{{folder {key}@{number}}}", str(world.folder / "data" / key / arm / str(number) / "eval")
            )
    return text


# what is given | kind | name | iteration | seeds
SIDES = [
    ("after", "arm", "after", 1, (1, 2)),
    ("after@0", "arm", "after@0", 0, (1, 2)),
    ("{after-2}", "arm", "after", 1, (2,)),
    ("{after-2:12}", "arm", "after", 1, (2,)),
    ("{after-2}@0", "arm", "after@0", 0, (2,)),
    ("{after-1},{after-2}", "arm", "after", 1, (1, 2)),
    ("{eval after-1@1}", "stage", None, None, (None,)),
    ("runs:/{eval after-1@1}/outputs", "artifact", None, None, (None,)),
    ("{folder after-1@1}", "artifact", None, None, (None,)),
    ("{folder after-1@1}/judgments", "artifact", None, None, (None,)),
    ("grid/grid-y", "arm", "grid-y", 1, (1, 2)),
    ("unfinished", "arm", "unfinished", 1, (1,)),
    ("again", "arm", "again", 1, (1,)),
]


@pytest.mark.parametrize(("text", "kind", "name", "iteration", "seeds"), SIDES)
def test_a_side_is_found_by_whatever_names_it(
    world: World, text: str, kind: str, name: str | None, iteration: int | None, seeds: tuple[int | None, ...]
) -> None:
    side = open_side(world.store, given(world, text))
    assert (side.kind, side.iteration, side.seeds) == (kind, iteration, seeds)
    assert name in (None, side.name)
    assert side.runs[0].open("judgments") is not None or text.endswith("/outputs")


BAD = [
    (["after"], "give two sides or more, got 'after' alone"),
    ([], "give two sides or more, got none"),
    (["aftre", "after"], "nearest is 'after'"),
    (["after", "after"], "are the same"),
    (["after@1", "{after-1}"], "are the same"),
    (["after", "{gone}"], "the run is deleted; restore it"),
    (["after", "gone"], "neither an arm, nor a run"),
    (["after", "twice"], "differ in train.beta; give ids of runs, each a side: {twice-b}"),
    (["after@7", "{before-1}"], "iteration 7 is not finished; finished: 0, 1"),
    (["{eval after-1@1}@1", "{before-1}"], "a stage has no iterations"),
    (["before", "after"], "give ./before for the path"),
    (["after", "judge-b"], "was judged by openai judge-a, judge-b by openai judge-b"),
    (["after@0", "against-b"], "which differ; evaluate both alike"),
    (["after@0", "chinese"], "after@0 has en, es and chinese has zh: no prompt of a common language"),
    (["grid/grid-z", "after"], "the sweep grid has no such arm; it has grid-x, grid-y"),
    (["runs:/{after-1}", "after"], "names no artifact"),
    (["{folder after-1@1}/scores", "after"], "an artifact of 'scores', which is not compared"),
    (["{folder after-1@1}/outputs", "{folder after-2@1}/judgments"], "nothing was measured of both"),
]


@pytest.mark.parametrize(("sides", "said"), BAD)
def test_a_bad_side_is_said_in_one_line(world: World, sides: list[str], said: str) -> None:
    with pytest.raises(InputError) as raised:
        world.compare(*(given(world, side) for side in sides))
    assert given(world, said) in str(raised.value)
    assert "\n" not in str(raised.value)


def row_of(found: Comparison, metric: str, language: str, side: str | None = None) -> pd.Series:
    table = found.table
    rows = table[(table["metric"] == metric) & (table["language"] == language)]
    rows = rows if side is None else rows[rows["second_side"] == side]
    assert len(rows) == 1
    return rows.iloc[0]


def test_one_seed_has_the_numbers_that_iterate_gives(world: World) -> None:
    sides = [given(world, "{before-1}@0"), given(world, "{before-1}@1")]
    found = world.compare(*sides, metrics=("win_rate",))
    judged = [open_side(world.store, side).runs[0].open("judgments") for side in sides]
    known = difference_table(*(judgments_by_language(one) for one in judged if one is not None)).set_index("language")
    for language in ("en", "es"):
        row = row_of(found, "win_rate", language)
        expected = known.loc[language]
        names = ["difference", "low", "high", "p_value", "adjusted_p_value"]
        assert [row[name] for name in names] == pytest.approx([expected[name] for name in names])
        assert (row["first"], row["second"]) == pytest.approx((expected["before"], expected["after"]))
        assert row["n"] == expected["n"]


def test_seeds_of_a_name_are_paired_and_length_controlled(world: World) -> None:
    found = world.compare("after@0", "after", "grid/grid-y", metrics=("win_rate", "lc"))
    row = row_of(found, "win_rate", "mean", "after")
    assert (row["first_runs"], row["second_runs"], row["by_seed"]) == (2, 2, True)
    assert row["difference"] > 5
    assert row_of(found, "lc_win_rate", "en", "after")["n"] == row_of(found, "win_rate", "en", "after")["n"] > 9
    assert set(found.table["second_side"]) == {"after", "grid-y"}
    assert found.costs.set_index("side")["gpu_hours"].to_dict() == {"after@0": 0.5, "after": 1.0, "grid-y": 1.0}


def test_each_seed_may_have_references_of_its_own(world: World) -> None:
    """What is compared was judged against the same; seeds of other sides have to have that in common."""
    row = row_of(world.compare("made", "anew"), "win_rate", "es")
    assert (row["first_runs"], row["second_runs"], row["by_seed"]) == (2, 2, True)
    assert row["difference"] > 0
    with pytest.raises(
        InputError, match=r"^icr compare: anew was judged against .+, before@0 against .+, which differ"
    ):
        world.compare("anew", "before@0")
    with pytest.raises(
        InputError, match=r"anew, seed 1, was judged against .+, anew, seed 2, against .+, which differ"
    ):
        world.compare(f"{world.ids['before-1']}@0", "anew")


def test_a_sweep_is_its_arms_and_holm_is_over_all(world: World) -> None:
    found = world.compare("after@0", "grid", margin=50.0, metrics=("win_rate",))
    rows = found.table[(found.table["metric"] == "win_rate") & found.table["language"].isin(["en", "es"])]
    assert rows["second_side"].tolist() == ["grid-x", "grid-x", "grid-y", "grid-y"]
    least = rows["p_value"].min()
    assert rows["adjusted_p_value"].min() == pytest.approx(min(1.0, 4 * least))
    assert rows["adjusted_equivalence"].min() == pytest.approx(min(1.0, 4 * rows["equivalence"].min()))


def test_an_unfinished_arm_is_compared_as_far_as_it_got(world: World) -> None:
    found = world.compare("longer", "unfinished")
    assert [side.iteration for side in found.sides] == [1, 1]
    assert any(
        "is KILLED and did not finish; its finished iterations (0, 1) are compared" in note for note in found.notes
    )
    assert any("longer: iteration 1 is compared, for unfinished got no further" in note for note in found.notes)
    assert [side.iteration for side in open_sides(world.store, ["longer@2", "unfinished"])] == [2, 1]


def test_only_common_prompts_are_compared_and_how_many_of_each_side_is_said(world: World) -> None:
    found = world.compare("longer@0", "fewer")
    assert row_of(found, "fidelity", "en")["n"] == 8
    assert row_of(found, "fidelity", "es")["n"] == 6
    assert any("fidelity" in note and "en 4 of longer@0, 0 of fewer (compared: 8)" in note for note in found.notes)
    assert row_of(found, "fidelity", "mean")["n"] == 8


def test_other_judges_do_not_matter_to_what_needs_none(world: World) -> None:
    found = world.compare("after@0", "judge-b", metrics=("fidelity", "length"))
    assert set(found.table["metric"]) == {"fidelity", "length/characters"}


# Files of outputs ---------------------------------------------------------------------------------------------------------------------

JUDGE = '''
from icr_platform.engines.judging.pairwise import Judgment

COUNT = "judged.txt"

class Longer:
    """Prefers the longer output."""
    def __init__(self, settings, template, seed): pass
    def judge(self, parts):
        for part in parts:
            judged = []
            for pair in part:
                with open(COUNT, "a") as file:
                    file.write(f"{pair.language} {pair.prompt_id}\\n")
                ours, theirs = len(pair.candidate), len(pair.reference)
                preference = 0.5 if ours == theirs else float(ours > theirs)
                judged.append(Judgment(pair.language, pair.prompt_id, pair.sample_index, "none", preference, None, "ok", "longer", 0, 0, ""))
            yield judged
'''


@pytest.fixture
def outputs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models' outputs as JSON in LANG folders, and a judge."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", world.tracker.uri)
    monkeypatch.setenv("COLUMNS", "140")
    (tmp_path / "lengthy.py").write_text(JUDGE)
    for language in ("en", "es"):
        prompts = [prompt for prompt in PROMPTS if prompt.language == language]
        for model, seed in (("model_a&b", 3), ("model_c", 4)):
            rows = [
                {
                    "id": prompt.prompt_id,
                    "instruction": prompt.instruction,
                    "output": first_answer(seed)(prompt),
                    "generator": model,
                }
                for prompt in prompts
            ]
            place = tmp_path / "out" / language / f"{model}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return tmp_path


def rows_of(text: str) -> dict[tuple[str, str], dict[str, str]]:
    return {(row["metric"], row["language"]): row for row in csv.DictReader(io.StringIO(text))}


def test_files_are_judged_against_each_other_once(
    world: World, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ["out/{language}/model_a&b.json", "out/{language}/model_c.json"]
    judge = ["--judge", "lengthy:Longer", "--format", "csv"]
    assert run(["compare", *sides, *judge]) == 0
    rows = rows_of(capsys.readouterr().out)
    wins = []
    for language in ("en", "es"):
        prompts = [prompt for prompt in PROMPTS if prompt.language == language]
        pairs = [(len(first_answer(3)(prompt)), len(first_answer(4)(prompt))) for prompt in prompts]
        won = 100 * sum(0.5 if one == two else float(two > one) for one, two in pairs) / len(pairs)
        row = rows["head_to_head", language]
        assert float(row["value"]) == pytest.approx(won)
        assert float(row["compared_with_value"]) == pytest.approx(100 - won)
        assert (row["arm"], row["compared_with"], row["n"]) == ("model_c", "model_a&b", "12")
        longer = sum(two - one for one, two in pairs) / len(pairs)
        assert float(rows["length/characters", language]["difference"]) == pytest.approx(longer)
        wins.append(won)
    assert float(rows["head_to_head", "mean"]["value"]) == pytest.approx(sum(wins) / 2)
    assert ("win_rate", "en") not in rows
    assert len((outputs / "judged.txt").read_text().splitlines()) == 24
    # The p-value is that of a head-to-head table of the same judgments.
    reader = world.reader
    stages = reader.evaluations(list(reader.experiments()), ["eval"])
    judged = next(one for one in stages if one.params.get("eval.judge") == "lengthy:Longer")
    judgments = open_artifact(reader.artifact(judged.run_id, "judgments", outputs / "cache"), JUDGMENTS)
    known = head_to_head_table(judgments_by_language(judgments)).set_index("language")
    assert float(rows["head_to_head", "es"]["p_value"]) == pytest.approx(known.loc["es", "p_value"])
    # Nothing is asked again: not for the same sides, and for one changed output only that one.
    assert run(["compare", *sides, *judge]) == 0
    assert len((outputs / "judged.txt").read_text().splitlines()) == 24
    changed = outputs / "out/es/model_c.json"
    texts = json.loads(changed.read_text())
    texts[5]["output"] += " Y otra cosa."
    changed.write_text(json.dumps(texts))
    assert run(["compare", *sides, *judge]) == 0
    assert (outputs / "judged.txt").read_text().splitlines()[24:] == ["es p5"]


def test_each_is_judged_against_reference_outputs(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_references(outputs / "references", PROMPTS, first_answer(99))
    command = [
        "compare",
        "out/{language}/model_a&b.json",
        "out/{language}/model_c.json",
        "--judge",
        "lengthy:Longer",
        "--format",
        "csv",
    ]
    assert run([*command, "--reference-outputs", "references", "--equivalence", "2"]) == 0
    rows = rows_of(capsys.readouterr().out)
    prompts = [prompt for prompt in PROMPTS if prompt.language == "es"]

    def rate(seed: int) -> float:
        lengths = [(len(first_answer(99)(prompt)), len(first_answer(seed)(prompt))) for prompt in prompts]
        return 100 * sum(0.5 if one == two else float(two > one) for one, two in lengths) / len(lengths)

    assert float(rows["win_rate", "es"]["compared_with_value"]) == pytest.approx(rate(3))
    assert float(rows["win_rate", "es"]["value"]) == pytest.approx(rate(4))
    assert rows["win_rate", "es"]["equivalence"]
    assert ("lc_win_rate", "mean") in rows
    assert ("head_to_head", "es") not in rows


def test_every_layout_and_format(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same outputs as JSONL, CSV and parquet in a folder; the tables as LaTeX, HTML and text."""
    folder = outputs / "flat"
    folder.mkdir()
    for language, ending in (("en", "csv"), ("es", "parquet")):
        table = pd.read_json(outputs / "out" / language / "model_c.json", dtype={"id": str})
        table.to_csv(folder / "en.csv", index=False) if ending == "csv" else table.to_parquet(folder / "es.parquet")
    lines = outputs / "lines"
    lines.mkdir()
    for language in ("en", "es"):
        rows = json.loads((outputs / "out" / language / "model_a&b.json").read_text())
        (lines / f"{language}.jsonl").write_text(
            "\n".join(json.dumps({**row, "output": row["output"]}) for row in rows)
        )
    sides = ["lines", "flat"]
    assert run(["compare", *sides, "--format", "latex", "--output", "table.tex"]) == 0
    tex = (outputs / "table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == tex.count(r"\toprule") > 2
    for line in tex.splitlines():
        assert line.startswith("%") or "%" not in line.replace(r"\%", "")
    assert run(["compare", "out/{language}/model_a&b.json", "flat", "--format", "latex"]) == 0
    assert r"out/\{language\}/model\_a\&b" in capsys.readouterr().out
    assert run(["compare", *sides, "--format", "html", "--output", "page.html"]) == 0
    page = (outputs / "page.html").read_text()
    assert "Content-Security-Policy" in page
    assert "In its language, %" in page
    assert run(["compare", *sides, "--output", "page.txt"]) == 0
    assert "Mean, non-English" in (outputs / "page.txt").read_text()
    capsys.readouterr()
    assert run(["compare", *sides]) == 0
    assert "difference (95%)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["out/{language}/model_c.json"], "give two sides or more"),
        (["out/{language}/model_c.json", "out/{language}/model_c.json"], "are the same"),
        (["out/{language}/model_c.json", "out/{language}/nobody.json"], "nobody.json"),
        (
            ["out/{language}/model_c.json", "mandarin"],
            "no common language: the prompts have en, es; out/{language}/model_c has en, es; mandarin has zh",
        ),
        (["out/en/model_c.json", "out/en/model_a&b.json"], "is one file; give"),
        (["noinstructions", "out/{language}/model_c.json"], "unless --prompts gives others"),
        (
            ["out/{language}/model_c.json", "out/{language}/model_a&b.json", "--reference-outputs", "out"],
            "without a judge; give --judge",
        ),
        (["out/{language}/model_c.json", "out/{language}/model_a&b.json", "--equivalence", "0"], "equivalence"),
        (["out/{language}/model_c.json", "out/{language}/model_a&b.json", "--no-tracking"], "leave --no-tracking out"),
        (
            ["out/{language}/model_c.json", "out/{language}/model_a&b.json", "--output", "nowhere/x.csv"],
            "there is no folder",
        ),
        (
            ["out/{language}/model_c.json", "out/{language}/model_a&b.json", "--metrics", "nothing"],
            "nothing was measured of both",
        ),
        (["out/{language}/model_c.json", "out/{language}/model_a&b.json", "--formt", "csv"], "nearest is --format"),
    ],
)
def test_bad_files_are_said_in_one_line(
    outputs: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (outputs / "mandarin").mkdir()
    rows = [{"id": prompt.prompt_id, "instruction": prompt.instruction, "output": "好"} for prompt in OTHER_LANGUAGE]
    (outputs / "mandarin" / "zh.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (outputs / "noinstructions").mkdir()
    (outputs / "noinstructions" / "en.json").write_text(json.dumps([{"id": "p0", "output": "A river."}]))
    assert run(["compare", *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("icr:")]
    assert len(lines) == 1
    assert said in lines[0]


def test_outputs_of_a_run_and_a_file_are_judged_together(world: World, outputs: Path) -> None:
    """An arm's outputs against a file's: the arm is one of the sides of a head-to-head."""
    shutil.copytree(outputs / "out", outputs / "given")
    text = "compare {after-1} given/{language}/model_c.json --judge lengthy:Longer --format csv --output found.csv"
    assert run([given(world, word) for word in text.split()]) == 0
    rows = rows_of((outputs / "found.csv").read_text())
    assert rows["head_to_head", "mean"]["arm"] == "model_c"
    assert rows["head_to_head", "mean"]["compared_with"] == "after"
    assert (rows["cost/gpu_hours", ""]["arm"], rows["cost/gpu_hours", ""]["value"]) == ("after", "1.0")
