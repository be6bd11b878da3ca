"""The eval stage end to end: sampled, judged, scored; killed anywhere and resumed to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import CONFUSION, JUDGMENTS, OUTPUTS, SCORES
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo import IDENTIFIER, JUDGE
from icr_platform.demo.world import write_prompts
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.stage import read, run
from icr_platform.pipeline.finished_work import finished_artifacts
from icr_platform.pipeline.stages import STAGES

TEMPLATE = "- role: user\n  content: '{instruction} m: {output_m} M: {output_M} m or M?'\n"
REFERENCE = {"en": "An apple.", "es": "Una manzana.", "de": "Ein Apfel."}


@pytest.fixture
def settings(tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path) -> dict[str, object]:
    """A small evaluation with the logprob judge: 3 languages x 6 prompts x 2 samples, parts of 2 prompts."""
    outputs = tmp_path / "reference"
    outputs.mkdir()
    for path in prompt_folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        answers = [{"id": row["id"], "instruction": row["instruction"], "output": REFERENCE[path.stem]} for row in rows]
        (outputs / f"{path.stem}.json").write_text(json.dumps(answers), encoding="utf-8")
    (tmp_path / "judge.yaml").write_text(TEMPLATE)
    return {
        "policy": str(tiny_models[0]), "prompts": str(prompt_folder), "reference_outputs": str(outputs), "samples": 2,
        "max_tokens": 12, "shard_prompts": 2, "judge": "logprob", "judge_model": str(tiny_models[1]),
        "judge_template": str(tmp_path / "judge.yaml"), "device": "cpu",
        "judge_min_mass": 0.0,  # a model this small gives its labels a thousandth of the probability
    }  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_output_is_judged_in_both_orders_and_scored(settings: dict[str, object], tmp_path: Path) -> None:
    result = run(read(EvalConfig(**settings)), StageContext(tmp_path / "out", "f"))
    outputs = open_artifact(tmp_path / "out" / "outputs", OUTPUTS).read().to_pandas()
    judgments = open_artifact(tmp_path / "out" / "judgments", JUDGMENTS).read().to_pandas()
    assert len(outputs) == 3 * 6 * 2
    assert len(judgments) == 2 * len(outputs)
    assert judgments.groupby(["language", "prompt_id", "sample_index"])["order"].nunique().eq(2).all()
    rate = 100 * judgments[judgments["language"] == "es"]["preference"].mean()
    assert result.metrics["win_rate/es"] == pytest.approx(rate)
    assert result.metrics["win_rate_n/es"] == 6
    assert 0 <= result.metrics["fidelity/es"] <= 100
    assert result.metrics["judge/failure_rate"] == 0
    scores = open_artifact(tmp_path / "out" / "scores", SCORES).read().to_pandas()
    assert {"win_rate", "lc_win_rate", "fidelity", "length/ratio", "truncated", "repetition"} <= set(scores["metric"])
    assert int(result.tables["fidelity_confusion"]["outputs"].sum()) == len(outputs)


def test_thoughts_change_no_judgment_and_no_figure_of_the_answers(settings: dict[str, object], tmp_path: Path) -> None:
    """Outputs that come with a thought are judged exactly as their answers alone."""
    answers = {"en": "A pear.", "es": "Una pera, o dos.", "de": "Eine Birne."}
    results = {}
    for name, thought in (("plain", ""), ("thinking", "<think>\nThe user wants a fruit. A pear?\n</think>\n\n")):
        given = tmp_path / name
        given.mkdir()
        for path in Path(str(settings["prompts"])).glob("*.jsonl"):
            rows = [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]
            outputs = [{"id": row, "output": thought + answers[path.stem]} for row in rows]
            (given / f"{path.stem}.json").write_text(json.dumps(outputs), encoding="utf-8")
        config = EvalConfig(**settings | {"outputs": str(given)})
        results[name] = run(read(config), StageContext(tmp_path / "out" / name, "f"))
        assert any("6 of 6 outputs come with what was thought" in note for note in results[name].notes) == bool(thought)
    plain, thinking = results["plain"].metrics, results["thinking"].metrics
    measured = {name for name in thinking if name.startswith("thought")}
    assert {f"thought_{what}/{code}" for what in ("language_share", "cut") for code in answers} < measured
    assert (thinking["thought_language_share/es"], thinking["thought_language_share/en"]) == (0.0, 100.0)
    assert {name: value for name, value in thinking.items() if name not in measured} == plain
    rows = open_artifact(tmp_path / "out" / "thinking" / "outputs", OUTPUTS).read().to_pylist()
    assert {row["thought"] for row in rows} == {"The user wants a fruit. A pear?"}
    assert {row["output"] for row in rows} == set(answers.values())
    assert {row["thought_language"] for row in rows} == {"en"}
    table = results["thinking"].tables["thought_languages"]
    assert table[["asked", "detected", "outputs"]].to_numpy().tolist() == [
        ["de", "en", 6],
        ["en", "en", 6],
        ["es", "en", 6],
    ]


def test_an_output_that_ends_within_its_thought_is_counted_as_such(settings: dict[str, object], tmp_path: Path) -> None:
    policy = tmp_path / "thinks"
    shutil.copytree(str(settings["policy"]), policy)
    template = policy / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    template.write_text(text.replace("{% endif %}", "<think>\n{% endif %}"), encoding="utf-8")
    config = EvalConfig(**settings | {"policy": str(policy), "judge": "none", "samples": 1, "languages": "es"})
    result = run(read(config), StageContext(tmp_path / "out", "f"))
    rows = open_artifact(tmp_path / "out" / "outputs", OUTPUTS).read().to_pylist()
    assert {(row["output"], row["character_count"], row["finish_reason"]) for row in rows} == {("", 0, "length")}
    assert all(row["thought_token_count"] == row["token_count"] for row in rows), "every token was part of the thought"
    thinking = [row for row in rows if row["thought"]]
    assert result.metrics["truncated/es"] == 100.0
    assert result.metrics["thought_cut/es"] == pytest.approx(100.0 * len(thinking) / len(rows))
    assert any(
        "ended within the thought: they have no answer, and are judged as empty outputs" in n for n in result.notes
    )


def test_a_finished_evaluation_is_read_not_computed_again(
    settings: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(read(EvalConfig(**settings)), StageContext(tmp_path / "out", "f"))
    before = digests(tmp_path / "out")

    def refuse(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("icr_platform.evaluation.outputs.make_sampler", refuse)
    monkeypatch.setattr("icr_platform.evaluation.judgments.make_judge", refuse)
    again = run(read(EvalConfig(**settings)), StageContext(tmp_path / "out", "f"))
    assert again.metrics == first.metrics
    assert digests(tmp_path / "out") == before


def test_given_outputs_are_judged_without_a_policy(settings: dict[str, object], tmp_path: Path) -> None:
    given = settings | {"policy": "", "outputs": settings["reference_outputs"], "samples": 1}
    result = run(read(EvalConfig(**given)), StageContext(tmp_path / "out", "f"))
    assert result.metrics["win_rate/mean"] == pytest.approx(50.0), "both orders of identical outputs cancel out"
    assert result.metrics["length/ratio/es"] == 1.0


def test_the_demo_grader_judges_the_demo_world(settings: dict[str, object], tmp_path: Path) -> None:
    write_prompts(tmp_path / "world", "test")
    (tmp_path / "demo-reference").mkdir()
    for path in (tmp_path / "world").glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        (tmp_path / "demo-reference" / f"{path.stem}.jsonl").write_text(
            "".join(json.dumps({"id": row["id"], "output": "?"}) + "\n" for row in rows), encoding="utf-8"
        )
    demo = settings | {
        "prompts": str(tmp_path / "world"), "reference_outputs": str(tmp_path / "demo-reference"), "judge": JUDGE,
        "language_identifier": IDENTIFIER, "limit": 3, "samples": 3, "judge_template": "",
    }  # fmt: skip
    result = run(read(EvalConfig(**demo)), StageContext(tmp_path / "out", "f"))
    judgments = open_artifact(tmp_path / "out" / "judgments", JUDGMENTS).read().to_pandas()
    assert set(judgments["preference"]) <= {0.0, 0.5, 1.0}
    assert len(judgments) == 5 * 3 * 3
    assert result.metrics["win_rate/mean_non_english"] >= 50.0, "nothing is worse than '?'"
    with pytest.raises(InputError, match="not of the demo world"):
        run(read(EvalConfig(**settings | {"judge": JUDGE})), StageContext(tmp_path / "other", "f"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": ""}, "'policy' is missing"),
        ({"reference_outputs": ""}, "'reference_outputs' is missing for the logprob judge"),
        ({"judge_model": ""}, "'judge_model' is missing"),
        ({"judge_model": "/nowhere/model"}, "/nowhere/model"),
        ({"reference_outputs": "/nowhere"}, "/nowhere: no such file or folder"),
        ({"judge": "openai"}, "'judge_api_model' is missing"),
        ({"difficulty": "/nowhere.csv"}, "/nowhere.csv: not readable (No such file"),
    ],
)
def test_bad_input_is_found_before_anything_is_written(
    settings: dict[str, object], tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        run(read(EvalConfig(**settings | change)), StageContext(tmp_path / "out", "f"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_reading_writes_nothing(settings: dict[str, object], tmp_path: Path) -> None:
    before = digests(tmp_path)
    read(EvalConfig(**settings))
    assert digests(tmp_path) == before


SCRIPT = """
import json, sys
from pathlib import Path
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.stage import read, run
from icr_platform.pipeline.finished_work import finished_artifacts
from icr_platform.pipeline.stages import STAGES
from icr_platform.core.stage_protocol import StageContext
run(read(EvalConfig(**json.loads(sys.argv[1]))), StageContext(Path(sys.argv[2]), "f"))
"""


def test_killed_anywhere_it_resumes_to_the_same_bytes(settings: dict[str, object], tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, json.dumps(settings)]
    run(read(EvalConfig(**settings)), StageContext(tmp_path / "calm", "f"))
    killed, rng = tmp_path / "killed", random.Random(0)
    for parts in (2, 12, 18):  # of 9 parts of outputs, 9 of judgments, 1 of scores
        process = subprocess.Popen([*command, str(killed)], env=environment)
        while process.poll() is None and len(list(killed.rglob("part-*.parquet"))) < parts:
            time.sleep(0.002)
        time.sleep(0.05 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "scores" / "manifest.json").exists() or parts == 18
    run(read(EvalConfig(**settings)), StageContext(killed, "f"))
    left = {name for name in digests(killed) if ".tmp" not in name}
    assert {name: digests(killed)[name] for name in left} == digests(tmp_path / "calm")


def test_fidelity_is_absent_where_the_identifier_does_not_know_the_language(
    settings: dict[str, object], tmp_path: Path, prompt_folder: Path
) -> None:
    """Sindhi outputs are Urdu to langid: as reference outputs they are not refused, as outputs they get no figure."""
    shutil.copy(prompt_folder / "es.jsonl", prompt_folder / "sd.jsonl")
    folder = Path(str(settings["reference_outputs"]))
    ids = [json.loads(line)["id"] for line in (prompt_folder / "sd.jsonl").read_text(encoding="utf-8").splitlines()]
    sindhi = "عجائب گهر صبح جو نو بجي کلندو آهي ۽ رات جي ماني کان اڳ بند ٿيندو آهي."
    for code, text in (("sd", sindhi), ("es", "El museo abre a las nueve de la mañana y cierra antes de la cena.")):
        rows = [{"id": key, "output": text} for key in ids]
        (folder / f"{code}.json").write_text(json.dumps(rows), encoding="utf-8")
    given = settings | {
        "policy": "", "outputs": str(folder), "samples": 1, "judge": "none", "languages": ("es", "sd"),
    }  # fmt: skip
    result = run(read(EvalConfig(**given)), StageContext(tmp_path / "out", "f"))
    assert result.metrics["fidelity/es"] == result.metrics["fidelity/mean"] == 100
    assert "fidelity/sd" not in result.metrics
    assert all(value == value for value in result.metrics.values())
    assert [note for note in result.notes if note.startswith("sd: langid does not know Sindhi")]
    scores = open_artifact(tmp_path / "out" / "scores", SCORES).read().to_pandas()
    scores = scores[scores["metric"] == "fidelity"].set_index("language")
    assert scores.loc["es", ["n", "flag"]].tolist() == [6, ""]
    assert scores.loc["sd", ["n", "flag"]].tolist() == [0, "the identifier does not know the language"]
    assert scores.loc["mean", "flag"] == "mean over 1 of 2 languages"


def test_lines_and_words_in_another_language_are_scores(
    settings: dict[str, object], tmp_path: Path, prompt_folder: Path
) -> None:
    """Given outputs of four languages: the rates, their intervals and means, the table of lines, notes; answers only."""
    for code in ("ru", "sn"):
        shutil.copy(prompt_folder / "es.jsonl", prompt_folder / f"{code}.jsonl")
    ids = [json.loads(line)["id"] for line in (prompt_folder / "es.jsonl").read_text(encoding="utf-8").splitlines()]
    spanish, english = "Esta es una respuesta bastante larga en español.", "This is quite a long answer in English."
    russian = "Это довольно длинный ответ на русском языке."
    texts = {
        # What was thought in English before a Spanish answer is not measured.
        "es": [f"<think>\n{english}\n</think>\n\n{spanish}", spanish, spanish, f"{spanish}\n{english}", english, "Sí."],
        "ru": [russian, russian, russian, f"{russian} И feedback для вас, конечно.", russian, english],
        "sn": [english] * 6,
    }
    folder = tmp_path / "answers"
    folder.mkdir()
    for code, answers in texts.items():
        rows = [{"id": key, "output": text} for key, text in zip(ids, answers, strict=True)]
        (folder / f"{code}.json").write_text(json.dumps(rows), encoding="utf-8")
    given = settings | {
        "policy": "", "outputs": str(folder), "samples": 1, "judge": "none", "reference_outputs": "", "judge_model": "",
        "languages": ("es", "ru", "sn"),
    }  # fmt: skip
    context = StageContext(tmp_path / "out", "f")
    result = run(read(EvalConfig(**given)), context)
    found = {name: value for name, value in result.metrics.items() if "pass_rate" in name}
    assert {name: value for name, value in found.items() if "_low" not in name and "_high" not in name} == pytest.approx({
        "line_pass_rate/es": 60.0, "line_pass_rate/ru": 100 * 5 / 6, "line_pass_rate/mean": (60 + 100 * 5 / 6) / 2,
        "line_pass_rate/mean_non_english": (60 + 100 * 5 / 6) / 2,
        "word_pass_rate/ru": 80.0, "word_pass_rate/mean": 80.0, "word_pass_rate/mean_non_english": 80.0,
    })  # fmt: skip
    assert found["line_pass_rate_low/es"] < 60 < found["line_pass_rate_high/es"]
    assert [
        note for note in result.notes if note.startswith("sn: lid.176, which identifies lines, does not know Shona")
    ]
    rows = open_artifact(result.artifacts["confusion"], CONFUSION).read().to_pylist()
    marked = {(row["language"], row["prompt_id"]): row for row in rows}
    assert len(rows) == 12
    assert [marked["es", key]["confused_lines"] for key in ids] == [[], [], [], [1], [0], []]
    assert [marked["ru", key]["english_words"] for key in ids] == [[], [], [], ["feedback"], [], None]

    # Work that an earlier version finished has no such table: it is found all the same, and has one when the stage runs again.
    shutil.rmtree(result.artifacts["confusion"])
    assert finished_artifacts(context.folder, "f", STAGES["eval"].artifacts) is not None
    assert run(read(EvalConfig(**given)), context).metrics == result.metrics

    (tmp_path / "own.txt").write_text("respuesta\n", encoding="utf-8")
    own = run(read(EvalConfig(**given, confusion_words=str(tmp_path / "own.txt"))), StageContext(tmp_path / "own", "g"))
    assert own.metrics["word_pass_rate/ru"] == 100.0
    with pytest.raises(InputError, match="give --confusion-words a text file"):
        read(EvalConfig(**given, confusion_words=str(tmp_path / "gone.txt")))
