"""sft: documents -> checkpoint. Metrics: sft/final_* are means over the last tenth of the logged steps (see curve.py), sft/start_nll
and sft/saved_nll nats a token of the last responses of at most SAMPLE documents, under the policy and under the checkpoint,
sft/seconds the wall-clock time of the attempt that finished, sft/documents and sft/documents_left_out counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from icr_platform.core.config import require
from icr_platform.core.errors import InputError
from icr_platform.core.secrets import redact
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.models.chat import end_of_turn_id
from icr_platform.models.loading import load_model, read_tokenizer
from icr_platform.models.model_identity import model_identity
from icr_platform.training.checkpoint import close_checkpoint
from icr_platform.training.checkpoint_work import MODEL, finished_checkpoint, free_memory
from icr_platform.training.config import SftConfig
from icr_platform.training.curve import Curve, final_figures
from icr_platform.training.documents import TrainingDocuments, read_documents
from icr_platform.training.job import CURVE, train_on_documents
from icr_platform.training.model_card import SftProvenance, public_name, sft_card
from icr_platform.training.policy_checks import check_policy, notes_of_weights

SAMPLE = 64
_FIGURES = {"sft/final_loss": "sft/loss", "sft/final_token_accuracy": "sft/mean_token_accuracy"}


@dataclass(frozen=True)
class SftInputs:
    """What was read: the configuration, and the documents as token ids."""

    config: SftConfig
    documents: TrainingDocuments


def read(config: SftConfig) -> SftInputs:
    """Check every input without loading weights.

    Raises:
        InputError: names the file, row and field, and how to fix it.
    """
    require(config, "sft")
    if not config.chat_template and not read_tokenizer(config.policy, config.trust_remote_code).chat_template:
        raise InputError(
            f"{config.policy}: its tokenizer has no chat template, as a base model's; give the file of one with --chat-template, which "
            "is saved with the checkpoint"
        )
    check_policy(config)
    return SftInputs(config, read_documents(config))


def run(inputs: SftInputs, context: StageContext) -> StageResult:
    """Train the policy on the documents, from where a killed training stopped.

    Raises:
        InputError: the folder contains another training.
        IcrError: the loss is not finite, memory or disk is full, a training process died.
    """
    checkpoint = finished_checkpoint(context, lambda work: _fill(work, inputs.config, inputs.documents, context))
    found = checkpoint.extra
    counts = [
        {"language": name, "documents": found["documents"].get(name, 0), "left_out": found["left_out"].get(name, 0)}
        for name in sorted({*found["documents"], *found["left_out"]})
    ]
    return StageResult(
        artifacts={"checkpoint": checkpoint.folder},
        metrics=found["metrics"],
        tables={"loss_curve": pd.DataFrame(found["curve"]), "training_documents": pd.DataFrame(counts)},
        notes=tuple(found["notes"]),
    )


def _fill(work: Path, config: SftConfig, documents: TrainingDocuments, context: StageContext) -> None:
    """Put the finished checkpoint into the work folder. What a killed attempt has done lies there and is not done again."""
    from icr_platform.training.weights import policy_tokenizer, save_model, trained_model

    start = time.monotonic()
    curve = Curve(work / CURVE, context.log_metrics)
    model_folder = work / MODEL
    if not model_folder.exists():
        state = train_on_documents(config, work, documents, curve)
        free_memory()
        model = trained_model(config, state, curve.rows)
        save_model(config, model, model_folder, end_of_turn_id(policy_tokenizer(config)))
        del state, model
        free_memory()

    likelihoods, notes = _likelihoods(config, documents, model_folder)
    figures = final_figures(curve.rows, _FIGURES)
    counts = dict(sorted(Counter(documents.languages).items()))
    made = SftProvenance(
        policy=public_name(config.policy),
        policy_identity=model_identity(config.policy),
        documents_digest=documents.digest,
        documents=counts,
        left_out=documents.left_out,
        fingerprint=context.fingerprint,
    )
    (model_folder / "README.md").write_text(redact(sft_card(config, made, figures)), encoding="utf-8")
    numbers = {
        "sft/documents": float(len(documents)),
        "sft/documents_left_out": float(sum(documents.left_out.values())),
    }
    extra = {
        "metrics": figures | likelihoods | numbers | {"sft/seconds": time.monotonic() - start},
        "notes": [*documents.notes, *notes_of_weights(config), *notes],
        "documents": counts,
        "left_out": dict(documents.left_out),
        "curve": curve.rows,
    }
    close_checkpoint(model_folder, context.fingerprint, extra)
    free_memory()


def _likelihoods(
    config: SftConfig, documents: TrainingDocuments, checkpoint: Path
) -> tuple[dict[str, float], list[str]]:
    """Measure nats a token of responses under the policy and the checkpoint, and say so where they did not fall."""
    from icr_platform.engines.scoring.logprobs import CompletionScorer, Group
    from icr_platform.training.weights import without_bars

    count = min(SAMPLE, len(documents))
    sample = [documents.sequences[i * len(documents) // count] for i in range(count)]
    # The last response; those before it are part of what it answers.
    starts = [len(one.completion_mask) - one.completion_mask[::-1].index(0) for one in sample]
    groups = [Group(one.token_ids[:at], [one.token_ids[at:]]) for one, at in zip(sample, starts, strict=True)]
    tokens = sum(len(group.completions[0]) for group in groups)

    def measured(model: str) -> float:
        with without_bars():
            scorer = CompletionScorer(load_model(model, "float32", config.device, config.trust_remote_code))
        found: Sequence[float] = [float(score[0]) for score in scorer.score(groups)]
        return -sum(found) / tokens

    before = measured(config.policy)
    free_memory()
    after = measured(str(checkpoint))
    notes = []
    if not after < before:
        notes.append(
            f"responses that were learnt are no likelier under the checkpoint ({after:.3f} nats a token) than before ({before:.3f}); "
            "change --learning-rate or give more --epochs"
        )
    return {"sft/start_nll": before, "sft/saved_nll": after}, notes
