"""A sweep's file: which arms it makes, however it is written, and what is said of one that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr_platform.cli.sweeps import is_sweep, read_sweep
from icr_platform.core.errors import InputError
from icr_platform.pipeline.sweep_config import alike

BASE = "policy: p\nreference: r\nprompts: q\nseed: 7\ntrain: {beta: 0.1}\n"
METHOD = "arm: method\ntrain: {beta: 0.3}\nannotate: {reward_kind: [random]}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "method.yaml").write_text(METHOD)
    (tmp_path / "no-arm.yaml").write_text("train: {beta: 0.4}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path, text: str, *flags: str) -> Any:
    (folder / "mine.yaml").write_text(text)
    return read_sweep(["mine.yaml", *flags])[2]


B = "base: base.yaml\n"
# The file -> label, seed and beta of each arm in the order in which they run, worked out by hand.
FILES: list[tuple[str, list[tuple[str, int, float]]]] = [
    (B + "arms: [icr]", [("icr", 7, 0.1)]),
    (B + "arms: [icr, method.yaml]", [("icr", 7, 0.1), ("method", 7, 0.3)]),
    (B + "arms: icr, random", [("icr", 7, 0.1), ("random", 7, 0.1)]),
    (B + "arms: [no-arm.yaml]", [("no-arm", 7, 0.4)]),
    (B + "arms: [method.yaml]\nseeds: [3]", [("method", 3, 0.3)]),
    (B + "arms: [icr, method]\nseeds: [1, 2]", [("icr-seed-1", 1, 0.1), ("method-seed-1", 1, 0.3), ("icr-seed-2", 2, 0.1), ("method-seed-2", 2, 0.3)]),
    (B + "arms: [icr]\nseeds: 1,0", [("icr-seed-1", 1, 0.1), ("icr-seed-0", 0, 0.1)]),
    (B + "arms:\n  - {name: a, train.beta: 0.5}\n  - {name: b, train: {beta: 0.6}}", [("a", 7, 0.5), ("b", 7, 0.6)]),
    (B + "arms:\n  - {preset: method, train.beta: 0.5}", [("method", 7, 0.5)]),
    (B + "arms:\n  - {name: a, preset: 'icr,method.yaml'}", [("a", 7, 0.3)]),
    (B + "arms:\n  - {name: a, preset: [icr, method]}", [("a", 7, 0.3)]),
    (B + "arms:\n  a: {train.beta: 0.5}\n  icr:\n  m: method.yaml", [("a", 7, 0.5), ("icr", 7, 0.1), ("m", 7, 0.3)]),
    (B + "arms:\n  - a: {train.beta: 0.5}\n  - icr: {}", [("a", 7, 0.5), ("icr", 7, 0.1)]),
    (B + "arms:\n  - {name: icr, preset: method.yaml}", [("icr", 7, 0.3)]),  # a name of its own, not the preset's
    (B + "arms: [icr, method]\nsettings: {train.beta: 0.9}", [("icr", 7, 0.9), ("method", 7, 0.9)]),
    (B + "arms: [{name: a, train.beta: 0.5}]\nsettings: {train: {beta: 0.9}}", [("a", 7, 0.5)]),
    (B + "arms: [icr]\ngrid: {train.beta: [0.2, 0.5]}", [("icr-beta=0.2", 7, 0.2), ("icr-beta=0.5", 7, 0.5)]),
    (B + "arms:\n  - {name: a, grid: {train.beta: [0.2]}}\n  - icr", [("a-beta=0.2", 7, 0.2), ("icr", 7, 0.1)]),
    (
        B + "arms: [icr]\ngrid: {train.beta: [0.2], annotate.beta: [1, 2]}",
        [("icr-train.beta=0.2-annotate.beta=1", 7, 0.2), ("icr-train.beta=0.2-annotate.beta=2", 7, 0.2)],
    ),
    (B + "arms: [{name: 2026, train.beta: 0.5}]", [("2026", 7, 0.5)]),
    (B + "arms: [{name: a, seed: 4}, icr]", [("a", 4, 0.1), ("icr", 7, 0.1)]),
    ("arms:\n  a: {preset: 'base.yaml', train.beta: 0.2}\n  b: base.yaml", [("a", 7, 0.2), ("b", 7, 0.1)]),
    ("base: [base.yaml, method.yaml]\narms: [no-arm.yaml]", [("no-arm", 7, 0.4)]),
    (B + "arms: [a]\n".replace("a]", "{name: x}]"), [("x", 7, 0.1)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FILES)
def test_however_it_is_written_a_file_makes_these_arms(
    folder: Path, text: str, expected: list[tuple[str, int, float]]
) -> None:
    found = made(folder, text)
    assert found.problems == ()
    assert [(arm.label, arm.config.seed, arm.config.train.beta) for arm in found.arms] == expected
    assert all(arm.config.arm == arm.name and arm.label.startswith(arm.name) for arm in found.arms)
    assert is_sweep("mine.yaml")
    assert not is_sweep("base.yaml")


def test_flags_make_a_sweep_too_and_win_over_its_file(folder: Path) -> None:
    flags = ["--base", "base.yaml", "--arms", "icr,random", "--seeds", "1,2", "--settings", '{"train.beta": 0.7}']
    found = read_sweep([*flags, "--grid", json.dumps({"annotate.beta": [0.1, 1]})])[2]
    assert [arm.label for arm in found.arms[:3]] == [
        "icr-beta=0.1-seed-1",
        "icr-beta=1-seed-1",
        "random-beta=0.1-seed-1",
    ]
    assert {arm.config.train.beta for arm in found.arms} == {0.7}
    assert [arm.label for arm in made(folder, B + "arms: [icr]\nseeds: [1, 2]", "--seeds", "5").arms] == ["icr"]
    assert made(folder, B + "arms: [icr]").arms == read_sweep(["--config", "mine.yaml"])[2].arms


def test_each_arm_and_seed_has_an_output_of_its_own(folder: Path) -> None:
    found = made(folder, B + "arms: [icr, random]\nseeds: [1, 2]\noutput: out")
    outputs = [arm.config.output for arm in found.arms]
    assert outputs == ["out/icr-seed-1", "out/random-seed-1", "out/icr-seed-2", "out/random-seed-2"]


def test_arms_that_differ_in_name_alone_are_found(folder: Path) -> None:
    found = made(folder, B + "arms: [icr, {name: same, preset: icr}, {name: other, preset: icr, train.beta: 0.2}]")
    assert alike(found.arms) == [("same", "icr")]


# The file, and what is said of it: raised at once, or among the problems of all arms.
WRONG: list[tuple[str, list[str]]] = [
    (B, ["field 'arms' is missing for sweep"]),
    (B + "arms: []", ["field 'arms' is missing for sweep"]),
    (B + "arms: 3", ["field 'arms' is 3; give a list of presets"]),
    (B + "arms: [nope]", ["mine.yaml: nope: no such preset"]),
    (B + "arms: [randm]", ["randm: no such preset", "nearest is 'random'"]),
    (B + "arms: [icr, icr]", ["arm 'icr' is there twice; give each a name of its own"]),
    (B + "arms: [icr, {name: icr, train.beta: 1}]", ["arm 'icr' is there twice"]),
    (B + "arms: [icr]\ngrid: {train.beta: [1, 1]}", ["arm 'icr-beta=1' is there twice"]),
    (B + "arms: [[icr]]", ["arm 1 is ['icr']; give the name of a preset, or a mapping"]),
    (B + "arms: [true]", ["arm 1 is True"]),
    (B + "arms: [{}]", ["arm 1 is {}"]),
    (B + "arms: [{train.beta: 1}]", ["arm 1 has neither name nor preset"]),
    (B + "arms: [{name: a/b}]", ["'a/b' is no name for files and models"]),
    (B + "arms: [{name: ''}]", ["'' is no name"]),
    (B + "arms: [{name: a, preset: {x: 1}}]", ["arm 'a': preset is {'x': 1}"]),
    (B + "arms: [{name: a, train.betta: 1}]", ["arm 'a': ", "unknown field 'train.betta', nearest is 'train.beta'"]),
    (B + "arms: [{name: a, trian: {beta: 1}}]", ["unknown field 'trian', nearest is 'train'"]),
    (B + "arms: [{name: a, train.beta: -1}, {name: b, itterations: 3}]", ["arm 'a': ", "train.beta", "arm 'b': ", "'iterations'"]),
    (B + "arms: [{name: a, train.beta: 1, train: {beta: 2}}]", ["given in two ways"]),
    (B + "arms: [{name: a, train: 3, train.beta: 2}]", ["field 'train' is given in two ways"]),
    (B + "arms: [{name: a, arm: b}]", ["arm 'a': field 'arm' gives another name"]),
    (B + "arms: [{a: {name: b}}]", ["arm 'a' is also called 'b'"]),
    (B + "arms: {a: 3}", ["arm 'a' is 3; give its fields"]),
    (B + "arms: [icr]\nseeds: 3", ["field 'seeds': 3 may mean one seed or so many; write [3] or [0, 1, 2]"]),
    (B + "arms: [icr]\nseeds: [a]", ["field 'seeds': 'a' is not a seed"]),
    (B + "arms: [icr]\nseeds: [1.5]", ["1.5 is not a seed"]),
    (B + "arms: [icr]\nseeds: [-1]", ["-1 is not a seed"]),
    (B + "arms: [icr]\nseeds: [true]", ["True is not a seed"]),
    (B + "arms: [icr]\nseeds: [1, 1]", ["1 is there twice; give each seed once"]),
    (B + "arms: [{name: a, seed: 3}]\nseeds: [1]", ["field 'seed' is given, and the sweep has seeds"]),
    (B + "arms: [icr]\nat_once: -1", ["at_once"]),
    (B + "arms: [icr]\nexecution: slurm", ["field 'execution'"]),
    (B + "arms: [icr]\nsede: 3", ["unknown field 'sede', nearest is 'seeds'"]),
    (B + "arms: [icr]\ngrid: {train.beta: 0.1}", ["grid of 'train.beta' is 0.1; give a list of values"]),
    (B + "arms: [icr]\ngrid: {train.beta: []}", ["grid of 'train.beta' is []"]),
    (B + "arms: [icr]\ngrid: {train.betta: [1]}", ["unknown field 'train.betta'"]),
    (B + "arms: [{name: a, grid: 3}]", ["arm 'a': grid is 3"]),
    (B + "arms: [icr]\nsettings: [1]", ["field 'settings'"]),
    ("base: nope\narms: [icr]", ["field 'base': nope: no such preset"]),
    ("arms: [icr]", ["arm 'icr': ", "field 'policy' is missing for sweep"]),
    ("base: mine.yaml\narms: [icr]", ["is a sweep", "arm 'icr'"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_said_with_the_file_and_the_arm(folder: Path, text: str, said: list[str]) -> None:
    try:
        problems = " ".join(made(folder, text).problems)
    except InputError as error:
        problems = str(error)
    assert all(part in problems for part in said), problems
    assert "mine.yaml" in problems


def test_a_sweep_is_no_preset_of_one_arm_and_the_other_way_round(folder: Path) -> None:
    from icr_platform.cli.flags import parse

    (folder / "mine.yaml").write_text(B + "arms: [icr]")
    with pytest.raises(InputError, match="is a sweep, of several arms; run `icr sweep`"):
        parse("iterate", ["--config", "mine.yaml"])
    with pytest.raises(InputError, match="is a preset of one arm; give it as --base"):
        read_sweep(["base.yaml"])
