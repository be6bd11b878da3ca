"""Prompts and preferences made of the conversations that tiny models are taught."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.tiny_models import PROMPTS, RESPONSES


def write_prompt_folder(folder: Path) -> Path:
    """Write PROMPTS as LANG.jsonl with ids p0 .. p5."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, texts in PROMPTS.items():
        rows = [{"id": f"p{i}", "instruction": text, "dataset": "tiny"} for i, text in enumerate(texts)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{language}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def write_preferences(folder: Path, model: Path, count: int = 24) -> Path:
    """A preferences artifact: right answers to PROMPTS chosen over answers to other prompts, ids by `model`'s tokenizer."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    from icr_platform.core.artifacts import ArtifactWriter
    from icr_platform.core.schemas import PREFERENCES
    from icr_platform.models.chat import encode_response

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for i in range(count):
        language, right = list(PROMPTS)[i % 3], i // 3 % 6
        wrong = (right + 1 + i // 18 % 5) % 6
        chosen, rejected = RESPONSES[language][right], RESPONSES[language][wrong]
        rows.append({
            "language": language, "prompt_id": f"p{i:03d}", "instruction": PROMPTS[language][right],
            "english_instruction": PROMPTS["en"][right], "chosen": chosen, "rejected": rejected,
            "chosen_index": 0, "rejected_index": 1, "chosen_reward": 1.0, "rejected_reward": 0.5, "margin": 0.5,
            "length_penalty_alpha": 0.0, "chosen_characters": len(chosen), "rejected_characters": len(rejected),
            "chosen_token_ids": encode_response(tokenizer, chosen),
            "rejected_token_ids": encode_response(tokenizer, rejected),
        })  # fmt: skip
    writer = ArtifactWriter(folder, PREFERENCES, "preferences")
    writer.write_part(0, pa.Table.from_pylist(sorted(rows, key=lambda row: (row["language"], row["prompt_id"]))))
    writer.close(1)
    return folder


def write_responses(folder: Path, model: Path, samples: int = 3) -> Path:
    """A responses artifact: the right answers to PROMPTS, each sample a character shorter, ids by `model`'s tokenizer."""
    import pyarrow as pa
    from transformers import AutoTokenizer

    from icr_platform.core.artifacts import ArtifactWriter
    from icr_platform.core.schemas import RESPONSES as TABLE
    from icr_platform.models.chat import encode_response

    tokenizer = AutoTokenizer.from_pretrained(model)
    writer = ArtifactWriter(folder, TABLE, "responses")
    for part, (language, answers) in enumerate(sorted(RESPONSES.items())):
        rows = []
        for i, answer in enumerate(answers):
            for j in range(samples):
                text = answer[: -1 - j]
                ids = encode_response(tokenizer, text)
                rows.append({
                    "language": language, "prompt_id": f"p{i}", "sample_index": j, "response": text, "token_ids": ids,
                    "finish_reason": "stop", "token_ids_source": "sampler", "token_count": len(ids),
                    "character_count": len(text), "detected_language": language, "language_confidence": 0.9,
                })  # fmt: skip
        writer.write_part(part, pa.Table.from_pylist(rows, schema=TABLE.schema))
    writer.close(len(RESPONSES))
    return folder
