"""What TRL's trainers of pairs and of single responses are given alike: arguments, and the policy with whatever reference it needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr_platform.models.devices import is_cpu
from icr_platform.models.loading import load_tokenizer
from icr_platform.models.multimodal import is_multimodal
from icr_platform.training.config import TrainConfig
from icr_platform.training.token_rows import TokenRows
from icr_platform.training.trainer import common_arguments, peft_config, require_own_logprobs
from icr_platform.training.weights import load_trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        **common_arguments(config, work),
    }


def trainer_parts(
    config: TrainConfig, args: Any, columns: Mapping[str, Any], policy: PreTrainedModel | None
) -> dict[str, Any]:
    """Make the arguments of a trainer: the models loaded, the data, the tokenizer, and the adapters to train.

    args: TRL's, which set up the process group. columns: of the data set, `TokenRows` among them. policy: loaded here where it is None.

    Raises:
        InputError: TRL computes other log-probabilities for the policy than it does itself.
    """
    import pyarrow as pa
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # Dataset.from_dict copies token ids, and so does the fingerprint that is made of a table's pickle; the table shares their memory.
    table = pa.table({name: of.arrow if isinstance(of, TokenRows) else of for name, of in columns.items()})
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
        "train_dataset": Dataset(InMemoryTable(table), fingerprint="rows of a training"),
        "processing_class": load_tokenizer(config.policy, config),
        "peft_config": peft_config(config),
    }
