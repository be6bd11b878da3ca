"""Models and data sets of a hub, pinned to revisions: asked through the real libraries, of a hub on this machine, then offline."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline.runner import commits_of
from tests.support.hub_server import Hub, Repository, ask, running_hub
from tests.support.published_sets import (
    ARENA,
    ARENA_2,
    BENCH,
    BENCHED,
    FEEDBACK,
    HELPS,
    LOCALES,
    ODD,
    ODD_COLUMNS,
    ODD_PAIRS,
    parquet,
)

ONE, TWO = "1" * 40, "2" * 40
REFS = {"main": TWO, "v1.0": ONE, "old": ONE}


def older(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files as an earlier commit had them: the Arabic prompts said something else."""
    changed = {
        name: parquet([{"question_id": "q1", "prompt": "old text"}]) for name in files if name.endswith("parquet")
    }
    return {**files, **changed}


@pytest.fixture(scope="module")
def hub(tiny_model: Path) -> Iterator[Hub]:
    model = {path.name: path.read_bytes() for path in tiny_model.iterdir() if path.is_file()}
    config = json.loads(model["config.json"])
    changed = {**model, "generation_config.json": json.dumps({"eos_token_id": [5, 7]}).encode()}
    first = {**model, "generation_config.json": json.dumps({"eos_token_id": 9}).encode()}
    adapter = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "org/model", "revision": "v1.0"}
    assert config["model_type"] == "llama"
    models = {
        "org/model": Repository({ONE: first, TWO: changed}, REFS),
        "org/adapter": Repository({TWO: {"adapter_config.json": json.dumps(adapter).encode()}}, {"main": TWO}),
        "org/gated": Repository({ONE: model}, {"main": ONE}, is_gated=True),
    }
    data_sets = {
        "org/m-arena": Repository({ONE: older(ARENA), TWO: ARENA}, REFS),
        "org/m-arena-2": Repository({TWO: ARENA_2}, {"main": TWO}),
        "org/m-bench": Repository({TWO: BENCH}, {"main": TWO}),
        "org/feedback": Repository({TWO: FEEDBACK}, {"main": TWO}),
        "org/helps": Repository({TWO: HELPS}, {"main": TWO}),
        "org/odd": Repository({TWO: ODD}, {"main": TWO}),
        "org/gated": Repository({TWO: ODD}, {"main": TWO}, is_gated=True),
    }
    with running_hub(models, data_sets) as running:
        yield running


PREPARE = """
from icr_platform.data.hub_sets import pinned as pinned_set
from icr_platform.data.prompts import load_prompts
from icr_platform.data.text_preferences import is_text, read_text_preferences
from icr_platform.models.adapters import read_adapter
from icr_platform.models.hub import hub_commit, pinned
from icr_platform.models.loading import check_weights, generation_eos, load_config, load_model, load_tokenizer
from icr_platform.models.model_identity import model_identity

def prompts(path, columns={}, languages=()):
    return [(row["language"], row["prompt_id"], row["instruction"]) for row in load_prompts(path, languages, columns=columns).table.to_pylist()]

def pairs(path, columns={}):
    assert is_text(path)
    return [(pair.language, pair.instruction, pair.chosen, pair.rejected) for pair in read_text_preferences(path, columns).pairs]

def tracked(policy, prompts):
    # What MLflow says of a generation: its parameter, the commits, and the inputs as they are named.
    import os
    from mlflow.tracking import MlflowClient
    from icr_platform.cli.commands import run as icr

    os.chdir(os.environ["HF_HOME"])
    given = ["--policy", policy, "--prompts", prompts, "--samples", "1", "--max-tokens", "2", "--sampler", "transformers"]
    assert icr(["generate", *given]) == 0
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("icr").experiment_id], "tags.`icr.stage` = 'generate'")
    inputs = {item.dataset.name: item.dataset.source for item in run.inputs.dataset_inputs}
    tags = [run.data.tags[f"icr.commit.{name}"] for name in ("policy", "prompts")]
    return [run.data.params["generate.policy"], *tags, inputs["policy"], inputs["prompts"]]
"""
EN, AR, HE = ([name, "q1", f"{name}: How much is 1 + 1?"] for name in LOCALES)
ODD_ROWS = [["en", "u1", "en 1"], ["en", "u2", "en 2"], ["sw", "u1", "sw 1"], ["sw", "u2", "sw 2"]]
PAIR = [["en", "Hi?", "Hello.", "Go."]]
# What is asked, and the answer; of an InputError some words, in their order.
CASES: dict[str, Any] = {
    "pinned('org/model')": f"org/model@{TWO}",
    "pinned('org/model@v1.0')": f"org/model@{ONE}",
    "pinned('org/adapter')": f"org/adapter@{TWO}",
    "hub_commit('org/model@old')": ONE,
    f"hub_commit('org/model@{ONE}')": ONE,
    "model_identity('org/model') == model_identity('org/model@main')": True,
    f"model_identity('org/model') == model_identity('org/model@{TWO}')": True,
    "model_identity('org/model') == model_identity('org/model@v1.0')": False,
    "generation_eos('org/model')": [5, 7],
    "generation_eos('org/model@v1.0')": [9],
    "read_adapter('org/adapter').base": "org/model@v1.0",
    "generation_eos('org/adapter')": [9],
    "load_tokenizer('org/model@v1.0').name_or_path": "org/model",
    "list(check_weights('org/model@v1.0'))": [],
    "load_model('org/model@v1.0', 'float32', 'cpu').generation_config.eos_token_id": 9,
    "load_config('org/model@v1')": "InputError: org/model@v1: | the hub has no such branch, tag or commit",
    f"load_config('org/model@{'3' * 40}')": f"InputError: org/model@{'3' * 40}: | no such branch, tag or commit",
    "load_config('org/modle')": "InputError: org/modle: | check the name",
    "load_config('org/gated')": "InputError: org/gated: | accept its terms",
    "load_config('org/model@')": "InputError: org/model@: no such folder; | org/name@revision",
    "pinned_set('org/m-arena')": f"org/m-arena@{TWO}",
    "pinned_set('org/m-arena@v1.0:ar:test')": f"org/m-arena@{ONE}:ar:test",
    "pinned_set('org/nothing')": "org/nothing",
    "prompts('org/m-arena')": [EN, AR, HE],
    "prompts('org/m-arena@v1.0', languages=['ar'])": [["ar", "q1", "old text"]],
    f"prompts('org/m-arena@{ONE}', languages=['ar'])": [["ar", "q1", "old text"]],
    "prompts('org/m-arena@main:en:test')": [EN],
    "prompts('org/m-arena-2')": [["en", "a1", "en text"], ["de", "a1", "de text"]],
    "pairs('org/m-bench')": [[name, f"{name}?", f"{name}!", "No."] for name in BENCHED],
    "pairs('org/m-bench:deu_Latn')": [["deu_Latn", "deu_Latn?", "deu_Latn!", "No."]],
    "pairs('org/feedback')": PAIR,
    "pairs('org/feedback:default:test_prefs')": PAIR,
    "pairs('org/feedback:test_prefs')": PAIR,
    "pairs('org/helps')": [["en", "Why?", "Because.", "No."]],
    f"prompts('org/odd', {ODD_COLUMNS})": ODD_ROWS,
    f"[row[:1] + row[2:] for row in pairs('org/odd', {ODD_PAIRS})]": [[code, "Good.", "Bad."] for code in ("en", "sw")] * 2,
    "tracked('org/model@v1.0', 'org/m-arena-2')": [
        "org/model@v1.0", ONE, TWO, f"org/model@v1.0 (commit {ONE})", f"org/m-arena-2 (commit {TWO})",
    ],
    "prompts('org/m-arena@v9')": "InputError: org/m-arena@v9: | no such branch, tag or commit",
    "prompts('org/m-arean')": "InputError: org/m-arean: | check the name",
    "prompts('org/gated')": "InputError: org/gated: | accept its terms",
    "prompts('org/m-arena:fr')": "InputError: org/m-arena:fr on the hub: configuration 'fr' is not one of en, ar, he",
    "prompts('org/m-arena:en:tests')": "InputError: | split 'tests' is not one of test; give 'test'",
    "pairs('org/feedback:default:train_pref')": "InputError: | split 'train_pref' is not one of | give 'train_prefs'",
    "prompts('org/odd', {'id': 'uid', 'instruction': 'turns.0.contnt', 'language': 'meta.lang'})":
        "InputError: org/odd on the hub: | 'instruction' from 'turns.0.contnt' | found: turns.0.content; give 'turns.0.content'",
    "prompts('org/odd', {'instrction': 'turns'})": "InputError: | names 'instrction' | nearest is 'instruction'",
    "prompts('org/odd', {'id': 'uuid', 'language': 'meta.lang'})": "InputError: | 'id' from 'uuid' | found: uid, meta, | give 'uid'",
}  # fmt: skip
OFFLINE: dict[str, Any] = {
    "pinned('org/model@v1.0')": f"org/model@{ONE}",
    "generation_eos('org/model')": [5, 7],
    "generation_eos('org/model@v1.0')": [9],
    "load_model('org/model@old', 'float32', 'cpu').generation_config.eos_token_id": 9,
    "load_config('org/model@v2')": "InputError: org/model@v2: | hf download",
    "prompts('org/m-arena')": [EN, AR, HE],
    "prompts('org/m-arena@v1.0', languages=['ar'])": [["ar", "q1", "old text"]],
    "pairs('org/feedback:default:test_prefs')": PAIR,
    f"prompts('org/m-arena@{'3' * 40}')": f"InputError: org/m-arena@{'3' * 40}: the hub cannot be reached, and commit 3",
}


def differs(found: Any, expected: Any) -> bool:
    if isinstance(expected, str) and expected.startswith("InputError:"):
        place = 0
        for words in expected.split(" | "):
            place = str(found).find(words, place)
            if place < 0:
                return True
        return "\n" in str(found)
    return bool(found != expected)


def test_a_hub_is_asked_for_what_is_pinned_and_its_cache_offline(
    hub: Hub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = tmp_path_factory.mktemp("hub")
    for cases, is_offline in ((CASES, False), (OFFLINE, True)):
        found = ask(hub.environment(home, is_offline), PREPARE, list(cases))
        wrong = {case: value for case, value in zip(cases, found, strict=True) if differs(value, cases[case])}
        assert not wrong, "\n".join(f"{case}\n  {value}\n  expected {cases[case]}" for case, value in wrong.items())
        if not is_offline:
            hub.asked.clear()
    assert not hub.asked, "offline, nobody is asked"


def test_a_run_says_the_commits_of_what_it_read() -> None:
    given = {"policy": f"org/model@{ONE}", "prompts": f"org/set@{TWO}:ar:test", "output": f"out@{TWO}"}
    assert commits_of(GenerateConfig.model_validate(given)) == {"policy": ONE, "prompts": TWO}
    local = {"policy": f"/models/a@{ONE}", "prompts": "org/set@v1"}
    assert commits_of(GenerateConfig.model_validate(local)) == {}
