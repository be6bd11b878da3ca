"""What `icr train` can be asked for."""

from __future__ import annotations

from typing import ClassVar, Literal

from icr_platform.core.config import INPUTS, WHERE, ChatSettings, PinnedInputs, ScoreSettings, setting
from icr_platform.core.mappings import ColumnMap
from icr_platform.models.settings import ModelPlace


class TrainSettings(ModelPlace):
    """How the policy is trained: L_DPO(beta) + gamma * L_NLL(chosen) (METHOD, step 5)."""

    heading, place_heading = "training", WHERE

    beta: float = setting(0.1, "beta of the DPO loss", gt=0)
    gamma: float = setting(1.0, "weight of the likelihood of the chosen response", ge=0)
    likelihood: Literal["pairs", "tokens"] = setting(
        "pairs",
        "what the likelihood term averages; pairs: each response's mean over its tokens, over the pairs of a step, as the paper's "
        "implementation does; tokens: all tokens of batch_size pairs, as TRL does, so that the loss depends on batch_size",
    )
    router_loss: float = setting(0.0, "weight of the load-balancing loss of a mixture of experts' router; 0: off", ge=0)
    dpo_reference: Literal["policy", "initial"] = setting(
        "policy",
        "reference of the DPO loss; policy: the policy at the start of training; initial: the model given as reference",
    )
    learning_rate: float = setting(1e-7, "peak learning rate", gt=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "learning rate after warm-up")
    warmup: float = setting(0.1, "share of steps that warm up, never all of them", ge=0, lt=1)
    epochs: float = setting(1.0, "passes over all pairs", gt=0)
    batch_size: int = setting(1, "pairs per device that go through the model together", ge=1)
    accumulation: int = setting(32, "batches whose gradients are added up for one optimizer step", ge=1)
    max_length: int = setting(
        4096, "tokens of a prompt and its longer response; longer pairs are left out and counted", ge=2
    )
    lora_rank: int = setting(
        0, "rank of LoRA adapters, which are merged into the weights at the end; 0: all weights are trained", ge=0
    )
    lora_alpha: float = setting(32.0, "scale of LoRA adapters, which is divided by the rank", gt=0)
    gradient_checkpointing: bool = setting(
        False, "recompute activations in the backward pass, which takes time and saves memory"
    )
    save_dtype: Literal["trained", "stored"] = setting(
        "trained",
        "precision of the checkpoint; trained: float32, in which weights are trained; stored: that of the policy's files: bfloat16 "
        "takes half the space and rounds small changes away",
    )
    precompute_reference: Literal["auto", "yes", "no"] = setting(
        "auto",
        "score the pairs under the reference once, before training, so that training needs no second model in memory; auto: "
        "unless several training processes are faster at scoring them in every step",
    )
    save_steps: int = setting(100, "optimizer steps between checkpoints to resume from", "place", ge=1)
    accelerate_config: str = setting("", "accelerate config file: train through `accelerate launch`", "place")


class TrainConfig(ChatSettings, ScoreSettings, TrainSettings, PinnedInputs):
    """train: preferences -> checkpoint."""

    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("policy", "preferences")

    policy: str = setting("", "model to start from, pi_t", "model")
    reference: str = setting("", "pi_ref; needed with dpo_reference=initial", "model")
    preferences: str = setting(
        "", "preferences artifact, or texts: a file, a folder of LANG.jsonl, a hub data set", "input"
    )
    preference_columns: ColumnMap = setting({}, 'columns to read, as in {"chosen": "meta.best"}', later=True)
    seed: int = setting(42, "seed of data order and adapters", ge=0)
    output: str = setting(
        "", "folder of the checkpoint; empty: a work folder, which is emptied once MLflow has the checkpoint", "place"
    )
