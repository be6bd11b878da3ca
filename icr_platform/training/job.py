"""The training itself, in this process or in the processes that accelerate launches. What is done stays in the work folder:
the reference's log-probabilities, resume points, the curve and, of a launched training, the trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.artifacts import atomic_path, write_json
from icr_platform.core.stage_protocol import ignore_metrics
from icr_platform.training.config import PolicyTraining, SftConfig, TrainConfig
from icr_platform.training.curve import Curve
from icr_platform.training.dataset import TrainingPairs
from icr_platform.training.documents import TrainingDocuments, epoch_rows, read_documents
from icr_platform.training.examples import TrainingExamples, read_training_rows
from icr_platform.training.launch import launch, read_accelerate_config, score_in_child
from icr_platform.training.reference_logprobs import (
    precomputes,
    score_pairs,
    store_reference_logprobs,
    stored_reference_logprobs,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icr_platform.training.weights import Weights

CURVE = "curve.jsonl"
_REFERENCE = "reference_logprobs.npy"
_JOB = "job.json"
_STATE = "trained.pt"


def train_policy(config: TrainConfig, work: Path, pairs: TrainingPairs | TrainingExamples, curve: Curve) -> Weights:
    """Train the policy on the pairs, or kto's single responses, from where a killed training stopped; return its weights, of LoRA the adapters only.

    Raises:
        IcrError: the loss is not finite, memory is full, a training process died.
    """
    is_scored = (work / _REFERENCE).exists()
    if not config.accelerate_config:
        policy = None
        if precomputes(config, processes=1) and not is_scored:
            reference = _score(config, work, pairs)
            # The reference that was scored is the policy at the start: it is trained on, not loaded again.
            policy = reference if config.dpo_reference == "policy" else None
        return _train(config, work, pairs, curve, policy)

    return launched(config, work, curve, len(pairs), scores=not is_scored)


def launched(config: PolicyTraining, work: Path, curve: Curve, rows: int, scores: bool = False) -> Weights:
    """Train in the processes of the accelerate configuration; return the weights that the main one left.

    Args:
        rows: of an epoch. scores: whether the reference is scored before.
    """
    # The main one of several processes leaves the weights in a file: only outside a process group, with nothing sharded, is
    # a model a plain one to write.
    import torch

    if not (work / _STATE).exists():
        accelerate_config, job = Path(config.accelerate_config), work / _JOB
        processes = int(read_accelerate_config(accelerate_config)["num_processes"])
        write_json(job, {"stage": config.stage, "config": config.model_dump(mode="json")})
        if scores and isinstance(config, TrainConfig) and precomputes(config, processes):
            score_in_child(job)
        steps = config.epochs * rows / (processes * config.batch_size * config.accumulation)
        launch(accelerate_config, job, curve, max(1, round(steps)), config.stage)
    state: Weights = torch.load(work / _STATE, map_location="cpu", weights_only=True, mmap=True)
    return state


def take_part(config: TrainConfig | SftConfig, work: Path) -> None:
    """Train together with the other processes of a launch; the main one stores the weights."""
    import torch
    from accelerate import PartialState

    # The parent, which reads the curve along, is the one that logs it.
    curve = Curve(work / CURVE, ignore_metrics)
    if isinstance(config, SftConfig):
        from icr_platform.training.sft import train_documents

        state = train_documents(config, read_documents(config), work, curve)
    else:
        state = _train(config, work, read_training_rows(config, work), curve, None)
    if PartialState().is_main_process:
        with atomic_path(work / _STATE) as temporary:
            torch.save(state, temporary)
    PartialState().destroy_process_group()


def train_on_documents(config: SftConfig, work: Path, documents: TrainingDocuments, curve: Curve) -> Weights:
    """Train the policy on the documents, from where a killed training stopped; return its weights, of LoRA the adapters only.

    Raises:
        IcrError: the loss is not finite, memory is full, a training process died.
    """
    if config.accelerate_config:
        return launched(config, work, curve, epoch_rows(config, documents))
    from icr_platform.training.sft import train_documents

    return train_documents(config, documents, work, curve)


def score_reference(config: TrainConfig, work: Path) -> None:
    """Score the pairs under the reference and store the log-probabilities for the processes of a launch."""
    _score(config, work, read_training_rows(config, work))


def _train(
    config: TrainConfig,
    work: Path,
    pairs: TrainingPairs | TrainingExamples,
    curve: Curve,
    policy: PreTrainedModel | None,
) -> Weights:
    path = work / _REFERENCE
    reference_logprobs = stored_reference_logprobs(path) if path.exists() else None
    if isinstance(pairs, TrainingExamples):
        from icr_platform.training import kto

        return kto.train(config, pairs, reference_logprobs, work, curve, policy)
    from icr_platform.training import dpo

    return dpo.train(config, pairs, reference_logprobs, work, curve, policy)


def _score(config: TrainConfig, work: Path, pairs: TrainingPairs | TrainingExamples) -> PreTrainedModel:
    """Store the pairs' log-probabilities under the reference, which is returned."""
    from icr_platform.training.weights import load_trainable

    model = load_trainable(config.policy if config.dpo_reference == "policy" else config.reference, config)
    store_reference_logprobs(work / _REFERENCE, score_pairs(config, pairs, model))
    return model
