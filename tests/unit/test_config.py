"""Configurations, presets and flags: what a person writes is what a stage gets, and mistakes are named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from icr_platform.cli.flags import parse
from icr_platform.cli.sweeps import read_sweep
from icr_platform.cli.worlds import WORLDS
from icr_platform.core.config import leaves, validate
from icr_platform.core.errors import InputError
from icr_platform.pipeline.config import IterateConfig, load_preset
from icr_platform.pipeline.inputs import Resolver
from icr_platform.pipeline.presets import read_layer
from icr_platform.pipeline.stages import CONFIGURED
from icr_platform.training.config import TrainConfig

ROOT = Path(__file__).parents[2]


def test_unknown_and_mistyped_keys_are_named_with_the_nearest_field() -> None:
    with pytest.raises(InputError) as caught:
        validate(IterateConfig, {"iteratons": 3, "train": {"bta": 0.1, "epochs": "many"}}, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert "\n" not in message
    assert "'iteratons', nearest is 'iterations'" in message
    assert "'train.bta', nearest is 'train.beta'" in message
    assert "'train.epochs'" in message


def test_unknown_language_code_names_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown language code 'xz'"):
        validate(IterateConfig, {"languages": "en,xz"}, "mine.yaml")


def test_flags_override_a_preset_field_by_field(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("samples: 8\ntemperature: 0.5\nlanguages: [en, es]\n")
    config, _ = parse("generate", [f"--config={preset}", "--temperature=0.7"])
    assert (config.samples, config.temperature, config.languages) == (8, 0.7, ("en", "es"))  # type: ignore[attr-defined]


def test_an_iterate_preset_serves_the_single_stages(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("policy: p\nprompts: t\neval_prompts: e\nseed: 7\ngenerate: {samples: 4}\neval: {samples: 2}\n")
    assert load_preset(preset, "generate") == {"policy": "p", "prompts": "t", "seed": 7, "samples": 4}
    assert load_preset(preset, "eval") == {"policy": "p", "prompts": "e", "seed": 7, "samples": 2}


@pytest.mark.parametrize("preset", sorted((ROOT / "projects" / "conf").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_presets_are_valid(preset: Path) -> None:
    if "arms" in read_layer(preset).values:
        assert not read_sweep([str(preset)])[2].problems
        return
    validate(IterateConfig, load_preset(preset, "iterate", WORLDS), str(preset), WORLDS)


def test_every_field_is_documented() -> None:
    for row in CONFIGURED.values():
        assert all(info.description for _, info in leaves(row.config))


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from icr_platform.cli.commands import run; run(['--help']); "
        "heavy = {'torch', 'mlflow', 'pandas', 'pyarrow', 'pydantic', 'gradio'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_accelerate_configs_are_the_callers_or_ship_with_the_project(tmp_path: Path) -> None:
    resolver = Resolver(tmp_path, tmp_path, None)
    config = TrainConfig(accelerate_config="accelerate/fsdp2.yaml")
    assert Path(resolver.resolve(config, 0).accelerate_config).is_file()
    own = tmp_path / "accelerate" / "fsdp2.yaml"
    own.parent.mkdir()
    own.write_text("num_processes: 2\n")
    assert resolver.resolve(config, 0).accelerate_config == str(own)


def test_hub_names_stay_and_paths_become_absolute(tmp_path: Path) -> None:
    (tmp_path / "models" / "pi_0").mkdir(parents=True)
    resolver = Resolver(tmp_path, tmp_path, None)
    assert resolver.local("org/name", 0) == "org/name"
    assert resolver.local("models/pi_0", 0) == str(tmp_path / "models" / "pi_0")
    assert resolver.local("models/pi_1", 0) == str(tmp_path / "models" / "pi_1")
    assert resolver.local("/no/such/model", 0) == "/no/such/model"
    assert resolver.local("outputs/{language}.json", 0) == str(tmp_path / "outputs" / "{language}.json")
