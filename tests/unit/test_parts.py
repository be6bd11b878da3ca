"""Judges and language identifiers of one's own, and worlds: named in settings, found in the caller's folder, part of the identity."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icr_platform.cli.commands import run as icr
from icr_platform.cli.worlds import WORLDS
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.config import choices, validate
from icr_platform.core.errors import InputError
from icr_platform.core.parts import Part, World, load_part, make_importable
from icr_platform.core.schemas import JUDGMENTS, OUTPUTS
from icr_platform.demo import IDENTIFIER, JUDGE
from icr_platform.engines.execution.part_worker import Driver, PartWorker
from icr_platform.engines.identification.language_id import Identified, make_identifier
from icr_platform.engines.judging.choice import check_judge, make_judge
from icr_platform.engines.judging.pairwise import DEFAULT_TEMPLATE, NO_ORDER, Judgment
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline import code_digest
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.identity import identify
from icr_platform.pipeline.inputs import Resolver
from ui.pages.overview import _is_paper_set
from ui.tables.sources import _local

OWN = '''
from own_words import better
from icr_platform.engines.judging.pairwise import NO_ORDER, Judgment

class Longest:
    """Prefers the longer output."""
    def __init__(self, settings, template, seed):
        self.floor = settings.judge_min_mass
    def judge(self, parts):
        for part in parts:
            yield [Judgment(p.language, p.prompt_id, p.sample_index, NO_ORDER, better(p.candidate, p.reference), None, "ok", "longest",
                            0, 0, "") for p in part]

def identifier(codes):
    return ("en", "es"), lambda text: ("en" if text.isascii() else "es", 0.75)

def takes_nothing(): ...
def gives_nothing(*given): ...
no_function = 3
'''
WORDS = "def better(one, other): return float(len(one) > len(other))\n"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder someone calls from, with modules of their own and outputs to judge."""
    (tmp_path / "own_parts.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "own_words.py").write_text(WORDS, encoding="utf-8")
    (tmp_path / "own_broken.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    for folder, text in (("prompts", None), ("ours", "yes, this"), ("theirs", "no")):
        for language in ("en", "es"):
            rows = [
                {"id": f"p{n}", "instruction": f"{language} {n}?"} | ({"output": text} if text else {})
                for n in range(3)
            ]
            path = tmp_path / folder / f"{language}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]
    forget()


def forget() -> None:
    for cached in (code_digest._tree, code_digest._tree_digest, code_digest._imports, code_digest._digest):
        cached.cache_clear()


def evaluate(folder: Path, *flags: str) -> int:
    inputs = ["--prompts", "prompts", "--outputs", "ours", "--reference-outputs", "theirs"]
    return icr(["eval", "--no-tracking", "--output", str(folder / "out"), *inputs, *flags])


def test_a_judge_and_an_identifier_of_ones_own_work_through_icr(own: Path) -> None:
    assert evaluate(own, "--judge", "own_parts:Longest", "--language-identifier", "own_parts:identifier") == 0
    judged = open_artifact(own / "out" / "judgments", JUDGMENTS).read()
    assert set(judged["judge"].to_pylist()) == {"longest"}
    assert judged["preference"].to_pylist() == [1.0] * 6
    outputs = open_artifact(own / "out" / "outputs", OUTPUTS).read()
    assert set(
        zip(outputs["detected_language"].to_pylist(), outputs["language_confidence"].to_pylist(), strict=True)
    ) == {("en", 0.75)}


def judged_by_ones_own(own: Path) -> EvalConfig:
    """An evaluation of the outputs in `own` by the judge of its module."""
    return EvalConfig(
        prompts=str(own / "prompts"),
        outputs=str(own / "ours"),
        reference_outputs=str(own / "theirs"),
        judge="own_parts:Longest",
    )


def test_parts_of_ones_own_are_found_in_stages_that_run_in_processes_of_their_own(own: Path) -> None:
    from icr_platform.core.stage_protocol import StageContext
    from icr_platform.pipeline.stage_process import stage_process
    from icr_platform.pipeline.stages import STAGES

    make_importable(own)
    config = judged_by_ones_own(own)
    with stage_process(STAGES["eval"], own_process=True) as process:
        process.read(config)
        result = process.run(StageContext(own / "out", "f"))
    assert result.metrics["win_rate/mean"] == 100.0


def test_a_worker_looks_for_modules_where_its_driver_does(own: Path) -> None:
    settings: Any = SimpleNamespace()
    PartWorker(SimpleNamespace(writers=()), settings, Driver("1", "here", {}, [str(own)]))  # type: ignore[arg-type]
    assert load_part("judge", "own_parts:Longest", "settings", "template", "seed").__name__ == "Longest"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--judge", "nowhere:Judge"], "field 'judge' is 'nowhere:Judge', and there is no module 'nowhere'; it must be installed or lie"),
        (["--judge", "own_parts:Shortest"], "field 'judge' is 'own_parts:Shortest', and module 'own_parts' has no attribute 'Shortest'"),
        (["--judge", "own_broken:Judge"], "whose module needs nothing_of_that_name, which is not installed"),
        (["--judge", "own_parts:takes_nothing"], "which is called with (settings, template, seed) and takes ()"),
        (["--judge", "own_parts:no_function"], "which cannot be called"),
        (["--judge", "own_parts:gives_nothing"], "field 'judge' is 'own_parts:gives_nothing', which gives a NoneType without a method judge"),
        (["--judge", "longest"], "field 'judge': should be one of none, logprob, openai, demo, or your own as MODULE:NAME, got 'longest'"),
        (["--language-identifier", "own_parts:gives_nothing"], "'own_parts:gives_nothing', which must give (labels, identify)"),
        (["--language-identifier", "nowhere.at:all"], "there is no module 'nowhere'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_part_is_said_in_one_line(
    own: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(own, *flags) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("file", ["own_parts.py", "own_words.py"])
def test_the_code_of_ones_own_part_and_of_what_lies_with_it_counts(own: Path, file: str) -> None:
    make_importable(own)
    config = judged_by_ones_own(own)
    before = identify("eval", config)
    with (own / file).open("a") as text:
        text.write("# a comment\n")
    forget()
    assert identify("eval", config).fingerprint == before.fingerprint
    with (own / file).open("a") as text:
        text.write("changed = True\n")
    forget()
    after = identify("eval", config)
    assert after.work == before.work
    assert after.fingerprint != before.fingerprint
    assert after.row_code["judgments"] != before.row_code["judgments"]
    assert after.row_code["outputs"] == before.row_code["outputs"]


def test_a_world_stands_for_its_parts_and_only_where_it_is_handed_in() -> None:
    values = {"judge": "demo", "language_identifier": "demo"}
    config = validate(EvalConfig, values, "mine.yaml", WORLDS)
    assert (config.judge, config.language_identifier) == (JUDGE, IDENTIFIER)
    assert validate(EvalConfig, json.loads(config.model_dump_json()), "config.json") == config
    with pytest.raises(InputError, match="'judge': should be one of none, logprob, openai, or your own"):
        validate(EvalConfig, values, "mine.yaml")
    assert choices(EvalConfig.model_fields["judge"]) == ("none", "logprob", "openai")
    assert choices(GenerateConfig.model_fields["sampler"])[0] == "transformers"


def test_a_configuration_that_was_logged_before_is_read_as_what_it_meant() -> None:
    logged = {"prompts": "demo:prompts/icr", "generate": {"language_identifier": "demo"}, "eval": {"judge": "demo"}}
    config = validate(IterateConfig, logged, "config.json", WORLDS)
    assert config.generate.language_identifier == IDENTIFIER
    assert config.eval.judge == JUDGE


TOY = World("toy", "own_world:make", "A toy", "", {"judge": Part("own_parts:Longest", "the toy's")})


def test_inputs_of_a_world_are_made_once_in_the_work_folder(own: Path) -> None:
    (own / "own_world.py").write_text(
        "def make(folder, seed):\n    folder.mkdir(exist_ok=True)\n    (folder / 'seed').write_text(str(seed))\n    return folder\n"
    )
    make_importable(own)
    resolver = Resolver(own, own / ".icr", None, {"toy": TOY})
    (own / ".icr").mkdir()
    path = resolver.local("toy:seed", 7)
    assert path == str(own / ".icr" / "toy-7" / "seed")
    assert Path(path).read_text() == "7"
    assert Resolver(own, own / ".icr", None).local("toy:seed", 7) == "toy:seed"


def test_the_inspector_finds_the_inputs_of_runs_on_a_world(own: Path) -> None:
    params = {"eval.prompts": "toy:prompts/test", "eval.seed": "3"}
    stage = SimpleNamespace(holder=SimpleNamespace(params=params))
    iteration: Any = SimpleNamespace(stages={"eval": stage})
    catalogue: Any = SimpleNamespace(worlds={"toy": TOY})
    assert _local(catalogue, iteration, "prompts") == str(own / ".icr" / "toy-3" / "prompts" / "test")
    arm: Any = SimpleNamespace(iterations=(iteration,), run=SimpleNamespace(params={}))
    assert not _is_paper_set({"toy": TOY}, arm)
    assert _is_paper_set({}, arm)


def test_the_demos_parts_are_a_judge_and_an_identifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from icr_platform.engines.judging.pairwise import Pair

    config = EvalConfig(judge=JUDGE, language_identifier=IDENTIFIER)
    check_judge(config, DEFAULT_TEMPLATE)
    pair = Pair("en", "colour-the-sun.0", 0, "", "The sun is yellow.", "The sun is green.")
    ((judgment,),) = make_judge(config, DEFAULT_TEMPLATE, 1).judge([[pair]])
    assert judgment == Judgment("en", "colour-the-sun.0", 0, NO_ORDER, 1.0, None, "ok", "demo", 0, 0, "")
    assert make_identifier(IDENTIFIER)(["La respuesta es un perro."])[0].language == "es"
    assert isinstance(make_identifier(IDENTIFIER)(["ein Hund"])[0], Identified)
