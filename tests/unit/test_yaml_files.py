"""YAML files as people write them: words that YAML 1.1 changes, and files that would take the machine."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from icr_platform.cli.flags import parse
from icr_platform.core.errors import InputError
from icr_platform.core.yaml_files import read_yaml
from icr_platform.pipeline.config import IterateConfig
from tests.support.peak_memory import peak_bytes


def read(folder: Path, text: str) -> Any:
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return read_yaml(folder / "mine.yaml", "preset")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[en, no, on, y, off]", ["en", "no", "on", "y", "off"]),
        ("[true, False, TRUE]", [True, False, True]),
        ("[1e-4, 5.0e-7, 1e3, .5, 3., -1e-3]", [1e-4, 5e-7, 1000.0, 0.5, 3.0, -1e-3]),
        ("[10, 010, 0x10, 0o10, -3, +4]", [10, 10, 16, 8, -3, 4]),
        ("[12:30, 1_000, 0b1, 1.2.3]", ["12:30", "1_000", "0b1", "1.2.3"]),
        ("[~, null, '', 'no', \"1\"]", [None, None, "", "no", "1"]),
        ("[.inf, -.inf]", [math.inf, -math.inf]),
        ("2026-01-01", date(2026, 1, 1)),
        ("", None),
        ("# a comment alone\n", None),
        ("\ufeffa: 1\r\nb: 2\r\n", {"a": 1, "b": 2}),
        ("base: &b {x: 1}\nmine: {<<: *b, x: 2}", {"base": {"x": 1}, "mine": {"x": 2}}),
    ],
)
def test_words_mean_what_they_say(tmp_path: Path, text: str, value: object) -> None:
    assert read(tmp_path, text) == value


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a [1, *a]", "contains it"),
        ("[" * 100_000, "nested more than 50 levels"),
        ("a: " + "{b: " * 60 + "1" + "}" * 60, "nested more than 50 levels"),
        ("a: " + "9" * 5000, "5,000 digits"),
        ("a: 1\nb: 2\na: 3", "'a' is given twice"),
        ("train:\n  beta: 1\n  beta: 2", "line 3"),
        ("a: [1", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("a: 2026-02-31", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: \x00", "not valid YAML"),
        ("# " + "x" * 2**20, "at most 1 MB"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line_and_takes_no_memory(tmp_path: Path, text: str, said: str) -> None:
    before = peak_bytes()
    with pytest.raises(InputError) as refused:
        read(tmp_path, text)
    message = str(refused.value)
    assert said in message
    assert message.startswith(str(tmp_path / "mine.yaml"))
    assert "\n" not in message
    assert peak_bytes() - before < 100 * 2**20


def test_a_file_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for name, said in ("binary.yaml", "not readable"), ("none.yaml", "no such preset"), (".", "not readable"):
        with pytest.raises(InputError, match=said):
            read_yaml(tmp_path / name, "preset")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arm: 2026", "field 'arm': should be a valid string, got 2026; quote it"),
        ("arm: 2026-01-01", "; quote it"),
        ("languages: [en, true]", "quote a language code"),
        ("train: {batch_size: 1.5}", "field 'train.batch_size'"),
    ],
)
def test_values_of_another_kind_say_to_quote_them_where_that_is_the_fix(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        parse("iterate", ["--config", str(tmp_path / "mine.yaml")])
    assert said in str(refused.value)


def test_a_preset_takes_norwegian_words_for_truth_and_exponents(tmp_path: Path) -> None:
    preset = "languages: [en, no]\nlimit: 3e3\ntrain: {precompute_reference: yes, learning_rate: 5e-7}\nannotate: {length_control: off}\n"
    (tmp_path / "mine.yaml").write_text(preset, encoding="utf-8")
    config, _ = parse("iterate", ["--config", str(tmp_path / "mine.yaml")])
    assert isinstance(config, IterateConfig)
    assert (config.languages, config.limit) == (("en", "no"), 3000)
    assert (config.train.precompute_reference, config.train.learning_rate) == ("yes", 5e-7)
    assert config.annotate.length_control is False
