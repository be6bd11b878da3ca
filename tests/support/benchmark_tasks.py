"""Small lm-eval tasks under the names that each family gives its own, over local files, so that no hub is needed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

QUESTIONS = [
    {"question": f"Was ist {what}?", "a": "rot", "b": "ein Tier", "gold": number % 2, "subject": ("stem", "other")[number % 2]}
    for number, what in enumerate(("Blut", "ein Pferd", "Gras", "ein Hund", "der Himmel", "eine Katze"))
]  # fmt: skip
SUMS = [{"question": f"{a} + {b}?", "answer": None, "number": a + b} for a, b in ((1, 2), (3, 4), (10, 5))]
SENTENCES = [{"sen": "Ein Apfel ist rot.", "wrong_sen": "Ein Apfel sind rot."}, {"sen": "Gras ist grün.", "wrong_sen": "Gras bin grün."}]  # fmt: skip
_CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}\nA. {{a}}\nB. {{b}}\nAnswer:",
    "doc_to_choice": ["A", "B"],
    "doc_to_target": "gold",
}
_SUMS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{number}}",
    "generation_kwargs": {"until": ["Frage:", "</s>"], "do_sample": False},
    "filter_list": [
        {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
        for name, pattern in (("strict-match", "Die Antwort lautet ([0-9]+)"), ("flexible-extract", "(-?[0-9]+)"))
    ],
}


def _metrics(*names: str) -> list[dict[str, Any]]:
    return [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in names]


def write_task(folder: Path, name: str, data: Path, metrics: Iterable[str], **settings: Any) -> None:
    """One task over the rows of a JSON lines file, all of which are its test split."""
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    task = {"task": name, **source, **settings, "metric_list": _metrics(*metrics)}
    (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML


def write_group(folder: Path, name: str, tasks: list[str], metric: str = "acc") -> None:
    """A group; without a metric, one that reports no number of its own."""
    total = {"aggregate_metric_list": [{"metric": metric, "weight_by_size": True}]} if metric else {}
    (folder / f"_{name}.yaml").write_text(json.dumps({"group": name, "task": tasks, **total}))


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def write_families(folder: Path) -> Path:
    """A task of each family in German (XCOPA: Swahili), and tasks, a group and a tag of one's own."""
    folder.mkdir(parents=True, exist_ok=True)
    questions, sums = write_rows(folder / "questions.jsonl", QUESTIONS), write_rows(folder / "sums.jsonl", SUMS)
    for number, subject in enumerate(("stem", "other")):
        own = write_rows(folder / f"{subject}.jsonl", [row for row in QUESTIONS if row["gold"] == number])
        write_task(folder, f"global_mmlu_de_{subject}", own, ["acc"], **_CHOICES)
        described = {"description": f"The following is multiple-choice question about {subject}."}
        write_task(folder, f"include_base_44_german_{subject}", own, ["acc"], **_CHOICES, **described)
        write_task(folder, f"bare_{subject}_de", own, ["acc"], **_CHOICES)
    write_group(folder, "global_mmlu_de", ["global_mmlu_de_stem", "global_mmlu_de_other"])
    write_group(folder, "include_base_44_german", ["include_base_44_german_stem", "include_base_44_german_other"])
    write_group(folder, "bare", ["bare_stem_de", "bare_other_de"], metric="")
    write_task(folder, "belebele_deu_Latn", questions, ["acc", "acc_norm"], **_CHOICES)
    write_task(folder, "mgsm_native_cot_de", sums, ["exact_match"], **_SUMS, tag="sums_of_mine")
    write_task(folder, "mgsm_direct_de", sums, ["exact_match"], **_SUMS, tag="sums_of_mine")
    sentences = write_rows(folder / "sentences.jsonl", SENTENCES)
    pairs = {"output_type": "multiple_choice", "doc_to_text": "", "doc_to_target": 0, "target_delimiter": ""}
    write_task(
        folder, "multiblimp_deu", sentences, ["acc"], **pairs, doc_to_choice="{{[sen,wrong_sen]}}", num_fewshot=0
    )
    write_task(folder, "xcopa_sw", questions, ["acc"], **_CHOICES)
    write_task(folder, "sums", sums, ["exact_match"], **_SUMS)
    write_task(folder, "prefixed", sums, ["exact_match"], **_SUMS, gen_prefix="The number is")
    write_task(folder, "lost", folder / "nowhere.jsonl", ["acc"], **_CHOICES)
    write_task(folder, "broken", questions, ["acc"], **{**_CHOICES, "doc_to_text": "{{undefined.field.of}}"})
    return folder
