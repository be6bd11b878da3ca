"""Arms that end before their last iteration, and the registry's alias of the best one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from icr_platform.cli.commands import run
from icr_platform.cli.flags import parse
from icr_platform.core.errors import InputError
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import open_session
from icr_platform.tracking.tracker import Tracker
from tests.support.small_tables import write_prompt_folder
from tests.support.tiny_models import PROMPTS, RESPONSES


@pytest.fixture
def preset(tmp_path: Path, tiny_models: tuple[Path, Path], own_store: Path) -> Path:
    """Two iterations that learn next to nothing, measured by the reward on pairs of the conversations that the models know."""
    for language in ("en", "es"):
        pairs = [
            {
                "id": f"q{i}",
                "prompt": PROMPTS[language][i],
                "chosen": RESPONSES[language][i],
                "rejected": RESPONSES[language][i - 1],
            }
            for i in range(6)
        ]
        (tmp_path / "pairs").mkdir(exist_ok=True)
        lines = "".join(json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs)
        (tmp_path / "pairs" / f"{language}.jsonl").write_text(lines, encoding="utf-8")
    policy, reference = tiny_models
    values = {
        "iterations": 2,
        "policy": str(policy),
        "reference": str(reference),
        "prompts": str(write_prompt_folder(tmp_path / "prompts")),
        "languages": ["en", "es"],
        "reward_pairs": "pairs",
        "stop": "no-gain",
        "seed": 1,
        "generate": {"samples": 4, "max_tokens": 24},
        "annotate": {"drop_wrong_language": False, "drop_truncated": False},
        "train": {"learning_rate": 1e-6, "batch_size": 4, "accumulation": 1},
    }
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_an_arm_stops_is_found_again_and_goes_on(
    preset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def arm_of(*flags: str):  # type: ignore[no-untyped-def]
        config, options = parse("iterate", [f"--config={preset}", *flags])
        return iterate(open_session(options), config)  # type: ignore[arg-type]

    arm = arm_of()
    assert max(t for t, _ in arm.stages) == 1
    assert arm.metrics[1]["gain_low"] <= 0
    said = "iteration 1 of 2 gained nothing over the one before: reward accuracy "
    assert arm.stopped.startswith(said)
    assert said in capsys.readouterr().err
    report = (tmp_path / "report-icr.html").read_text()
    assert said in report
    tracker = Tracker()
    finished = tracker.client.get_run(arm.run.run_id)
    assert finished.info.status == "FINISHED"
    assert finished.data.tags["icr.stopped"] == arm.stopped
    best = tracker.resolve("models:/icr-policy@best")
    assert best == tracker.resolve("models:/icr-policy@iteration-1")
    (tmp_path / "report-icr.html").unlink()
    assert run(["report", arm.run.run_id]) == 0
    assert (tmp_path / "report-icr.html").read_text() == report, "from the artifacts alone"

    again = arm_of()
    assert all(stage.reused for stage in again.stages.values())
    assert (again.stopped, again.metrics, sorted(again.stages)) == (arm.stopped, arm.metrics, sorted(arm.stages))
    spent, found = (tracker.client.get_run(of.run.run_id).data for of in (arm, again))
    uses = ("cpu_hours", "tokens_sampled", "tokens_scored", "tokens_trained")
    assert all(spent.metrics[f"cost/{use}"] > 0 for use in uses)
    assert not any(name.startswith("cost/reused") for name in spent.metrics)
    assert " cores of " in spent.tags["icr.devices"]
    assert "cost/cpu_hours" not in found.metrics, "nothing was spent a second time"
    for use in uses:
        assert found.metrics[f"cost/reused_{use}"] == pytest.approx(spent.metrics[f"cost/{use}"])

    on = arm_of("--stop=none")
    assert not on.stopped
    assert {t for (t, _), stage in on.stages.items() if not stage.reused} == {2}
    assert "icr.stopped" not in tracker.client.get_run(on.run.run_id).data.tags
    assert on.metrics[1] == arm.metrics[1]
    aliases = tracker.client.get_registered_model("icr-policy").aliases
    assert set(aliases) == {"iteration-1", "iteration-2", "best"}
    floors = {t: on.metrics[t].get("gain_since_0_low", on.metrics[t]["gain_since_0"]) for t in (1, 2)}
    assert aliases["best"] == aliases[f"iteration-{max(floors, key=lambda t: (floors[t], t))}"]


def test_nothing_to_look_at_is_said_before_work(preset: Path) -> None:
    config, options = parse("iterate", [f"--config={preset}", "--reward-pairs="])
    with pytest.raises(InputError, match="nothing is measured that would show a gain"):
        iterate(open_session(options), config)  # type: ignore[arg-type]
