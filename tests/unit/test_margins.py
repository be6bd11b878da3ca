"""What training won: which pairs it is measured on, and what is said where a precision loses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import PREFERENCES
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.training import margins
from icr_platform.training.config import TrainConfig
from icr_platform.training.dataset import TrainingPairs, load_pairs


@pytest.mark.parametrize(("count", "sampled"), [(1, 1), (64, 64), (65, 64), (10_000, 64)])
def test_the_sample_is_bounded_and_reaches_over_all_languages(count: int, sampled: int) -> None:
    ids = [[row + 1] for row in range(count)]
    groups = margins.sampled(TrainingPairs(["en"] * count, ids, ids, ids, {})).groups
    rows = [group.prompt_ids[0] - 1 for group in groups]
    assert len(rows) == len(set(rows)) == sampled
    assert rows[0] == 0
    assert rows[-1] >= count - 1 - count / sampled


def test_what_the_next_stages_precision_loses_is_said(
    tiny_model: Path, make_preferences: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's next stage loads bfloat16, in which small changes of float32 weights are not there."""
    tokenizer = load_tokenizer(str(tiny_model))
    preferences = open_artifact(make_preferences(tmp_path / "preferences", tiny_model, 12), PREFERENCES)
    sample = margins.sampled(load_pairs(preferences, tokenizer, 4096))
    model = load_model(str(tiny_model), "bfloat16", "cpu").float()
    for name, folder in (("policy", tmp_path / "policy"), ("checkpoint", tmp_path / "checkpoint")):
        if name == "checkpoint":
            for parameter in model.parameters():
                parameter.data *= 1.001
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    config = TrainConfig(policy=str(tmp_path / "policy"), device="cpu")
    trained = margins.trained_log_ratio(config, sample, model)
    for following, lost in ((torch.float32, False), (torch.bfloat16, True)):
        monkeypatch.setattr(margins, "resolve_dtype", lambda *_, following=following: following)
        figures, notes = margins.measured_margins(config, sample, trained, tmp_path / "checkpoint")
        assert figures["train/saved_margin"] == pytest.approx(figures["train/trained_margin"], rel=1e-4)
        assert (figures["train/loaded_margin"] == figures["train/saved_margin"]) == (not lost)
        assert [
            note for note in notes if "as the next stage loads it (bfloat16)" in note and "--dtype float32" in note
        ] == (notes if lost else [])
        assert len(notes) == lost
    _, notes = margins.measured_margins(config, sample, None, tmp_path / "checkpoint")
    assert "the margin of the trained weights was not measured" in notes[0]
