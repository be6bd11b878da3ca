"""The instructions stage end to end: sampled or given, turn by turn, checked, compared; killed anywhere and resumed to the same bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from icr_platform.cli.commands import run as icr
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import CONFUSION, DROPS, INSTRUCTION_CHECKS, OUTPUTS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.sampling.sampler import Dropped
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.evaluation.config import InstructionsConfig
from icr_platform.evaluation.instructions_stage import read, run
from icr_platform.pipeline.identity import identify
from tests.support.tiny_models import PROMPTS

COMMA, WORDS, CASE, END = (
    "punctuation:no_comma", "length_constraints:number_words", "change_case:english_capital", "startend:end_checker",
)  # fmt: skip
KINDS = ([COMMA], [COMMA, WORDS], [WORDS], [END], [COMMA, "mine:rhymes"], [WORDS, END])
KWARGS = {COMMA: {}, WORDS: {"relation": "at least", "num_words": 3}, END: {"end_phrase": "."}, "mine:rhymes": {}}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """The tiny model's own prompts in three languages, with instructions."""
    for language, texts in PROMPTS.items():
        rows = [
            {"key": key, "prompt": text, "instruction_id_list": kinds, "kwargs": [KWARGS[kind] for kind in kinds]}
            for key, (text, kinds) in enumerate(zip(texts, KINDS, strict=True), 100)
        ]
        write(tmp_path / "prompts" / f"{language}.jsonl", rows)
    return tmp_path / "prompts"


@pytest.fixture
def settings(prompts: Path, tiny_model: Path) -> dict[str, Any]:
    return {
        "policy": str(tiny_model), "prompts": str(prompts), "max_tokens": 16, "samples": 2, "temperature": 0.8, "shard_prompts": 2,
        "device": "cpu",
    }  # fmt: skip


def done(settings: dict[str, Any], folder: Path) -> StageResult:
    return run(read(InstructionsConfig(**settings)), StageContext(folder, "f"))


def checks_in(folder: Path) -> pd.DataFrame:
    return open_artifact(folder / "instruction_checks", INSTRUCTION_CHECKS).read().to_pandas()


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".tmp" not in path.name)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_output_is_checked_by_every_instruction_of_its_prompt(settings: dict[str, Any], tmp_path: Path) -> None:
    result = done(settings, tmp_path / "out")
    outputs = open_artifact(tmp_path / "out" / "instruction_outputs", OUTPUTS).read().to_pandas()
    checks = checks_in(tmp_path / "out")
    assert len(outputs) == 3 * 6 * 2
    assert len(checks) == 3 * sum(map(len, KINDS)) * 2
    texts = outputs.set_index(["language", "prompt_id", "sample_index"])["output"]
    for row in checks.to_dict("records"):  # by other means than the checkers'
        text = texts[row["language"], row["prompt_id"], row["sample_index"]]
        if row["instruction_id"] == COMMA:
            assert row["strict"] == (bool(text.strip()) and "," not in text)
        elif row["instruction_id"] == END:
            assert row["strict"] == text.strip().endswith(".")
        elif row["instruction_id"] == "mine:rhymes":
            assert (row["strict"], row["loose"]) == (None, None)
            assert "not a kind of instruction" in row["reason"]
    english = checks[checks["language"] == "en"]
    assert result.metrics["instruction_accuracy/strict/en"] == pytest.approx(
        100 * english["strict"].dropna().astype(bool).mean()
    )
    by_output = english.dropna(subset=["strict"]).groupby(["prompt_id", "sample_index"])["strict"].all()
    assert result.metrics["prompt_accuracy/strict/en"] == pytest.approx(100 * by_output.mean())
    assert 0 < result.metrics["prompt_accuracy/strict/mean"] < 100, "the tiny model follows some and not others"
    rows = open_artifact(result.artifacts["instruction_confusion"], CONFUSION).read().to_pylist()
    assert len(rows) == len(outputs), "all three languages have rates"
    counted = [row for row in rows if row["language"] == "en" and row["line_count"]]
    rate = 100 * sum(not row["confused_lines"] for row in counted) / len(counted) if counted else None
    assert result.metrics.get("line_pass_rate/en") == (pytest.approx(rate) if counted else None)
    assert result.metrics["unverified/en"] == pytest.approx(100 / sum(map(len, KINDS)))
    for place in ("instruction_accuracy{}/strict/de", "prompt_accuracy{}/loose/mean_non_english"):
        assert (
            result.metrics[place.format("_low")]
            <= result.metrics[place.format("")]
            <= result.metrics[place.format("_high")]
        )
    assert [
        note
        for note in result.notes
        if "instructions of these kinds have no checker and are unverified: 'mine:rhymes' (3)" in note
    ]
    assert [
        note
        for note in result.notes
        if note.startswith("en: 2 of 18 instructions cannot be verified and count neither way")
    ]
    assert set(result.artifacts) == {"instruction_outputs", "instruction_checks", "instruction_confusion"}, (
        "nothing was dropped"
    )


class Killed(BaseException):
    """Stands for a kill: nothing in the platform catches it."""


def test_killed_anywhere_it_goes_on_to_the_same_bytes(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(settings, tmp_path / "calm")
    from icr_platform.core.artifacts import ArtifactWriter

    write_part = ArtifactWriter.write_part
    written = []

    def write_and_die(self: ArtifactWriter, index: int, table: Any) -> None:
        write_part(self, index, table)
        written.append((self.folder.name, index))
        if len(written) in (2, 6, 12, 22):  # of 9 parts of outputs, 9 of checks and 9 of lines
            raise Killed

    monkeypatch.setattr(ArtifactWriter, "write_part", write_and_die)
    for _ in range(4):
        with pytest.raises(Killed):
            done(settings, tmp_path / "killed")
    done(settings, tmp_path / "killed")
    assert len(written) == len(set(written)) == 27, "no part was made twice"
    assert digests(tmp_path / "killed") == digests(tmp_path / "calm")


def test_checks_follow_outputs_that_were_made_again(settings: dict[str, Any], tmp_path: Path) -> None:
    done(settings, tmp_path / "out")
    before = checks_in(tmp_path / "out")
    part = tmp_path / "out" / "instruction_outputs" / "part-00000.parquet"
    part.unlink()
    (part.parent / "manifest.json").unlink()
    done(settings | {"seed": 7}, tmp_path / "out")  # under the fingerprint of before: what a repaired endpoint would do
    after = checks_in(tmp_path / "out")
    digest = "input_digest"
    changed = before[digest] != after[digest]
    assert changed.any()
    assert not changed[before["language"] != "en"].any()


def test_given_outputs_are_checked_without_a_policy(settings: dict[str, Any], tmp_path: Path) -> None:
    """A thought is not looked at; an answer that was cut within one is empty and follows nothing."""
    given = {
        "en": [
            "Red and blue.",
            "One, two, three",
            "<think>a, b</think>Now it ends.",
            "<think>It never",
            "Yes",
            "It is so.",
        ],
        "es": ["Rojo y azul."] * 6,
    }
    for language, texts in given.items():
        write(
            tmp_path / "given" / f"{language}.jsonl",
            [{"key": key, "response": text} for key, text in enumerate(texts, 100)],
        )
    over = {"policy": "", "outputs": str(tmp_path / "given"), "languages": ("en", "es")}
    result = done(settings | over, tmp_path / "out")
    checks = checks_in(tmp_path / "out")
    english = checks[checks["language"] == "en"].set_index(["prompt_id", "instruction_id"])["strict"]
    assert english.to_dict() == {
        ("100", COMMA): True, ("101", COMMA): False, ("101", WORDS): True, ("102", WORDS): True, ("103", END): False,
        ("104", COMMA): True, ("104", "mine:rhymes"): None, ("105", WORDS): True, ("105", END): True,
    }  # fmt: skip
    assert result.metrics["instruction_accuracy/strict/en"] == pytest.approx(100 * 6 / 8)
    assert result.metrics["prompt_accuracy/strict/en"] == pytest.approx(100 * 4 / 6)
    assert result.metrics["prompt_accuracy/strict/es"] == 100.0
    again = done(
        settings | {"policy": "", "outputs": str(tmp_path / "out" / "instruction_outputs"), "languages": ("en", "es")},
        tmp_path / "again",
    )
    assert again.metrics == result.metrics, "the artifact says the same"


def test_an_iteration_is_compared_with_the_one_before_prompt_by_prompt(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    for name, text in (("before", "No, never."), ("after", "So it will be.")):
        for language in PROMPTS:
            rows = [{"key": key, "output": text} for key in range(100, 106)]
            write(tmp_path / name / f"{language}.jsonl", rows)
    given = settings | {"policy": ""}
    done(given | {"outputs": str(tmp_path / "before")}, tmp_path / "pi_0")
    baseline = str(tmp_path / "pi_0" / "instruction_checks")
    result = done(given | {"outputs": str(tmp_path / "after"), "baseline": baseline}, tmp_path / "pi_1")
    # Of the six prompts all but the one that asks for an end alone failed before: commas in three, too few words in three.
    assert result.metrics["prompt_accuracy/strict/es"] == 100.0
    assert result.metrics["prompt_accuracy_change/strict/es"] == pytest.approx(100 * 5 / 6)
    assert result.tables["instruction_changes"]["gained"].tolist() == [5] * 6
    flips = result.tables["instruction_flips"]
    assert set(flips["kind"]) == {"improvement"}
    assert flips[(flips["language"] == "es") & (flips["prompt_id"] == "101")]["instructions"].tolist() == [
        f"{WORDS}, {COMMA}"
    ]
    same = done(given | {"outputs": str(tmp_path / "before"), "baseline": baseline}, tmp_path / "same")
    assert (same.metrics["prompt_accuracy_change/strict/es"], same.metrics["prompt_accuracy_change_p/strict/es"]) == (
        0.0,
        1.0,
    )


TURNS = {
    "turn_1_prompt": json.dumps({"role": "user", "content": "Name a fruit."}),
    "turn_1_instruction_id_list": json.dumps([COMMA]), "turn_1_kwargs": json.dumps(["{}"]),
    "turn_2_prompt": json.dumps({"role": "user", "content": "What is red?"}),
    "turn_2_instruction_id_list": json.dumps([COMMA, WORDS]), "turn_2_kwargs": json.dumps(["{}", json.dumps(KWARGS[WORDS])]),
    "turn_3_prompt": json.dumps({"role": "user", "content": "Say hello."}),
    "turn_3_instruction_id_list": json.dumps([COMMA, WORDS, END]),
    "turn_3_kwargs": json.dumps(["{}", json.dumps(KWARGS[WORDS]), json.dumps(KWARGS[END])]),
}  # fmt: skip


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Multi-IF: two conversations of three turns, and one that ends after the first."""
    short = {name: value if name.startswith("turn_1") else None for name, value in TURNS.items()}
    rows: list[dict[str, Any]] = [
        {"key": "1:es", "language": "Spanish", **TURNS},
        {"key": "1:de", "language": "German", **TURNS},
        {"key": "2:de", "language": "German", **short},
    ]
    return write(tmp_path / "multi_if.jsonl", rows)


def test_each_turn_is_answered_in_sight_of_its_own_earlier_answers(
    settings: dict[str, Any], talks: Path, tmp_path: Path
) -> None:
    over = settings | {"prompts": str(talks), "system_prompt": "Be kind."}
    result = done(over, tmp_path / "out")
    outputs = open_artifact(tmp_path / "out" / "instruction_outputs", OUTPUTS).read().to_pylist()
    said = {(row["language"], row["prompt_id"], row["sample_index"]): row for row in outputs}
    assert sorted(said) == sorted(
        [("es", f"1:es{t}", i) for t in ("", "#2", "#3") for i in (0, 1)]
        + [("de", f"1:de{t}", i) for t in ("", "#2", "#3") for i in (0, 1)]
        + [("de", "2:de", 0), ("de", "2:de", 1)]
    )
    for sample in (0, 1):
        third = json.loads(said["es", "1:es#3", sample]["messages"])
        first, second = (said["es", key, sample]["output"] for key in ("1:es", "1:es#2"))
        assert [message["content"] for message in third] == [
            "Name a fruit.",
            first,
            "What is red?",
            second,
            "Say hello.",
        ]
    checks = checks_in(tmp_path / "out")
    assert checks.groupby("turn").size().to_dict() == {1: 3 * 2, 2: 2 * 2 * 2, 3: 2 * 2 * 3}
    assert set(checks["prompt_id"]) == {"1:es", "1:de", "2:de"}
    assert {f"prompt_accuracy/strict-turn-{turn}/es" for turn in (1, 2, 3)} <= set(result.metrics)
    assert result.tables["instruction_turns"]["turn"].tolist() == [1, 2, 3, 1, 2, 3]


def test_the_system_prompt_and_the_answers_reach_the_model(
    settings: dict[str, Any], talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[str]] = {}
    sample = TransformersSampler.sample

    def watched(self: TransformersSampler, requests: Any, *others: Any) -> Any:
        for request in requests:
            seen[request.prompt_id] = [message["content"] for message in request.messages]
        return sample(self, requests, *others)

    monkeypatch.setattr(TransformersSampler, "sample", watched)
    done(settings | {"prompts": str(talks), "system_prompt": "Be kind."}, tmp_path / "out")
    rows = open_artifact(tmp_path / "out" / "instruction_outputs", OUTPUTS).read().to_pylist()
    answer = next(row["output"] for row in rows if (row["prompt_id"], row["sample_index"]) == ("1:es", 1))
    assert seen["1:es"] == ["Be kind.", "Name a fruit."]
    assert seen["1:es#2.1"] == ["Be kind.", "Name a fruit.", answer, "What is red?"]


def test_a_turn_that_cannot_be_answered_is_dropped_and_its_earlier_ones_count(
    settings: dict[str, Any], talks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = TransformersSampler.sample

    def fails(self: TransformersSampler, requests: Any, *others: Any) -> Iterator[Any]:
        for request, made in zip(requests, sample(self, requests, *others), strict=True):
            yield Dropped("too-long", "99 tokens") if request.prompt_id == "1:de#2.0" else made

    monkeypatch.setattr(TransformersSampler, "sample", fails)
    over = settings | {"prompts": str(talks), "max_dropped": 50}
    result = done(over, tmp_path / "out")
    dropped = open_artifact(tmp_path / "out" / "instruction_drops", DROPS).read().to_pylist()
    assert [(row["language"], row["prompt_id"], row["sample_index"], row["reason"]) for row in dropped] == [
        ("de", "1:de#2", 0, "too-long")
    ]
    checks = checks_in(tmp_path / "out")
    german = checks[(checks["prompt_id"] == "1:de")].groupby(["turn", "sample_index"]).size()
    assert german.to_dict() == {(1, 0): 1, (1, 1): 1, (2, 1): 2, (3, 1): 3}
    assert any("de: 1 prompts were dropped because they do not fit" in note for note in result.notes)
    with pytest.raises(IcrError, match=r"1 of 3 prompts were dropped .* above max_dropped 5%"):
        done(over | {"max_dropped": 5}, tmp_path / "strict")


def test_one_bad_row_is_listed_and_the_others_are_sampled(
    settings: dict[str, Any], prompts: Path, tmp_path: Path
) -> None:
    with (prompts / "es.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": 106, "prompt": "dice "hola""}\n')
    result = done(settings | {"languages": ("en", "es"), "limit": 2}, tmp_path / "out")
    dropped = open_artifact(tmp_path / "out" / "instruction_drops", DROPS).read().to_pylist()
    assert [(row["language"], row["prompt_id"], row["reason"]) for row in dropped] == [("es", "row 7", "unreadable")]
    assert result.artifacts["instruction_drops"] == tmp_path / "out" / "instruction_drops"
    again = done(settings | {"languages": ("en", "es"), "limit": 2}, tmp_path / "out")
    assert again.metrics == result.metrics


def test_an_answer_that_is_asked_for_in_another_language_is_not_confused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    kind = "language:response_language"
    long = {
        "en": "The museum opens at nine in the morning and closes before dinner.",
        "es": "El museo abre a las nueve de la mañana y cierra antes de la cena.",
    }
    rows = [
        {"key": code, "prompt": "¿A qué hora abre?", "instruction_id_list": [kind], "kwargs": [{"language": code}]}
        for code in long
    ]
    prompts = write(tmp_path / "p" / "es.jsonl", rows).parent
    write(tmp_path / "o" / "es.jsonl", [{"key": code, "output": text} for code, text in long.items()])
    over = {"policy": "", "prompts": str(prompts), "outputs": str(tmp_path / "o")}
    result = done(settings | over, tmp_path / "out")
    assert result.metrics["instruction_accuracy/strict/es"] == result.metrics["line_pass_rate/es"] == 100.0
    assert any(
        note.startswith("1 prompts ask for an answer in another language than their own") for note in result.notes
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": ""}, "field 'policy' is missing for instructions; give --policy, or --outputs"),
        ({"prompts": ""}, "field 'prompts' is missing for instructions"),
        ({"prompts": "/nowhere"}, "/nowhere: no such file or folder"),
        ({"languages": ("fr",)}, "language 'fr' is missing; found: de, en, es"),
        ({"baseline": "/nowhere"}, "/nowhere: no such folder"),
        ({"outputs": "/nowhere"}, "/nowhere: no such file or folder"),
        ({"prompt_columns": {"kwarg": "x"}}, "nearest is 'kwargs'"),
        ({"limit": 0}, "field 'limit' is 0"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_written(
    settings: dict[str, Any], change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        done(settings | change, tmp_path / "out")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_baseline_of_other_prompts_is_refused(settings: dict[str, Any], prompts: Path, tmp_path: Path) -> None:
    done(settings | {"languages": ("en",), "limit": 1, "samples": 1}, tmp_path / "out")
    other = write(tmp_path / "other" / "en.jsonl", [{"key": 7, "prompt": "Hi.", "instruction_id_list": [COMMA]}])
    over = {"prompts": str(other.parent), "baseline": str(tmp_path / "out" / "instruction_checks")}
    with pytest.raises(InputError, match="'baseline' has no prompt in common with"):
        read(InstructionsConfig(**settings | over))


def test_the_work_is_known_by_its_prompts_instructions_answers_and_baseline(
    settings: dict[str, Any], prompts: Path, tmp_path: Path
) -> None:
    def work(**over: Any) -> tuple[str, str]:
        found = identify("instructions", InstructionsConfig(**settings | over))
        return found.work, found.rows["instruction_outputs"]

    plain = work()
    assert work(batch_size=3) == plain
    assert work(languages=("en", "es", "de")) == plain
    assert work(languages=("en", "es"))[1] == plain[1] != work(temperature=0.5)[1], (
        "single answers are taken from other work"
    )
    rows = [json.loads(line) for line in (prompts / "es.jsonl").read_text(encoding="utf-8").splitlines()]
    write(prompts / "es.jsonl", [row | {"note": "x"} for row in rows])
    assert work() == plain, "a column that nobody reads"
    write(prompts / "es.jsonl", [*rows[:-1], rows[-1] | {"kwargs": [KWARGS[WORDS], {"end_phrase": "!"}]}])
    assert work()[0] != plain[0]
    assert work()[1] == plain[1], "the answers are the same, only their checks are not"
    for language in PROMPTS:
        write(tmp_path / "given" / f"{language}.jsonl", [{"key": 100, "output": "Hi."}])
    given = work(policy="", outputs=str(tmp_path / "given"))[0]
    assert work(policy="", outputs=str(tmp_path / "given"), temperature=0.1)[0] == given
    write(tmp_path / "given" / "es.jsonl", [{"key": 100, "output": "Hi, you."}])
    assert work(policy="", outputs=str(tmp_path / "given"))[0] != given


def test_on_the_command_line_it_prints_tables_is_tracked_and_found_again(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    assert icr(["instructions", *flags, "--languages=en,es", "--limit=2"]) == 0
    first = capsys.readouterr().out
    assert "Instructions followed, % (95% interval)" in first
    assert "Spanish" in first
    assert WORDS in first
    place = next(line.partition(": ")[2] for line in first.splitlines() if line.startswith("instruction_checks: "))
    assert icr(["instructions", *flags, "--languages=en,es", "--limit=2"]) == 0
    again = capsys.readouterr()
    assert "found finished" in again.err
    assert "Instructions followed, % (95% interval)" in again.out
    assert icr(["instructions", *flags, "--languages=en,es", "--limit=2", "--seed=1", f"--baseline={place}"]) == 0
    assert "against the baseline (paired by prompt)" in capsys.readouterr().out
