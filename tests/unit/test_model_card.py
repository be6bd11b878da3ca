"""The card of a checkpoint: a Hub reader understands its header, it names what made the model, and no place on this machine."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard

from icr_platform.core.config import role
from icr_platform.training.config import TrainConfig
from icr_platform.training.model_card import Provenance, model_card, public_name


def provenance(reference: str | None) -> Provenance:
    return Provenance(
        policy="pi-1", policy_identity="a" * 64, reference=reference, reference_identity="b" * 64 if reference else None,
        preferences_digest="c" * 64, pairs={"en": 3, "sw": 2}, left_out={"sw": 1, "th": 4}, fingerprint="d" * 64,
    )  # fmt: skip


def test_card_says_what_made_the_checkpoint() -> None:
    config = TrainConfig(learning_rate=3e-7, dpo_reference="initial", policy="/a/place/pi-1", reference="/a/place/sft")
    text = model_card(config, provenance("sft"), {"train/final_loss": 0.5})
    card = ModelCard(text)
    assert card.data.to_dict()["language"] == ["en", "sw"]
    assert card.data.to_dict()["library_name"] == "transformers"
    for digest in "abcd":
        assert digest * 64 in text
    for name, info in TrainConfig.model_fields.items():
        assert (f"| {name} | `{getattr(config, name)}` |" in text) == (role(info) == "setting")
    assert "| sw | 2 | 1 |" in text
    assert "| th | 0 | 4 |" in text
    assert "2503.04647" in text
    assert "/a/place" not in text


def test_card_without_a_reference_says_so() -> None:
    assert "the policy at the start of training" in model_card(TrainConfig(), provenance(None), {})


def test_names_carry_no_way_to_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    assert public_name(str(folder)) == "policy"
    assert public_name("meta-llama/Meta-Llama-3-8B") == "meta-llama/Meta-Llama-3-8B"
