"""Every stage but its model, at 0.1, 1 and 10 million responses: 100 languages, ten samples a prompt.

    python tests/benchmarks/bench_scale.py [--sizes 100000,1000000,10000000] [--folder DIR] [--identify] [--json PATH]

generate, annotate, train and eval run whole, each in a process of its own; only what a model would say comes from a stub:

- the engine answers with words of the prompt's language (lengths log-normal, mean about 60 tokens), the scorers with normal log-probabilities;
- a step of training costs nothing: pairs are read, encoded, ordered and collated, the curve and resume points are written, and the training
  is stopped halfway and goes on from the last one;
- eval samples one answer to every prompt, and a judge draws its preferences. Languages of texts and of lines, which models tell too, are only
  identified with --identify, and only in generate (20 minutes longer at a million).

Then the inspector, with Gradio loaded, opens the pairs of what came out. Seconds, and peak memory of the process (its high-water mark, so with
Python, torch and the tokenizer); CPU seconds are the process's, and responses/s are by them. Each row is printed when it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from icr_platform.core.artifacts import MANIFEST, read_json
from icr_platform.core.errors import IcrError
from icr_platform.core.languages import NAMES
from icr_platform.engines.identification.language_id import Identified, Identifier
from icr_platform.engines.judging.pairwise import NO_ORDER, Judgment, Pair
from icr_platform.engines.sampling.sampler import Request, Sample
from tests.support.peak_memory import peak_bytes

MORE = ("ceb", "eo", "fo", "fy", "gd", "ht", "ku", "la", "lb", "mg", "mi", "mt", "ny", "oc", "sn", "st", "su", "tt")
LANGUAGES = (*NAMES, *MORE)[:100]
SAMPLES = 10
STAGES = ("generate", "annotate", "train", "eval", "inspect")
WORDS = (
    "the of and to in is that for it was on are with as be this have from or by not but what all were when we there",
    "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o este sí porque",
    "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat",
    "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la nous avec son",
    "и в не на что с по как это но из у за от так для же все бы если уже или ещё она они мы был его только когда",
)
"""Of the first language, the second and so on, again and again."""
_LONGEST = 400  # tokens
_POOL = 100_000  # words, of which an answer is a run


def words_of(language: str) -> str:
    return WORDS[LANGUAGES.index(language) % len(WORDS)]


class RecordedEngine:
    """Answers at once: a run of words of the prompt's language, as long as its token ids."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._texts, self._starts = [], []
        for words in WORDS:
            drawn = random.choice(words.split(), size=_POOL)
            self._texts.append(" ".join(drawn))
            self._starts.append(np.concatenate([[0], np.cumsum([len(word) + 1 for word in drawn])]))
        self._ids = random.integers(3, 600, size=_POOL).tolist()

    def sample(self, requests: Sequence[Request], samples: int, seed: int, advance: Any) -> list[list[Sample]]:
        answers = []
        for request in requests:
            language = LANGUAGES.index(request.language)
            random = np.random.default_rng([seed, int(request.prompt_id[1:]), language])
            lengths = np.clip(random.lognormal(4.0, 0.5, samples), 4, _LONGEST).astype(int)
            firsts = random.integers(0, _POOL - _LONGEST, samples)
            text, starts = self._texts[language % len(WORDS)], self._starts[language % len(WORDS)]
            answers.append(
                [
                    Sample(text[starts[first] : starts[first + size] - 1], self._ids[first : first + size], "stop")
                    for first, size in zip(firsts.tolist(), lengths.tolist(), strict=True)
                ]
            )
            advance(samples, int(lengths.sum()))
        return answers

    def sample_shards(self, shards: Iterable[Sequence[Request]], *rest: Any) -> Iterator[list[list[Sample]]]:
        for shard in shards:
            yield self.sample(shard, *rest)


class RecordedScorer:
    """Gives every completion a log-probability at once, each of the process's scorers another one: rewards are differences."""

    device = SimpleNamespace(type="none")
    made = 0

    def __init__(self, model: object, batch_tokens: int = 0) -> None:
        RecordedScorer.made += 1
        self._random = np.random.default_rng(RecordedScorer.made)

    def score(self, groups: Sequence[Any], progress: Any = None) -> list[Any]:
        scores = [self._random.normal(-100, 10, len(group.completions)) for group in groups]
        if progress is not None:
            progress(sum(len(group.completions) for group in groups), 0)
        return scores


class RecordedJudge:
    """Draws a preference for every pair."""

    def __init__(self, settings: object, template: object, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        for part in parts:
            drawn = self._random.random(len(part)).tolist()
            yield [
                Judgment(
                    pair.language, pair.prompt_id, pair.sample_index, NO_ORDER, value, None, "ok", "stub", 0, 0, ""
                )
                for pair, value in zip(part, drawn, strict=True)
            ]


def main() -> None:
    """Measure every size, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100000,1000000,10000000", help="responses, comma-separated")
    parser.add_argument("--stages", default=",".join(STAGES), help="in their order; what they read must be in --folder")
    parser.add_argument("--folder", type=Path, help="keep what the stages write here, a folder per size")
    parser.add_argument("--identify", action="store_true", help="identify the language of every response")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_child(*given.child)
        return
    rows = []
    print(f"{'responses':>11}{'stage':>10}{'seconds':>10}{'CPU':>10}{'peak MB':>10}{'responses/s':>13}", flush=True)
    for samples in map(int, given.sizes.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            folder = (given.folder or Path(temporary)) / str(samples)
            folder.mkdir(parents=True, exist_ok=True)
            for stage in given.stages.split(","):
                command = [sys.executable, __file__, "--child", stage, str(samples), str(folder), str(given.identify)]
                with (folder / f"{stage}.log").open("wb") as log:
                    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=log, text=True)
                row = json.loads(answer.stdout.splitlines()[-1])
                rows.append(row)
                print(
                    f"{samples:>11,}{stage:>10}{row['seconds']:>10.1f}{row['cpu_seconds']:>10.1f}"
                    f"{row['peak_bytes'] / 1e6:>10.0f}{samples / row['cpu_seconds']:>13,.0f}",
                    flush=True,
                )
                if given.json:
                    given.json.write_text(json.dumps(rows, indent=1) + "\n")


def run_child(stage: str, count: str, name: str, identify: str) -> None:
    """One stage at one size; what it took as a line of JSON."""
    samples, folder = int(count), Path(name)
    if stage == "generate":
        write_prompts(folder / "prompts", samples // SAMPLES // len(LANGUAGES))
    if stage == "eval":
        write_references(folder / "prompts", folder / "references")
    start, cpu = time.monotonic(), time.process_time()
    with ExitStack() as stubs:
        if identify != "True" or stage == "eval":
            for room in ("engines.sampling.response_parts", "evaluation.inputs", "evaluation.outputs"):
                stubs.enter_context(mock.patch(f"icr_platform.{room}.make_identifier", unidentified))
        taken = {
            "generate": run_generate, "annotate": run_annotate, "train": run_train, "eval": run_eval, "inspect": inspect,
        }[stage](folder)  # fmt: skip
    seconds = time.monotonic() - start if taken is None else taken
    figures = {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "peak_bytes": peak_bytes()}
    print(json.dumps({"responses": samples, "stage": stage, **figures}), flush=True)
    os._exit(0)  # as the inspector ends: a thread of it that still reads tables in C++ would abort the process


def unidentified(name: str) -> Identifier:
    """Too unsure of every text for the filter of wrong languages."""
    return Identifier(name, frozenset(LANGUAGES), lambda text: Identified("en", 0.0))


def write_prompts(folder: Path, prompts: int) -> None:
    """LANG.jsonl, aligned."""
    folder.mkdir()
    for language in LANGUAGES:
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(prompts):
                row = {"instruction_id": f"p{index}", "instruction": f"{words_of(language)[:80]} {index}?"}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_references(prompts: Path, folder: Path) -> None:
    """LANG.jsonl with an answer to every prompt."""
    folder.mkdir(exist_ok=True)
    engine = RecordedEngine()
    for language in LANGUAGES:
        count = (prompts / f"{language}.jsonl").read_bytes().count(b"\n")
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(count):
                request = Request(language, f"p{index}", "")
                ((sample,),) = engine.sample([request], 1, 7, lambda *_: None)
                row = {"instruction_id": f"p{index}", "output": sample.text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")


def run_generate(folder: Path) -> None:
    from icr_platform.core.stage_protocol import StageContext
    from icr_platform.generation.config import GenerateConfig
    from icr_platform.generation.stage import read, run

    config = GenerateConfig(policy=demo_model(), prompts=str(folder / "prompts"), samples=SAMPLES)
    with mock.patch("icr_platform.engines.sampling.response_parts.make_sampler", return_value=RecordedEngine()):
        run(read(config), StageContext(folder / "generate", "scale"))


def run_annotate(folder: Path) -> None:
    from icr_platform.annotation.config import AnnotateConfig
    from icr_platform.annotation.stage import read, run
    from icr_platform.core.stage_protocol import StageContext

    config = AnnotateConfig(
        policy=demo_model(), reference=demo_model(), prompts=str(folder / "generate" / "prompts"),
        responses=str(folder / "generate" / "responses"),
    )  # fmt: skip
    with (
        mock.patch("icr_platform.engines.scoring.model_scores.load_model", return_value=None),
        mock.patch("icr_platform.engines.scoring.logprobs.CompletionScorer", RecordedScorer),
    ):
        run(read(config), StageContext(folder / "annotate", "scale"))


class StoppedError(IcrError):
    """Stands for a kill in the middle of a training."""


def run_train(folder: Path) -> None:
    """Train on the pairs, stopped halfway and resumed."""
    from icr_platform.core.stage_protocol import StageContext
    from icr_platform.training import dpo
    from icr_platform.training.config import TrainConfig
    from icr_platform.training.stage import read, run
    from icr_platform.training.step_means import Counted

    config = TrainConfig(
        policy=demo_model(), preferences=str(folder / "annotate" / "preferences"), batch_size=16, accumulation=16,
    )  # fmt: skip
    is_first = True

    def costs_nothing(trainer: Any, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        if is_first and trainer.state.global_step > trainer.state.max_steps // 2:
            raise StoppedError("stopped")
        rows = inputs["completion_mask"][: len(inputs["input_ids"]) // 2].sum(1) * 0.0
        trainer.record(inputs, {name: Counted(rows, rows + 1) for name in trainer.figures})
        return next(one for one in model.parameters() if one.requires_grad).flatten()[0]

    with (
        mock.patch("icr_platform.engines.scoring.logprobs.CompletionScorer", RecordedScorer),
        mock.patch.object(dpo.PairTrainer, "_compute_loss", costs_nothing),
    ):
        context = StageContext(folder / "train", "scale")
        try:
            run(read(config), context)
        except StoppedError:
            is_first = False
        run(read(config), context)
    assert not is_first, "the training was not stopped"


def unlooked_at(*_: Any) -> Any:
    """What `confusion.check` finds where it does not look. A Mock would remember every text that it was asked about."""
    from icr_platform.evaluation.confusion import Checked

    return Checked(1, (), None)


def run_eval(folder: Path) -> None:
    from icr_platform.core.stage_protocol import StageContext
    from icr_platform.evaluation.config import EvalConfig
    from icr_platform.evaluation.stage import read, run

    config = EvalConfig(
        policy=demo_model(), prompts=str(folder / "prompts"), reference_outputs=str(folder / "references"),
        judge="tests.benchmarks.bench_scale:RecordedJudge",
    )  # fmt: skip
    with (
        mock.patch("icr_platform.evaluation.outputs.make_sampler", return_value=RecordedEngine()),
        mock.patch("icr_platform.evaluation.confusion_table.check", unlooked_at),
    ):
        run(read(config), StageContext(folder / "eval", "scale"))


def inspect(folder: Path) -> float:
    """Seconds of the first page of pairs, which nothing is cached for; the run is logged before."""
    import ui.server.gradio_app  # noqa: F401 - Gradio's memory counts
    from tests.benchmarks.bench_inspector import page
    from tests.support.synthetic_runs import open_tracker
    from ui.server.app import open_inspector
    from ui.server.options import InspectOptions

    tracker = open_tracker(folder)
    tags = {"icr.arm": "scale", "icr.cache_key": "scale", "icr.version": "scale"}
    arm = tracker.start("scale", {**tags, "icr.kind": "arm"})
    iteration = tracker.start("scale iteration 1", {**tags, "icr.kind": "iteration", "icr.iteration": 1}, arm)
    tables = {"generate": ("prompts", "responses"), "annotate": ("rewards", "preferences", "drops")}
    for stage, names in tables.items():
        run = tracker.start(stage, {**tags, "icr.kind": "stage", "icr.stage": stage, "icr.iteration": 1}, iteration)
        for name in names:
            path = folder / stage / name
            run.set_tags({f"icr.artifact.{name}": path, f"icr.digest.{name}": read_json(path / MANIFEST)["digest"]})
        run.finish()
    iteration.finish()
    arm.finish()
    options = InspectOptions(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", verdicts=str(folder / "verdicts.db"))
    milliseconds, html = page(open_inspector(options), "pairs", arm.run_id)
    assert "p1" in html, "the page shows no pair"
    return milliseconds / 1000


def demo_model() -> str:
    """For its tokenizer and config."""
    import icr_platform.demo

    return str(Path(icr_platform.demo.__file__).parent / "sft")


if __name__ == "__main__":
    main()
