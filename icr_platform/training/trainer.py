"""What the trainers of `train` and `sft` share around TRL's: a schedule without a step at rate 0, resume points that are whole,
the curve and the progress, a loss that is not finite, and the trained weights however they were sharded."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import PrinterCallback, TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer
from trl.trainer.utils import add_fused_lm_head

from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.progress import Meter, meter
from icr_platform.engines.scoring.choice import Library
from icr_platform.models.adapters import adapters_alone, leave_inputs_to_autocast, new_adapters
from icr_platform.models.devices import NOT_COMPILED, is_cpu
from icr_platform.models.loading_errors import first_line
from icr_platform.models.multimodal import restore_logit_scale
from icr_platform.models.not_finite import not_finite
from icr_platform.models.quantised import is_in_bits
from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, NoCopyError, small_copy
from icr_platform.training.config import PolicyTraining
from icr_platform.training.cpu_products import choose_library, multiply_by_onednn
from icr_platform.training.curve import Curve
from icr_platform.training.processes import process_arguments, shard_on_cpu
from icr_platform.training.resume_points import last_whole, mark_whole
from icr_platform.training.weights import Weights, precision, without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_POINTS = 200  # of the loss curve, at most about this many
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_OWN_MAPPING = 2**20  # bytes of a tensor that has a mapping of its own


class PolicyTrainer:
    """Mixed into TRL's trainers, before them: what every training of a policy does otherwise than transformers' trainer."""

    def __init__(self, config: PolicyTraining, **parts: Any) -> None:
        self.tokens = 0
        self._config = config
        self._losses: list[torch.Tensor] = []  # of the step's batches
        if config.gradient_checkpointing and is_cpu(config.device):
            _return_freed_tensors()
        super().__init__(**parts)
        trainer: Any = self
        trainer.remove_callback(PrinterCallback)
        # TRL makes adapters over quantised weights bfloat16, to which small steps are not added.
        if is_in_bits(trainer.accelerator.unwrap_model(trainer.model)):
            for parameter in trainer.model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        if config.lora_rank and precision(config).autocast is not None:
            leave_inputs_to_autocast(trainer.model)
        models = [one for one in (trainer.model, getattr(trainer, "ref_model", None)) if one is not None]
        self.uses_onednn = self._library() == "onednn"
        for model in models:
            if config.torch_compile:
                _compile_layers(model, config)
            if self.uses_onednn:
                multiply_by_onednn(model)

    def _library(self) -> Library:
        """Of the matrix products: torch's own on a GPU, in other precisions, and where processes would have to agree."""
        trainer: Any = self
        config = self._config
        if trainer.args.device.type != "cpu" or config.accelerate_config or precision(config).autocast is not None:
            return "torch"
        model = trainer.accelerator.unwrap_model(trainer.model)
        return choose_library(model, config.cpu_library, Path(str(trainer.args.output_dir)))

    def _send_telemetry(self) -> None:
        """Send nothing: what is trained stays on the machine."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the finished checkpoint gets the platform's own card."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the configured schedule; transformers' own schedules begin their warm-up at rate 0, a step that trains nothing."""
        trainer: Any = self
        if trainer.lr_scheduler is None:
            share = rate_shares(self._config.schedule, self._config.warmup, num_training_steps)
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or trainer.optimizer, share)
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Take the batches of one optimizer step, and count their tokens."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)  # type: ignore[misc]
        # Packed documents come without a mask, and without padding.
        self.tokens += sum(
            int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
            for batch in batches
        )
        return batches, items

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        """Train on a batch, whose loss is looked at before the step: a GPU that was waited for has nothing queued."""
        loss: torch.Tensor = super().training_step(model, inputs, *rest, **named)  # type: ignore[misc]
        self._losses.append(loss.detach())
        return loss

    def require_finite_losses(self) -> None:
        """Look at the losses of the step's batches.

        Raises:
            IcrError: one is not finite.
        """
        trainer: Any = self
        losses, self._losses = torch.stack(self._losses).tolist(), []
        broken = [loss for loss in losses if not math.isfinite(loss)]
        if broken and trainer.state.global_step == 0:
            raise not_finite(trainer.accelerator.unwrap_model(trainer.model))
        if broken:
            raise IcrError(
                f"{self._config.stage}: the loss is {broken[0]} at step {trainer.state.global_step + 1}; nothing was saved as "
                f"finished, lower --learning-rate (now {trainer.args.learning_rate}) or train in --dtype float32"
            )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
        trainer: Any = self
        trainer.accelerator.wait_for_everyone()
        if trainer.accelerator.is_main_process:
            folder = Path(str(trainer.args.output_dir)) / f"checkpoint-{trainer.state.global_step}"
            mark_whole(folder, trainer.accelerator.num_processes)
        trainer.accelerator.wait_for_everyone()


def _compile_layers(model: torch.nn.Module, config: PolicyTraining) -> None:
    """Let torch compile each layer of a model when it first runs; one kernel serves all of them, and all lengths.

    In place, before the model is prepared: so FSDP's and DeepSpeed's hooks still run.

    Raises:
        InputError: the model has no layers of transformers' kind.
    """
    if is_cpu(config.device):
        logger.warning(NOT_COMPILED)
        return
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise InputError(
            f"{config.policy}: it has no layers of the kind that is compiled here; train without --torch-compile"
        )
    for layer in layers:
        layer.compile(dynamic=True)


def rate_shares(schedule: str, warmup: float, steps: int) -> Callable[[int], float]:
    """Return the share of the peak learning rate by step (0 is the first), which is above 0 in each of `steps` steps.

    Warm-up takes `warmup` of the steps but never the last one: step s of w has (s + 1) / (w + 1), the next one the whole rate.
    From there linear and cosine fall so that one more step would have 0.

    >>> [round(rate_shares("linear", 0.3, 5)(step), 2) for step in range(5)]
    [0.33, 0.67, 1.0, 0.67, 0.33]
    >>> rate_shares("linear", 0.1, 1)(0)
    1.0
    """
    warming = min(math.ceil(warmup * steps), steps - 1)

    def share(step: int) -> float:
        if step < warming:
            return (step + 1) / (warming + 1)
        left = max(0.0, (steps - step) / (steps - warming))
        return {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[schedule]

    return share


class _Reporter(TrainerCallback):
    """Sends the loss curve on, shows progress, and skips the resume point after the last step, as the model itself follows."""

    def __init__(self, curve: Curve, trainer: Any, stage: str, logged: tuple[str, ...]) -> None:
        self._curve, self._trainer, self._stage, self._logged = curve, trainer, stage, logged
        self.shown = contextlib.ExitStack()
        """Entered around the training: ends the progress bar, full where nothing failed."""
        self._meter: Meter | None = None
        self._tokens = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._meter = self.shown.enter_context(meter(self._stage, state.max_steps, state.global_step, "trained"))

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._trainer.require_finite_losses()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
        if self._meter is not None:
            fresh = (self._trainer.tokens - self._tokens) * args.world_size
            self._tokens = self._trainer.tokens
            self._meter.advance(1, fresh)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs is not None and "loss" in logs:
            metrics = {f"{self._stage}/{name}": float(logs[name]) for name in self._logged if name in logs}
            self._curve.add(state.global_step, metrics)


def common_arguments(config: PolicyTraining, work: Path) -> dict[str, Any]:
    """Choose the arguments of TRL's trainers for a training in `work` that do not depend on the loss; see `settled`."""
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "no"}[precision(config).autocast]
    os.environ["ACCELERATE_MIXED_PRECISION"] = mixed  # otherwise an earlier training of this process decides
    return {
        "output_dir": str(work),
        "router_aux_loss_coef": config.router_loss,
        "learning_rate": config.learning_rate,
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_checkpointing": config.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if config.gradient_checkpointing else None,
        "bf16": mixed == "bf16",
        "fp16": mixed == "fp16",
        "seed": config.seed,
        "data_seed": config.seed,
        "ddp_find_unused_parameters": False,
        "save_strategy": "steps",
        "save_steps": config.save_steps,
        "logging_nan_inf_filter": False,  # it hides losses that are not finite
        "report_to": [],
        "disable_tqdm": True,
        **process_arguments(is_cpu(config.device)),
    }


def _return_freed_tensors() -> None:
    """Let the kernel have a tensor's memory back as soon as it is freed, for the rest of the process.

    glibc keeps what is below a threshold that it raises to 32 MiB by and by, in pieces that the next tensor does not fit: a twelfth of
    the memory of Gemma 3 270M in training. Whoever recomputes layers to save memory can pay the few more page faults.
    """
    if change := getattr(ctypes.CDLL(None), "mallopt", None):  # musl has none
        change(_M_MMAP_THRESHOLD, _OWN_MAPPING)


def settled(arguments: Any, config: PolicyTraining, rows: int) -> Any:
    """Finish TRL's arguments, once making them has set up the process group. rows: of an epoch, over all processes."""
    if is_cpu(config.device):
        shard_on_cpu()
    # A divisor of save_steps: then a resumed training averages the same steps into a point of the curve.
    steps = config.epochs * rows / (config.batch_size * config.accumulation * arguments.world_size)
    most = min(max(1, int(steps / _POINTS)), config.save_steps)
    arguments.logging_steps = max(number for number in range(1, most + 1) if config.save_steps % number == 0)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # TRL refuses DataParallel; several GPUs are what accelerate_config is for
    return arguments


def peft_config(config: PolicyTraining) -> Any:
    """Describe the adapters to train to peft; None where all weights are trained."""
    return new_adapters(config.lora_rank, config.lora_alpha) if config.lora_rank else None


def require_own_logprobs(model: PreTrainedModel) -> None:
    """Refuse a multimodal model of which TRL, which computes logits from the head's weights, gets others than its own code.

    Raises:
        InputError: it does, on a small copy.
    """
    try:
        copy = small_copy(model)
    except NoCopyError:  # then there is nothing to compare
        return
    restore_logit_scale(copy)
    ids = torch.arange(FIRST_ID, VOCABULARY)[None]
    own = copy(input_ids=ids, use_cache=False).logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None])
    add_fused_lm_head(copy)
    fused = copy(input_ids=ids, labels=ids, use_cache=False, fused_lm_head=True).log_probs
    if not torch.allclose(fused, own[..., 0], atol=1e-3):
        raise InputError(
            f"{model.name_or_path}: TRL computes other log-probabilities for a {type(model).__name__} than the model itself; train "
            "its text alone, saved by itself"
        )


def train_to_end(
    trainer: Any, config: PolicyTraining, work: Path, curve: Curve, logged: tuple[str, ...], advice: str
) -> Weights:
    """Train, from the last whole resume point in `work` if there is one.

    Args:
        logged: which of the trainer's figures belong to the curve.
        advice: what helps where GPU memory is full.

    Returns: the trained weights on the main process, of LoRA the adapters only; on other processes they may be missing.

    Raises:
        IcrError: a loss is not finite, GPU memory is full, torch does not compile the layers.
    """
    reporter = _Reporter(curve, trainer, config.stage, logged)
    trainer.add_callback(reporter)
    try:
        with reporter.shown:
            with trainer.args.distributed_state.main_process_first():  # which deletes what is not whole
                resume = last_whole(work, trainer.args.world_size)
            with without_bars():
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
                return _gathered_state(trainer)
    except TorchDynamoException as error:
        raise IcrError(
            f"{config.stage}: torch does not compile the layers ({first_line(error)}); train without --torch-compile"
        ) from error
    except torch.OutOfMemoryError as error:
        raise IcrError(
            f"{config.stage}: out of GPU memory at batch_size={config.batch_size}; lower it and raise --accumulation, or use {advice}"
        ) from error


def _gathered_state(trainer: Any) -> Weights:
    """All trained weights on this process, however they were sharded."""
    state: Weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.is_deepspeed_enabled:
        from deepspeed.utils import safe_get_full_fp32_param

        # accelerate gathers the bfloat16 copies that DeepSpeed computes with; its optimizer steps in float32 weights.
        whole: dict[int, torch.Tensor] = {}
        for parameter in model.parameters():
            if parameter.requires_grad:
                gathered = safe_get_full_fp32_param(parameter)  # every process takes part in it
                whole[id(parameter)] = gathered.detach().to("cpu", torch.float32)
        named = model.named_parameters(remove_duplicate=False)
        state |= {name: whole[id(parameter)] for name, parameter in named if id(parameter) in whole}
    return adapters_alone(model, state)
