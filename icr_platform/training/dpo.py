"""Training on pairs by TRL: L_loss(beta) + gamma * L_NLL(chosen), on token ids as they were sampled.

L_loss is a preference loss of `training.losses`, L_DPO by default: -log sigmoid(beta * ((log pi(c) - log ref(c)) - (log pi(r) -
log ref(r)))) (Rafailov et al. 2023, arXiv 2305.18290, equation 7). L_NLL = -log pi(c) / |c|, the mean over the chosen response's
tokens. The loss of an optimizer step is the mean of both over the step's pairs, however these are split into batches, accumulation
and processes. TRL's own `sft` term, the mean over all *tokens* of a batch's chosen responses, is `likelihood: tokens`: a long
response weighs more than a short one in the same batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from icr_platform.core.arrays import Floats
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.losses import Responses, preference_loss, sampling_weights, without_tails
from icr_platform.training.preference_parts import MEMORY, preference_arguments, trainer_parts
from icr_platform.training.step_means import LANGUAGE, WEIGHT, Counted, StepMeans
from icr_platform.training.trainer import settled, train_to_end
from icr_platform.training.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FLOATS = (WEIGHT, "ref_chosen_logps", "ref_rejected_logps")
_STARTS = ("chosen_start", "rejected_start")


class PairCollator(DataCollatorForPreference):
    """TRL's collator, whose completion mask begins where a response is trained on: behind a thought, which is context."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        for half, name in enumerate(_STARTS):
            for row, example in enumerate(examples):
                first = len(example["prompt_ids"])
                batch["completion_mask"][half * len(examples) + row, first : first + example.get(name, 0)] = 0
        batch[LANGUAGE] = torch.tensor([example[LANGUAGE] for example in examples])
        return batch


class PairTrainer(StepMeans, DPOTrainer):
    """TRL's trainer, fed with token ids and, where given, reference log-probabilities."""

    sequences = 2
    figures = (
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen",
        "rewards/rejected",
        "logps/chosen",
        "logps/rejected",
    )
    _config: TrainConfig

    def __init__(self, config: TrainConfig, languages: Sequence[str], **parts: Any) -> None:
        super().__init__(config, languages, **parts)
        self.data_collator = PairCollator(**vars(self.data_collator))  # in the place of TRL's own, as TRL sets it up

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has prompt_ids, chosen_ids, rejected_ids: tokenising text again could give other ids

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has ref_chosen_logps, ref_rejected_logps from our scorer

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
        trained = mask[:, 1:]  # a token's log-probability stands where it is predicted, one place before it
        chosen, rejected = outputs.log_probs.sum(1).chunk(2)
        weighed = (chosen, rejected)
        if self.ld_alpha is not None:
            first, second = without_tails(outputs.log_probs, trained, self.ld_alpha).chunk(2)
            weighed = (first, second)
        if self.precompute_ref_logps:
            reference = (inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
        else:
            ids = {name: inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
            # Without a model of its own the reference is the policy under LoRA, with the adapters switched off.
            scorer = self.model if self.ref_model is None else self.ref_model
            reference = self.compute_ref_log_probs(scorer, ids)  # type: ignore[no-untyped-call]
        lengths, others = mask.sum(1).chunk(2)
        won, lost = Responses(weighed[0] - reference[0], lengths), Responses(weighed[1] - reference[1], others)
        per_pair = preference_loss(self._config, won, lost)
        if self._config.use_weighting:
            per_pair = per_pair * sampling_weights(outputs.log_probs, outputs.log_sum_sq_probs, trained)
        if self._config.likelihood == "pairs":
            per_pair = per_pair - self._config.gamma * chosen / lengths
        loss: torch.Tensor = (self.weight_of(inputs) * per_pair).sum()
        if self._config.likelihood == "tokens":
            loss = loss - self._config.gamma * chosen.sum() / lengths.sum()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        rewards = (self.beta * won.log_ratio.detach(), self.beta * lost.log_ratio.detach())
        found = ((rewards[0] > rewards[1]).float(), rewards[0] - rewards[1], *rewards, chosen, rejected)
        each = torch.ones_like(chosen)
        self.record(inputs, {name: Counted(of, each) for name, of in zip(self.figures, found, strict=True)})
        return loss


def arguments(config: TrainConfig, work: Path, pairs: int, precomputed: bool) -> DPOConfig:
    """Make TRL's arguments for a training in `work`; sets up the process group when a launcher started this process."""
    made = DPOConfig(
        ld_alpha=config.ld_alpha,
        use_weighting=config.use_weighting,  # then the models give what its weights are made of
        **preference_arguments(config, work, precomputed),
    )
    finished: DPOConfig = settled(made, config, pairs)
    return finished


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
    args = arguments(config, work, len(pairs), reference_logprobs is not None)
    languages = sorted(set(pairs.languages))
    places = {language: place for place, language in enumerate(languages)}
    token_ids = {"prompt_ids": pairs.prompt_ids, "chosen_ids": pairs.chosen_ids, "rejected_ids": pairs.rejected_ids}
    columns: dict[str, Any] = {LANGUAGE: [places[language] for language in pairs.languages]}
    if pairs.chosen_starts:
        columns |= {
            name: list(of) for name, of in zip(_STARTS, (pairs.chosen_starts, pairs.rejected_starts), strict=True)
        }
    if reference_logprobs is not None:
        columns["ref_chosen_logps"] = reference_logprobs[:, 0]
        columns["ref_rejected_logps"] = reference_logprobs[:, 1]
    return PairTrainer(config, languages, **trainer_parts(config, args, token_ids, columns, policy))


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
    return train_to_end(trainer, config, work, curve, trainer.logged, MEMORY)
