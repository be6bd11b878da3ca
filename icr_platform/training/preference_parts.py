"""What TRL's trainers of pairs and of single responses are given alike: arguments, and the policy with whatever reference it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasets import Dataset
from datasets.table import InMemoryTable

from icr_platform.models.devices import is_cpu
from icr_platform.models.loading import load_tokenizer
from icr_platform.models.multimodal import is_multimodal
from icr_platform.training.config import TrainConfig
from icr_platform.training.trainer import common_arguments, peft_config, require_own_logprobs
from icr_platform.training.weights import load_trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TokenIds = Mapping[str, Sequence[Sequence[int]]]
"""Columns of token ids, by name."""
_LENGTHS = 64  # tokens of which a GPU's sequences are multiples

MEMORY = "--gradient-checkpointing true, --precompute-reference yes, --lora-rank or --accelerate-config"
"""What helps where GPU memory is full."""


def preference_arguments(config: TrainConfig, work: Path, is_scored: bool) -> dict[str, Any]:
    """Choose the arguments of a training in `work` that every preference loss has. is_scored: by the reference, beforehand."""
    return {
        "beta": config.beta,
        "max_length": None,  # too long responses are left out and counted, never cut
        "disable_dropout": True,
        # cuDNN, by which torch attends on a GPU, makes a plan for each length that it meets, which takes as long as a batch.
        "pad_to_multiple_of": None if is_cpu(config.device) else _LENGTHS,
        "precompute_ref_log_probs": is_scored,
        "remove_unused_columns": False,  # all are used, and the data set is copied where others are looked for
        **common_arguments(config, work),
    }


class TrainingRows(Dataset):  # type: ignore[misc]
    """The data set of a training: token ids are taken from where they lie when a row is asked for, all else from memory.

    TRL takes a `Dataset` only, which would have the ids in memory, too.
    """

    def __init__(self, token_ids: TokenIds, columns: Mapping[str, Any]) -> None:
        """token_ids: by column, such as `TokenRows`. columns: whatever else a row has."""
        self._token_ids = token_ids
        table = pa.table(columns)
        # The fingerprint, of which nothing is made here, would be that of a table's pickle.
        super().__init__(InMemoryTable(table), fingerprint="rows of a training")

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, int):
            return found | {name: ids[key] for name, ids in self._token_ids.items()}
        return found | {name: [ids[row] for row in key] for name, ids in self._token_ids.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))


def trainer_parts(
    config: TrainConfig, args: Any, token_ids: TokenIds, columns: Mapping[str, Any], policy: PreTrainedModel | None
) -> dict[str, Any]:
    """Make the arguments of a trainer: the models loaded, the data, the tokenizer, and the adapters to train.

    args: TRL's, which set up the process group. token_ids, columns: see `TrainingRows`. policy: loaded here where it is None.

    Raises:
        InputError: TRL computes other log-probabilities for the policy than it does itself.
    """
    policy = policy if policy is not None else load_trainable(config.policy, config)
    if is_multimodal(policy.config):
        require_own_logprobs(policy)
    reference = None
    if not args.precompute_ref_log_probs and config.dpo_reference == "initial":
        reference = load_trainable(config.reference, config)
    elif not args.precompute_ref_log_probs and not config.lora_rank:
        # Under LoRA the policy without its adapters is the reference.
        reference = load_trainable(config.policy, config)
    return {
        "model": policy,
        "ref_model": reference,
        "args": args,
        "train_dataset": TrainingRows(token_ids, columns),
        "processing_class": load_tokenizer(config.policy, config),
        "peft_config": peft_config(config),
    }
