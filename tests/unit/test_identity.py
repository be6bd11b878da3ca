"""What identifies a stage's work: edits that change a result change its identity, edits that do not leave it alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core import file_digests
from icr_platform.core.artifacts import MANIFEST, ArtifactWriter, open_artifact, write_json
from icr_platform.core.config import leaves, role
from icr_platform.core.errors import InputError
from icr_platform.core.file_digests import remembered_digest
from icr_platform.core.parts import module_of
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, RESPONSES, TRANSLATED_RESPONSES
from icr_platform.demo import IDENTIFIER, JUDGE
from icr_platform.engines.endpoints import served_model
from icr_platform.engines.endpoints.chat_client import Endpoint
from icr_platform.engines.identification.language_id import IDENTIFIERS
from icr_platform.engines.judging.api_judge import confirmed_endpoint
from icr_platform.engines.judging.choice import judge_place
from icr_platform.engines.judging.settings import JUDGES
from icr_platform.engines.sampling.settings import SAMPLERS
from icr_platform.evaluation.config import BenchmarksConfig, EvalConfig
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.model_identity import model_identity
from icr_platform.pipeline import code_digest, identity
from icr_platform.pipeline.code_digest import code_of, commit, modules_of
from icr_platform.pipeline.identity import Identity, identify, strict_digest
from icr_platform.pipeline.stages import STAGES
from icr_platform.training.checkpoint import close_checkpoint, open_checkpoint
from icr_platform.training.config import SftConfig, TrainConfig
from icr_platform.translation.config import TranslateConfig

LANGUAGES = ("en", "es", "de")
IDS = ("p0", "p1", "p2", "p3")
ANSWERED = ("en", "es"), ("p0", "p1", "p2")


def write_model(folder: Path, weights: str) -> None:
    """What a model folder holds, as far as identity goes; nothing of it can be loaded."""
    folder.mkdir()
    write_json(folder / "config.json", {"model_type": "llama", "_name_or_path": "world/policy"})
    for name, text in (
        ("model.safetensors", weights),
        ("tokenizer.json", "{}"),
        ("merges.txt", "a b\n"),
        ("README.md", "x"),
    ):
        (folder / name).write_text(text)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_artifact(folder: Path, table: Any, rows: list[dict[str, Any]]) -> None:
    filled = [{field.name: _filler(field.type) for field in table.schema if not field.nullable} | row for row in rows]
    writer = ArtifactWriter(folder, table, "of the test")
    for part, rows in enumerate((filled[:2], filled[2:])):
        writer.write_part(part, pa.Table.from_pylist(rows, schema=table.schema))
    writer.close(2)


def _filler(kind: pa.DataType) -> Any:
    return "stop" if kind == pa.string() else [1] if pa.types.is_list(kind) else 1


@pytest.fixture
def world(tmp_path: Path, whole_world: Path) -> Path:
    """Models, prompts, artifacts, outputs and files of a judge, in a folder that may be edited and moved."""
    return Path(shutil.copytree(whole_world, tmp_path / "world"))


@pytest.fixture(scope="module")
def whole_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole") / "world"
    root.mkdir()
    for name in ("policy", "reference", "translator", "judge"):
        write_model(root / name, name)
    for language in LANGUAGES:
        rows = [{"id": key, "instruction": f"{language} {key}?", "dataset": "tiny"} for key in IDS]
        write_rows(root / "prompts" / f"{language}.jsonl", rows)
        for folder in ("given", "references"):
            answers = [{"id": key, "output": f"{folder} {key}"} for key in ANSWERED[1]]
            write_rows(root / folder / language / "model.json", answers)
    keys = [{"language": language, "prompt_id": key} for language in ANSWERED[0] for key in ANSWERED[1]]
    samples = [key | {"sample_index": index} for key in keys for index in range(2)]
    write_artifact(root / "responses", RESPONSES, samples)
    write_artifact(root / "sampled", OUTPUTS, samples)
    write_artifact(root / "translated", TRANSLATED_RESPONSES, samples)
    write_artifact(root / "preferences", PREFERENCES, keys)
    for language in ANSWERED[0]:
        ranked = [
            {
                "id": key,
                "prompt": f"{language} {key}?",
                "english_instruction": f"{key}?",
                "chosen": f"good {key}",
                "rejected": "bad",
            }
            for key in IDS
        ]
        write_rows(root / "labelled" / f"{language}.jsonl", ranked)
        verifiable = [
            {
                "key": key,
                "prompt": f"{language} {key}?",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{}],
            }
            for key in IDS
        ]
        write_rows(root / "mif" / f"{language}_local.jsonl", verifiable)
    write_rows(root / "documents.jsonl", [{"instruction": f"{key}?", "output": f"{key}!"} for key in IDS])
    (root / "launch.yaml").write_text("# two\nnum_processes: 2\ndistributed_type: MULTI_GPU\nmain_process_port: 0\n")
    (root / "english.txt").write_text("feedback\nmachine\n")
    (root / "difficulty.csv").write_text("id,instruction_difficulty\np0,0.5\np1,-0.25\n")
    content = "{instruction} {output_m} {output_M}"
    (root / "wording.yaml").write_text(f"- role: user\n  content: '{content}'\n")
    questions = [{"question_id": 1, "category": "stem", "turns": ["a", "b"]}]
    write_rows(root / "questions" / "en.jsonl", questions)
    return root


def config_of(stage: str, root: Path, **over: Any) -> Any:
    """A configuration of the stage, as the runner resolves it."""
    named: dict[str, dict[str, Any]] = {
        "generate": {"policy": "policy", "prompts": "prompts"},
        "annotate": {"policy": "policy", "reference": "reference", "prompts": "prompts", "responses": "responses"},
        "train": {"policy": "policy", "preferences": "preferences"},
        "sft": {"policy": "policy", "documents": "documents.jsonl"},
        "eval": {"policy": "policy", "prompts": "prompts", "reference_outputs": "references/{language}/model.json"},
        "mt_bench": {"policy": "policy", "questions": "questions"},
        "benchmarks": {"policy": "policy"},
        "reward_bench": {"policy": "policy", "reference": "reference", "pairs": "labelled"},
        "instructions": {"policy": "policy", "prompts": "mif"},
    }
    fixed: dict[str, dict[str, Any]] = {"eval": {"judge": JUDGE}, "mt_bench": {"judge_api_model": "judge"}}
    config = STAGES[stage].config.model_validate(fixed.get(stage, {}) | over)
    paths = {name: str(root / path) for name, path in named[stage].items()} | {
        name: str(root / value) for name, value in over.items() if _is_path(stage, name) and value
    }
    return config.model_copy(update=paths)


def _is_path(stage: str, name: str) -> bool:
    roles = {name: role(info) for name, info in leaves(STAGES[stage].config)}
    return roles[name] in ("input", "model") or name == "accelerate_config"


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


PAIRS = [{"prompt": f"{n}?", "chosen": f"yes {n}", "rejected": "no"} for n in range(3)]


def write(path: Path, text: str = "anything") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def answer_otherwise(folder: Path, table: Any) -> None:
    """Write the artifact again with other answers."""
    rows = open_artifact(folder, table).read().to_pylist()
    text = "response" if table is RESPONSES else "output"
    shutil.rmtree(folder)
    write_artifact(folder, table, [row | {text: "another"} for row in rows])


def rename(path: Path, name: str) -> None:
    path.rename(path.with_name(name))


def bracketed(root: Path) -> None:
    """Outputs whose path has a bracket and a question mark in it, which a glob would read as a pattern."""
    (root / "references").rename(root / "r[1]?")


Edit = Callable[[Path], object]
BRACKETS = "r[1]?/{language}/model.json"

# (what is edited, stage, settings before, edit of the files, settings after)
CHANGING: list[tuple[str, str, dict[str, Any], Edit | None, dict[str, Any]]] = [
    ("processes of a launch", "train", {"accelerate_config": "launch.yaml"},
     lambda r: replace_in(r / "launch.yaml", "num_processes: 2", "num_processes: 4"), {}),
    ("a launch", "train", {}, None, {"accelerate_config": "launch.yaml"}),
    ("how a launch distributes", "train", {"accelerate_config": "launch.yaml"},
     lambda r: replace_in(r / "launch.yaml", "MULTI_GPU", "FSDP"), {}),
    ("precision of a launch", "train", {"accelerate_config": "launch.yaml"},
     lambda r: replace_in(r / "launch.yaml", "main_process_port: 0", "mixed_precision: fp8"), {}),
    ("dtype", "generate", {}, None, {"dtype": "bfloat16"}),
    ("dtype of the scorer", "annotate", {}, None, {"dtype": "bfloat16"}),
    ("dtype of the local judge", "eval", {"judge": "logprob", "judge_model": "judge", "outputs": "given"}, None,
     {"dtype": "bfloat16"}),
    ("kind of device", "generate", {"dtype": "float32"}, None, {"device": "cuda:1", "dtype": "float32"}),
    ("an output behind a path with brackets", "eval", {"reference_outputs": BRACKETS},
     lambda r: replace_in(r / "r[1]?/es/model.json", "references p1", "another"), {}),
    ("a given output", "eval", {"outputs": "given"}, lambda r: replace_in(r / "given/es/model.json", "given p1", "x"), {}),
    ("an output beside another tool's manifest", "eval", {"outputs": "given"},
     lambda r: replace_in(r / "given/es/model.json", "given p1", "x"), {}),
    ("a prompt beside another tool's manifest", "generate", {},
     lambda r: replace_in(r / "prompts/es.jsonl", "es p1?", "x?"), {}),
    ("weights beside another tool's manifest", "generate", {},
     lambda r: write(r / "policy/model.safetensors", "other"), {}),
    ("merges.txt", "generate", {}, lambda r: write(r / "policy/merges.txt", "b a\n"), {}),
    ("vocab.txt", "generate", {}, lambda r: write(r / "policy/vocab.txt"), {}),
    ("a chat template", "annotate", {}, lambda r: write(r / "reference/chat_template.jinja"), {}),
    ("a subfolder of a model", "train", {}, lambda r: write(r / "policy/additional_chat_templates/tool.jinja"), {}),
    ("a value of config.json", "generate", {}, lambda r: write_json(r / "policy/config.json", {"model_type": "qwen2"}), {}),
    ("weights", "eval", {}, lambda r: write(r / "policy/model.safetensors", "POLICY"), {}),
    ("weights of the reference", "annotate", {}, lambda r: write(r / "reference/model.safetensors", "REFERENCE"), {}),
    ("weights of the DPO reference", "train", {"dpo_reference": "initial", "reference": "reference"},
     lambda r: write(r / "reference/model.safetensors", "REFERENCE"), {}),
    ("weights of the local judge", "eval", {"judge": "logprob", "judge_model": "judge"},
     lambda r: write(r / "judge/model.safetensors", "JUDGE"), {}),
    ("weights of the translator", "annotate", {"reward_kind": "translate", "translator": "translator"},
     lambda r: write(r / "translator/model.safetensors", "other"), {}),
    ("responses", "annotate", {}, lambda r: answer_otherwise(r / "responses", RESPONSES), {}),
    ("an artifact of outputs", "eval", {"outputs": "sampled", "languages": "en,es"}, lambda r: answer_otherwise(r / "sampled", OUTPUTS), {}),
    ("the order of pairs in a text file", "train", {"preferences": "pairs.jsonl"},
     lambda r: write_rows(r / "pairs.jsonl", PAIRS[::-1]), {}),
    ("seed", "generate", {}, None, {"seed": 43}),
    ("seed of the coin", "eval", {"both_orders": False, "outputs": "given"}, None, {"seed": 43}),
    ("seed of random rewards", "annotate", {"reward_kind": "cross-lingual,random"}, None, {"seed": 43}),
    ("the judge's wording", "eval", {"judge": "logprob", "judge_model": "judge", "judge_template": "wording.yaml"},
     lambda r: replace_in(r / "wording.yaml", "{instruction} ", "{instruction}! "), {}),
    ("orders", "eval", {}, None, {"both_orders": False}),
    ("language identifier", "generate", {}, None, {"language_identifier": "lingua"}),
    ("language identifier of given outputs", "eval", {"outputs": "given"}, None, {"language_identifier": "lingua"}),
    ("temperature", "eval", {}, None, {"temperature": 0.5}),
    ("samples", "generate", {}, None, {"samples": 3}),
    ("beta", "annotate", {}, None, {"beta": 0.2}),
    ("first kind of reward", "annotate", {"reward_kind": "cross-lingual,multilingual"}, None,
     {"reward_kind": "multilingual,cross-lingual"}),
    ("a language more that is sampled", "generate", {"languages": "en,es"}, None, {"languages": "en,es,de"}),
    ("limit", "generate", {}, None, {"limit": 2}),
    ("a prompt that is answered", "annotate", {}, lambda r: replace_in(r / "prompts/es.jsonl", "es p1?", "x?"), {}),
    ("the English text of a prompt that is answered", "annotate", {},
     lambda r: replace_in(r / "prompts/en.jsonl", "en p1?", "x?"), {}),
    ("a difficulty", "eval", {"difficulty": "difficulty.csv"}, lambda r: replace_in(r / "difficulty.csv", "0.5", "0.6"), {}),
    ("a list of English words", "eval", {}, None, {"confusion_words": "english.txt"}),
    ("an English word", "eval", {"confusion_words": "english.txt"}, lambda r: replace_in(r / "english.txt", "machine", "engine"), {}),
    ("vllm's context", "generate", {"sampler": "vllm"}, None, {"sampler": "vllm", "max_model_len": 512}),
    ("engine", "generate", {}, None, {"sampler": "vllm"}),
    ("rank of adapters", "train", {}, None, {"lora_rank": 8}),
    ("what a judge's template is told", "eval", {"judge": "openai", "judge_identity": "j"}, None,
     {"judge_chat_template_kwargs": {"enable_thinking": False}}),
    ("what a grader's template is told", "mt_bench", {"judge_identity": "j"}, None,
     {"judge_chat_template_kwargs": {"enable_thinking": False}}),
    ("what the policy's template is told, for a local judge", "eval",
     {"judge": "logprob", "judge_model": "judge", "outputs": "given"}, None, {"chat_template_kwargs": {"enable_thinking": False}}),
    ("a question", "mt_bench", {"judge_identity": "j"}, lambda r: replace_in(r / "questions/en.jsonl", '"a"', '"c"'), {}),
    ("a labelled response", "reward_bench", {}, lambda r: replace_in(r / "labelled/es.jsonl", "good p1", "x"), {}),
    ("which of two is better", "reward_bench", {},
     lambda r: replace_in(r / "labelled/es.jsonl", '"chosen": "good p1", "rejected": "bad"', '"chosen": "bad", "rejected": "good p1"'), {}),
    ("a labelled prompt", "reward_bench", {}, lambda r: replace_in(r / "labelled/es.jsonl", "es p1?", "x?"), {}),
    ("its English", "reward_bench", {}, lambda r: replace_in(r / "labelled/es.jsonl", '"english_instruction": "p1?"', '"english_instruction": "x"'), {}),
    ("a language less of the pairs", "reward_bench", {}, lambda r: (r / "labelled/en.jsonl").unlink(), {}),
    ("pairs that are limited", "reward_bench", {}, None, {"limit": 1}),
    ("kinds that are measured", "reward_bench", {}, None, {"reward_kind": "multilingual"}),
    ("beta of the rewards that are measured", "reward_bench", {}, None, {"beta": 0.2}),
    ("weights whose reward is measured", "reward_bench", {}, lambda r: write(r / "policy/model.safetensors", "POLICY"), {}),
    ("weights of its reference", "reward_bench", {}, lambda r: write(r / "reference/model.safetensors", "REFERENCE"), {}),
    ("dtype of the rewards that are measured", "reward_bench", {}, None, {"dtype": "bfloat16"}),
    ("seed of drawn rewards", "reward_bench", {"reward_kind": "random,multilingual"}, None, {"seed": 43}),
    ("a verifiable prompt", "instructions", {}, lambda r: replace_in(r / "mif/es_local.jsonl", "es p1?", "x?"), {}),
    ("an instruction in it", "instructions", {},
     lambda r: replace_in(r / "mif/es_local.jsonl", "punctuation:no_comma", "change_case:english_capital"), {}),
    ("weights that follow instructions", "instructions", {}, lambda r: write(r / "policy/model.safetensors", "POLICY"), {}),
    ("temperature of the answers to them", "instructions", {}, None, {"temperature": 0.5}),
    ("samples of the answers to them", "instructions", {}, None, {"samples": 3}),
    ("given answers to them", "instructions", {"outputs": "given"}, lambda r: replace_in(r / "given/es/model.json", "given p1", "x"), {}),
    ("a task's file", "benchmarks", {"task_folder": "tasks"}, lambda r: write(r / "tasks/own.yaml", "task: b"), {}),
]  # fmt: skip


def move_the_world(root: Path) -> Path:
    return root.rename(root.with_name("elsewhere"))


def other_format(root: Path) -> None:
    """The same rows as JSON lines, in another order, under another indent."""
    for language in LANGUAGES:
        path = root / "references" / language / "model.json"
        rows = json.loads(path.read_text())[::-1]
        path.unlink()
        write_rows(root / "references" / f"{language}.jsonl", rows)
        shutil.rmtree(root / "references" / language)


def prompts_as_json(root: Path) -> None:
    for path in list((root / "prompts").iterdir()):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.unlink()
        path.with_suffix(".json").write_text(json.dumps(rows, indent=3))


UNCHANGING: list[tuple[str, str, dict[str, Any], Edit | None, dict[str, Any]]] = [
    ("a language more that annotate does not read", "annotate", {},
     lambda r: replace_in(r / "prompts/de.jsonl", "de p1?", "x?"), {}),
    ("a file of a language more", "annotate", {},
     lambda r: shutil.copy(r / "prompts/de.jsonl", r / "prompts/fr.jsonl"), {}),
    ("a prompt that nobody answers", "annotate", {}, lambda r: replace_in(r / "prompts/es.jsonl", "es p3?", "x?"), {}),
    ("a prompt that no given output answers", "eval", {"outputs": "given"},
     lambda r: replace_in(r / "prompts/es.jsonl", "es p3?", "x?"), {}),
    ("languages that are all there are", "generate", {}, None, {"languages": "de,es,en"}),
    ("a limit that all are below", "generate", {}, None, {"limit": 4}),
    *((f"a moved folder ({stage})", stage, settings, move_the_world, {}) for stage, settings in (
        ("generate", {}), ("annotate", {"reward_kind": "translate", "translator": "translator"}),
        ("train", {"accelerate_config": "launch.yaml"}),
        ("eval", {"judge": "logprob", "judge_model": "judge", "judge_template": "wording.yaml", "difficulty": "difficulty.csv"}),
        ("mt_bench", {"judge_identity": "j"}), ("benchmarks", {"task_folder": "tasks"}),
    )),
    ("the order of English words, and one that is too short", "eval", {"confusion_words": "english.txt"},
     lambda r: (r / "words").write_text("machine\nis\nfeedback\n"), {"confusion_words": "words"}),
    ("a renamed folder", "eval", {"reference_outputs": "references"},
     lambda r: rename(r / "references", "r2"), {"reference_outputs": "r2"}),
    ("an unrelated file beside {language} inputs", "eval", {},
     lambda r: (write(r / "references/es/notes.json"), write(r / "references/fr/model.json")), {}),
    ("a README in folders", "eval", {"reference_outputs": "references", "outputs": "given"},
     lambda r: [write(r / folder / "README.md") for folder in ("references", "given", "prompts")], {}),
    ("files for people and dot-files in a model", "train", {},
     lambda r: [write(r / "policy" / name) for name in
                ("README.md", "LICENSE", "USE_POLICY.md", ".gitattributes", ".cache/x.json", "figure.png")], {}),
    ("a README in an artifact", "annotate", {}, lambda r: write(r / "responses/README.md"), {}),
    ("a README among a benchmark's tasks", "benchmarks", {"task_folder": "tasks"}, lambda r: write(r / "tasks/README"), {}),
    ("where a model lay when it was saved", "generate", {},
     lambda r: replace_in(r / "policy/config.json", "world/policy", "elsewhere"), {}),
    ("order and format of files", "eval", {"reference_outputs": "references"}, other_format, {}),
    ("format of prompts", "generate", {}, prompts_as_json, {}),
    ("a comment in the wording", "eval", {"judge": "logprob", "judge_model": "judge", "judge_template": "wording.yaml"},
     lambda r: replace_in(r / "wording.yaml", "- role", "# a comment\n- role"), {}),
    ("a comment and the port of a launch", "train", {"accelerate_config": "launch.yaml"},
     lambda r: write(r / "launch.yaml", "distributed_type: MULTI_GPU\nnum_processes: 2\nmain_process_port: 29500\n"), {}),
    ("a launch of one process", "train", {}, lambda r: write(r / "launch.yaml", "num_processes: 1\ndistributed_type: 'NO'\n"),
     {"accelerate_config": "launch.yaml"}),
    ("the words dtype and device", "generate", {"dtype": "auto", "device": "auto"}, None,
     {"dtype": "float32", "device": "cpu"}),
    ("how rows are grouped", "generate", {}, None, {"batch_size": 2, "shard_prompts": 3}),
    ("how rows are grouped by eval", "eval", {}, None, {"batch_size": 2, "shard_prompts": 3}),
    ("batch_tokens", "annotate", {}, None, {"batch_tokens": 64}),
    ("how a CPU scores", "annotate", {}, None, {"cpu_library": "torch", "cpu_threads": 1, "pack_tokens": 64}),
    ("how a CPU trains", "train", {}, None, {"cpu_library": "torch"}),
    ("requests at once", "eval", {"judge": "openai", "judge_identity": "j"}, None,
     {"judge": "openai", "judge_identity": "j", "judge_concurrency": 2, "judge_retries": 1, "judge_url": "http://x:1/v1"}),
    ("who samples where outputs are given", "eval", {"outputs": "given"}, None, {"temperature": 0.1, "sampler": "vllm"}),
    ("what the policy's template is told, for an endpoint that judges given outputs", "eval",
     {"judge": "openai", "judge_identity": "j", "outputs": "given"}, None,
     {"judge": "openai", "judge_identity": "j", "outputs": "given", "chat_template_kwargs": {"enable_thinking": False}}),
    ("a judge's template is told nothing", "eval", {"judge": "openai", "judge_identity": "j"}, None,
     {"judge": "openai", "judge_identity": "j", "judge_chat_template_kwargs": {}}),
    ("the judge where there is none", "eval", {"judge": "none"}, None, {"judge": "none", "both_orders": False}),
    ("the reference that DPO does not use", "train", {}, None, {"reference": "reference"}),
    ("seed of rewards that are not random", "annotate", {}, None, {"seed": 43}),
    ("names of the pairs' files", "reward_bench", {}, lambda r: rename(r / "labelled", "pairs"), {"pairs": "pairs"}),
    ("a README among labelled pairs", "reward_bench", {}, lambda r: write(r / "labelled/README.md"), {}),
    ("how pairs are grouped", "reward_bench", {}, None, {"batch_tokens": 64, "shard_pairs": 2}),
    ("seed of pairs that nothing is drawn for", "reward_bench", {"reward_kind": "multilingual"}, None, {"seed": 43}),
    ("where rewards are measured", "reward_bench", {}, None, {"execution": "ray", "concurrency": 2}),
    ("a folder of instructions by another name", "instructions", {}, lambda r: rename(r / "mif", "ifeval"), {"prompts": "ifeval"}),
    ("a README among instructions", "instructions", {}, lambda r: write(r / "mif/README.md"), {}),
    ("how answers are grouped", "instructions", {}, None, {"batch_size": 2, "shard_prompts": 3}),
    ("who follows instructions where answers are given", "instructions", {"outputs": "given"}, None, {"temperature": 0.1, "sampler": "vllm"}),
    ("where Ray works", "generate", {}, None,
     {"execution": "ray", "ray_address": "head:6379", "concurrency": 8, "num_cpus": 4, "shared_folder": "s3://b/x"}),
]  # fmt: skip


def settled(world: Path, settings: dict[str, Any]) -> None:
    """Put into the world what the settings need."""
    if settings.get("reference_outputs") == BRACKETS:
        bracketed(world)
    if "task_folder" in settings:
        write(world / "tasks/own.yaml", "task: a")
    if "preferences" in settings:
        write_rows(world / "pairs.jsonl", PAIRS)


def identities(
    world: Path, row: tuple[str, str, dict[str, Any], Edit | None, dict[str, Any]]
) -> tuple[Identity, Identity]:
    what, stage, settings, edit, after = row
    settled(world, settings)
    if "another tool's manifest" in what:
        for folder in ("policy", "prompts", "given"):
            write(world / folder / MANIFEST, '{"digest": "1", "files": []}')
    before = identify(stage, config_of(stage, world, **settings))
    moved = edit(world) if edit else None
    root = moved if isinstance(moved, Path) and moved.is_dir() and moved.name == "elsewhere" else world
    return before, identify(stage, config_of(stage, root, **(settings | after)))


@pytest.mark.parametrize("row", CHANGING, ids=lambda row: row[0])
def test_what_changes_a_result_changes_its_identity(world: Path, row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before, after = identities(world, row)
    assert before.work != after.work
    assert before.fingerprint != after.fingerprint


@pytest.mark.parametrize("row", UNCHANGING, ids=lambda row: row[0])
def test_what_leaves_a_result_alone_leaves_its_identity_alone(
    world: Path, row: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before, after = identities(world, row)
    assert before.work == after.work
    assert before.rows == after.rows
    assert before.inputs == after.inputs


def test_every_setting_is_looked_at_by_the_work_of_its_stage(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that is added later counts, unless it is said here that it does not."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    all_read: dict[str, dict[str, Any]] = {
        "generate": {"sampler": "vllm"},
        "annotate": {
            "reward_kind": "translate,random,scalar",
            "translator": "translator",
            "reward_model": "judge",
            "translations": "translated",
        },
        "train": {"lora_rank": 8, "reference": "reference"},
        "eval": {"judge": "openai", "judge_identity": "j", "sampler": "vllm", "both_orders": False},
        "mt_bench": {"judge_identity": "j", "sampler": "vllm"},
        "benchmarks": {"chat": "yes"},
    }
    columns = {f"{name}_columns" for name in ("prompt", "preference", "reference", "output")}
    not_read = {
        "languages",
        "limit",
        "server_model",
        "server_identity",
        *columns,
    }  # the rows are; of the server sampler only
    others = {"tasks": ("a",), "families": ("arc",), "languages": ("es",), "judge": "none", "sampler": "transformers"}
    for stage, settings in all_read.items():
        config = config_of(stage, world, **settings)
        before = identify(stage, config).work
        for name, info in leaves(type(config)):
            if role(info) == "setting" and not (name in not_read and stage != "benchmarks"):
                value = getattr(config, name)
                other = others.get(name) or _another(info.annotation, value)
                if other != value:
                    assert identify(stage, config.model_copy(update={name: other})).work != before, f"{stage}.{name}"


def _another(kind: Any, value: Any) -> Any:
    choices = [choice for choice in getattr(kind, "__args__", ()) if isinstance(choice, str) and choice != value]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 0.25 if value in (0, float("inf")) else value * 2
    return (
        choices[-1]
        if choices
        else ("cross-lingual",)
        if isinstance(value, tuple)
        else f"{value}x"
        if value is not None
        else 7
    )


ROWS: list[tuple[str, str, dict[str, Any], dict[str, Any], set[str]]] = [
    # (what is changed, stage, settings before, after, artifacts whose rows are then made otherwise)
    ("languages and limit", "generate", {}, {"languages": "es", "limit": 1}, set()),
    ("prompts", "generate", {}, {"prompts": "questions"}, set()),
    ("seed", "generate", {}, {"seed": 1}, {"responses"}),
    ("identifier", "generate", {}, {"language_identifier": IDENTIFIER}, {"responses"}),
    ("beta, alpha, filters", "annotate", {},
     {"beta": 1.0, "alpha_min": 0.0, "drop_truncated": False, "upper_bound": 1.0, "minimal_margin": 1.0,
      "reward_kind": "multilingual"}, set()),
    ("dtype", "annotate", {}, {"dtype": "float16"}, {"policy-logprobs", "reference-logprobs"}),
    ("policy", "annotate", {}, {"policy": "judge"}, {"policy-logprobs"}),
    ("reference", "annotate", {}, {"reference": "judge"}, {"reference-logprobs"}),
    ("reward model", "annotate", {"reward_kind": "scalar", "reward_model": "judge"}, {"reward_model": "translator"}, {"reward-scores"}),
    ("its label", "annotate", {"reward_kind": "scalar,multilingual", "reward_model": "judge"}, {"reward_label": "1"}, {"reward-scores"}),
    ("tokens that others score", "annotate", {"reward_kind": "scalar", "reward_model": "judge"}, {"score": "whole"}, set()),
    ("length of translations", "annotate", {"reward_kind": "translate", "translator": "translator"},
     {"translation_max_tokens": 9}, {"policy-logprobs", "reference-logprobs", "translations"}),
    ("temperature", "eval", {}, {"temperature": 1.0}, {"outputs"}),
    ("policy of an evaluation", "eval", {}, {"policy": "reference"}, {"outputs"}),
    ("orders of an evaluation", "eval", {}, {"both_orders": False}, {"judgments"}),
    ("judge", "eval", {}, {"judge": "logprob", "judge_model": "judge"}, {"judgments"}),
    ("length control", "eval", {}, {"lc_cross_validation": True, "difficulty": "difficulty.csv"}, set()),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_known_by_what_computes_it_alone(world: Path, row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    _, stage, settings, after, changed = row
    if after.get("prompts"):
        shutil.copytree(world / "prompts", world / "questions", dirs_exist_ok=True)
        replace_in(world / "questions/en.jsonl", "en p1?", "x?")
    first = identify(stage, config_of(stage, world, **settings)).rows
    second = identify(stage, config_of(stage, world, **(settings | after))).rows
    assert {name for name in first if first[name] != second.get(name)} == changed
    assert first.keys() == second.keys()


# ---------------------------------------------------------------------------------------------------- code


def edited(monkeypatch: pytest.MonkeyPatch, modules: Sequence[str], change: Callable[[str], str]) -> None:
    """The package with some modules edited, as long as the test runs."""
    read = code_digest.source_of
    names = {f"icr_platform.{module}" for module in modules}

    def source(name: str) -> str | None:
        text = read(name)
        return change(text) if name in names and text is not None else text

    monkeypatch.setattr(code_digest, "source_of", source)
    forget_code()


def forget_code() -> None:
    for cached in (code_digest._tree, code_digest._tree_digest, code_digest._imports, code_digest._digest):
        cached.cache_clear()


@pytest.fixture
def _fresh_code() -> Iterator[None]:
    forget_code()
    yield
    forget_code()


def with_a_statement(text: str) -> str:
    return text + "\nEDITED = 1\n"


def with_other_prose(text: str) -> str:
    """Comments, blank lines, brackets and docstrings edited; no statement."""
    import ast

    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        is_documented = isinstance(body, list) and body and code_digest._is_docstring(body[0])
        if is_documented and isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            body[0].value.value = "Says something else."  # type: ignore[index]
    return "# a comment\n" + ast.unparse(tree) + "\n\n# another\n"


CODE = [
    # (stage, settings, module, whether it makes this stage's numbers)
    ("generate", {}, "engines.sampling.transformers_sampler", True),
    ("generate", {}, "engines.sampling.decoding", True),
    ("generate", {}, "engines.sampling.block_attention", True),
    ("generate", {}, "engines.sampling.token_choice", True),
    ("generate", {}, "engines.sampling.response_parts", True),
    ("generate", {}, "models.chat", True),
    ("generate", {}, "engines.identification.language_id", True),
    ("generate", {}, "engines.sampling.vllm_sampler", False),
    ("generate", {}, "engines.sampling.engine_queue", False),
    ("generate", {"sampler": "vllm"}, "engines.sampling.engine_queue", True),
    ("generate", {}, "demo.grader", False),
    ("generate", {"language_identifier": IDENTIFIER}, "demo.world", True),
    ("generate", {}, "engines.scoring.logprobs", False),
    ("annotate", {}, "engines.scoring.logprobs", True),
    ("annotate", {}, "engines.scoring.packed_attention", True),
    ("annotate", {}, "annotation.length_control", True),
    ("annotate", {}, "engines.scoring.reward_kinds", True),
    ("annotate", {}, "core.languages", True),
    ("annotate", {}, "engines.sampling.translation", False),
    ("annotate", {}, "engines.scoring.scalar_scores", False),
    ("annotate", {}, "models.reward_models", False),
    ("annotate", {"reward_kind": "scalar", "reward_model": "judge"}, "engines.scoring.scalar_scores", True),
    ("annotate", {"reward_kind": "scalar", "reward_model": "judge"}, "engines.scoring.reward_texts", True),
    ("annotate", {}, "engines.sampling.transformers_sampler", False),
    ("annotate", {"reward_kind": "translate", "translator": "translator"}, "engines.sampling.transformers_sampler", True),
    ("train", {}, "training.dpo", True),
    ("train", {}, "training.dataset", True),
    ("train", {}, "training.model_card", False),
    ("eval", {"outputs": "given"}, "evaluation.win_rate", True),
    ("eval", {"outputs": "given"}, "demo.judge", True),
    ("eval", {"outputs": "given"}, "engines.judging.local_judge", False),
    ("eval", {"outputs": "given"}, "engines.sampling.transformers_sampler", False),
    ("eval", {"outputs": "given"}, "engines.endpoints.replies", False),
    ("eval", {"outputs": "given", "judge": "openai", "judge_identity": "j"}, "engines.endpoints.replies", True),
]  # fmt: skip


@pytest.mark.usefixtures("_fresh_code")
@pytest.mark.parametrize(("stage", "settings", "module", "counts"), CODE)
def test_the_code_that_makes_a_stages_numbers_counts(
    world: Path, stage: str, settings: dict[str, Any], module: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(stage, world, **settings)
    before = identify(stage, config)
    with monkeypatch.context() as patch:
        edited(patch, [module], with_a_statement)
        after = identify(stage, config)
        assert (before.code.digest != after.code.digest) == counts
        assert (before.fingerprint != after.fingerprint) == counts
        assert before.work == after.work, "what the work is does not depend on the code that does it"
    with monkeypatch.context() as patch:
        edited(patch, [module], with_other_prose)
        assert identify(stage, config).fingerprint == before.fingerprint


@pytest.mark.usefixtures("_fresh_code")
@pytest.mark.parametrize("stage", ["generate", "annotate", "train", "eval"])
def test_modules_that_make_no_numbers_may_be_edited(world: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = identify(stage, config_of(stage, world))
    plumbing = (
        "cli.commands",
        "core.config",
        "tracking.tracker",
        "report.arm_report",
        "core.progress",
        "pipeline.runner",
        "engines.execution.map_parts",
        "core.errors",
        "planning.check",
        "pipeline.iterate",
    )
    edited(monkeypatch, plumbing, with_a_statement)
    assert identify(stage, config_of(stage, world)).fingerprint == before.fingerprint


def test_modules_and_settings_that_are_left_out_are_there_under_these_names() -> None:
    """A module or a setting that is renamed would otherwise count again without a word."""
    named = {f"icr_platform.{module}" for module in identity._SCORING} | code_digest.PLUMBING
    named |= {row.module for row in STAGES.values()}
    named |= {
        f"icr_platform.{module}" for module in ("generation", "engines.sampling.translation", "evaluation.outputs")
    }
    named |= {module_of(sampler.part.place) for sampler in SAMPLERS.values()}
    named |= {module_of(judge_place(name)) for name in JUDGES} | {
        module_of(part.place) for part in IDENTIFIERS.values()
    }
    assert named <= set(code_digest._modules())
    assert set(identity._SEED_PICKS_ORDERS) <= set(JUDGES)
    assert identity._SELECTION | set(identity._TRANSLATION) <= set(AnnotateConfig.model_fields)
    names = (*identity._LENGTH_CONTROL, *identity._ASKING, *identity._BY_RESOLUTION, *identity._BY_ROWS)
    assert set(names) <= {
        *EvalConfig.model_fields, *TrainConfig.model_fields, *SftConfig.model_fields, *RewardBenchConfig.model_fields,
        *TranslateConfig.model_fields,
    }  # fmt: skip


@pytest.mark.usefixtures("_fresh_code")
def test_a_change_of_pair_selection_leaves_the_code_of_scores_alone(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = identify("annotate", config_of("annotate", world)).row_code
    edited(monkeypatch, ["annotation.length_control"], with_a_statement)
    assert identify("annotate", config_of("annotate", world)).row_code == before
    edited(monkeypatch, ["engines.scoring.packing"], with_a_statement)
    after = identify("annotate", config_of("annotate", world)).row_code
    assert all(after[name] != before[name] for name in ("policy-logprobs", "reference-logprobs"))


@pytest.mark.usefixtures("_fresh_code")
def test_without_sources_the_version_stands_for_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with_sources = code_of(("icr_platform.generation.stage",)).digest
    monkeypatch.setattr(code_digest, "source_of", lambda name: None)
    forget_code()
    first = code_of(("icr_platform.generation.stage",)).digest
    monkeypatch.setattr("icr_platform.__version__", "9.9.9")
    forget_code()
    assert len({with_sources, first, code_of(("icr_platform.generation.stage",)).digest}) == 3


def test_the_digest_of_code_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; from icr_platform.pipeline.code_digest import code_of\n"
        "start = time.process_time()\n"
        "[code_of((f'icr_platform.{n}.stage',)) for n in ('generation', 'annotation', 'training', 'evaluation')]\n"
        "print(time.process_time() - start); sys.exit(bool({'torch', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 1.0, "0.12 s on an idle machine"


@pytest.mark.usefixtures("_fresh_code")
def test_data_that_a_module_reads_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_digest, "files", lambda _: tmp_path)
    digests = []
    for name, text in (("published.csv", "a"), ("published.csv", "b"), ("other.csv", "b")):
        write(tmp_path / "data" / name, text)
        forget_code()
        digests.append(code_of(("icr_platform.report.leaderboard",)).digest)
    assert digests[0] != digests[1] == digests[2]


@pytest.mark.parametrize(("url", "address"), [
    ("https://User:pw@Host.org./v1/?key=1", "https://host.org:443/v1"), ("http://host:8000", "http://host:8000"),
    ("http://localhost:1/v1", f"http://{socket.gethostname()}:1/v1"), ("http://127.0.0.1/v1", f"http://{socket.gethostname()}:80/v1"),
    ("http://[::1]:9/v1", f"http://{socket.gethostname()}:9/v1"), ("http://host/v1", "http://host:80/v1"),
])  # fmt: skip
def test_an_address_is_host_port_and_path(url: str, address: str) -> None:
    assert served_model.Server(url, "m", "K", "", "judge").address == address


@pytest.mark.parametrize(
    "url", ["", "host:8000", "ftp://host/v1", "http://host:port/v1", "http://[::1/v1", "http:///v1"]
)
def test_what_is_no_address_identifies_nothing(url: str) -> None:
    with pytest.raises(InputError, match=r"field 'judge_url' is .* give the endpoint's base URL"):
        served_model.Server(url, "m", "K", "", "judge")


def test_relative_imports_and_names_of_modules_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "icr_platform.models.chat": "def f():\n    from . import loading, nothing\n    from ..engines.scoring import packing as p\n",
        "icr_platform.models.loading": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from icr_platform.core import languages\n",
    }
    monkeypatch.setattr(code_digest, "source_of", lambda name: sources.get(name, ""))
    forget_code()
    found = modules_of(("icr_platform.models.chat",))
    forget_code()
    assert found == [
        f"icr_platform.{name}"
        for name in ("engines.scoring", "engines.scoring.packing", "models", "models.chat", "models.loading")
    ]


def test_the_commit_is_that_of_this_packages_own_repository(tmp_path: Path) -> None:
    """A wheel that is installed within another project's repository is no part of that one."""
    package = tmp_path / "venv" / "icr_platform"
    shutil.copytree(Path(code_digest.__file__).parent.parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of another project"], check=True)

    def told() -> str:
        command = [sys.executable, "-c", "from icr_platform.pipeline.code_digest import commit; print(commit())"]
        environment = os.environ | {"PYTHONPATH": str(package.parent)}
        return subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment, cwd=tmp_path
        ).stdout.strip()

    assert told() == "version 0.1.0"
    subprocess.run([*git, "add", "venv/icr_platform"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "of this one"], check=True)
    clean = told()
    assert len(clean) == 12
    with (package / "models" / "chat.py").open("a") as file:
        file.write("EDITED = 1\n")
    assert told() == f"{clean}-dirty"
    assert commit()


# ---------------------------------------------------------------------------------------------------- files


@pytest.fixture
def never_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just written are remembered as those of yesterday are."""
    monkeypatch.setattr(file_digests, "_RECENT", -1.0)
    monkeypatch.setattr(file_digests, "_in_process", {})


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    reads: list[Path] = []
    digest = hashlib.file_digest

    def counted(file: Any, algorithm: str) -> Any:
        reads.append(Path(file.name))
        return digest(file, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", counted)
    return reads


@pytest.mark.usefixtures("never_recent")
def test_a_file_is_read_once_for_all_processes_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ü [1].bin"
    path.write_bytes(b"one")
    reads = count_reads(monkeypatch)
    first = remembered_digest(path)
    monkeypatch.setattr(file_digests, "_in_process", {})  # as in another process
    assert remembered_digest(path) == first
    assert len(reads) == 1
    stamp = path.stat()
    time.sleep(0.02)
    path.write_bytes(b"two")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # an edit of the same size that hides its time
    assert remembered_digest(path) != first
    assert len(reads) == 2


@pytest.mark.usefixtures("never_recent")
def test_files_of_a_folder_are_looked_up_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, beside = tmp_path / "ä [1]", tmp_path / "ä [1]-beside"
    paths = [parent / f"{name}.bin" for parent in (folder, folder / "inner", beside) for name in range(8)]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(str(path).encode())
    naive = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    reads = count_reads(monkeypatch)
    for read in (24, 0, 1):
        monkeypatch.setattr(file_digests, "_in_process", {})  # as in another process
        opened: list[None] = []
        database = file_digests._database
        with monkeypatch.context() as counted:
            counted.setattr(file_digests, "_database", lambda: opened.append(None) or database())  # noqa: B023
            with file_digests.digests_together(folder):
                assert [remembered_digest(path) for path in paths] == naive
        assert len(opened) <= 2 + 8, "one look, one note, and one for each file beside the folder"
        assert len(reads) == read
        reads.clear()
        paths[0].write_bytes(b"edited" + bytes(read))  # of another size each time
        naive[0] = hashlib.sha256(paths[0].read_bytes()).hexdigest()
        monkeypatch.setattr(file_digests, "_in_process", {})
        if read == 24:
            remembered_digest(paths[0])
            reads.clear()


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two edits may share a tick of the file system's clock."""
    path = tmp_path / "x"
    path.write_bytes(b"one")
    stamp = path.stat()
    digests = {remembered_digest(path)}
    path.write_bytes(b"two")
    same = file_digests._Stamp(stamp.st_size, stamp.st_mtime_ns, stamp.st_ctime_ns, stamp.st_ino)
    monkeypatch.setattr(file_digests, "_stamp", lambda _: same)
    assert remembered_digest(path) not in digests


@pytest.mark.usefixtures("never_recent")
@pytest.mark.parametrize("spoil", ["no folder", "not a database", "locked"])
def test_digests_are_right_where_they_cannot_be_remembered(
    tmp_path: Path, spoil: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("ICR_CACHE", str(cache))
    monkeypatch.setattr(file_digests, "_WAIT", 0.05)
    if spoil == "no folder":
        cache.write_text("a file")
    else:
        cache.mkdir()
    if spoil == "not a database":
        (cache / "digests.sqlite").write_text("not a database " * 100)
    if spoil == "locked":
        other = sqlite3.connect(cache / "digests.sqlite", isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    path = tmp_path / "x"
    path.write_bytes(b"one")
    assert remembered_digest(path).startswith("7692c3ad3540bb80")


@pytest.mark.usefixtures("never_recent")
def test_many_processes_share_what_is_remembered(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}").write_text(f"{number}")
    code = (
        "import sys; from pathlib import Path; from icr_platform.core import file_digests as f; f._RECENT = -1\n"
        f"print([f.remembered_digest(Path({str(tmp_path)!r}) / str(n)) for n in range(40)])"
    )
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate()[0] for process in started}
    assert len(said) == 1
    assert all(process.returncode == 0 for process in started)
    folder = file_digests.user_cache()
    with sqlite3.connect(folder / "digests.sqlite") as database:
        rows = database.execute("SELECT count(*) FROM files WHERE path LIKE ?", (f"{tmp_path}%",)).fetchone()
    assert rows == (40,)


DAMAGE: list[tuple[str, Callable[[Path], object], str]] = [
    (
        "a byte",
        lambda p: p.write_bytes(p.read_bytes()[:-1] + b"x"),
        "other bytes than were written",
    ),
    ("cut", lambda p: p.write_bytes(p.read_bytes()[:-1]), r"\d+ bytes instead of \d+"),
    ("lost", lambda p: p.unlink(), "missing"),
    ("a folder in its place", lambda p: (p.unlink(), p.mkdir()), "missing"),
]


@pytest.mark.parametrize(("spoil", "message"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_damage_is_found_before_use_and_named(world: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(world / "responses" / "part-00001.parquet")
    with pytest.raises(
        InputError, match=rf"responses/part-00001\.parquet: {message}; the file is truncated or damaged"
    ):
        identify("annotate", config_of("annotate", world))
    close_checkpoint(world / "policy", "f", {})
    spoil(world / "policy" / "model.safetensors")
    with pytest.raises(InputError, match=rf"policy/model\.safetensors: {message}"):
        open_checkpoint(world / "policy")


def test_damaged_weights_of_a_checkpoint_are_not_another_model(world: Path) -> None:
    plain = model_identity(str(world / "policy"))
    close_checkpoint(world / "policy", "f", {"seconds": 3.0})
    assert model_identity(str(world / "policy")) == plain, "its manifest is no part of it"
    (world / "policy" / "README.md").write_text("edited")
    open_checkpoint(world / "policy")
    write(world / "policy" / "model.safetensors", "POLICY")
    with pytest.raises(InputError, match=r"model\.safetensors: other bytes than were written.*delete manifest\.json"):
        model_identity(str(world / "policy"))


def test_a_checkpoint_may_have_folders(world: Path) -> None:
    write(world / "policy/additional_chat_templates/tool.jinja", "x")
    close_checkpoint(world / "policy", "f", {})
    assert world / "policy/additional_chat_templates/tool.jinja" in open_checkpoint(world / "policy").files
    write(world / "policy/additional_chat_templates/tool.jinja", "y")
    with pytest.raises(InputError, match=r"additional_chat_templates/tool\.jinja: other bytes"):
        open_checkpoint(world / "policy")


def test_links_that_lead_in_circles_end(world: Path) -> None:
    before = model_identity(str(world / "policy"))
    (world / "policy" / "again").symlink_to(world / "policy")
    assert model_identity(str(world / "policy")) == before


def test_a_hub_model_is_its_name_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    commit: list[str | None] = ["abc"]
    monkeypatch.setattr("icr_platform.models.model_identity.hub_commit", lambda _: commit[-1])
    first = model_identity("org/name")
    assert first != model_identity("org/other")
    commit.append("abd")
    assert model_identity("org/name") != first
    commit.append(None)
    with pytest.raises(InputError, match="org/name: the commit of this hub model is unknown"):
        model_identity("org/name")


def test_a_manifest_of_ours_that_is_damaged_is_not_taken_for_another_tools(world: Path) -> None:
    (world / "sampled" / MANIFEST).write_text("{")
    with pytest.raises(InputError, match=r"sampled/manifest\.json: not readable as JSON"):
        identify("eval", config_of("eval", world, outputs="sampled"))


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), max_size=5), st.randoms())
def test_rows_are_digested_in_any_order_and_never_run_together(rows: list[tuple[str, str]], random: Any) -> None:
    shuffled = random.sample(rows, len(rows))
    assert identity._rows_digest(rows) == identity._rows_digest(shuffled)
    assert identity._rows_digest([*rows, ("", "")]) != identity._rows_digest(rows)
    assert identity._rows_digest([("a", "bc"), *rows]) != identity._rows_digest([("ab", "c"), *rows])


# ---------------------------------------------------------------------------------------------------- servers

VLLM = {"id": "judge", "object": "model", "created": 1, "owned_by": "vllm", "root": "org/judge-8b", "parent": None,
        "max_model_len": 4096, "permission": [{"id": "modelperm-1", "created": 1}]}  # fmt: skip
OLLAMA = {"id": "judge", "object": "model", "created": 5, "owned_by": "library"}
LLAMA_CPP = {"id": "judge", "object": "model", "created": 5, "owned_by": "llamacpp", "meta": {"n_params": 8, "size": 9}}


class Models(ThreadingHTTPServer):
    """An endpoint on this machine that says which models it has."""

    def __init__(self, *entries: dict[str, Any], status: int = 200, body: bytes | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Models)
        self.entries, self.status, self.body, self.asked = entries, status, body, 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server: Any = self.server
        server.asked += 1
        assert self.path == "/v1/models"
        body = json.dumps({"object": "list", "data": server.entries}).encode() if server.body is None else server.body
        self.send_response(server.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


Serve = Callable[..., Models]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(served_model, "_WAITS", ())
    monkeypatch.setattr(served_model, "_taken_for", {})
    started: list[Models] = []

    def start(*entries: dict[str, Any], **how: Any) -> Models:
        started.append(Models(*entries, **how))
        started[-1].start()
        return started[-1]

    yield start
    for server in started:
        server.stop()


def judged_by(world: Path, url: str, **over: Any) -> Identity:
    config = config_of("eval", world, judge="openai", judge_api_model="judge", judge_url=url, outputs="given", **over)
    return identify("eval", config)


SERVERS = [
    # (what the first and the second server say, whether they count as one)
    (VLLM, VLLM, True),
    (VLLM, VLLM | {"created": 99, "permission": []}, True),
    (VLLM, VLLM | {"root": "org/judge-70b"}, False),
    (VLLM, VLLM | {"max_model_len": 8192}, False),
    (VLLM | {"root": None}, VLLM | {"root": None}, False),
    (OLLAMA, OLLAMA, False),
    (LLAMA_CPP, LLAMA_CPP, False),
    ({"id": "another"}, VLLM, False),
]


@pytest.mark.parametrize(("first", "second", "is_one"), SERVERS)
def test_two_servers_are_one_only_where_they_say_that_they_serve_one_model(
    world: Path, serve: Serve, first: dict[str, Any], second: dict[str, Any], is_one: bool
) -> None:
    one, other = (judged_by(world, serve(entry).url) for entry in (first, second))
    assert (one.work == other.work) == is_one
    assert (one.rows["judgments"] == other.rows["judgments"]) == is_one
    assert one.rows["outputs"] == other.rows["outputs"]


def test_the_same_for_the_server_that_samples(world: Path, serve: Serve) -> None:
    def sampled(server: Models, **over: Any) -> Identity:
        config = config_of("generate", world, sampler="server", server_url=server.url, server_model="judge", **over)
        return identify("generate", config)

    one, same, other = (sampled(serve(entry)) for entry in (VLLM, VLLM, VLLM | {"root": "org/other"}))
    assert one.work == same.work != other.work
    assert one.rows["responses"] == same.rows["responses"] != other.rows["responses"]
    named = [sampled(serve(entry), server_identity="mine") for entry in (VLLM, OLLAMA)]
    assert named[0].work == named[1].work != one.work


def test_a_name_that_is_given_counts_and_nobody_is_asked(world: Path, serve: Serve) -> None:
    servers = serve(OLLAMA), serve(VLLM)
    one, other = (judged_by(world, server.url, judge_identity="judge of May") for server in servers)
    assert one.work == other.work
    assert not any(server.asked for server in servers)
    assert judged_by(world, servers[0].url, judge_identity="judge of June").work != one.work


def test_a_provider_is_known_by_its_host_and_not_asked(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("httpx.get", lambda *_, **__: pytest.fail("asked"))
    ours = judged_by(world, "")
    assert ours.work == judged_by(world, "https://api.openai.com/v1/").work
    assert ours.work != judged_by(world, "https://openrouter.ai/api/v1").work


@pytest.mark.parametrize("answer", [
    {"status": 404}, {"status": 401}, {"body": b"<html>"}, {"body": b"[]"}, {"body": b'{"data": 3}'}, {"body": b'{"data": [1]}'},
])  # fmt: skip
def test_a_server_that_says_nothing_of_use_is_known_by_its_address(
    world: Path, serve: Serve, answer: dict[str, Any]
) -> None:
    first, second = serve(VLLM, **answer), serve(VLLM, **answer)
    assert judged_by(world, first.url).work == judged_by(world, first.url + "/").work
    assert judged_by(world, first.url).work != judged_by(world, second.url).work


def test_finished_work_is_found_while_the_server_is_down(world: Path, serve: Serve, capsys: Any) -> None:
    server = serve(VLLM)
    before = judged_by(world, server.url)
    server.stop()
    assert judged_by(world, server.url).work == before.work
    assert "does not answer (ConnectError); taken for the model that it served last" in capsys.readouterr().err
    config = EvalConfig(judge="openai", judge_api_model="judge", judge_url=server.url)
    with pytest.raises(
        InputError, match=r"http://127.* does not answer \(ConnectError\).*name the model by judge_identity"
    ):
        confirmed_endpoint(config)


def test_a_server_that_comes_back_with_another_model_is_not_asked(world: Path, serve: Serve) -> None:
    server = serve(VLLM)
    judged_by(world, server.url)
    server.status = 503
    judged_by(world, server.url)
    server.status, server.entries = 200, (VLLM | {"root": "org/judge-70b"},)
    with pytest.raises(InputError, match="serves another 'judge' than before it stopped answering"):
        confirmed_endpoint(EvalConfig(judge="openai", judge_api_model="judge", judge_url=server.url))
    judged_by(world, server.url)


def test_a_server_that_was_never_seen_is_refused_while_it_is_silent(
    world: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sécret\n")
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1:9/v1: does not answer") as caught:
        judged_by(world, "http://me:password@127.0.0.1:9/v1?key=abc")
    assert not any(secret in str(caught.value) for secret in ("cret", "password", "abc"))


def test_replies_of_two_servers_under_one_name_are_kept_apart(world: Path, serve: Serve) -> None:
    def identity_at(server: Models) -> str:
        return confirmed_endpoint(EvalConfig(judge="openai", judge_api_model="judge", judge_url=server.url)).identity

    one, same, other, silent = (serve(entry) for entry in (VLLM, VLLM, VLLM | {"root": "org/other"}, OLLAMA))
    assert identity_at(one) == identity_at(same) != identity_at(other)
    plain = Endpoint("judge", silent.url, "OPENAI_API_KEY", 1, 1.0, 0)
    assert plain.identity == identity_at(silent), "an endpoint that was not asked is known by its address"


def test_an_estimate_can_be_made_while_the_judge_is_down(
    world: Path, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from icr_platform.engines.judging.api_judge import ApiJudge
    from icr_platform.engines.judging.pairwise import DEFAULT_TEMPLATE

    server = serve(VLLM)
    server.stop()
    config = EvalConfig(judge="openai", judge_api_model="judge", judge_url=server.url, judge_cache=str(tmp_path / "c"))
    assert ApiJudge.from_settings(config, DEFAULT_TEMPLATE, config.seed, is_asked=False).endpoint.url == server.url
    with pytest.raises(InputError, match="does not answer"):
        ApiJudge.from_settings(config, DEFAULT_TEMPLATE, config.seed)


def test_where_the_work_is_done_is_no_part_of_its_identity() -> None:
    elsewhere = {"execution", "ray_address", "concurrency", "num_cpus", "num_gpus", "shared_folder"}
    for config in (GenerateConfig, AnnotateConfig, EvalConfig):
        assert elsewhere <= {name for name, info in leaves(config) if role(info) == "place"}


def test_benchmarks_that_are_told_unread_are_those_of_one_lm_eval(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = BenchmarksConfig(policy=str(tiny_model))
    digests = set()
    for number in ("0.4.8", "0.4.9"):
        monkeypatch.setattr("icr_platform.pipeline.identity.version", lambda name, number=number: number)
        digests.add(strict_digest("benchmarks", config, {}))
    assert len(digests) == 2
