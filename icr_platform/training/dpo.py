"""Training by TRL: L_DPO(beta) + gamma * L_NLL(chosen), on token ids as they were sampled. The only import of trl.

L_DPO = -log sigmoid(beta * ((log pi(c) - log ref(c)) - (log pi(r) - log ref(r)))), mean over pairs (Rafailov et al. 2023,
arXiv 2305.18290, equation 7). L_NLL is TRL's `sft` term: the mean over all *tokens* of the micro-batch's chosen responses
of -log pi(token), so that a long response weighs more than a short one beside it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from icr_platform.config import TrainConfig
from icr_platform.errors import IcrError
from icr_platform.models import load_tokenizer, resolve_device
from icr_platform.progress import Meter, meter
from icr_platform.training.curve import Curve
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.processes import process_arguments, shard_on_cpu
from icr_platform.training.resume_points import last_whole, mark_whole
from icr_platform.training.weights import State, adapters, load_trainable, precision, without_bars

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel

_LOGGED = (
    "loss",
    "grad_norm",
    "learning_rate",
    "rewards/accuracies",
    "rewards/margins",
    "rewards/chosen",
    "rewards/rejected",
)
_POINTS = 200  # of the loss curve, at most about this many


class PairTrainer(DPOTrainer):
    """TRL's trainer, fed with token ids and, where given, reference log-probabilities; a loss that is not finite stops it."""

    tokens = 0

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # has prompt_ids, chosen_ids, rejected_ids: tokenising text again could give other ids

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # has ref_chosen_logps, ref_rejected_logps from our scorer

    def _send_telemetry(self) -> None:
        """Nothing of a training leaves the machine."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """The finished checkpoint carries the platform's own card."""

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        self.tokens += int(inputs["attention_mask"].sum())
        loss: torch.Tensor = super().training_step(model, inputs, *rest, **named)  # type: ignore[no-untyped-call]
        if not math.isfinite(float(loss)):
            raise IcrError(
                f"train: the loss is {float(loss)} at step {self.state.global_step + 1}; nothing was saved as finished, "
                f"lower --learning-rate (now {self.args.learning_rate}) or train in --dtype float32"
            )
        return loss

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            mark_whole(folder, self.accelerator.num_processes)
        self.accelerator.wait_for_everyone()


class _Reporter(TrainerCallback):
    """Sends the loss curve on, shows progress, and skips the resume point after the last step: the model itself follows."""

    def __init__(self, curve: Curve) -> None:
        self._curve = curve
        self._stack = contextlib.ExitStack()
        self._meter: Meter | None = None
        self._tokens = 0
        self.trainer: PairTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._meter = self._stack.enter_context(meter("train", state.max_steps, state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
        if self._meter is not None and self.trainer is not None:
            fresh = (self.trainer.tokens - self._tokens) * args.world_size
            self._tokens = self.trainer.tokens
            self._meter.advance(1, fresh)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs is not None and "loss" in logs:
            metrics = {f"train/{name}": float(logs[name]) for name in _LOGGED if name in logs}
            self._curve.add(state.global_step, metrics)

    def close(self) -> None:
        self._stack.close()


def arguments(config: TrainConfig, work: Path, pairs: int, precomputed: bool) -> DPOConfig:
    """TRL's arguments for a training in `work`. Sets up the process group when a launcher started this process."""
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "no"}[precision(config).autocast]
    os.environ["ACCELERATE_MIXED_PRECISION"] = mixed  # else a training before this one in the process decides
    on_cpu = resolve_device(config.device) == "cpu"
    schedule = "constant_with_warmup" if config.schedule == "constant" else config.schedule
    arguments = DPOConfig(
        output_dir=str(work),
        loss_type=["sigmoid", "sft"],
        loss_weights=[1.0, config.gamma],
        beta=config.beta,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=config.warmup,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        max_length=None,
        disable_dropout=True,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
        precompute_ref_log_probs=precomputed,
        bf16=mixed == "bf16",
        fp16=mixed == "fp16",
        seed=config.seed,
        data_seed=config.seed,
        ddp_find_unused_parameters=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        **process_arguments(on_cpu),
    )
    if on_cpu:
        shard_on_cpu()
    arguments.logging_steps = _logging_steps(config, pairs, arguments.world_size)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # TRL refuses DataParallel; several GPUs are what accelerate_config is for
    return arguments


def _logging_steps(config: TrainConfig, pairs: int, processes: int) -> int:
    """Steps between points of the curve: a divisor of save_steps, so that a resumed training averages the same steps."""
    steps = config.epochs * pairs / (config.batch_size * config.accumulation * processes)
    limit = max(1, int(steps / _POINTS))
    return max(divisor for divisor in range(1, min(limit, config.save_steps) + 1) if config.save_steps % divisor == 0)


def build_trainer(
    config: TrainConfig,
    pairs: TrainingPairs,
    reference_logprobs: np.ndarray[Any, Any] | None,
    work: Path,
    policy: PreTrainedModel | None = None,
) -> PairTrainer:
    """A trainer over `pairs`, with the policy and whatever reference it needs loaded.

    reference_logprobs: [P, 2] nats of the chosen and the rejected responses; None: TRL runs the reference in every step.
    policy: the policy when it is loaded already, in its training precision.
    """
    args = arguments(config, work, len(pairs), reference_logprobs is not None)
    reference = None
    if reference_logprobs is None and config.dpo_reference == "initial":
        reference = load_trainable(config.reference, config)
    elif reference_logprobs is None and not config.lora_rank:  # LoRA: the policy without its adapters is the reference
        reference = load_trainable(config.policy, config)
    trainer = PairTrainer(
        model=policy if policy is not None else load_trainable(config.policy, config),
        ref_model=reference,
        args=args,
        train_dataset=_dataset(pairs, reference_logprobs),
        processing_class=load_tokenizer(config.policy, config),
        peft_config=adapters(config),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _dataset(pairs: TrainingPairs, reference_logprobs: np.ndarray[Any, Any] | None) -> Any:
    from datasets import Dataset

    columns: dict[str, Any] = {
        "prompt_ids": pairs.prompt_ids,
        "chosen_ids": pairs.chosen_ids,
        "rejected_ids": pairs.rejected_ids,
    }
    if reference_logprobs is not None:
        columns["ref_chosen_logps"] = reference_logprobs[:, 0]
        columns["ref_rejected_logps"] = reference_logprobs[:, 1]
    return Dataset.from_dict(columns)


def train(
    config: TrainConfig,
    pairs: TrainingPairs,
    reference_logprobs: np.ndarray[Any, Any] | None,
    work: Path,
    curve: Curve,
    policy: PreTrainedModel | None = None,
) -> State:
    """Train, going on from the last whole resume point in `work`.

    Returns: the trained weights on the main process (of LoRA the adapters only); on the others they may be missing.

    Raises:
        IcrError: a loss is not finite, GPU memory is full.
    """
    trainer = build_trainer(config, pairs, reference_logprobs, work, policy)
    reporter = _Reporter(curve)
    reporter.trainer = trainer
    trainer.add_callback(reporter)
    try:
        with trainer.args.distributed_state.main_process_first():
            resume = last_whole(work, trainer.args.world_size)
        with without_bars(), _explained(config):
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            return _gathered_state(trainer)
    finally:
        reporter.close()


@contextlib.contextmanager
def _explained(config: TrainConfig) -> Iterator[None]:
    """Full GPU memory as an error that says what to change."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise IcrError(
            f"train: out of GPU memory at batch_size={config.batch_size}; lower it and raise --accumulation, or use "
            "--gradient-checkpointing true, --precompute-reference yes, --lora-rank or --accelerate-config"
        ) from error


def _gathered_state(trainer: PairTrainer) -> State:
    """All trained weights, gathered from however they were sharded."""
    state: State = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "peft_config"):
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(model, state_dict=state)
    return state
