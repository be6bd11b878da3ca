"""The generate stage on a real, tiny model. (`test_kill.py` kills its process; here it is stopped between two shards.)"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PROMPTS, RESPONSES
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.prompts import load_prompts
from icr_platform.engines.identification.language_id import Identified, Identifier
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Request, Sample
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.generation.config import GenerateConfig
from icr_platform.generation.stage import read, run
from tests.support.answers import answers
from tests.support.files import files_of

SETTINGS: dict[str, Any] = {
    "languages": ("es", "de", "en"),
    "samples": 3,
    "max_tokens": 10,
    "shard_prompts": 4,
    "seed": 5,
}


def generate(folder: Path, model: Path, prompts: Path, **settings: Any) -> StageResult:
    config = GenerateConfig(policy=str(model), prompts=str(prompts), **(SETTINGS | settings))
    return run(read(config), StageContext(folder, "fingerprint"))


def responses_of(folder: Path) -> pa.Table:
    return open_artifact(folder / "responses", RESPONSES).read()


def test_every_prompt_gets_its_samples_in_order(tiny_model: Path, prompt_folder: Path, tmp_path: Path) -> None:
    lines = (prompt_folder / "de.jsonl").read_text(encoding="utf-8").splitlines()
    (prompt_folder / "de.jsonl").write_text("\n".join(lines[1:]), encoding="utf-8")  # p0 is missing in German
    result = generate(tmp_path / "out", tiny_model, prompt_folder)

    expected = load_prompts(str(prompt_folder), SETTINGS["languages"])
    assert open_artifact(result.artifacts["prompts"], PROMPTS).read() == expected.table
    assert result.notes == expected.notes
    assert result.tables["missing_prompts"].values.tolist() == [["de", "p0"]]

    rows = responses_of(tmp_path / "out").to_pylist()
    assert [(row["language"], row["prompt_id"], row["sample_index"]) for row in rows] == [
        (prompt["language"], prompt["prompt_id"], index) for prompt in expected.table.to_pylist() for index in range(3)
    ]
    # 6 + 5 + 6 prompts in shards of at most 4 of one language
    assert len(list((tmp_path / "out" / "responses").glob("part-*.parquet"))) == 6
    sampler = make_sampler(GenerateConfig(**SETTINGS), str(tiny_model))
    alone = answers(sampler.sample([Request("es", "p5", "Saluda.")], 3, seed=5))[0]
    assert [row["token_ids"] for row in rows[15:18]] == [sample.token_ids for sample in alone]

    spanish = [row for row in rows if row["language"] == "es"]
    assert result.metrics["tokens/es"] == sum(row["token_count"] for row in spanish)
    assert result.metrics["length/characters/es"] == pytest.approx(sum(len(row["response"]) for row in spanish) / 18)
    assert result.metrics["truncated/es"] == pytest.approx(
        100 * sum(row["finish_reason"] == "length" for row in spanish) / 18
    )
    assert result.metrics["fidelity/es"] == pytest.approx(
        100 * sum(row["detected_language"] == "es" for row in spanish) / 18
    )
    assert result.metrics["tokens_per_second"] > 0


def test_a_stopped_run_goes_on_with_the_shards_that_are_left(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(tmp_path / "whole", tiny_model, prompt_folder)
    sample = TransformersSampler.sample
    sampled: list[int] = []

    def counts(sampler: TransformersSampler, requests: Sequence[Request], *rest: Any) -> Any:
        if len(sampled) == stop_after:
            raise KeyboardInterrupt
        sampled.append(len(requests))
        return sample(sampler, requests, *rest)

    monkeypatch.setattr(TransformersSampler, "sample", counts)
    stop_after = 2
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "stopped", tiny_model, prompt_folder)
    assert not (tmp_path / "stopped" / "responses" / "manifest.json").exists()

    stop_after = -1
    generate(tmp_path / "stopped", tiny_model, prompt_folder)
    assert sampled == [4, 2, 4, 2, 4, 2]
    assert files_of(tmp_path / "stopped") == files_of(tmp_path / "whole")


def test_finished_work_needs_neither_model_nor_prompts(tiny_model: Path, prompt_folder: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    inputs = read(GenerateConfig(policy=str(model), prompts=str(prompt_folder), **SETTINGS))
    first = run(inputs, StageContext(tmp_path / "out", "fingerprint"))
    shutil.rmtree(model)
    shutil.rmtree(prompt_folder)
    again = run(inputs, StageContext(tmp_path / "out", "fingerprint"))
    assert again.artifacts == first.artifacts
    assert again.metrics == {name: value for name, value in first.metrics.items() if name != "tokens_per_second"}


def remove_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def truncate_prompts(folder: Path) -> None:
    (folder / "es.jsonl").write_text(json.dumps({"id": "p0"}), encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil_model", "spoil_prompts", "settings", "message"),
    [
        (shutil.rmtree, None, {}, r"model: no such folder"),
        (remove_template, None, {}, r"model: field 'chat_template'"),
        (None, truncate_prompts, {}, r"es\.jsonl: row 1: field 'instruction' is missing"),
        (None, shutil.rmtree, {}, r"prompts: no such file or folder"),
        (None, None, {"policy": ""}, r"field 'policy' is missing"),
        (None, None, {"sampler": "server"}, r"field 'server_url'"),
    ],
)
def test_bad_input_is_found_before_anything_is_sampled(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path,
    spoil_model: Callable[[Path], object] | None, spoil_prompts: Callable[[Path], object] | None,
    settings: dict[str, Any], message: str,
) -> None:  # fmt: skip
    model = shutil.copytree(tiny_model, tmp_path / "model")
    if spoil_model:
        spoil_model(model)
    if spoil_prompts:
        spoil_prompts(prompt_folder)
    config = GenerateConfig(**({"policy": str(model), "prompts": str(prompt_folder)} | settings))
    with pytest.raises(InputError, match=message):
        read(config)


def test_a_language_that_the_identifier_does_not_know_has_no_fidelity(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(prompt_folder / "es.jsonl", prompt_folder / "sd.jsonl")
    settings = {"languages": ("en", "es", "sd"), "max_tokens": 40}
    result = generate(tmp_path / "out", tiny_model, prompt_folder, **settings)
    rows = responses_of(tmp_path / "out").to_pylist()
    assert {(row["detected_language"], row["language_confidence"]) for row in rows if row["language"] == "sd"} == {
        ("und", 0.0)
    }
    assert {row["detected_language"] for row in rows if row["language"] == "es"} != {"und"}
    assert "fidelity/sd" not in result.metrics
    assert result.metrics["fidelity/mean"] == (result.metrics["fidelity/en"] + result.metrics["fidelity/es"]) / 2
    assert all(value == value for value in result.metrics.values()), "MLflow keeps NaN as a value"
    assert [note for note in result.notes if note.startswith("sd: langid does not know Sindhi")]
    again = generate(tmp_path / "out", tiny_model, prompt_folder, **settings)
    assert (again.notes, again.metrics) == (
        result.notes,
        {k: v for k, v in result.metrics.items() if k != "tokens_per_second"},
    )

    alone = generate(tmp_path / "alone", tiny_model, prompt_folder, languages=("sd",))
    assert not [name for name in alone.metrics if name.startswith("fidelity")]


def test_fidelity_counts_sisters_as_one(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that answers Indonesian prompts by turns in Malay, in English, and in one word that English has too."""
    texts = ("Kuda itu seekor haiwan.", "A horse is an animal.", "Radio.")
    monkeypatch.setattr(
        TransformersSampler,
        "sample",
        lambda self, requests, samples, seed, advance: [
            [Sample(text, [5], "stop") for text in texts] for _ in requests
        ],
    )
    labels = {"Kuda itu seekor haiwan.": "ms", "A horse is an animal.": "en"}
    toy = Identifier("toy", frozenset({"en", "ms"}), lambda text: Identified(labels.get(text, "en"), 0.99))
    for module in ("generation.stage", "engines.sampling.response_parts"):
        monkeypatch.setattr(f"icr_platform.{module}.make_identifier", lambda name: toy)
    shutil.copy(prompt_folder / "es.jsonl", prompt_folder / "id.jsonl")
    result = generate(tmp_path / "out", tiny_model, prompt_folder, languages=("id",))
    assert result.metrics["fidelity/id"] == pytest.approx(100 / 3)
    assert result.notes == ()
