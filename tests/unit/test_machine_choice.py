"""What is measured of a machine: chosen once, kept where the work is and used again there, and without effect on scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from icr_platform.core.config import CHAT_DEFAULTS
from icr_platform.core.errors import InputError
from icr_platform.engines.scoring import machine_choice, packed_attention
from icr_platform.engines.scoring.choice import Choice
from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
from icr_platform.engines.scoring.machine_choice import FILE, choose, measure
from icr_platform.engines.scoring.model_scores import load_scorer
from icr_platform.engines.scoring.settings import RewardSettings

PLAIN = RewardSettings(device="cpu", dtype="float32")
GROUPS = [Group([5, 6, 7], [[8, 9, 10, 11, 12], [13, 14]]), Group([15], [[16, 17, 18, 19]])]


@pytest.fixture
def scorer(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompletionScorer:
    """Of a model that is worth a measurement, in a home of its own."""
    monkeypatch.setattr(machine_choice, "_SMALL", 0)
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    return CompletionScorer(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32))


def measured(monkeypatch: pytest.MonkeyPatch, *choices: Choice) -> list[Choice]:
    """Let measurements give these, one after the other; the list is what is left of them."""
    left = list(choices)
    monkeypatch.setattr(machine_choice, "measure", lambda scorer, settings: left.pop(0))
    return left


def test_a_choice_is_kept_in_the_folder_and_on_the_machine(
    scorer: CompletionScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Choice("torch", 1, 7), Choice("onednn", 1, 9)
    left = measured(monkeypatch, first, second)
    assert choose(scorer, PLAIN, tmp_path / "work") == first
    assert choose(scorer, PLAIN, tmp_path / "work") == first
    assert choose(scorer, PLAIN, tmp_path / "other") == first
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "another machine"))
    assert choose(scorer, PLAIN, tmp_path / "work") == first
    assert left == [second]
    assert choose(scorer, PLAIN, tmp_path / "third") == second


def test_what_the_settings_fix_is_not_chosen(
    scorer: CompletionScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = RewardSettings(cpu_library="torch", cpu_threads=1, pack_tokens=64, batch_tokens=32)
    monkeypatch.setattr(machine_choice, "_timing", lambda _: pytest.fail("nothing is left to measure"))
    assert choose(scorer, fixed, None) == Choice("torch", 1, 32)
    measured(monkeypatch, Choice("onednn", 3, 7))
    assert choose(scorer, PLAIN, tmp_path) == Choice("onednn", 3, 7)
    assert choose(scorer, fixed, tmp_path) == Choice("torch", 1, 32)


def test_work_that_began_without_a_choice_goes_on_without_one(
    scorer: CompletionScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a run before, or of several machines, were made without one."""
    measured(monkeypatch)
    assert choose(scorer, PLAIN, None) == scorer.choice
    (tmp_path / "policy-logprobs").mkdir()
    (tmp_path / "policy-logprobs" / "part-00000.parquet").touch()
    assert choose(scorer, PLAIN, tmp_path) == scorer.choice
    (tmp_path / FILE).write_text('{"library": "torch", "threads": 1}')
    with pytest.raises(InputError, match=r"machine\.json: field 'pack_tokens' is missing"):
        choose(scorer, PLAIN, tmp_path)


def test_an_engine_that_is_loaded_again_packs_as_before(
    scorer: CompletionScorer, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, Choice("torch", 1, 7), Choice("torch", 1, 9))
    used: list[Choice] = []
    use = CompletionScorer.use
    monkeypatch.setattr(CompletionScorer, "use", lambda self, choice: (used.append(choice), use(self, choice)))
    for _ in range(2):
        load_scorer(PLAIN, CHAT_DEFAULTS, str(tiny_model), tmp_path)
    assert used == [Choice("torch", 1, 7)] * 2


@pytest.mark.parametrize("choice", [Choice("torch", 1, 3), Choice("onednn", 1, 64)])
def test_scores_are_the_same_under_every_choice(scorer: CompletionScorer, choice: Choice) -> None:
    expected, threads = np.concatenate(scorer.score(GROUPS)), torch.get_num_threads()
    scorer.use(choice)
    np.testing.assert_allclose(np.concatenate(scorer.score(GROUPS)), expected, atol=4e-5)
    assert scorer.choice.pack_tokens == choice.pack_tokens
    assert torch.get_num_threads() == threads


def test_a_measurement_is_a_choice_and_leaves_the_model_as_it_was(scorer: CompletionScorer) -> None:
    expected, threads = scorer.score(GROUPS), torch.get_num_threads()
    settings = RewardSettings(batch_tokens=512)
    found = measure(scorer, settings)
    assert found.library in ("onednn", "torch")
    assert 1 <= found.threads <= threads
    assert found.pack_tokens in (512, 1024)
    assert found.attention in ("onednn", "torch")
    assert not any(module._forward_hooks or "forward" in vars(module) for module in scorer.model.modules())
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(np.concatenate(scorer.score(GROUPS)), np.concatenate(expected))
    assert scorer.model.config._attn_implementation != packed_attention.NAME
