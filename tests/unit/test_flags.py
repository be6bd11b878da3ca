"""Flags: what a person writes, on the command line or with `mlflow run -P`, is what a command gets; help that can be read."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.projects._project_spec import load_project

from icr_platform.cli import commands
from icr_platform.cli.flags import parse
from icr_platform.core.config import Config, grouped, is_section, leaves
from icr_platform.core.errors import InputError
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.session import RunOptions
from icr_platform.pipeline.stages import CONFIGURED

PROJECTS = Path(__file__).parents[2] / "projects"
# (field of annotate, as text, its value): whatever a person may mean.
VALUES: list[tuple[str, str, object]] = [
    ("alpha_min", "-1e-3", -1e-3),
    ("upper_bound", "-inf", float("-inf")),
    ("near_duplicate", "", None),
    ("near_duplicate", "none", None),
    ("length_control", "false", False),
    ("drop_empty", "true", True),
    ("reward_kind", "cross-lingual,random", ("cross-lingual", "random")),
    ("policy", "", ""),
    ("policy", "a b", "a b"),
    ("policy", "a=b", "a=b"),
    ("policy", "-x", "-x"),
    ("policy", "--my model", "--my model"),
    ("policy", """it's "$HOME" `ls`, {1}""", """it's "$HOME" `ls`, {1}"""),
]


@pytest.mark.parametrize(("field", "text", "value"), VALUES)
def test_any_value_is_taken_as_it_is(field: str, text: str, value: object) -> None:
    flag = f"--{field.replace('_', '-')}"
    for arguments in ([flag, text], [f"{flag}={text}"], [f"--{field}", text]):
        config, _ = parse("annotate", arguments)
        assert getattr(config, field) == value


@pytest.mark.parametrize(("field", "text", "value"), VALUES)
def test_mlflow_hands_it_over_as_it_is(field: str, text: str, value: object) -> None:
    """The command that `mlflow run projects -e annotate -P FIELD=TEXT` gives to a shell, taken apart as the shell does."""
    project = load_project(str(PROJECTS))
    program, typed, *arguments = shlex.split(project.get_entry_point("annotate").compute_command({field: text}, None))
    config, _ = parse(typed, arguments)
    assert program == "icr"
    assert config.model_dump() == type(config)().model_dump() | {field: value}


def test_a_switch_stands_alone_takes_a_value_or_is_turned_off() -> None:
    def reuse(*arguments: str) -> bool:
        return parse("generate", [*arguments, "--policy", "p"])[1].reuse

    assert [reuse("--reuse"), reuse("--reuse", "false"), reuse("--reuse=no"), reuse("--no-reuse"), reuse()] == [
        True, False, False, False, True
    ]  # fmt: skip


def test_fields_of_a_section_are_spelled_with_dots_underscores_or_dashes() -> None:
    for flag in ("--train.learning_rate", "--train_learning_rate", "--train-learning-rate"):
        config, _ = parse("iterate", [flag, "0.2"])
        assert config == IterateConfig.model_validate({"train": {"learning_rate": 0.2}})


def test_what_is_given_wins_over_the_preset_also_when_it_is_the_default(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("samples: 8\ntemperature: 0.5\nprompts: there\nlanguages: [en, es]\n")
    config, _ = parse("generate", [f"--config={preset}", "--samples", "10", "--prompts", ""])
    values: Any = config
    assert (values.samples, values.temperature, values.prompts, values.languages) == (10, 0.5, "", ("en", "es"))
    assert parse("generate", ["--config="])[0] == CONFIGURED["generate"].config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--promts", "x"], "icr annotate: unknown flag --promts, nearest is --prompts"),
        (["x"], "icr annotate: 'x' follows no flag that takes a value"),
        (["--alpha-min", "--beta", "1"], "argument --alpha-min: expected one argument"),
        (["--no-beta"], "unknown flag --no-beta"),
        (["--beta="], "icr annotate: field 'beta': .*got ''"),
        (["--length-control", "maybe"], "icr annotate: field 'length_control': .*got 'maybe'"),
        (["--config", "demoo"], "demoo: no such preset; give a YAML file or one of .*demo"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse("annotate", arguments)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with contextlib.suppress(SystemExit):  # what argparse ends with, where it shows the help itself
        assert commands.run([*arguments]) == 0
    return capsys.readouterr().out


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  (--[a-z0-9-]+)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", list(CONFIGURED))
def test_help_shows_every_field_once_inputs_first(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    row = CONFIGURED[command]
    text = shown(capsys, row.command, "--help")
    own = [name for name, info in row.config.model_fields.items() if not is_section(info)]
    expected = ["config", *own, *RunOptions.model_fields]
    assert sorted(flags_in(text)) == sorted(f"--{name.replace('_', '-')}" for name in expected)
    assert all(f"--{name.replace('_', '-')}" in text.partition("inputs and output:")[0] for name in row.required)
    assert re.findall(r"^([a-z' ]+):$", text, flags=re.MULTILINE)[0] == "inputs and output"
    assert len(text.splitlines()) < 15 + 3 * len(expected), "about three lines a field"


def test_help_of_iterate_is_short_and_names_its_sections(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "iterate", "--help")
    own = [name for name, _ in leaves(IterateConfig) if "." not in name]
    assert len(text.splitlines()) < 35 + 3 * len(own), "about three lines a field, and those of a run"
    assert "--help SECTION" in text
    listed = set(flags_in(text))
    sections = [name for name, info in IterateConfig.model_fields.items() if is_section(info)]
    assert {"generate", "annotate", "train", "eval", "reward_bench", "instructions", "benchmarks"} <= {*sections}
    for section in sections:
        assert section in text
        listed |= set(flags_in(shown(capsys, "iterate", "--help", section)))
    fields = {name for part in (IterateConfig, RunOptions) for name, _ in leaves(part)} | {"config"}
    assert listed == {"--" + name.replace("_", "-").replace(".", "-") for name in fields}
    assert commands.run(["iterate", "--help", "trian"]) == 2
    assert f"its sections are {', '.join(sections)}" in capsys.readouterr().err


def test_help_shows_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "train", "--help").split())
    assert "--schedule {linear,cosine,constant} learning rate after warm-up (default: linear)" in text
    assert "--gradient-checkpointing [true|false]" in text
    # Too many to stand beside the flag: the description has them, with what they are.
    annotate = " ".join(shown(capsys, "annotate", "--help").split())
    assert (
        "--reward-kind A,B,... kinds, comma-separated: cross-lingual, multilingual, translate, random (a control), scalar"
        in annotate
    )


@pytest.mark.parametrize("width", [80, 120])
def test_help_fits_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    helped = [*(row.command for row in CONFIGURED.values()), *commands.TOOLS]
    for arguments in (["--help"], *([command, "--help"] for command in helped)):
        assert max(map(len, shown(capsys, *arguments).splitlines())) <= width


def test_every_class_that_declares_fields_says_what_they_are() -> None:
    """Else help would show them under the heading of a class that it inherits from."""
    configs: list[Any] = [*(row.config for row in CONFIGURED.values()), RunOptions]
    sections: list[Any] = [info.annotation for info in IterateConfig.model_fields.values() if is_section(info)]
    for owner in {owner for config in (*configs, *sections) for owner in config.__mro__ if issubclass(owner, Config)}:
        declares = set(owner.__annotations__) & set(owner.model_fields)
        assert not declares or "heading" in vars(owner), owner
    for config in configs:
        listed = [name for fields in grouped(config).values() for name in fields]
        assert sorted(listed) == sorted(name for name, _ in leaves(config) if "." not in name)


def test_mlproject_is_short_and_says_what_each_command_needs() -> None:
    text = (PROJECTS / "MLproject").read_text()
    entry_points = yaml.safe_load(text)["entry_points"]
    assert set(entry_points) == {"main", *CONFIGURED}
    assert len(text.splitlines()) < 90
    assert entry_points.pop("main") == {
        "parameters": {"config": {"type": "string", "default": "demo"}},
        "command": "icr iterate --config {config}",
    }
    for name, row in CONFIGURED.items():
        assert entry_points[name] == {"command": f"icr {row.command}"}
        comment = re.search(rf"^  {name}: # (.*)$", text, flags=re.MULTILINE)
        assert comment is not None
        needed = comment[1].partition("; needs ")[2]
        assert (needed.split(", ") if needed else []) == list(row.required)
