"""Synthetic arms for Compare: two arms of two seeds, one of another judge, one of other prompts, one in another language, and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from icr_platform.evaluation.confusion_table import confusion_rows
from icr_platform.tracking.tracker import Tracker
from tests.support import synthetic_runs
from tests.support.evidence_run import LANGUAGES, PURE, with_english
from tests.support.synthetic_runs import (
    IterationData,
    Prompt,
    evaluated,
    log_arm,
    table_of,
    write_prompt_files,
    write_references,
)

SEEDS = (1, 2)
GERMAN = "Der Fluss ist breit und kalt.\nEin Hund schläft vor dem Haus."
PROMPTS = [
    Prompt(
        code,
        f"p{i}",
        f"{PURE[code].splitlines()[i % 2]} ({i})",
        f"{PURE['en'].splitlines()[i % 2]} ({i})",
        ("koala", "vicuna")[i % 2],
    )
    for code in LANGUAGES
    for i in range(6)
]
"""Of two data sets, in English, Spanish and Arabic."""


def answer_of(arm: str, seed: int) -> Callable[[Prompt], str]:
    """The second arm answers at twice the length, and no longer in English where the first did."""

    def answer(prompt: Prompt) -> str:
        text = f"{PURE[prompt.language]}\n{prompt.prompt_id}"
        is_mixed = arm == "synthetic-first" and prompt.language != "en" and prompt.prompt_id in ("p0", "p1")
        if is_mixed:
            text = with_english(text)
        return text if arm == "synthetic-first" else f"{text}\n{PURE[prompt.language]} {seed}"

    return answer


def evaluation(
    arm: str, seed: int, prompts: Sequence[Prompt], places: dict[str, str], judge: str = ""
) -> IterationData:
    """One evaluation, with what is seen of the outputs' lines."""
    data = evaluated(
        prompts, answer_of(arm, seed), lambda p: PURE[p.language], len(arm) - 15.0, 10 * seed + len(arm), places
    )
    data.tables["confusion"] = [confusion_rows(data.tables["outputs"][0], frozenset())]
    if judge:
        [table] = data.tables["judgments"]
        data.tables["judgments"] = [table_of("judgments", [row | {"judge": judge} for row in table.to_pylist()])]
    return data


def compared_runs(tracker: Tracker, folder: Path) -> dict[str, str]:
    """Run ids by a short name: first-1, first-2, second-1, second-2, judge, words, german, evaluation."""
    places = {
        "prompts": str(write_prompt_files(folder / "compared-prompts", PROMPTS)),
        "reference_outputs": str(write_references(folder / "compared-references", PROMPTS, lambda p: PURE[p.language])),
    }
    found = {}
    for arm in ("synthetic-first", "synthetic-second"):
        for seed in SEEDS:
            data = evaluation(arm, seed, PROMPTS, places)
            run = log_arm(tracker, arm, {1: data}, folder / f"seed-{seed}")
            run.log_params({"iterate.seed": seed})
            found[f"{arm.removeprefix('synthetic-')}-{seed}"] = run.run_id
    other_words = [replace(prompt, instruction=f"Another question {prompt.prompt_id}?") for prompt in PROMPTS]
    german = [replace(prompt, language="de") for prompt in PROMPTS if prompt.language == "es"]
    others = {
        "judge": evaluation("synthetic-judge", 1, PROMPTS, places, "another-judge"),
        "words": evaluation("synthetic-words", 1, other_words, places),
        "german": evaluated(german, lambda p: GERMAN, lambda p: GERMAN, 0.0, 1, {}),
    }
    for name, data in others.items():
        found[name] = log_arm(tracker, f"synthetic-{name}", {1: data}, folder).run_id
    found["evaluation"] = alone(tracker, folder / "alone", evaluation("synthetic-alone", 1, PROMPTS[:4], places))
    return found


def alone(tracker: Tracker, folder: Path, data: IterationData) -> str:
    """A run of `icr eval` that belongs to no arm."""
    run = tracker.start("icr eval", {"icr.kind": "stage", "icr.stage": "eval"})
    run.log_params({f"eval.{name}": value for name, value in data.eval_params.items()})
    for name, parts in data.tables.items():
        run.set_tags({f"icr.artifact.{name}": synthetic_runs.write_artifact(folder, name, parts)})
    run.finish()
    return run.run_id


def write_files(folder: Path) -> dict[str, str]:
    """Paths by a short name: two folders of outputs, one file without ids or languages, and one that is no file of outputs."""
    found = {}
    for name in ("first", "second"):
        answer = answer_of(f"synthetic-{name}", 1)
        place = write_references(folder / f"outputs-{name}", PROMPTS, answer)
        found[name] = str(place)
    rows = [{"instruction": p.instruction, "output": f"!{PURE[p.language]}"} for p in PROMPTS if p.language == "es"]
    (folder / "no-ids.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    (folder / "no-outputs.json").write_text(json.dumps([{"id": "p0", "rating": 3}]), encoding="utf-8")
    return found | {"no-ids": str(folder / "no-ids.json"), "no-outputs": str(folder / "no-outputs.json")}


WIDE = ("en", "ar", "bn", "de", "es", "fr", "hi", "ja", "ru", "sw", "th", "tr", "zh")


def wide_runs(tracker: Tracker, folder: Path, prompts: int = 805) -> tuple[str, str]:
    """Two arms in 13 languages on 805 prompts each, as the published evaluation has."""
    ids = []
    for number, name in enumerate(("synthetic-wide-a", "synthetic-wide-b")):
        # An evaluation of `big_evaluation` has a tenth of the prompts it is given.
        ids.append(
            log_arm(tracker, name, {1: synthetic_runs.big_evaluation(number, WIDE, 10 * prompts)}, folder).run_id
        )
    return ids[0], ids[1]
