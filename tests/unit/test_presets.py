"""Presets as layers: whose value wins, what one puts in place of another's, and what is said of wrong ones."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from icr_platform.cli.flags import parse
from icr_platform.core.errors import InputError
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.presets import preset_names, read_layers, stacked

WORLD = """
policy: small
seed: 1
generate: {samples: 8, temperature: 0.5}
train: {learning_rate: 1.0e-3}
with:
  method: {generate: {samples: 4}, train: {lora_rank: 0}}
  other: {seed: 9}
"""
METHOD = """
arm: method
generate: {samples: 64}
train: {lora_rank: 16, beta: 0.2}
"""
MINE = "generate: {samples: 2}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"world": WORLD, "method": METHOD, "mine": MINE, "other": "seed: 3\n", "empty": "", "a,b": "seed: 5\n"}
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# What is given -> some fields of the configuration, worked out by hand.
STACKS: list[tuple[str, dict[str, Any]]] = [
    ("world", {"seed": 1, "generate.samples": 8, "train.lora_rank": None}),  # `with` alone changes nothing
    ("method", {"arm": "method", "generate.samples": 64, "train.lora_rank": 16}),
    (
        "world,method",
        {"arm": "method", "policy": "small", "generate.samples": 4, "train.lora_rank": 0, "train.beta": 0.2},
    ),
    ("world, method", {"generate.samples": 4, "generate.temperature": 0.5}),
    ("method,world", {"generate.samples": 8, "train.lora_rank": 0, "arm": "method"}),  # the later layer wins
    ("world,method,mine", {"generate.samples": 2, "train.lora_rank": 0}),  # and over what stands in, too
    ("mine,world,method", {"generate.samples": 4}),
    ("world,other", {"seed": 9}),
    ("world,other,method", {"seed": 9, "generate.samples": 4}),
    ("world,empty", {"seed": 1}),
    ("world.yaml,./method.yaml", {"generate.samples": 4}),
    ("a,b.yaml", {"seed": 5}),  # a file of that name, not two layers
]


@pytest.mark.parametrize(("given", "expected"), STACKS)
def test_later_layers_win_and_stand_ins_go_right_over_what_they_replace(
    folder: Path, given: str, expected: dict[str, Any]
) -> None:
    def at(values: Any, path: str) -> Any:
        for part in path.split("."):
            values = values.get(part, None) if values else None
        return values

    values = stacked(read_layers(given))
    assert {path: at(values, path) for path in expected} == expected


def test_layers_serve_single_stages_and_flags_win_over_all(folder: Path) -> None:
    config: Any = parse("generate", ["--config", "world,method", "--temperature", "0.7"])[0]
    assert (config.policy, config.samples, config.temperature) == ("small", 4, 0.7)
    whole: Any = parse("iterate", ["--config", "world,method", "--train-lora-rank", "2"])[0]
    assert (whole.arm, whole.train.lora_rank, whole.train.beta) == ("method", 2, 0.2)


WRONG: list[tuple[str, str, str]] = [
    ("world,nope", "", "nope: no such preset; give a YAML file or one of "),
    ("world,", "", "a comma stands beside no name"),
    ("world,world.yaml", "", "'world.yaml' is there twice"),
    ("world,bad", "generate: {sample: 3}", "bad.yaml: unknown field 'generate.sample', nearest is 'generate.samples'"),
    ("world,bad", "- 1", "bad.yaml: not a mapping of fields"),
    ("world,bad", "with: [method]", "bad.yaml: field 'with' is ['method']"),
    ("world,bad", "with: {method: 3}", "bad.yaml: field 'with.method' is 3"),
    ("world,bad", "with: {methud: {seed: 3}}", "bad.yaml: field 'with.methud': methud: no such preset"),
    ("bad,method", "with: {method: {sead: 3}}", "unknown field 'sead', nearest is 'seed'"),
]


@pytest.mark.parametrize(("given", "text", "said"), WRONG)
def test_a_wrong_layer_is_named(folder: Path, given: str, text: str, said: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        parse("iterate", ["--config", given])


METHODS = {"icr", "icr-multilingual", "random", "lidr", "croco", "translate-preferences", "kto-start"}


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("below", ["demo", "paper-llama3-8b"])
def test_every_method_goes_over_every_world_under_its_own_name(method: str, below: str) -> None:
    config = parse("iterate", ["--config", f"{below},{method}"])[0]
    assert isinstance(config, IterateConfig)
    assert config.arm == method
    assert method in preset_names()
