"""Everything but the models at 1k to 1M samples: `python tests/benchmarks/bench_scale.py [--most N] [--identify] [--json PATH]`.

generate and annotate run whole, each in a process of its own, five languages x 10 samples a prompt; only the engine and the
scorer answer from a recording: random words of a real length distribution (log-normal, mean about 60 tokens), normal
log-probabilities. Language identification, a model too, only runs with --identify (20 minutes longer at a million). Seconds and peak memory (high-water mark of the process, so with Python, torch and the tokenizer).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from icr_platform.engines.identification.language_id import Identified, Identifier
from icr_platform.engines.sampling.sampler import Request, Sample
from tests.support.peak_memory import peak_bytes

LANGUAGES = ("en", "es", "de", "fr", "ru")
SAMPLES = 10
WORDS = {
    "en": "the of and to in is that for it was on are with as be this have from or by not but what all were when we there",
    "es": "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o este sí porque",
    "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat",
    "fr": "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont la nous avec son",
    "ru": "и в не на что с по как это но из у за от так для же все бы если уже или ещё она они мы был его только когда",
}


class RecordedEngine:
    """Answers at once with words of the prompt's language."""

    def sample(self, requests: Sequence[Request], samples: int, seed: int, advance: Any) -> list[list[Sample]]:
        answers = []
        for request in requests:
            random = np.random.default_rng([seed, int(request.prompt_id[1:]), LANGUAGES.index(request.language)])
            words = np.array(WORDS[request.language].split())
            lengths = np.clip(random.lognormal(4.0, 0.5, samples), 4, 400).astype(int)
            answers.append([self._answer(random, words, length) for length in lengths])
            advance(samples, int(lengths.sum()))
        return answers

    def sample_shards(self, shards: Iterable[Sequence[Request]], *rest: Any) -> Iterator[list[list[Sample]]]:
        for shard in shards:
            yield self.sample(shard, *rest)

    @staticmethod
    def _answer(random: np.random.Generator, words: Any, length: int) -> Sample:
        ids = random.integers(3, 600, size=length).tolist()
        return Sample(" ".join(random.choice(words, size=length)), ids, "stop")


class RecordedScorer:
    """Gives every completion a log-probability at once."""

    device = SimpleNamespace(type="none")

    def __init__(self, model: object, batch_tokens: int) -> None:
        self._random = np.random.default_rng(0)

    def score(self, groups: Sequence[Any], progress: Any) -> list[Any]:
        scores = [self._random.normal(-100, 10, len(group.completions)) for group in groups]
        progress(sum(len(group.completions) for group in groups), 0)
        return scores


def main() -> None:
    """Measure every size, print a table and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--identify", action="store_true", help="identify the language of every response")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        run_child(*given.child)
        return
    rows = []
    print(f"{'samples':>10}{'stage':>10}{'seconds':>10}{'peak MB':>10}{'rows/s':>10}")
    for samples in (size for size in (1_000, 10_000, 100_000, 1_000_000) if size <= given.most):
        with tempfile.TemporaryDirectory() as folder:
            for stage in ("generate", "annotate"):
                command = [sys.executable, __file__, "--child", stage, str(samples), folder, str(given.identify)]
                answer = subprocess.run(
                    command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
                row = json.loads(answer.stdout.splitlines()[-1])
                rows.append(row)
                print(
                    f"{samples:>10,}{stage:>10}{row['seconds']:>10.1f}{row['peak_bytes'] / 1e6:>10.0f}"
                    f"{samples / row['seconds']:>10,.0f}",
                    flush=True,
                )
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


def run_child(stage: str, count: str, name: str, identify: str) -> None:
    """One stage at one size; what it took as a line of JSON."""
    samples, folder = int(count), Path(name)
    if stage == "generate":
        write_prompts(folder / "prompts", samples // SAMPLES // len(LANGUAGES))
    start = time.monotonic()
    if stage == "annotate":
        run_annotate(folder)
    elif identify == "True":
        run_generate(folder)
    else:
        with mock.patch("icr_platform.engines.sampling.response_parts.make_identifier", unidentified):
            run_generate(folder)
    seconds = time.monotonic() - start
    print(json.dumps({"samples": samples, "stage": stage, "seconds": seconds, "peak_bytes": peak_bytes()}))


def unidentified(name: str) -> Identifier:
    """Too unsure of every text for the filter of wrong languages."""
    return Identifier(name, frozenset(LANGUAGES), lambda text: Identified("en", 0.0))


def write_prompts(folder: Path, prompts: int) -> None:
    """LANG.jsonl, aligned."""
    folder.mkdir()
    for language in LANGUAGES:
        with (folder / f"{language}.jsonl").open("w", encoding="utf-8") as file:
            for index in range(prompts):
                row = {"instruction_id": f"p{index}", "instruction": f"{WORDS[language][:80]} {index}?"}
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
        policy=demo_model(), reference=demo_model(), prompts=str(folder / "prompts"),
        responses=str(folder / "generate" / "responses"),
    )  # fmt: skip
    with (
        mock.patch("icr_platform.engines.scoring.model_scores.load_model", return_value=None),
        mock.patch("icr_platform.engines.scoring.logprobs.CompletionScorer", RecordedScorer),
    ):
        run(read(config), StageContext(folder / "annotate", "scale"))


def demo_model() -> str:
    """For its tokenizer and config."""
    import icr_platform.demo

    return str(Path(icr_platform.demo.__file__).parent / "sft")


if __name__ == "__main__":
    main()
