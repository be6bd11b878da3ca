"""What `icr train` and `icr sft` can be asked for."""

from __future__ import annotations

from typing import ClassVar, Literal

from icr_platform.core.config import INPUTS, WHERE, ChatSettings, OptionalFloat, PinnedInputs, ScoreSettings, setting
from icr_platform.core.mappings import ColumnMap
from icr_platform.models.settings import ModelPlace


class OptimizerSettings(ModelPlace):
    """How weights are trained, whatever the loss."""

    heading, place_heading = "training", WHERE

    learning_rate: float = setting(1e-7, "peak learning rate", gt=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("linear", "learning rate after warm-up")
    warmup: float = setting(0.1, "share of steps that warm up, never all of them", ge=0, lt=1)
    epochs: float = setting(1.0, "passes over all pairs", gt=0)
    batch_size: int = setting(1, "pairs per device that go through the model together", ge=1)
    accumulation: int = setting(32, "batches whose gradients are added up for one optimizer step", ge=1)
    max_length: int = setting(
        4096, "tokens of a prompt and its longer response; longer pairs are left out and counted", ge=2
    )
    router_loss: float = setting(0.0, "weight of the load-balancing loss of a mixture of experts' router; 0: off", ge=0)
    lora_rank: int = setting(
        0, "rank of LoRA adapters, which are merged into the weights at the end; 0: all weights are trained", ge=0
    )
    lora_alpha: float = setting(32.0, "scale of LoRA adapters, which is divided by the rank", gt=0)
    gradient_checkpointing: bool = setting(
        False, "recompute activations in the backward pass, which takes time and saves memory"
    )
    torch_compile: bool = setting(
        False, "compile the layers on a GPU, which takes a minute at the start and makes each step faster", later=True
    )
    cpu_library: Literal["auto", "onednn", "torch"] = setting(
        "auto",
        "library of the matrix products on a CPU, in one process in float32; auto: the faster one, by a measurement that the work folder "
        "keeps",
        "place",
        later=True,
    )
    save_dtype: Literal["trained", "stored"] = setting(
        "trained",
        "precision of the checkpoint; trained: float32, in which weights are trained; stored: that of the policy's files: bfloat16 "
        "takes half the space and rounds small changes away",
    )
    save_steps: int = setting(100, "optimizer steps between checkpoints to resume from", "place", ge=1)
    accelerate_config: str = setting("", "accelerate config file: train through `accelerate launch`", "place")


Loss = Literal["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "apo_zero", "apo_down", "kto"]


class TrainSettings(OptimizerSettings):
    """How the policy is trained: L_loss(beta) + gamma * L_NLL(chosen) (METHOD, step 5).

    `training.loss_checks` says which settings a loss takes.
    """

    heading, place_heading = "training", WHERE

    loss: Loss = setting(
        "sigmoid",
        "preference loss; sigmoid: DPO; sigmoid_norm: DPO over means of tokens; robust: DPO where a share of the labels is wrong; "
        "apo_zero: chosen better than what the policy says, apo_down: worse; kto: single responses, each good or bad",
        later=True,
    )
    beta: float = setting(0.1, "beta of the loss; tau of ipo", gt=0)
    gamma: float = setting(1.0, "weight of the likelihood of the chosen response", ge=0)
    label_smoothing: float = setting(
        0.0,
        "share of pairs whose labels are taken to be the wrong way round, with loss=robust",
        ge=0,
        lt=0.5,
        later=True,
    )
    ld_alpha: OptionalFloat = setting(
        None,
        "weight of the tokens of a response behind the length of the shorter one, in the preference loss (LD-DPO); none: 1",
        ge=0,
        le=1,
        later=True,
    )
    use_weighting: bool = setting(
        False, "weigh each pair's preference loss by how likely the policy is to sample its responses (WPO)", later=True
    )
    desirable_weight: float = setting(1.0, "weight of good responses, with loss=kto", gt=0, later=True)
    undesirable_weight: float = setting(1.0, "weight of bad responses, with loss=kto", gt=0, later=True)
    likelihood: Literal["pairs", "tokens"] = setting(
        "pairs",
        "what the likelihood term averages; pairs: each response's mean over its tokens, over the pairs of a step, as the paper's "
        "implementation does; tokens: all tokens of batch_size pairs, as TRL does, so that the loss depends on batch_size",
    )
    dpo_reference: Literal["policy", "initial"] = setting(
        "policy",
        "reference of the DPO loss; policy: the policy at the start of training; initial: the model given as reference",
    )
    precompute_reference: Literal["auto", "yes", "no"] = setting(
        "auto",
        "score the pairs under the reference once, before training, so that training needs no second model in memory; auto: "
        "unless several training processes are faster at scoring them in every step",
    )


class PolicyTraining(ChatSettings, OptimizerSettings, PinnedInputs):
    """What every training of a policy has.

    stage: by which messages and metrics call it.
    """

    stage: ClassVar[str]
    heading = INPUTS

    policy: str = setting("", "model to start from, pi_t", "model")
    seed: int = setting(42, "seed of data order and adapters", ge=0)
    output: str = setting(
        "", "folder of the checkpoint; empty: a work folder, which is emptied once MLflow has the checkpoint", "place"
    )

    @property
    def own_template(self) -> str:
        """The file of a chat template that takes the place of the policy's; '' for the policy's."""
        return ""


class TrainConfig(ScoreSettings, TrainSettings, PolicyTraining):
    """train: preferences -> checkpoint."""

    stage = "train"
    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("policy", "preferences")

    reference: str = setting("", "pi_ref; needed with dpo_reference=initial", "model")
    preferences: str = setting(
        "", "preferences artifact, or texts: a file, a folder of LANG.jsonl, a hub data set", "input"
    )
    preference_columns: ColumnMap = setting({}, 'columns to read, as in {"chosen": "meta.best"}', later=True)


class SftConfig(PolicyTraining):
    """sft: documents -> checkpoint. A document is a conversation and its response."""

    stage = "sft"
    heading = INPUTS
    required: ClassVar[tuple[str, ...]] = ("policy", "documents")

    policy: str = setting("", "model to start from, which may be a base model", "model")
    documents: str = setting(
        "",
        "conversations with their responses: a file, a folder of LANG.jsonl or LANG/FILE.json, a hub data set, or the outputs or "
        "preferences (the chosen responses) of an earlier run",
        "input",
    )
    document_columns: ColumnMap = setting(
        {}, 'columns to read, as in {"instruction": "question", "output": "answers.0"}'
    )
    prompts: str = setting(
        "", "prompts that the documents answer, joined by id, where their rows have no instruction", "input"
    )
    prompt_columns: ColumnMap = setting({}, 'columns of the prompts to read, as in {"instruction": "prompt"}')
    chat_template: str = setting(
        "",
        "file of a chat template (Jinja) for a base model that has none, or in the place of the model's; it is saved with the checkpoint",
        "input",
    )
    turns: Literal["all", "last"] = setting(
        "all", "responses of a conversation that are learnt; all: every turn of the assistant; last: the last one"
    )
    packing: bool = setting(
        False,
        "fill sequences of max_length with several documents, which do not see each other, instead of padding them",
    )
    learning_rate: float = setting(2e-5, "peak learning rate", gt=0)
    schedule: Literal["linear", "cosine", "constant"] = setting("cosine", "learning rate after warm-up")
    epochs: float = setting(1.0, "passes over all documents", gt=0)
    batch_size: int = setting(
        8, "documents (sequences, with packing) per device that go through the model together", ge=1
    )
    accumulation: int = setting(2, "batches whose gradients are added up for one optimizer step", ge=1)
    max_length: int = setting(4096, "tokens of a document; longer ones are left out and counted", ge=2)

    @property
    def own_template(self) -> str:
        return self.chat_template
