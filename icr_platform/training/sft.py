"""Supervised finetuning by TRL, on the token ids and masks of `models.chat`.

L_SFT = -sum log pi(token) over the tokens of responses, divided by their number in the whole optimizer step, however its documents
are split into batches, accumulation and processes: a long document weighs as much as its tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.sft_config import SFTConfig as TrlConfig
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from icr_platform.core.errors import InputError
from icr_platform.models.multimodal import is_multimodal, restore_logit_scale
from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, NoCopyError, small_copy
from icr_platform.training.config import SftConfig
from icr_platform.training.curve import Curve
from icr_platform.training.dataset import longest_sequence
from icr_platform.training.documents import TrainingDocuments, epoch_rows
from icr_platform.training.trainer import (
    PolicyTrainer,
    common_arguments,
    peft_config,
    require_own_logprobs,
    settled,
    train_to_end,
)
from icr_platform.training.weights import Weights, load_trainable, policy_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOGGED = ("loss", "grad_norm", "learning_rate", "mean_token_accuracy", "entropy")
_MEMORY = "--gradient-checkpointing true, --lora-rank or --accelerate-config"
_IGNORED = -100  # the label of a token that is not learnt


class DocumentTrainer(PolicyTrainer, SFTTrainer):
    """TRL's trainer, fed with token ids and labels."""


def arguments(config: SftConfig, work: Path, documents: TrainingDocuments) -> TrlConfig:
    """Make TRL's arguments for a training in `work`; sets up the process group when a launcher started this process."""
    made = TrlConfig(
        max_length=longest_sequence(config) if config.packing else None,  # too long documents are left out, never cut
        packing=config.packing,
        pad_to_multiple_of=None,
        **common_arguments(config, work),
    )
    finished: TrlConfig = settled(made, config, epoch_rows(config, documents))
    return finished


def build_trainer(config: SftConfig, documents: TrainingDocuments, work: Path) -> DocumentTrainer:
    """Build a trainer over the documents, with the policy loaded.

    Raises:
        InputError: the family sees across packed documents, or TRL computes other log-probabilities for it than it does itself.
    """
    from datasets import Dataset

    args = arguments(config, work, documents)
    policy = load_trainable(config.policy, config)
    if is_multimodal(policy.config):
        require_own_logprobs(policy)
    if config.packing:
        _require_separate(policy)
    labels = [
        [token if learnt else _IGNORED for token, learnt in zip(one.token_ids, one.completion_mask, strict=True)]
        for one in documents.sequences
    ]
    rows = {"input_ids": [one.token_ids for one in documents.sequences], "labels": labels}
    return DocumentTrainer(
        config,
        model=policy,
        args=args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=policy_tokenizer(config),
        peft_config=peft_config(config),
    )


def _require_separate(model: PreTrainedModel) -> None:
    """Refuse a model whose documents see each other where they are packed into one sequence.

    Raises:
        InputError: they do, on a small copy, or there is none to try.
    """
    way_out = "leave --packing out"
    try:
        copy = small_copy(model)
    except NoCopyError as error:
        raise InputError(
            f"{model.name_or_path}: packing cannot be tried on a small copy ({error}); {way_out}"
        ) from None
    restore_logit_scale(copy)
    add_fused_lm_head(copy)
    ids = torch.randint(FIRST_ID, VOCABULARY, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    documents = [{"input_ids": part, "labels": part} for part in (ids[:29], ids[29:])]

    def logprobs(batch: list[dict[str, Any]]) -> torch.Tensor:
        inputs = DataCollatorForLanguageModeling(0, padding_free=True)(batch)
        with torch.no_grad():
            found: torch.Tensor = copy(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum()
        return found

    apart = sum(logprobs([one]) for one in documents)
    if not torch.allclose(logprobs(documents), torch.as_tensor(apart), atol=1e-3):
        raise InputError(
            f"{model.name_or_path}: packed documents of a {type(model).__name__} see each other with this attention; {way_out}"
        )


def train_documents(config: SftConfig, documents: TrainingDocuments, work: Path, curve: Curve) -> Weights:
    """Train; see `trainer.train_to_end`."""
    trainer = build_trainer(config, documents, work)
    return train_to_end(trainer, config, work, curve, _LOGGED, _MEMORY)
