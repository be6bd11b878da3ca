"""Data sets in the layouts of published ones, as files by name; their rows were made for the tests.

m-ArenaHard and its second version, M-RewardBench, UltraFeedback-binarized, HelpSteer3, and one whose columns all have other names.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def parquet(rows: list[dict[str, Any]]) -> bytes:
    written = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), written)
    return written.getvalue()


def card(*configurations: tuple[str, dict[str, str]]) -> bytes:
    """A data set's card that says which files are which split of which configuration."""
    lines = ["---", "configs:"]
    for name, splits in configurations:
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split, path in splits.items() for line in (f"  - split: {split}", f"    path: {path}")]
    return "\n".join([*lines, "---", "# A data set", ""]).encode()


def arena(language: str) -> bytes:
    columns = {"question_id": "q1", "cluster": "Maths", "category": "arena-hard-v0.1"}
    return parquet([{**columns, "prompt": f"{language}: How much is 1 + 1?"}])


def reward_bench(language: str) -> bytes:
    made = {"language": language, "source": "alpacaeval-easy", "chosen_model": "a", "rejected_model": "b"}
    return parquet([{"id": 30, "prompt": f"{language}?", "chosen": f"{language}!", "rejected": "No.", **made}])


def ultrafeedback() -> bytes:
    asked, good, bad = (
        {"role": role, "content": text}
        for role, text in (("user", "Hi?"), ("assistant", "Hello."), ("assistant", "Go."))
    )
    row = {
        "prompt": "Hi?",
        "prompt_id": "f0",
        "chosen": [asked, good],
        "rejected": [asked, bad],
        "messages": [asked, good],
    }
    return parquet([{**row, "score_chosen": 8.5, "score_rejected": 2.0}])


LOCALES = ("en", "ar", "he")
BENCHED = ("arb_Arab", "deu_Latn")
ARENA = {
    "README.md": card(*((name, {"test": f"{name}/test-*.parquet"}) for name in LOCALES)),
    **{f"{name}/test-00000-of-00001.parquet": arena(name) for name in LOCALES},
}
ARENA_2 = {
    "test.jsonl": "".join(
        json.dumps({"question_id": "a1", "category": "hard", "prompt": f"{name} text", "language": name}) + "\n"
        for name in ("en", "de")
    ).encode()
}
BENCH = {
    "README.md": card(*((name, {"test": f"{name}/test-*.parquet"}) for name in BENCHED)),
    **{f"{name}/test-00000-of-00001.parquet": reward_bench(name) for name in BENCHED},
}
FEEDBACK = {
    "README.md": card(("default", {"train_prefs": "data/train_prefs-*", "test_prefs": "data/test_prefs-*", "train_sft": "data/train_sft-*"})),
    **{f"data/{split}-00000-of-00001.parquet": ultrafeedback() for split in ("train_prefs", "test_prefs", "train_sft")},
}  # fmt: skip
HELPS = {
    "train.jsonl": (
        json.dumps(
            {
                "domain": "general", "language": "en", "context": [{"role": "user", "content": "Why?"}],
                "response1": "Because.", "response2": "No.", "overall_preference": -2, "individual_preference": [],
            }
        )
        + "\n"
    ).encode()
}  # fmt: skip
ODD = {
    "data.jsonl": "".join(
        json.dumps(
            {
                "uid": f"u{number}", "meta": {"lang": language}, "instruction": "not this", "id": 9,
                "turns": [{"content": f"{language} {number}"}], "answers": {"human": "Good.", "model": "Bad."},
            }
        )
        + "\n"
        for number in (1, 2)
        for language in ("en", "sw")
    ).encode()
}  # fmt: skip
ODD_COLUMNS = {"id": "uid", "instruction": "turns.0.content", "language": "meta.lang"}
ODD_PAIRS = {
    "prompt": "turns.0.content",
    "chosen": "answers.human",
    "rejected": "answers.model",
    "language": "meta.lang",
}
