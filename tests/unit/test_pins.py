"""Files of inputs that are pinned by their SHA-256: the right ones pass, and any other is one line before work begins."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from icr_platform.core.config import validate
from icr_platform.core.errors import InputError
from icr_platform.evaluation.config import EvalConfig
from icr_platform.pipeline.config import IterateConfig, load_preset
from icr_platform.pipeline.inputs import Resolver

WRONG = "0" * 64


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("p/en.jsonl", "p/de.jsonl", "o/en/m.json", "o/de/m.json", "d.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()  # each file contains its name


def resolve(folder: Path, pins: dict[str, str], **given: str) -> EvalConfig:
    config = EvalConfig.model_validate(
        {"prompts": "p", "reference_outputs": "o/{language}/m.json", **given, "pins": pins}
    )
    return Resolver(folder, folder / ".icr", None).resolve(config, 0)


RIGHT = {
    "a file of a folder": ({"p/en.jsonl": sha("p/en.jsonl")}, {}),
    "several": ({name: sha(name) for name in ("p/en.jsonl", "p/de.jsonl", "o/en/m.json", "o/de/m.json")}, {}),
    "a language of a path": ({"o/de/m.json": sha("o/de/m.json")}, {}),
    "in capital letters": ({"p/en.jsonl": sha("p/en.jsonl").upper()}, {}),
    "a single file": ({"d.csv": sha("d.csv")}, {"difficulty": "d.csv"}),
    "with a dot before it": ({"./p/en.jsonl": sha("p/en.jsonl")}, {}),
    "an input with a slash behind it": ({"p/en.jsonl": sha("p/en.jsonl")}, {"prompts": "./p/"}),
    "below a path with a language": ({"o/de/m.json": sha("o/de/m.json")}, {"reference_outputs": "o/{language}"}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_files_that_are_the_pinned_ones(case: str, folder: Path) -> None:
    pins, given = RIGHT[case]
    assert resolve(folder, pins, **given).pins == {}, "they are checked once, where they are given"


REFUSED = {
    "another file": ({"p/en.jsonl": WRONG}, {}, f"p/en.jsonl: its SHA-256 is {sha('p/en.jsonl')}, and pins has {WRONG}; fetch"),
    "of one language": ({"o/en/m.json": sha("o/en/m.json"), "o/de/m.json": WRONG}, {}, "o/de/m.json: its SHA-256 is"),
    "a file that is not there": ({"p/fr.jsonl": WRONG}, {}, "p/fr.jsonl: is pinned by its SHA-256 and is not there"),
    "a folder": ({"p": WRONG}, {}, "p: is pinned by its SHA-256 and is a folder; pin each of its files"),
    "a file of no input": ({"q/en.jsonl": WRONG}, {}, "'q/en.jsonl' is in no input; name it as the input is named; inputs: prompts (p)"),
    "on the hub": ({"org/set": WRONG}, {"prompts": "org/set"}, "org/set: is pinned by its SHA-256 and is a name on the hub; pin it as"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_any_other_file_is_refused_in_one_line(case: str, folder: Path) -> None:
    pins, given, said = REFUSED[case]
    with pytest.raises(InputError) as caught:
        resolve(folder, pins, **given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{"p/en.jsonl": "abc"}', "which is not a SHA-256"),
        ("p/en.jsonl=abc", "not JSON"),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ("[1]", "not a mapping"),
    ],
)
def test_what_is_not_a_digest(value: str, said: str) -> None:
    with pytest.raises(InputError, match=f"field 'pins': .*{said}"):
        validate(EvalConfig, {"pins": value}, "icr eval")


def test_a_preset_of_iterate_pins_the_inputs_of_each_stage(folder: Path) -> None:
    pins = {name: sha(name) for name in ("p/en.jsonl", "o/en/m.json", "d.csv")}
    values = {
        "policy": "m",
        "reference": "m",
        "prompts": "p",
        "eval_prompts": "p2",
        "reference_outputs": "o/{language}/m.json",
    }
    preset = {**values, "pins": pins, "eval": {"difficulty": "d.csv"}}
    (folder / "preset.yaml").write_text(json.dumps(preset))
    stages = {
        stage: load_preset(folder / "preset.yaml", stage).get("pins", {}) for stage in ("generate", "train", "eval")
    }
    assert {stage: sorted(found) for stage, found in stages.items()} == {
        "generate": ["p/en.jsonl"],
        "train": [],
        "eval": ["d.csv", "o/en/m.json"],
    }
    whole = IterateConfig.model_validate(preset)
    resolved = Resolver(folder, folder / ".icr", None).resolve(whole, 0)
    assert resolved.eval_config("m").pins == {}
    (folder / "d.csv").write_text("changed")
    with pytest.raises(InputError, match=r"d\.csv: its SHA-256 is"):
        Resolver(folder, folder / ".icr", None).resolve(whole, 0)
