"""A synthetic run with what is seen without a judge: outputs with lines in another language, verdicts on instructions, metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icr_platform.tracking.run_handle import RunHandle
from icr_platform.tracking.tracker import Tracker
from tests.support.synthetic_runs import (
    IterationData,
    Prompt,
    evaluated,
    log_arm,
    merged,
    sampled,
    table_of,
    write_prompt_files,
    write_references,
)

PURE = {
    "en": "The river is wide and the water is cold in the morning.\nA small dog sleeps in front of the old house.",
    "es": "El río es muy ancho y el agua está fría por la mañana.\nUn perro pequeño duerme delante de la casa vieja.",
    "ar": "النهر واسع جدا والماء بارد في الصباح الباكر.\nكلب صغير ينام أمام البيت القديم كل يوم.",
}
ENGLISH_LINE = "Here is the answer to your question in plain words."
HOSTILE = '<img src=x onerror="window.__hit=1"> \u202e<script>window.__hit=1</script>'
LANGUAGES = tuple(PURE)


def with_english(text: str) -> str:
    """A text whose second line is English."""
    first, *rest = text.split("\n")
    return "\n".join([first, ENGLISH_LINE, *rest])


def answer(language: str, t: int) -> str:
    """Iteration 1 answers with an English line in between, iteration 2 no longer does."""
    return with_english(PURE[language]) if t == 1 and language != "en" else PURE[language]


def evidence_run(tracker: Tracker, folder: Path) -> RunHandle:
    """Two iterations in English, Spanish and Arabic."""
    prompts = [
        Prompt(code, f"p{i}", PURE[code].split("\n")[0], PURE["en"], "synthetic")
        for code in LANGUAGES
        for i in range(3)
    ]
    places = {
        "prompts": str(write_prompt_files(folder / "evidence-prompts", prompts)),
        "reference_outputs": str(write_references(folder / "evidence-references", prompts, lambda p: PURE[p.language])),
    }
    iterations = {}
    for t in (1, 2):

        def answered(p: Prompt, t: int = t) -> str:
            return answer(p.language, t)

        outcome = evaluated(prompts, answered, lambda p: PURE[p.language], 0.0, t, places)
        samples = sampled(
            prompts,
            lambda p, answered=answered: [answered(p), PURE[p.language], PURE[p.language] * 2],  # type: ignore[misc]
            t,
            ("cross-lingual",),
        )
        iterations[t] = merged(outcome, samples, instructed(prompts, t), IterationData(metrics=metrics(t)))
    return log_arm(tracker, "synthetic-evidence", iterations, folder)


def instructed(prompts: list[Prompt], t: int) -> IterationData:
    """instructions: one answer a prompt, and verdicts of each kind; one more is followed in iteration 2."""
    outputs, checks = [], []
    for prompt in prompts:
        key = {"language": prompt.language, "prompt_id": prompt.prompt_id, "sample_index": 0}
        text = answer(prompt.language, t)
        outputs.append(
            {**key, "instruction": prompt.instruction, "output": text, "character_count": len(text), "token_count": 9,
             "finish_reason": "stop", "detected_language": prompt.language, "language_confidence": 0.9}
        )  # fmt: skip
        verdicts: tuple[tuple[str, dict[str, Any], bool | None, bool | None, str], ...] = (
            ("punctuation:no_comma", {}, True, True, ""),
            ("length_constraints:number_words", {"num_words": 300, "relation": "at least"}, t == 2, t == 2, ""),
            ("startend:quotation", {}, False, True, ""),
            ("change_case:english_capital", {"note": HOSTILE}, None, None, f"Arabic has no case {HOSTILE}"),
        )
        for kind, kwargs, strict, loose, reason in verdicts if prompt.prompt_id != "p2" else verdicts[:2]:
            checks.append(
                {**key, "turn": 1, "source": "", "instruction_id": kind, "kwargs": json.dumps(kwargs), "strict": strict,
                 "loose": loose, "reason": reason}
            )  # fmt: skip
    tables = {"instruction_outputs": outputs, "instruction_checks": checks}
    return IterationData({name: [table_of(name, rows)] for name, rows in tables.items()})


def metrics(t: int) -> dict[str, float]:
    """Figures of an iteration, with the ends of their intervals."""
    found: dict[str, float] = {}
    for number, code in enumerate((*LANGUAGES, "mean", "mean_non_english")):
        for kind, value in (("cross-lingual", 70.0 + number + t), ("multilingual", 64.0 + number), ("length", 55.0)):
            found |= _with_ends("reward_accuracy", kind, code, value)
        found |= _with_ends("own_reward_accuracy", "cross-lingual", code, 60.0 + number)
        for reading, value in (("strict", 50.0 + 5 * t), ("loose", 56.0 + 5 * t)):
            found |= _with_ends("prompt_accuracy", reading, code, value)
            found |= _with_ends("instruction_accuracy", reading, code, value + 10)
            if t > 1:
                found |= _with_ends("prompt_accuracy_change", reading, code, 5.0)
        found |= {f"line_pass_rate{end}/{code}": 90.0 + t + shift for end, shift in _ENDS}
    return found | {"word_pass_rate/ar": 80.0 + t}


_ENDS = (("", 0.0), ("_low", -4.0), ("_high", 4.0))


def _with_ends(metric: str, variant: str, code: str, value: float) -> dict[str, float]:
    return {f"{metric}{end}/{variant}/{code}": value + shift for end, shift in _ENDS}
