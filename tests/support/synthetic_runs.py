"""Synthetic runs in the platform's own layout, for the inspector's tests: artifacts, MLflow runs and metrics, no model.

Rewards and judgments are seeded noise with a length effect; every run is named `synthetic-...` so that no one takes it for a result.
"""

from __future__ import annotations

import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from icr_platform.annotation.length_control import fit_alpha
from icr_platform.annotation.pairs import select_pairs, text_codes
from icr_platform.core.artifacts import ArtifactWriter
from icr_platform.core.conversations import Conversation
from icr_platform.core.schemas import OUTPUTS, TABLES
from icr_platform.evaluation.comparison import LanguageJudgments
from icr_platform.evaluation.comparison_tables import change_metrics, difference_table, flip_table
from icr_platform.evaluation.scores import (
    Judged,
    LengthControl,
    output_facts,
    score_judgments,
    score_metrics,
    score_outputs,
    scores_table,
    with_means,
)
from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.tracker import Tracker
from tests.support.hostile_texts import payloads
from tests.support.real_data import shared_folder

JUDGE = "synthetic-pseudo-judge"
STAGES = {
    "generate": ("prompts", "responses"),
    "annotate": ("rewards", "preferences", "drops"),
    "eval": ("outputs", "judgments", "scores", "confusion"),
    "instructions": ("instruction_outputs", "instruction_checks"),
}
SCHEMAS = TABLES | {"instruction_outputs": OUTPUTS}
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Prompt:
    language: str
    prompt_id: str
    instruction: str
    english: str
    source: str = "synthetic"


@dataclass
class IterationData:
    """Tables of one iteration by artifact name, each a list of parts, and its metrics."""

    tables: dict[str, list[pa.Table]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    eval_params: dict[str, str] = field(default_factory=dict)


def table_of(name: str, rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMAS[name].schema)


def detected(text: str, language: str, rng: np.random.Generator) -> dict[str, Any]:
    wrong = rng.random() < 0.04
    return {"detected_language": "en" if wrong and language != "en" else language, "language_confidence": 0.97}


def sampled(
    prompts: Sequence[Prompt], answers: Callable[[Prompt], Sequence[str]], seed: int, kinds: Sequence[str]
) -> IterationData:
    """generate and annotate: samples from `answers`, pseudo rewards, alpha and pairs by the platform's own functions."""
    rng = np.random.default_rng(seed)
    data = IterationData()
    responses: Rows = []
    rewards: Rows = []
    preferences: Rows = []
    drops: Rows = []
    for language in dict.fromkeys(prompt.language for prompt in prompts):
        own = [prompt for prompt in prompts if prompt.language == language]
        texts = [list(answers(prompt)) for prompt in own]
        lengths = np.array([[len(text) for text in row] for row in texts], dtype=float)
        centred = (lengths - lengths.mean()) / max(lengths.std(), 1.0)
        reference = -(20.0 + 0.6 * lengths) * (1 + 0.05 * rng.standard_normal(lengths.shape))
        raw = 1.5 * rng.standard_normal(lengths.shape) + 1.2 * centred
        finish = np.where(rng.random(lengths.shape) < 0.03, "length", "stop")
        for i, prompt in enumerate(own):
            for j, text in enumerate(texts[i]):
                key = {"language": language, "prompt_id": prompt.prompt_id, "sample_index": j}
                responses.append(
                    {**key, "response": text, "token_ids": [1, 2], "finish_reason": finish[i, j],
                     "token_ids_source": "sampler", "token_count": max(1, len(text) // 4), "character_count": len(text),
                     **detected(text, language, rng)}
                )  # fmt: skip
                for kind in kinds:
                    value = raw[i, j] if kind == kinds[0] else 0.6 * raw[i, j] + rng.standard_normal()
                    rewards.append(
                        {**key, "kind": kind, "policy_logprob": reference[i, j] + 10 * value,
                         "reference_logprob": reference[i, j], "reward": value}
                    )  # fmt: skip
        eligible = (finish == "stop") & (lengths > 0)
        fit = fit_alpha(np.where(eligible, raw, np.nan), lengths)
        codes = text_codes(texts)
        selection = select_pairs(raw, lengths, fit.alpha, eligible=eligible, text_codes=codes)
        for i, prompt in enumerate(own):
            key = {"language": language, "prompt_id": prompt.prompt_id}
            for left_out in np.flatnonzero(~eligible[i]):
                j = int(left_out)
                reason = "empty" if lengths[i, j] == 0 else "truncated"
                drops.append({**key, "sample_index": j, "reason": reason, "detail": "finish_reason is 'length'"})
            c, r = int(selection.chosen_index[i]), int(selection.rejected_index[i])
            if c < 0:
                drops.append({**key, "sample_index": None, "reason": selection.reason[i], "detail": "no pair is left"})
                continue
            preferences.append(
                {**key, "instruction": prompt.instruction, "english_instruction": prompt.english,
                 "chosen": texts[i][c], "rejected": texts[i][r], "chosen_index": c, "rejected_index": r,
                 "chosen_reward": raw[i, c], "rejected_reward": raw[i, r], "margin": float(selection.margin[i]),
                 "length_penalty_alpha": fit.alpha, "chosen_characters": len(texts[i][c]),
                 "rejected_characters": len(texts[i][r]), "chosen_token_ids": [1, 2], "rejected_token_ids": [1, 2]}
            )  # fmt: skip
        margins = selection.margin[selection.kept]
        data.metrics[f"pairs/{language}"] = float(len(margins))
        data.metrics[f"alpha/{language}"] = fit.alpha
        if len(margins):
            data.metrics[f"margin/median/{language}"] = float(np.median(margins))
    prompt_rows = [
        {"language": p.language, "prompt_id": p.prompt_id, "instruction": p.instruction,
         "english_instruction": p.english, "source": p.source}
        for p in prompts
    ]  # fmt: skip
    named = {"prompts": prompt_rows, "responses": responses, "rewards": rewards, "preferences": preferences,
             "drops": drops}  # fmt: skip
    data.tables |= {name: [table_of(name, rows)] for name, rows in named.items()}
    return data


def evaluated(
    prompts: Sequence[Prompt],
    answer: Callable[[Prompt], str | None],
    reference: Callable[[Prompt], str | None],
    strength: float,
    seed: int,
    eval_params: Mapping[str, str] | None = None,
) -> IterationData:
    """eval: outputs, pseudo-judgments in both orders, and scores by the platform's own functions."""
    rng = np.random.default_rng(seed)
    outputs: Rows = []
    judgments: Rows = []
    lengths: Rows = []
    for prompt in prompts:
        text, other = answer(prompt), reference(prompt)
        if text is None or other is None:
            continue
        key = {"language": prompt.language, "prompt_id": prompt.prompt_id, "sample_index": 0}
        outputs.append(
            {**key, "instruction": prompt.instruction, "output": text, "token_count": max(1, len(text) // 4),
             "character_count": len(text), "finish_reason": "length" if rng.random() < 0.02 else "stop",
             **detected(text, prompt.language, rng)}
        )  # fmt: skip
        lengths.append({**key, "character_count": len(text), "reference_characters": len(other)})
        longer = np.tanh((len(text) - len(other)) / 600)
        logit = strength + 1.6 * longer + 1.8 * rng.standard_normal()
        for order, bias in (("model-first", 0.3), ("reference-first", -0.3)):
            failed = rng.random() < 0.01
            preference = None if failed else float(1 / (1 + np.exp(-(logit + bias))))
            judgments.append(
                {**key, "order": order, "preference": preference, "mass": None if failed else 0.99,
                 "outcome": "refusal" if failed else "ok", "judge": JUDGE, "input_tokens": 900, "output_tokens": 1,
                 "detail": "the judge declined" if failed else ""}
            )  # fmt: skip
    tables = {"outputs": [table_of("outputs", outputs)], "judgments": [table_of("judgments", judgments)]}
    facts = output_facts(tables["outputs"][0])
    scores = [
        *score_outputs(facts),
        *score_judgments([Judged(pd.DataFrame(judgments), pd.DataFrame(lengths))], LengthControl()),
    ]
    scores = with_means(scores)
    tables["scores"] = [scores_table(scores)]
    return IterationData(tables, score_metrics(scores), dict(eval_params or {}))


Thinking = Callable[[str, str, int], str | None]
"""What a policy thinks before an answer: of (language, prompt id, sample index); None where it thinks nothing."""


def with_thoughts(data: IterationData, think: Thinking, language: str = "en") -> IterationData:
    """The tables as a policy leaves them that thinks in `language` before it answers."""

    def fields(row: dict[str, Any], index: int, prefix: str = "") -> dict[str, Any]:
        text = think(row["language"], row["prompt_id"], index)
        tokens = None if text is None else 2 + len(text) // 4
        return {f"{prefix}thought": text, f"{prefix}answer_start": tokens, "thought_token_count": tokens,
                "thought_language": None if text is None else language}  # fmt: skip

    for name in ("responses", "preferences", "outputs"):
        if name not in data.tables:
            continue
        rows = [row for part in data.tables[name] for row in part.to_pylist()]
        for row in rows:
            if name == "preferences":
                for side in ("chosen", "rejected"):
                    row |= fields(row, row[f"{side}_index"], f"{side}_")
            else:
                row |= fields(row, row["sample_index"])
        data.tables[name] = [table_of(name, rows)]
    return data


Before = Callable[[str, str], tuple[tuple[str, str], ...]]
"""(role, text) of the messages before an instruction, of (language, prompt id)."""


def with_history(data: IterationData, before: Before) -> IterationData:
    """The tables as they are where the instructions end conversations."""

    def fields(language: str, row: dict[str, Any], instruction: str, prefix: str = "") -> dict[str, Any]:
        history = before(language, row["prompt_id"])
        return {f"{prefix}messages": Conversation(row[instruction], history).json}

    for name in ("prompts", "preferences", "outputs"):
        if name not in data.tables:
            continue
        rows = [row for part in data.tables[name] for row in part.to_pylist()]
        for row in rows:
            row |= fields(row["language"], row, "instruction")
            if name != "outputs":
                row |= fields("en", row, "english_instruction", "english_")
        data.tables[name] = [table_of(name, rows)]
    return data


def merged(*parts: IterationData) -> IterationData:
    whole = IterationData()
    for part in parts:
        whole.tables |= part.tables
        whole.metrics |= part.metrics
        whole.eval_params |= part.eval_params
    return whole


def write_artifact(folder: Path, name: str, parts: Iterable[pa.Table]) -> Path:
    writer = ArtifactWriter(folder / name, SCHEMAS[name], f"synthetic-{name}")
    count = 0
    for count, part in enumerate(parts, 1):
        writer.write_part(count - 1, part)
    writer.close(count)
    return folder / name


def log_arm(
    tracker: Tracker,
    arm: str,
    iterations: Mapping[int, IterationData],
    folder: Path,
    copy: bool = False,
    *,
    params: Mapping[str, str] = types.MappingProxyType({}),
    parent: RunHandle | None = None,
    status: str = "FINISHED",
) -> RunHandle:
    """The runs `icr iterate` would leave: arm, iterations, stages; artifacts by reference, or copied to MLflow's store."""
    top = tracker.start(arm, {"icr.kind": "arm", "icr.arm": arm, "icr.version": "synthetic"}, parent)
    top.log_params({"iterate.arm": arm, "iterate.prompts": "synthetic", **params})
    for number, data in iterations.items():
        tags = {"icr.kind": "iteration", "icr.arm": arm, "icr.iteration": number}
        iteration = tracker.start(f"{arm} iteration {number}", tags, top)
        for stage, names in STAGES.items():
            if set(names) & set(data.tables):
                _log_stage(tracker, iteration, stage, data, {"icr.arm": arm, "icr.iteration": number},
                           folder / arm / str(number) / stage, copy)  # fmt: skip
        for run in (iteration, top):
            run.log_metrics(data.metrics, number)
        iteration.finish()
    top.finish(status)
    return top


def _log_stage(
    tracker: Tracker,
    parent: RunHandle,
    stage: str,
    data: IterationData,
    tags: Mapping[str, object],
    folder: Path,
    copy: bool,
) -> None:
    run = tracker.start(stage, {"icr.kind": "stage", "icr.stage": stage, "icr.cache_key": "synthetic", **tags}, parent)
    if stage == "eval":
        run.log_params({f"eval.{name}": value for name, value in data.eval_params.items()})
    for name in STAGES[stage]:
        if name not in data.tables:
            continue
        path = write_artifact(folder, name, data.tables[name])
        if copy:
            run.log_artifacts(path, name)
        else:
            digest = json.loads((path / "manifest.json").read_text())["digest"]
            run.set_tags({f"icr.artifact.{name}": path, f"icr.digest.{name}": digest})
    run.finish()


# --- a small run in many scripts ------------------------------------------------------------------------------------

WORDS = {
    "en": ("The river is wide.", "A small dog sleeps.", "We count to ten.", "Bread is baked at dawn."),
    "es": ("El río es ancho.", "Un perro pequeño duerme.", "Contamos hasta diez.", "El pan se hornea al alba."),
    "ar": ("النهر واسع.", "كلب صغير ينام.", "نعدّ حتى عشرة.", "يُخبز الخبز عند الفجر."),
    "bn": ("নদীটি প্রশস্ত।", "একটি ছোট কুকুর ঘুমায়।", "আমরা দশ পর্যন্ত গুনি।", "ভোরে রুটি সেঁকা হয়।"),
    "th": ("แม่น้ำกว้าง", "สุนัขตัวเล็กนอนหลับ", "เรานับถึงสิบ", "ขนมปังอบตอนรุ่งสาง"),
    "zh": ("河很宽。", "一只小狗在睡觉。", "我们数到十。", "面包在黎明时烤。"),
}


def small_prompts(per_language: int = 12) -> list[Prompt]:
    sources = ("helpful_base", "koala", "vicuna")
    return [
        Prompt(language, f"p{i}", f"{words[i % 4]} ({i})", f"{WORDS['en'][i % 4]} ({i})", sources[i % 3])
        for language, words in WORDS.items()
        for i in range(per_language)
    ]


def small_answers(seed: int, samples: int = 4) -> Callable[[Prompt], list[str]]:
    def answers(prompt: Prompt) -> list[str]:
        rng = np.random.default_rng([seed, *prompt.language.encode(), *prompt.prompt_id.encode()])
        words = WORDS[prompt.language]
        return [" ".join(rng.choice(words, size=rng.integers(1, 7))) for _ in range(samples)]

    return answers


def first_answer(seed: int) -> Callable[[Prompt], str]:
    """The first of `small_answers`."""
    answers = small_answers(seed, 1)
    return lambda prompt: answers(prompt)[0]


def small_run(tracker: Tracker, folder: Path, per_language: int = 12, copy: bool = False) -> RunHandle:
    """Two iterations in six scripts; evaluation and training share prompts."""
    prompts = small_prompts(per_language)
    references = write_references(folder / "references", prompts, lambda prompt: small_answers(99, 1)(prompt)[0])
    prompt_folder = write_prompt_files(folder / "prompts", prompts)
    params = {"reference_outputs": str(references), "prompts": str(prompt_folder)}
    kinds = ("cross-lingual", "multilingual", "translate")
    iterations = {}
    for t in range(3):
        parts = [
            evaluated(
                prompts,
                first_answer(50 + t),
                first_answer(99),
                -1.0 + 0.6 * t,
                70 + t,
                params,
            )
        ]
        if t:
            parts.append(sampled(prompts, small_answers(10 + t), 20 + t, kinds))
        iterations[t] = merged(*parts)
        if t:
            iterations[t].metrics.update(_changes(iterations[t - 1], iterations[t]))
    return log_arm(tracker, "synthetic-scripts", iterations, folder, copy)


def _changes(before: IterationData, after: IterationData) -> dict[str, float]:
    """The paired changes that `icr iterate` adds to an iteration."""
    sides = [_by_language(pa.concat_tables(data.tables["judgments"]).to_pandas()) for data in (before, after)]
    return change_metrics(difference_table(*sides), flip_table(*sides))


def _by_language(judgments: pd.DataFrame) -> dict[str, LanguageJudgments]:
    return {
        str(language): LanguageJudgments(own["prompt_id"].tolist(), own["preference"].to_numpy(float))
        for language, own in judgments.groupby("language", sort=False)
    }


LOOK = (
    "Okay, the user wants a sentence about a river.\n\nLet me think: <b>wide</b> rivers, small dogs. I should answer in"
)


def thinking_run(tracker: Tracker, folder: Path) -> RunHandle:
    """Two iterations of which the second thinks in English before most of its answers, and was cut within one thought."""
    prompts = small_prompts(4)
    params = {"prompts": str(write_prompt_files(folder / "thinking-prompts", prompts))}

    def think(language: str, prompt_id: str, index: int) -> str | None:
        return None if prompt_id == "p3" and index % 2 else f"{LOOK} {language}. " + "Hmm, wait. " * (20 * index)

    iterations = {}
    for t in (1, 2):
        outcome = merged(
            evaluated(prompts, first_answer(50 + t), first_answer(99), 0.6 * t, 70 + t, params),
            sampled(prompts, small_answers(10 + t), 20 + t, ("cross-lingual",)),
        )
        iterations[t] = with_thoughts(outcome, think) if t == 2 else outcome
    [outputs] = iterations[2].tables["outputs"]
    rows = outputs.to_pylist()
    rows[0] |= {"output": "", "finish_reason": "length", "character_count": 0}
    iterations[2].tables["outputs"] = [table_of("outputs", rows)]
    return log_arm(tracker, "synthetic-thinking", iterations, folder)


def conversations_run(tracker: Tracker, folder: Path) -> RunHandle:
    """Two iterations whose prompts, but for p0, end conversations; p2 has a system message alone."""
    prompts = small_prompts(4)
    system = ("system", "Answer in one sentence. <b>No lists.</b>")

    def before(language: str, prompt_id: str) -> tuple[tuple[str, str], ...]:
        words = WORDS[language]
        turns = (
            ("user", f"{words[2]}?"),
            ("assistant", " ".join(words * 6)),
            ("user", words[3]),
            ("assistant", words[1]),
        )
        return {"p0": (), "p1": (system, *turns), "p2": (system,), "p3": turns[:2]}[prompt_id]

    place = write_prompt_files(folder / "conversation-prompts", prompts, before)
    params = {"prompts": str(place)}
    iterations = {}
    for t in (1, 2):
        outcome = merged(
            evaluated(prompts, first_answer(50 + t), first_answer(99), 0.6 * t, 70 + t, params),
            sampled(prompts, small_answers(10 + t), 20 + t, ("cross-lingual",)),
        )
        iterations[t] = with_history(outcome, before)
    return log_arm(tracker, "synthetic-conversations", iterations, folder)


def long_run(tracker: Tracker, folder: Path) -> RunHandle:
    """Long texts, evaluated on prompts and against reference outputs that are another run's artifacts."""
    prompts = [Prompt(code, f"p{i}", WORDS[code][i % 4], WORDS["en"][i % 4]) for code in ("en", "th") for i in range(4)]

    def answers(prompt: Prompt) -> list[str]:
        return ["\n\n".join([f"{prompt.instruction} {n}"] * 60) for n in range(3)]

    known = log_arm(tracker, "synthetic-reference", {0: _judged_long(prompts, answers, {})}, folder, copy=True)
    reference = next(run for run in tracker.children(tracker.children(known.run_id)[0].info.run_id))
    params = {"reference_outputs": f"runs:/{reference.info.run_id}/outputs", "prompts": "runs:/no-such-run/prompts"}
    samples = sampled(prompts, answers, 7, ("cross-lingual",))
    iterations = {t: merged(_judged_long(prompts, answers, params, t), samples) for t in (1, 2)}
    return log_arm(tracker, "synthetic-long", iterations, folder)


def _judged_long(
    prompts: Sequence[Prompt], answers: Callable[[Prompt], list[str]], params: Mapping[str, str], t: int = 0
) -> IterationData:
    return evaluated(prompts, lambda p: answers(p)[t], lambda p: answers(p)[0], 0.0, t, params)


def write_prompt_files(folder: Path, prompts: Sequence[Prompt], before: Before = lambda *_: ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for language in dict.fromkeys(prompt.language for prompt in prompts):
        rows = [
            {"id": p.prompt_id, "messages": Conversation(p.instruction, history).messages, "dataset": p.source}
            if (history := before(language, p.prompt_id))
            else {"id": p.prompt_id, "instruction": p.instruction, "dataset": p.source}
            for p in prompts
            if p.language == language
        ]
        (folder / f"{language}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def write_references(folder: Path, prompts: Sequence[Prompt], answer: Callable[[Prompt], str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for language in dict.fromkeys(prompt.language for prompt in prompts):
        rows = [
            {"id": p.prompt_id, "instruction": p.instruction, "output": answer(p)}
            for p in prompts
            if p.language == language
        ]
        (folder / f"{language}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


# --- the real outputs at hand, with a pseudo-judge ------------------------------------------------------------------


REFERENCE = "gpt-4-turbo-2024-04-09"
ITERATIONS = {1: "gpt-3.5-turbo-0125", 2: "gpt-4o-mini"}
ANSWERED = ("en", "es", "ru", "de", "fr")
"""Languages in which all three models answered."""
REFERENCE_ONLY = ("bn", "sw", "th", "zh")
"""Only gpt-4-turbo answered: the first 50% of its paragraphs stand in for iteration 1, 75% for iteration 2."""
STRENGTHS = {1: -2.2, 2: -0.4}


def real_outputs_run(tracker: Tracker, folder: Path, data: Path, limit: int | None = None) -> RunHandle:
    """Real outputs to X-AlpacaEval: ITERATIONS against REFERENCE, long texts in nine languages and five scripts.

    The texts are real; the judge (`synthetic-pseudo-judge`) and the rewards are seeded noise with a length effect, because no
    judgments of these outputs are at hand. Each prompt has three samples, one per model.
    """
    codes = ANSWERED + REFERENCE_ONLY
    rows = {code: json.loads((data / f"prompts/x-alpacaeval/{code}.json").read_text("utf-8"))[:limit] for code in codes}
    english = {str(row["id"]): row["instruction"] for row in rows["en"]}
    prompts = [
        Prompt(code, str(row["id"]), row["instruction"], english[str(row["id"])], row["dataset"])
        for code in codes
        for row in rows[code]
    ]
    texts = {code: _texts(data, code, rows[code]) for code in codes}
    params = {
        "reference_outputs": str(data / "outputs" / "{language}" / f"{REFERENCE}.json"),
        "prompts": str(data / "prompts" / "x-alpacaeval"),
    }
    kinds = ("cross-lingual", "multilingual", "translate")
    trained = [p for p in prompts if all(p.prompt_id in found for found in texts[p.language].values())]

    def text(model: str) -> Callable[[Prompt], str | None]:
        return lambda prompt: texts[prompt.language][model].get(prompt.prompt_id)

    def samples(prompt: Prompt) -> list[str]:
        return [texts[prompt.language][model][prompt.prompt_id] for model in (*ITERATIONS.values(), REFERENCE)]

    iterations = {}
    for t, model in ITERATIONS.items():
        judged = evaluated(prompts, text(model), text(REFERENCE), STRENGTHS[t], t, params)
        iterations[t] = merged(judged, sampled(trained, samples, 5 + t, kinds))
    return log_arm(tracker, "synthetic-judge-real-outputs", iterations, folder)


def _texts(data: Path, code: str, prompts: Rows) -> dict[str, dict[str, str]]:
    """Output by prompt id by model."""
    reference = _outputs(data / f"outputs/{code}/{REFERENCE}.json", prompts)
    if code in REFERENCE_ONLY:
        parts = {
            model: {key: _beginning(text, 0.25 + 0.25 * t) for key, text in reference.items()}
            for t, model in ITERATIONS.items()
        }
    else:
        parts = {model: _outputs(data / f"outputs/{code}/{model}.json", prompts) for model in ITERATIONS.values()}
    return {**parts, REFERENCE: reference}


def _beginning(text: str, share: float) -> str:
    paragraphs = text.split("\n\n")
    return "\n\n".join(paragraphs[: max(1, round(share * len(paragraphs)))])


def _outputs(path: Path, prompts: Rows) -> dict[str, str]:
    ids = {row["instruction"]: str(row["id"]) for row in prompts}
    rows = json.loads(path.read_text("utf-8"))
    found = {str(row["id"]) if "id" in row else ids.get(row["instruction"], ""): row["output"] for row in rows}
    return {prompt_id: output for prompt_id, output in found.items() if prompt_id in set(ids.values())}


# --- hostile text ---------------------------------------------------------------------------------------------------


def payload_groups() -> list[tuple[dict[str, str], str]]:
    """Address and text of the prompts of the payload run that have eight payloads each."""
    texts = payloads()
    groups = [texts[start : start + 8] for start in range(0, len(texts), 8)]
    return [
        ({"id": f"group {i}:{group[0]}"[:2000], "id_language": "es"}, "\n\n".join(group))
        for i, group in enumerate(groups)
    ]


def payload_run(tracker: Tracker, folder: Path) -> RunHandle:
    """Every payload as instruction, English instruction, messages before them, responses, thoughts, prompt id, source, language, drop reason and detail.

    Then eight payloads at a time, below each other in every text.
    """
    prompts = [
        Prompt("es" if i % 6 else text[:300], f"{i}:{text}"[:2000], text, text, text[:500])
        for i, text in enumerate(payloads())
    ] + [Prompt(key["id_language"], key["id"], text, text, text[:500]) for key, text in payload_groups()]
    samples = sampled(
        prompts, lambda p: [p.instruction + " 1", p.instruction + " zwei", "x " + p.instruction], 3, ("cross-lingual",)
    )
    drops = [
        {
            "language": p.language,
            "prompt_id": p.prompt_id,
            "sample_index": 0,
            "reason": p.instruction[:200],
            "detail": p.instruction,
        }
        for p in prompts
    ]
    samples.tables["drops"] = [table_of("drops", drops)]
    samples.metrics = {}
    instructions = {(p.language, p.prompt_id): p.instruction for p in prompts}
    samples = with_thoughts(samples, lambda language, prompt_id, index: instructions[language, prompt_id], "<b>")
    texts_of = {p.prompt_id: p.instruction for p in prompts}
    samples = with_history(
        samples,
        lambda _, prompt_id: (("system", texts_of[prompt_id]), ("user", "x"), ("assistant", texts_of[prompt_id])),
    )
    params = {"reference_outputs": "/nowhere/<img src=x onerror=window.__hit=1>", "prompts": "/nowhere"}
    iterations = {}
    for t in range(2):
        outcome = evaluated(prompts, lambda p, t=t: p.instruction + f" {t}", lambda p: p.instruction, 0.0, t, params)  # type: ignore[misc]
        outcome = with_thoughts(outcome, lambda language, prompt_id, index: instructions[language, prompt_id], "en")
        outcome.metrics = {"win_rate/es": 10.0 + t, "win_rate_se/es": 1.0}
        iterations[t] = merged(outcome, samples) if t else outcome
    return log_arm(tracker, "synthetic-<script>window.__hit=1</script>", iterations, folder)


# --- a million samples ----------------------------------------------------------------------------------------------


def million_run(tracker: Tracker, folder: Path, samples: int = 1_000_000, shard_prompts: int = 64) -> RunHandle:
    """`samples` responses (10 a prompt, 9 languages) in parts of `shard_prompts` prompts, as `icr generate` shards them."""
    codes = ("en", "bn", "de", "es", "fr", "ru", "sw", "th", "zh")
    per_language = samples // 10 // len(codes)
    iterations = {0: big_evaluation(0, codes, per_language), 1: merged(big_evaluation(1, codes, per_language))}
    iterations[1].tables |= _big_samples(codes, per_language, shard_prompts)
    iterations[1].metrics |= {f"pairs/{code}": float(per_language) for code in codes}
    return log_arm(tracker, f"synthetic-{samples}-samples", iterations, folder)


def _with_later_columns(name: str, columns: Sequence[Sequence[Any]]) -> pa.Table:
    """A table of columns in the schema's order; those that it has beyond them are null."""
    schema, rows = TABLES[name].schema, len(columns[0])
    given = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=False)]
    later = [pa.nulls(rows, field.type) for field in list(schema)[len(columns) :]]
    return pa.Table.from_arrays([*given, *later], schema=schema)


_POOL = [
    f"Sentence {i} tells of {word} and of number {i * 7919 % 1009}." for i in range(997) for word in ("rivers", "bread")
]


def _text(rng: np.random.Generator, label: str, size: int) -> str:
    start = int(rng.integers(0, len(_POOL) - 40))
    return f"{label} " + " ".join(_POOL[start : start + size])


def _big_samples(codes: Sequence[str], per_language: int, shard: int) -> dict[str, Any]:
    """Generators of parts: the tables are never held whole."""
    starts = [(code, start) for code in codes for start in range(0, per_language, shard)]

    def ids(start: int) -> list[str]:
        return [f"prompt-{i:06d}" for i in range(start, min(start + shard, per_language))]

    def prompts() -> Iterable[pa.Table]:
        for code, start in starts:
            yield table_of("prompts", [
                {"language": code, "prompt_id": i, "instruction": f"Instruction {i} in {code}?",
                 "english_instruction": f"Instruction {i}?", "source": "synthetic"} for i in ids(start)])  # fmt: skip

    def shard_rows(code: str, start: int) -> tuple[np.random.Generator, list[str], np.ndarray, list[str]]:
        rng = np.random.default_rng([start, *code.encode()])
        keys = [i for i in ids(start) for _ in range(10)]
        sizes = rng.integers(4, 40, len(keys))
        texts = [
            _text(rng, f"{key}/{n % 10}", int(size)) for n, (key, size) in enumerate(zip(keys, sizes, strict=True))
        ]
        rewards = rng.standard_normal(len(keys)) + sizes / 20
        return rng, keys, rewards, texts

    def responses() -> Iterable[pa.Table]:
        for code, start in starts:
            _, keys, _, texts = shard_rows(code, start)
            n = len(keys)
            lengths = [len(text) for text in texts]
            columns: list[Sequence[Any]] = [[code] * n, keys, [i % 10 for i in range(n)], texts, [[1, 2]] * n, ["stop"] * n, ["sampler"] * n,
                       [length // 4 for length in lengths], lengths, [code] * n, [0.98] * n]  # fmt: skip
            yield _with_later_columns("responses", columns)

    def rewards() -> Iterable[pa.Table]:
        for code, start in starts:
            rng, keys, values, _ = shard_rows(code, start)
            n = len(keys)
            reference = -200 - 100 * rng.random(n)
            columns = [
                [code] * n,
                keys,
                [i % 10 for i in range(n)],
                ["cross-lingual"] * n,
                reference + 10 * values,
                reference,
                values,
            ]
            yield _with_later_columns("rewards", columns)

    def preferences() -> Iterable[pa.Table]:
        for code, start in starts:
            _, keys, values, texts = shard_rows(code, start)
            rows = []
            for offset in range(0, len(keys), 10):
                own = values[offset : offset + 10]
                c, r = int(own.argmax()), int(own.argmin())
                rows.append(
                    {"language": code, "prompt_id": keys[offset], "instruction": f"Instruction {keys[offset]} in {code}?",
                     "english_instruction": f"Instruction {keys[offset]}?", "chosen": texts[offset + c],
                     "rejected": texts[offset + r], "chosen_index": c, "rejected_index": r, "chosen_reward": own[c],
                     "rejected_reward": own[r], "margin": own[c] - own[r], "length_penalty_alpha": 0.0005,
                     "chosen_characters": len(texts[offset + c]), "rejected_characters": len(texts[offset + r]),
                     "chosen_token_ids": [1, 2], "rejected_token_ids": [1, 2]}
                )  # fmt: skip
            yield table_of("preferences", rows)

    def drops() -> Iterable[pa.Table]:
        for code, start in starts[::5]:
            yield table_of("drops", [{"language": code, "prompt_id": ids(start)[0], "sample_index": 3, "reason": "truncated",
                                      "detail": "finish_reason is 'length'"}])  # fmt: skip

    return {
        "prompts": prompts(),
        "responses": responses(),
        "rewards": rewards(),
        "preferences": preferences(),
        "drops": drops(),
    }


def big_evaluation(t: int, codes: Sequence[str], per_language: int, shard: int = 805) -> IterationData:
    """An evaluation set a tenth of the prompts in size, judged in both orders."""
    rng = np.random.default_rng(t)
    count = max(per_language // 10, 20)
    outputs, judgments = [], []
    metrics: dict[str, float] = {}
    for code in codes:
        ids = [f"eval-{i:05d}" for i in range(count)]
        texts = [_text(rng, f"{i}/{t}", int(rng.integers(4, 30))) for i in ids]
        preference = rng.beta(0.3, 0.5, count)
        outputs.append(table_of("outputs", [
            {"language": code, "prompt_id": i, "sample_index": 0, "instruction": f"Question {i} in {code}?", "output": text,
             "token_count": len(text) // 4, "character_count": len(text), "finish_reason": "stop", "detected_language": code,
             "language_confidence": 0.98} for i, text in zip(ids, texts, strict=True)]))  # fmt: skip
        judgments.append(table_of("judgments", [
            {"language": code, "prompt_id": i, "sample_index": 0, "order": order, "preference": float(np.clip(p + bias, 0, 1)),
             "mass": 0.99, "outcome": "ok", "judge": JUDGE, "input_tokens": 1, "output_tokens": 1, "detail": ""}
            for i, p in zip(ids, preference, strict=True)
            for order, bias in (("model-first", 0.05), ("reference-first", -0.05))]))  # fmt: skip
        metrics |= {
            f"win_rate/{code}": 100 * float(preference.mean()),
            f"win_rate_se/{code}": 1.0,
            f"win_rate_n/{code}": float(count),
        }
    return IterationData({"outputs": outputs, "judgments": judgments}, metrics)


def open_tracker(folder: Path, experiment: str = "icr") -> Tracker:
    """A tracker on a sqlite store of its own in `folder`; sets MLFLOW_TRACKING_URI of this process."""
    folder.mkdir(parents=True, exist_ok=True)
    # Not mlflow.set_tracking_uri, which would outlive the tests that this store is for.
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    return Tracker(experiment)


# --- runs that went wrong -------------------------------------------------------------------------------------------


def broken_runs(tracker: Tracker, folder: Path) -> dict[str, str]:
    """An arm without iterations, one still running, one of another schema version, and one whose tables are gone; ids by name."""
    empty = tracker.start("synthetic-empty", {"icr.kind": "arm", "icr.arm": "synthetic-empty"})
    empty.finish()
    running = tracker.start("synthetic-running", {"icr.kind": "arm", "icr.arm": "synthetic-running"})
    iteration = tracker.start("iteration 1", {"icr.kind": "iteration", "icr.iteration": 1}, running)
    tracker.start("generate", {"icr.kind": "stage", "icr.stage": "generate"}, iteration)
    prompts = small_prompts(3)
    data = sampled(prompts, small_answers(1), 1, ("cross-lingual",))
    old = log_arm(tracker, "synthetic-old-schema", {1: data}, folder)
    for manifest in (folder / "synthetic-old-schema").rglob("manifest.json"):
        manifest.write_text(re.sub(r'"schema_version": \d+', '"schema_version": 0', manifest.read_text()))
    gone = log_arm(tracker, "synthetic-gone", {1: data}, folder)
    doomed = log_arm(tracker, "synthetic-doomed", {1: data}, folder)
    return {
        "empty": empty.run_id,
        "running": running.run_id,
        "old": old.run_id,
        "gone": gone.run_id,
        "doomed": doomed.run_id,
    }


def main(arguments: Sequence[str]) -> int:
    """`python tests/support/synthetic_runs.py FOLDER`: the run made from the real outputs, in a tracking store in FOLDER."""
    data = shared_folder()
    if len(arguments) != 1 or not (data / "outputs").is_dir():
        print(
            "usage: ICR_SHARED=... python tests/support/synthetic_runs.py FOLDER  (ICR_SHARED contains data/outputs)",
            file=sys.stderr,
        )
        return 2
    folder = Path(arguments[0]).absolute()
    run = real_outputs_run(open_tracker(folder), folder / "artifacts", data)
    print(f"run {run.run_id}; look at it: icr inspect --tracking-uri sqlite:///{folder / 'mlflow.db'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
