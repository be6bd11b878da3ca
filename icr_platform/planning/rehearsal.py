"""Rehearsal: a few prompts through every stage, on the real models, with few tokens and one optimizer step.

The stages are those that `iterate` runs, with configurations made by the same code. What is different is said by `rehearsed`. Nothing is
logged, and every artifact lies in a folder that its caller removes. Both kinds of iteration are rehearsed: the first, which starts from
the given policy, and one that starts from a checkpoint which training has just written.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.config import Config
from icr_platform.core.failures import failure
from icr_platform.core.progress import Measured, recorded
from icr_platform.core.schemas import PREFERENCES
from icr_platform.data.prompts import load_prompts
from icr_platform.pipeline.arm import OWN_SAMPLES, Arm
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.runner import run_stage
from icr_platform.pipeline.session import RunOptions, Session, StageRun
from icr_platform.planning.capacity import StagePlan, Work
from icr_platform.planning.judge_cost import estimate
from icr_platform.planning.peak_memory import Peak, peak_memory
from icr_platform.planning.seen import Seen, seen
from icr_platform.planning.units import duration, size

_SAMPLES = 4  # per prompt, at most: enough for a pair
_ITERATIONS = 2  # the later ones are like the second
_WITHOUT_TOKENS = "judge"  # the meter that counts rows alone


@dataclass(frozen=True)
class Rehearsal:
    """How much is rehearsed. prompts: of each language; 0: nothing. tokens: of a response, at most."""

    prompts: int = 0
    tokens: int = 32


NO_REHEARSAL = Rehearsal()


@dataclass(frozen=True)
class Passed:
    """A stage that passed.

    seconds: in all. measured: what its meters counted, loading left out. peak: memory while it worked.
    """

    iteration: int
    stage: str
    seconds: float
    measured: Sequence[Measured]
    peak: Peak
    seen: Seen

    @property
    def loading(self) -> float:
        """Seconds that it took to read, load and write."""
        return max(0.0, self.seconds - sum(one.seconds for one in self.measured))

    def whole(self, work: Work) -> float | None:
        """Seconds that the whole of `work` would take at the speed that was seen; None where nothing was measured.

        An upper bound: a full batch takes hardly longer than the few rows of a rehearsal.
        """
        tokens = sum(one.tokens for one in self.measured if one.label != _WITHOUT_TOKENS)
        if not tokens:
            return None
        total = self.loading
        for one in self.measured:
            is_of_rows = one.label == _WITHOUT_TOKENS
            total += one.seconds * (work.rows / max(1, one.rows) if is_of_rows else work.tokens / tokens)
        return total


def rehearsed(session: Session, config: IterateConfig, rehearsal: Rehearsal, scratch: Path) -> IterateConfig:
    """The configuration of a rehearsal of `config`: few prompts, samples and tokens, one optimizer step, everything in `scratch`.

    Truncated responses are kept, as few tokens cut nearly all, and no share of dropped rows or failed judgments ends a stage: a
    rehearsal is to reach its end, and says what it saw. All that decides how models are loaded, prompted, scored and trained stays.
    """

    def few(count: int | None) -> int:
        return min(count or rehearsal.prompts, rehearsal.prompts)

    # Inputs of the sections, such as a judge's model, may lie in MLflow, which the rehearsal does not open.
    resolver, seed = session.resolver, config.seed
    generate, annotate = resolver.resolve(config.generate, seed), resolver.resolve(config.annotate, seed)
    translate = resolver.resolve(config.translate, seed)
    train, evaluate = resolver.resolve(config.train, seed), resolver.resolve(config.eval, seed)
    bench, follow = resolver.resolve(config.reward_bench, seed), resolver.resolve(config.instructions, seed)
    all_kept = {"max_dropped": 100.0}
    return config.model_copy(
        update={
            "iterations": min(config.iterations, _ITERATIONS),
            "limit": few(config.limit),
            "eval_limit": few(config.eval_limit),
            "output": "",
            "generate": generate.model_copy(
                update=all_kept
                | {
                    "samples": min(generate.samples, _SAMPLES),
                    "max_tokens": min(generate.max_tokens, rehearsal.tokens),
                }
            ),
            "annotate": annotate.model_copy(
                update=all_kept
                | {
                    "drop_truncated": False,
                    "translation_max_tokens": min(annotate.translation_max_tokens, rehearsal.tokens),
                }
            ),
            "translate": translate.model_copy(
                update=all_kept | {"max_tokens": min(translate.max_tokens, rehearsal.tokens)}
            ),
            "train": train.model_copy(update={"epochs": 1.0}),
            "eval": evaluate.model_copy(
                update=all_kept
                | {
                    "samples": 1,
                    "max_tokens": min(evaluate.max_tokens, rehearsal.tokens),
                    "judge_max_failures": 100.0,
                    "judge_cache": str(scratch / "judge"),
                }
            ),
            "reward_bench": bench.model_copy(update=all_kept),
            "instructions": follow.model_copy(
                update=all_kept | {"samples": 1, "max_tokens": min(follow.max_tokens, rehearsal.tokens)}
            ),
            "benchmarks": resolver.resolve(config.benchmarks, seed),
        }
    )


def rehearse(
    session: Session,
    config: IterateConfig,
    rehearsal: Rehearsal,
    plans: Sequence[StagePlan],
    scratch: Path,
    checker: str = "",
) -> int:
    """Rehearse `config`, whose inputs are resolved, and print what was seen. Returns the exit status of the first stage that failed.

    session: that resolves inputs; nothing is logged to its tracker. plans: of the whole run. scratch: a folder that will be removed.
    checker: of the policy's own samples; '' for none.
    """
    own = replace(session, options=RunOptions(tracking=False), work=scratch / "work", tracker=None)
    few = rehearsed(session, config, rehearsal, scratch)
    prompts = load_prompts(few.prompts, few.languages, few.limit, few.prompt_columns).table
    languages = len(set(prompts["language"].to_pylist()))
    print(
        f"\nrehearsal: {few.limit} prompts in each of {languages} languages, {few.generate.samples} responses of up to "
        f"{few.generate.max_tokens} tokens each, one training step; nothing is logged or kept"
    )
    if few.eval_prompts and few.eval.judge == "openai":
        asked = estimate(few.eval_config(few.policy))
        price = f", about {asked.price:.2g} US dollars" if asked.price else ""
        print(
            f"the judge {few.eval.judge_api_model} is asked {asked.requests} questions{price}, for each of two policies; "
            "--eval-judge none leaves it out"
        )
    rehearsing = Rehearsing(own, config, Arm(few, few, None, [few.policy], checker), prompts, scratch)
    rehearsing.run()
    rehearsing.conclude(plans)
    return rehearsing.failed[0] if rehearsing.failed else 0


@dataclass
class Rehearsing:
    """A rehearsal while it runs.

    session: without a tracker, working in `scratch`. given: the configuration that is rehearsed. prompts: of training, those that are
    used (schemas.PROMPTS).
    """

    session: Session
    given: IterateConfig
    arm: Arm
    prompts: pa.Table
    scratch: Path
    passed: list[Passed] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)

    def run(self) -> None:
        """Rehearse every stage that can be; one that fails takes those that need its artifact with it, and no others."""
        is_improved = self._improve(1)
        for iteration in range(len(self.arm.policies)):
            self._measure(iteration)
        if is_improved and self.arm.config.iterations > 1:
            self._improve(2)

    def conclude(self, plans: Sequence[StagePlan]) -> None:
        """Print what the whole run would take at the speed that was seen, what looks wrong, and what failed."""
        times = {}
        for work in (plan.work for plan in plans):
            rates = [one.whole(work) for one in self.passed if one.stage == work.stage]
            times[work.stage] = max((rate for rate in rates if rate is not None), default=None)
        if all(time is not None for time in times.values()):
            predicted = {
                plan.work.stage: f" (predicted: {duration(plan.seconds)})" if plan.seconds is not None else ""
                for plan in plans
            }
            each = ", ".join(f"{stage} {duration(time or 0)}{predicted[stage]}" for stage, time in times.items())
            total = duration(self.given.iterations * sum(time or 0 for time in times.values()))
            print(f"at this speed an iteration takes {each}; all iterations {total}; full batches are faster")
        for iteration, stage, warning in dict.fromkeys(
            (one.iteration, one.stage, warning) for one in self.passed for warning in one.seen.warnings
        ):
            print(f"looks wrong: iteration {iteration}, {stage}: {warning}")
        if self.failed:
            print(f"rehearsal: {len(self.failed)} stages failed, {len(self.passed)} passed", flush=True)
        else:
            print(f"rehearsal: all {len(self.passed)} stages passed", flush=True)

    def _measure(self, iteration: int) -> None:
        """What `iterate` measures of a policy."""
        arm, config = self.arm, self.arm.config
        if config.eval_prompts:
            self._stage(iteration, "eval", arm.evaluating(iteration))
        if config.reward_pairs:
            self._stage(iteration, "reward_bench", arm.benching(iteration))
        if config.instruction_prompts:
            self._stage(iteration, "instructions", arm.following(iteration))
        if config.benchmarks.are_asked:
            self._stage(iteration, "benchmarks", arm.asking(iteration))

    def _improve(self, iteration: int) -> bool:
        """pi_{t-1} -> pi_t; whether there is a pi_t."""
        arm = self.arm
        preferences = self._given_pairs(iteration) if arm.config.preferences else self._own_pairs(iteration)
        if not preferences:
            print(f"{'':<12} there are no pairs: training is rehearsed on made-up ones", flush=True)
            preferences = str(self._made_up_preferences())
        training = arm.training(iteration, preferences)
        # However few pairs go into a batch, they make one step.
        accumulation = max(training.accumulation, self.prompts.num_rows)
        trained = self._stage(iteration, "train", training.model_copy(update={"accumulation": accumulation}))
        if trained is not None:
            arm.policies.append(trained.reference("checkpoint"))
        return trained is not None

    def _given_pairs(self, iteration: int) -> str:
        """A few of the given pairs, translated; '' where they are trained on as they are, all of which would not be a rehearsal."""
        if not self.arm.config.translate.into:
            return ""
        translating = self.arm.translating(iteration, self.arm.config.preferences)
        translated = self._stage(iteration, "translate", translating)
        has_pairs = translated is not None and open_artifact(translated.artifact("translated"), PREFERENCES).rows
        return translated.reference("translated") if translated is not None and has_pairs else ""

    def _own_pairs(self, iteration: int) -> str:
        """The pairs of the policy's own answers; '' where there are none."""
        arm, translations = self.arm, ""
        generated = self._stage(iteration, "generate", arm.generating(iteration))
        if generated is None:
            return ""
        responses = generated.reference("responses")
        if arm.config.pairs_are_translated:
            translated = self._stage(iteration, "translate", arm.translating(iteration, responses))
            if translated is None:
                return ""
            translations = translated.reference("translated")
        annotated = self._stage(iteration, "annotate", arm.annotating(iteration, responses, translations))
        if annotated is None:
            return ""
        if arm.checker:
            self._stage(iteration, "reward_bench", arm.checking_own_samples(iteration), OWN_SAMPLES)
        has_pairs = open_artifact(annotated.artifact("preferences"), PREFERENCES).rows
        return annotated.reference("preferences") if has_pairs else ""

    def _stage(self, iteration: int, stage: str, config: Config, step: str = "") -> StageRun | None:
        """Run a stage, and print a line of what was seen; None where it failed, which is said on stderr as the stage itself would.

        step: what the stage is there, where an iteration has it twice.
        """
        name = step or stage
        print(f"rehearsal: iteration {iteration}, {name}", file=sys.stderr, flush=True)
        start = time.monotonic()
        heading = f"iteration {iteration}  {name:<9}"
        try:
            with recorded() as measured, peak_memory() as peak:
                done = run_stage(self.session, stage, config, own_process=self.arm.config.stage_processes)
        except Exception as error:  # noqa: BLE001 - the stages that do not need it are rehearsed all the same
            if os.environ.get("ICR_DEBUG", "") not in ("", "0"):
                traceback.print_exception(error)
            known = failure(error)
            # What is kept there is gone by the time that anyone could look for it.
            said = " ".join(str(known).replace(f"{self.scratch}{os.sep}", "").split())
            print(f"{heading} {duration(time.monotonic() - start):>7}  FAILED", flush=True)
            print(f"icr: rehearsal of {name} in iteration {iteration}: {said}", file=sys.stderr, flush=True)
            self.failed.append(known.exit_status)  # the error itself would keep its models in memory
            return None
        self.arm.keep(iteration, name, done)
        few = self.arm.config
        sampling = {"eval": few.eval, "instructions": few.instructions}.get(stage, few.generate)
        found = seen(stage, self.given, sampling.max_tokens, done.result)
        passed = Passed(iteration, name, time.monotonic() - start, measured, peak, found)
        memory = size(peak.memory) + (f", GPU {size(peak.gpu)}" if peak.gpu else "")
        print(f"{heading} {duration(passed.seconds):>7}  {memory}  {found.told}", flush=True)
        for language, text in found.texts.items():
            print(f"{'':<12} {language:<9} {text}")
        self.passed.append(passed)
        return done

    def _made_up_preferences(self) -> Path:
        """Pairs of texts that are no answers: what training takes and whether it works does not depend on what they say."""
        folder = self.scratch / "made-up"
        folder.mkdir(exist_ok=True)
        for language in dict.fromkeys(self.prompts["language"].to_pylist()):
            own = self.prompts.filter(pc.equal(self.prompts["language"], language))["instruction"].to_pylist()
            rows = [{"prompt": text, "chosen": text, "rejected": f"{text} {text}"} for text in own]
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{language}.jsonl").write_text(lines, encoding="utf-8")
        return folder
