"""Training on single responses by TRL's KTO: L_KTO(beta) + gamma * L_NLL(good), on token ids as they were sampled.

L_KTO of a good response is 1 - sigmoid(beta * (r - z)), of a bad one 1 - sigmoid(beta * (z - r)), each times its weight, with r =
log pi(y | x) - log ref(y | x) (Ethayarajh et al. 2024, arXiv 2402.01306, equation 7). z is how far the policy is from the reference: the
mean of r over responses y' to other prompts, not below 0, and without a gradient.

TRL estimates z over each batch of each step, so that its loss depends on batch_size, and a batch of 1 is refused. Here z is estimated over
all examples of an optimizer step: the loss of the step is a mean over its examples, however they are split into batches, accumulation
and processes, and z is less noisy the more examples a step has. Over one batch of a whole step it is TRL's. Which y' an example has does
not depend on its batch either (`examples.others_of`), so that examples can be drawn in any order; TRL's must stay in theirs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer

from icr_platform.core.arrays import Floats
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve
from icr_platform.training.examples import MismatchedIds, TrainingExamples
from icr_platform.training.preference_parts import MEMORY, preference_arguments, trainer_parts
from icr_platform.training.step_means import LANGUAGE, WEIGHT, Counted, StepMeans
from icr_platform.training.trainer import settled, train_to_end
from icr_platform.training.weights import Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STARTS = {"start": "completion_mask", "KL_start": "KL_completion_mask"}
_Z, _GOOD_WEIGHT = "kl", "good_weight"
_FLOATS = (WEIGHT, "ref_logps", "ref_KL_logps", _Z, _GOOD_WEIGHT)


class ExampleCollator(DataCollatorForUnpairedPreference):
    """TRL's collator, whose completion masks begin where a response is trained on: behind a thought, which is context."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        for name, mask in _STARTS.items():
            for row, example in enumerate(examples):
                first = len(example["prompt_ids"])
                batch[mask][row, first : first + example[name]] = 0
        batch[LANGUAGE] = torch.tensor([example[LANGUAGE] for example in examples])
        return batch


class ExampleTrainer(StepMeans, KTOTrainer):
    """TRL's trainer, fed with token ids, mismatched responses and, where given, reference log-probabilities."""

    sequences = 1
    figures = ("rewards/chosen", "rewards/rejected", "logps/chosen", "logps/rejected", "kl")
    _config: TrainConfig

    def __init__(self, config: TrainConfig, languages: Sequence[str], **parts: Any) -> None:
        super().__init__(config, languages, **parts)
        self.calculate_KL = True  # see `arguments`
        self.data_collator = ExampleCollator(**vars(self.data_collator))

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has prompt_ids, completion_ids and KL_completion_ids

    def _precompute_ref_logps(self, dataset: Any, *_: Any) -> Any:
        return dataset  # it has ref_logps and ref_KL_logps from our scorer

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Keep log-probabilities in float32: under DeepSpeed the trainer casts whatever is not an id to bfloat16."""
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared | {name: inputs[name].to(self.args.device) for name in _FLOATS if name in inputs}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Take the batches of one optimizer step, with the weights of their examples and the step's z."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._look_at_step(batches)
        return batches, items

    def _look_at_step(self, batches: Sequence[dict[str, Any]]) -> None:
        """Give each batch of a step the step's z, the weight that each good response has in the likelihood term, and, unless they were
        scored before, log-probabilities under the reference."""
        sums = torch.zeros(3, dtype=torch.float64)  # of log-ratios of mismatched responses, of examples, of good ones
        for batch in batches:
            ready = self._prepare_inputs(batch)
            if not self.precompute_ref_logps:
                # Without a model of its own the reference is the policy under LoRA, with the adapters switched off.
                scorer = self.model if self.ref_model is None else self.ref_model
                scored = self.compute_ref_log_probs(scorer, ready)  # type: ignore[no-untyped-call]
                batch["ref_logps"], batch["ref_KL_logps"] = scored
                ready = self._prepare_inputs(batch)
            with torch.no_grad(), self.compute_loss_context_manager():
                policy = self._outputs(self.model_wrapped, ready, "KL_").log_probs.sum(1)
            counts = (self.weight_of(ready) > 0).double()
            ratios = (policy - ready["ref_KL_logps"]).double()
            found = ((ratios * counts).sum(), counts.sum(), (counts * ready["label"]).sum())
            sums += torch.stack(found).cpu()
        total, count, good = self.accelerator.reduce(sums.to(self.args.device), "sum").tolist()
        for batch in batches:
            batch[_Z] = torch.tensor(max(0.0, total / count))
            batch[_GOOD_WEIGHT] = torch.tensor(len(batches) * self.args.world_size / max(good, 1.0))

    def _outputs(self, model: Any, inputs: Mapping[str, Any], kind: str = "") -> Any:
        """TRL's outputs of a batch's responses, or of its mismatched ones."""
        ids, mask = inputs[f"{kind}input_ids"], inputs[f"{kind}completion_mask"]
        router = {"output_router_logits": True} if self.aux_loss_enabled and not kind else {}
        return model(
            input_ids=ids,
            attention_mask=inputs[f"{kind}attention_mask"],
            labels=ids.masked_fill(mask == 0, -100),
            use_cache=False,
            fused_lm_head=True,
            **router,
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False) -> Tensor:
        """Compute the loss of the module's docstring over a batch."""
        if _Z not in inputs:  # a batch that `get_batch_samples` did not make, as in an evaluation, is a step of its own
            self._look_at_step([inputs])
            inputs = self._prepare_inputs(inputs)
        outputs = self._outputs(model, inputs)
        logps, good, config = outputs.log_probs.sum(1), inputs["label"].bool(), self._config
        ratio, z = logps - inputs["ref_logps"], inputs[_Z]
        sign = torch.where(good, 1.0, -1.0)
        weight = torch.where(good, config.desirable_weight, config.undesirable_weight)
        losses = weight * (1 - torch.sigmoid(config.beta * sign * (ratio - z)))  # arXiv 2402.01306, equation 7
        step_weight = self.weight_of(inputs)
        loss: Tensor = (step_weight * losses).sum()
        of_good = inputs[_GOOD_WEIGHT] * (good & (step_weight > 0))
        loss = loss - config.gamma * (of_good * logps / inputs["completion_mask"].sum(1)).sum()
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss
        sides = (good.float(), 1.0 - good.float())
        found = [Counted(of, side) for of in (config.beta * ratio, logps) for side in sides]
        found.append(Counted(z.expand_as(logps), torch.ones_like(logps)))
        self.record(inputs, dict(zip(self.figures, found, strict=True)))
        return loss

    def means(self, sums: Tensor, ending: str) -> dict[str, float]:
        found = super().means(sums, ending)
        sides = [found.get(f"rewards/{side}{ending}") for side in ("chosen", "rejected")]
        if sides[0] is not None and sides[1] is not None:
            found[f"rewards/margins{ending}"] = sides[0] - sides[1]
        return found


def arguments(config: TrainConfig, work: Path, examples: int, precomputed: bool) -> KTOConfig:
    """Make TRL's arguments for a training in `work`; sets up the process group when a launcher started this process."""
    made = KTOConfig(
        # TRL's name of a loss without z, whose estimate over batches it would want in order and of more than one example.
        loss_type="apo_zero_unpaired",
        train_sampling_strategy="random",
        **preference_arguments(config, work, precomputed),
    )
    finished: KTOConfig = settled(made, config, examples)
    return finished


def build_trainer(
    config: TrainConfig,
    examples: TrainingExamples,
    reference_logprobs: Floats | None,
    work: Path,
    policy: PreTrainedModel | None = None,
) -> ExampleTrainer:
    """Build a trainer over `examples`, with the policy and whatever reference it needs loaded.

    reference_logprobs: [E, 2] nats of the responses and the mismatched ones; None: TRL runs the reference in every step.
    policy: the policy if it is loaded already, in its training precision.
    """
    args = arguments(config, work, len(examples), reference_logprobs is not None)
    languages = sorted(set(examples.languages))
    token_ids = {
        "prompt_ids": examples.prompt_ids,
        "completion_ids": examples.response_ids,
        "KL_completion_ids": MismatchedIds(examples),
    }
    columns: dict[str, Any] = {
        "label": examples.is_good,
        "start": list(examples.starts),
        "KL_start": [examples.starts[other] for other in examples.others],
        LANGUAGE: [languages.index(language) for language in examples.languages],
    }
    if reference_logprobs is not None:
        columns |= {"ref_logps": reference_logprobs[:, 0], "ref_KL_logps": reference_logprobs[:, 1]}
    return ExampleTrainer(config, languages, **trainer_parts(config, args, token_ids, columns, policy))


def train(
    config: TrainConfig,
    examples: TrainingExamples,
    reference_logprobs: Floats | None,
    work: Path,
    curve: Curve,
    policy: PreTrainedModel | None = None,
) -> Weights:
    """Train, from the last whole resume point in `work` if there is one, as `dpo.train` does."""
    trainer = build_trainer(config, examples, reference_logprobs, work, policy)
    return train_to_end(trainer, config, work, curve, trainer.logged, MEMORY)
