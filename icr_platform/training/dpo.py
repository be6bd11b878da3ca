"""Training by TRL: L_DPO(beta) + gamma * L_NLL(chosen), on token ids as they were sampled. The only module that imports trl.

L_DPO = -log sigmoid(beta * ((log pi(c) - log ref(c)) - (log pi(r) - log ref(r)))) (Rafailov et al. 2023, arXiv 2305.18290,
equation 7). L_NLL = -log pi(c) / |c|, the mean over the chosen response's tokens. The loss of an optimizer step is the mean of
both over the step's pairs, however these are split into batches, accumulation and processes. TRL's own `sft` term, the mean
over all *tokens* of a batch's chosen responses, is `likelihood: tokens`: a long response weighs more than a short one in the same batch.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from icr_platform.core.arrays import Floats
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.progress import Meter, meter
from icr_platform.models.adapters import adapters_alone, new_adapters
from icr_platform.models.devices import resolve_device
from icr_platform.models.loading import load_tokenizer
from icr_platform.models.multimodal import is_multimodal, restore_logit_scale
from icr_platform.models.not_finite import not_finite
from icr_platform.models.quantised import is_in_bits
from icr_platform.models.small_copy import FIRST_ID, VOCABULARY, NoCopyError, small_copy
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.processes import process_arguments, shard_on_cpu
from icr_platform.training.resume_points import last_whole, mark_whole
from icr_platform.training.weights import Weights, load_trainable, precision, without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PAIR_FIGURES = ("rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected")
_LOGGED = ("loss", "grad_norm", "learning_rate", *_PAIR_FIGURES)
_WEIGHT = "pair_weight"
_FLOATS = (_WEIGHT, "ref_chosen_logps", "ref_rejected_logps")
_STARTS = ("chosen_start", "rejected_start")
_POINTS = 200  # of the loss curve, at most about this many


class PairCollator(DataCollatorForPreference):
    """TRL's collator, whose completion mask begins where a response is trained on: behind a thought, which is context."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        for half, name in enumerate(_STARTS):
            for row, example in enumerate(examples):
                first = len(example["prompt_ids"])
                batch["completion_mask"][half * len(examples) + row, first : first + example.get(name, 0)] = 0
        return batch


class PairTrainer(DPOTrainer):
    """TRL's trainer, fed with token ids and, where given, reference log-probabilities; a loss that is not finite stops it."""

    def __init__(self, config: TrainConfig, **parts: Any) -> None:
        self.tokens = 0
        self._config = config
        # Over the pairs since the last point of the curve: the figures, and how many pairs there were.
        self._sums = torch.zeros(len(_PAIR_FIGURES) + 1, dtype=torch.float64)
        super().__init__(**parts)
        model: Any = self.model
        # TRL makes adapters bfloat16, to which small steps are not added.
        if is_in_bits(self.accelerator.unwrap_model(model)):
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
        self.data_collator = PairCollator(**vars(self.data_collator))  # in the place of TRL's own, as TRL sets it up

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has prompt_ids, chosen_ids, rejected_ids: tokenising text again could give other ids

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has ref_chosen_logps, ref_rejected_logps from our scorer

    def _set_signature_columns_if_needed(self) -> None:
        """Keep where responses are trained on, too; other columns than these are taken off a data set."""
        super()._set_signature_columns_if_needed()  # type: ignore[no-untyped-call]
        known: list[str] = self._signature_columns or []
        self._signature_columns: Any = [*known, *(name for name in _STARTS if name not in known)]

    def _send_telemetry(self) -> None:
        """Send nothing: what is trained stays on the machine."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the finished checkpoint gets the platform's own card."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the configured schedule; transformers' own schedules begin their warm-up at rate 0, a step that trains nothing."""
        if self.lr_scheduler is None:
            share = rate_shares(self._config.schedule, self._config.warmup, num_training_steps)
            used: Any = optimizer or self.optimizer
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(used, share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Take the batches of one optimizer step, and give each pair its weight in the loss: 1 over the pairs of the step.

        The trainer divides a batch's loss by the number of batches and averages over processes, which the weights undo. In an
        epoch's last batch accelerate repeats pairs until every process has a full batch; repeated pairs weigh nothing.

        Five pairs on two processes, one to a batch and two batches to a step: in the first step each of four pairs weighs 1,
        which two batches and two processes make 1/4. In the last step the fifth pair weighs 2 on one process, and the pair that
        is repeated on the other weighs 0.
        """
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        each, processes = self.args.per_device_train_batch_size, self.args.world_size
        dataset: Any = self.train_dataset
        over = len(dataset) % (each * processes) if self.accelerator.gradient_state.end_of_dataloader else 0
        pairs = (len(batches) - bool(over)) * each * processes + over
        for number, batch in enumerate(batches, start=1):
            rows = len(batch["input_ids"]) // 2
            weight = torch.full((rows,), len(batches) * processes / pairs, device=batch["input_ids"].device)
            if over and number == len(batches):
                weight[max(0, over - each * self.args.process_index) :] = 0.0
            batch[_WEIGHT] = weight
        return batches, items

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Keep log-probabilities in float32: under DeepSpeed the trainer casts whatever is not an id to bfloat16."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | {name: inputs[name].to(self.args.device) for name in _FLOATS if name in inputs}

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False) -> torch.Tensor:
        """Compute the loss of the module's docstring over a batch, whose rows are n chosen sequences, then the n rejected ones."""
        mask = inputs["completion_mask"]
        router = {"output_router_logits": True} if self.aux_loss_enabled else {}
        outputs = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            labels=inputs["input_ids"].masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
            **router,
        )
        chosen, rejected = outputs.log_probs.sum(1).chunk(2)
        if self.precompute_ref_logps:
            ref_chosen, ref_rejected = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            ids = {name: inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
            # Without a model of its own the reference is the policy under LoRA, with the adapters switched off.
            reference = self.model if self.ref_model is None else self.ref_model
            ref_chosen, ref_rejected = self.compute_ref_log_probs(reference, ids)  # type: ignore[no-untyped-call]
        chosen_reward, rejected_reward = self.beta * (chosen - ref_chosen), self.beta * (rejected - ref_rejected)
        per_pair = -logsigmoid(chosen_reward - rejected_reward)  # arXiv 2305.18290, equation 7
        lengths = mask.chunk(2)[0].sum(1)
        if self._config.likelihood == "pairs":
            per_pair = per_pair - self._config.gamma * chosen / lengths
        # A batch that `get_batch_samples` did not make, as in an evaluation, is a mean of its own.
        weight = inputs.get(_WEIGHT, torch.full_like(per_pair, 1 / len(per_pair)))
        loss: torch.Tensor = (weight * per_pair).sum()
        if self._config.likelihood == "tokens":
            loss = loss - self._config.gamma * chosen.sum() / lengths.sum()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        won, lost = chosen_reward.detach(), rejected_reward.detach()
        figures = torch.stack([(won > lost).float(), won - lost, won, lost, torch.ones_like(won)])  # see _PAIR_FIGURES
        columns = (figures * (weight > 0)).T.contiguous()
        self._sums += self.accelerator.gather(columns).sum(0).double().cpu()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means over the pairs of all processes since the last point of the curve."""
        *sums, pairs = self._sums.tolist()
        if pairs:
            logs |= {name: total / pairs for name, total in zip(_PAIR_FIGURES, sums, strict=True)}
        self._sums.zero_()
        super().log(logs, start_time)

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> torch.Tensor:
        self.tokens += int(inputs["attention_mask"].sum())
        loss: torch.Tensor = super().training_step(model, inputs, *rest, **named)  # type: ignore[no-untyped-call]
        if not math.isfinite(float(loss)):
            if self.state.global_step == 0:
                raise not_finite(self.accelerator.unwrap_model(model))
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

    def __init__(self, curve: Curve) -> None:
        self._curve = curve
        self.shown = contextlib.ExitStack()
        """Entered around the training: ends the progress bar, full where nothing failed."""
        self._meter: Meter | None = None
        self._tokens = 0
        self.trainer: PairTrainer | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._meter = self.shown.enter_context(meter("train", state.max_steps, state.global_step))

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


def arguments(config: TrainConfig, work: Path, pairs: int, precomputed: bool) -> DPOConfig:
    """Make TRL's arguments for a training in `work`; sets up the process group when a launcher started this process."""
    mixed = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "no"}[precision(config).autocast]
    os.environ["ACCELERATE_MIXED_PRECISION"] = mixed  # otherwise an earlier training of this process decides
    on_cpu = resolve_device(config.device) == "cpu"
    arguments = DPOConfig(
        output_dir=str(work),
        beta=config.beta,
        router_aux_loss_coef=config.router_loss,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        max_length=None,  # too long pairs are left out and counted, never cut
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
        logging_nan_inf_filter=False,  # it hides losses that are not finite
        report_to=[],
        disable_tqdm=True,
        **process_arguments(on_cpu),
    )
    if on_cpu:
        shard_on_cpu()
    # A divisor of save_steps: then a resumed training averages the same steps into a point of the curve.
    steps = config.epochs * pairs / (config.batch_size * config.accumulation * arguments.world_size)
    most = min(max(1, int(steps / _POINTS)), config.save_steps)
    arguments.logging_steps = max(number for number in range(1, most + 1) if config.save_steps % number == 0)
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # TRL refuses DataParallel; several GPUs are what accelerate_config is for
    return arguments


def build_trainer(
    config: TrainConfig,
    pairs: TrainingPairs,
    reference_logprobs: Floats | None,
    work: Path,
    policy: PreTrainedModel | None = None,
) -> PairTrainer:
    """Build a trainer over `pairs`, with the policy and whatever reference it needs loaded.

    reference_logprobs: [P, 2] nats of the chosen and the rejected responses; None: TRL runs the reference in every step.
    policy: the policy if it is loaded already, in its training precision.
    """
    from datasets import Dataset

    args = arguments(config, work, len(pairs), reference_logprobs is not None)
    policy = policy if policy is not None else load_trainable(config.policy, config)
    if is_multimodal(policy.config):
        _require_own_logprobs(policy)
    reference = None
    if reference_logprobs is None and config.dpo_reference == "initial":
        reference = load_trainable(config.reference, config)
    elif reference_logprobs is None and not config.lora_rank:  # LoRA: the policy without its adapters is the reference
        reference = load_trainable(config.policy, config)
    columns: dict[str, Any] = {
        "prompt_ids": pairs.prompt_ids,
        "chosen_ids": pairs.chosen_ids,
        "rejected_ids": pairs.rejected_ids,
    }
    if pairs.chosen_starts:
        columns |= dict(zip(_STARTS, (pairs.chosen_starts, pairs.rejected_starts), strict=True))
    if reference_logprobs is not None:
        columns["ref_chosen_logps"] = reference_logprobs[:, 0]
        columns["ref_rejected_logps"] = reference_logprobs[:, 1]
    trainer = PairTrainer(
        config,
        model=policy,
        ref_model=reference,
        args=args,
        train_dataset=Dataset.from_dict(columns),
        processing_class=load_tokenizer(config.policy, config),
        peft_config=new_adapters(config.lora_rank, config.lora_alpha) if config.lora_rank else None,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _require_own_logprobs(model: PreTrainedModel) -> None:
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


def train(
    config: TrainConfig,
    pairs: TrainingPairs,
    reference_logprobs: Floats | None,
    work: Path,
    curve: Curve,
    policy: PreTrainedModel | None = None,
) -> Weights:
    """Train, from the last whole resume point in `work` if there is one.

    Returns: the trained weights on the main process, of LoRA the adapters only; on other processes they may be missing.

    Raises:
        IcrError: a loss is not finite, GPU memory is full.
    """
    trainer = build_trainer(config, pairs, reference_logprobs, work, policy)
    reporter = _Reporter(curve)
    reporter.trainer = trainer
    trainer.add_callback(reporter)
    try:
        with reporter.shown:
            with trainer.args.distributed_state.main_process_first():  # which deletes what is not whole
                resume = last_whole(work, trainer.args.world_size)
            with without_bars():
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
                return _gathered_state(trainer)
    except torch.OutOfMemoryError as error:
        raise IcrError(
            f"train: out of GPU memory at batch_size={config.batch_size}; lower it and raise --accumulation, or use "
            "--gradient-checkpointing true, --precompute-reference yes, --lora-rank or --accelerate-config"
        ) from error


def _gathered_state(trainer: PairTrainer) -> Weights:
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
