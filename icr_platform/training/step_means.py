"""The mean over an optimizer step's rows, pairs or single responses, however they are split into batches, accumulation and processes.

The same means are logged: over the rows of all processes since the last point of the curve, and by language where a figure says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from icr_platform.training.config import PolicyTraining
from icr_platform.training.packed_rows import pack_rows, why_not_packed_rows
from icr_platform.training.trainer import PolicyTrainer
from icr_platform.training.weights import precision

logger = logging.getLogger(__name__)

WEIGHT, LANGUAGE = "pair_weight", "language"
BY_LANGUAGE = ("logps/chosen", "logps/rejected", "rewards/margins")
"""Figures that are logged of each language, too, as `logps/chosen/es`."""


class Counted(NamedTuple):
    """A figure of n rows. values: [n]. counts: [n], 1 where a row has the figure and 0 where it has none."""

    values: Tensor
    counts: Tensor


class StepMeans(PolicyTrainer):
    """Mixed into TRL's trainers of preferences, before them.

    sequences: of a row, in a batch's input_ids. figures: what `record` is given, by name.
    """

    sequences: ClassVar[int]
    figures: ClassVar[tuple[str, ...]]

    def __init__(self, config: PolicyTraining, languages: Sequence[str], **parts: Any) -> None:
        """languages: in the order that the rows' column `language` numbers them in."""
        self._languages = languages
        self._sums = torch.zeros(len(self.figures), 2, dtype=torch.float64)
        self._of_languages = torch.zeros(len(languages), len(self.figures), 2, dtype=torch.float64)
        # Of each batch [rows, columns], on its device until a point of the curve needs them.
        self._recorded: list[Tensor] = []
        super().__init__(config, **parts)
        self._pack_rows()

    def _pack_rows(self) -> None:
        """Train on rows without padding where the model, its precision and the machine allow; elsewhere TRL's own forward does."""
        trainer: Any = self
        is_sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        if trainer.args.device.type != "cpu" or is_sharded or precision(self._config).autocast is not None:
            return
        policy = trainer.accelerator.unwrap_model(trainer.model)
        policy = policy.get_base_model() if self._config.lora_rank else policy
        # The load-balancing loss of a router is a mean over tokens: a prompt would count once in place of twice.
        why = (
            "a router's loss counts each sequence's tokens" if trainer.aux_loss_enabled else why_not_packed_rows(policy)
        )
        if why is not None:
            logger.info("%s is trained on padded batches: %s", type(policy).__name__, why)
            return
        needs_squares = getattr(self._config, "use_weighting", False)
        is_alone = trainer.args.world_size == 1  # other processes would not see a gradient that no hook sees
        shared = {"are_pairs": self.sequences == 2, "uses_onednn": self.uses_onednn}
        pack_rows(policy, **shared, squares=needs_squares, in_place=is_alone)
        if trainer.ref_model is not None:
            pack_rows(trainer.accelerator.unwrap_model(trainer.ref_model), **shared)

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of all figures of the curve."""
        of_languages = [f"{name}/{language}" for name in BY_LANGUAGE for language in self._languages]
        return ("loss", "grad_norm", "learning_rate", *self.figures, *BY_LANGUAGE, *of_languages)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """Take the batches of one optimizer step, and give each row its weight in the loss: 1 over the rows of the step.

        The trainer divides a batch's loss by the number of batches and averages over processes, which the weights undo. In an
        epoch's last batch accelerate repeats rows until every process has a full batch; repeated rows weigh nothing.

        Five pairs on two processes, one to a batch and two batches to a step: in the first step each of four pairs weighs 1,
        which two batches and two processes make 1/4. In the last step the fifth pair weighs 2 on one process, and the pair that
        is repeated on the other weighs 0.
        """
        trainer: Any = self
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        each, processes = trainer.args.per_device_train_batch_size, trainer.args.world_size
        is_last = trainer.accelerator.gradient_state.end_of_dataloader
        over = len(trainer.train_dataset) % (each * processes) if is_last else 0
        total = (len(batches) - bool(over)) * each * processes + over
        for number, batch in enumerate(batches, start=1):
            rows = len(batch["input_ids"]) // self.sequences
            weight = torch.full((rows,), len(batches) * processes / total, device=batch["input_ids"].device)
            if over and number == len(batches):
                weight[max(0, over - each * trainer.args.process_index) :] = 0.0
            batch[WEIGHT] = weight
        return batches, items

    def weight_of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[n] weights of a batch's rows. A batch that `get_batch_samples` did not make, as in an evaluation, is a mean of its own."""
        if WEIGHT in inputs:
            return inputs[WEIGHT]
        rows = len(inputs["input_ids"]) // self.sequences
        return torch.full((rows,), 1 / rows, device=inputs["input_ids"].device)

    def record(self, inputs: Mapping[str, Tensor], found: Mapping[str, Counted]) -> None:
        """Keep a batch's figures for the next point of the curve; rows without a weight are repeated ones, and do not count."""
        trainer: Any = self
        weighs = (self.weight_of(inputs) > 0).float()
        columns = [
            column
            for name in self.figures
            for column in (found[name].values.detach() * found[name].counts * weighs, found[name].counts * weighs)
        ]
        self._recorded.append(trainer.accelerator.gather(torch.stack([*columns, inputs[LANGUAGE].float()], dim=1)))

    def _add_recorded(self) -> None:
        shape = (len(self.figures), 2)
        for gathered in (each.cpu() for each in self._recorded):
            self._sums += gathered[:, :-1].sum(0).double().reshape(shape)
            self._of_languages.index_add_(0, gathered[:, -1].long(), gathered[:, :-1].double().reshape(-1, *shape))
        self._recorded.clear()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the means over the rows of all processes since the last point of the curve."""
        self._add_recorded()
        logs |= self.means(self._sums, "")
        for number, language in enumerate(self._languages):
            logs |= {
                n: v
                for n, v in self.means(self._of_languages[number], f"/{language}").items()
                if n.startswith(BY_LANGUAGE)
            }
        self._sums.zero_()
        self._of_languages.zero_()
        super().log(logs, start_time)  # type: ignore[misc]

    def means(self, sums: Tensor, ending: str) -> dict[str, float]:
        """The figures of [figures, 2] sums and counts, of those that any row had. ending: of their names."""
        pairs = zip(self.figures, sums.tolist(), strict=True)
        return {f"{name}{ending}": total / count for name, (total, count) in pairs if count}
