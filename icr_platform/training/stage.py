"""train: preferences -> checkpoint. Metrics: train/final_* are means over the last tenth of the logged steps (see curve.py),
train/trained_margin, train/saved_margin and train/loaded_margin what became of them (see margins.py), train/seconds the wall-clock
time of the attempt that finished, train/pairs and train/pairs_left_out counts."""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from safetensors import SafetensorError

from icr_platform.core.artifacts import MANIFEST, PLAN, atomic_path, open_artifact, read_json, write_json
from icr_platform.core.config import require
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.core.stage_protocol import StageContext, StageResult, ignore_metrics
from icr_platform.data.text_preferences import is_text_file, read_text_pairs, tokenise_file
from icr_platform.models.devices import resolve_device
from icr_platform.models.loading import check_same_tokenisation, check_weights, load_config, load_tokenizer
from icr_platform.models.model_identity import model_identity
from icr_platform.training.checkpoint import Checkpoint, close_checkpoint, open_checkpoint
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve, final_figures
from icr_platform.training.dataset import TrainingPairs, check_pairs, load_pairs
from icr_platform.training.launch import check_accelerate_config, launch, read_accelerate_config, score_in_child
from icr_platform.training.model_card import Provenance, model_card, public_name
from icr_platform.training.reference_logprobs import (
    precomputes,
    score_pairs,
    store_reference_logprobs,
    stored_reference_logprobs,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from icr_platform.training.weights import Weights

_DEVICES = ("auto", "cpu", "cuda", "cuda:0")
_REFERENCE = "reference_logprobs.npy"
_CURVE = "curve.jsonl"
_JOB = "job.json"
_STATE = "trained.pt"
_TRAINED = "trained.json"
_ALMOST_NOTHING = 1 << 20  # bytes


def read(config: TrainConfig) -> TrainConfig:
    """Check every input without loading weights.

    Returns: the configuration alone, since every training process reads the pairs itself.

    Raises:
        InputError: names the file, row and field, and how to fix it.
    """
    require(config, "train")
    load_tokenizer(config.policy, config)
    check_weights(config.policy)
    if config.dpo_reference == "initial":
        if not config.reference:
            raise InputError("config: field 'reference' is missing for dpo_reference=initial; give --reference")
        check_same_tokenisation(config.policy, config.reference, config)
        check_weights(config.reference)
    if config.router_loss and not hasattr(load_config(config.policy).get_text_config(), "output_router_logits"):
        raise InputError(
            f"config: field 'router_loss' is {config.router_loss:g}, but {config.policy} is not a mixture of experts that gives "
            "its router's logits; leave --router-loss out"
        )
    if config.accelerate_config:
        check_accelerate_config(Path(config.accelerate_config), resolve_device(config.device))
    _check_device(config)
    path = Path(config.preferences)
    if is_text_file(path):
        read_text_pairs(path)
    else:
        preferences = open_artifact(path, PREFERENCES)
        check_pairs(preferences, load_config(config.policy).get_text_config().vocab_size)
    return config


def _check_device(config: TrainConfig) -> None:
    import torch

    if config.device not in _DEVICES:
        mend = "training takes the first visible GPU, choose it by CUDA_VISIBLE_DEVICES"
        raise InputError(f"config: field 'device' is {config.device!r}, expected one of {', '.join(_DEVICES)}; {mend}")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"config: field 'device' is {config.device!r} but no GPU is visible; give --device cpu")
    if config.dtype == "float16" and resolve_device(config.device) == "cpu":
        raise InputError("config: field 'dtype' float16 does not train on a CPU; give --dtype float32 or bfloat16")


def run(config: TrainConfig, context: StageContext) -> StageResult:
    """Train the policy on the pairs, going on where a killed training stopped.

    Raises:
        InputError: the folder holds another training; every pair is too long.
        IcrError: the loss is not finite, memory or disk is full, a training process died.
    """
    folder = context.folder / "checkpoint"
    work = context.folder / "checkpoint.unfinished"
    if not (folder / MANIFEST).exists():
        _claim(folder, work, context.fingerprint)
        with _full_disk_explained(work):
            _train(_tokenised(config, work), context, work)
            (work / "model").rename(folder)
        _free_gpu_memory()
    checkpoint = open_checkpoint(folder)
    if checkpoint.fingerprint != context.fingerprint:
        raise _other_training(folder)
    shutil.rmtree(work, ignore_errors=True)
    return _result(checkpoint)


def _claim(folder: Path, work: Path, fingerprint: str) -> None:
    """Make the work folder this training's own."""
    if folder.exists():
        raise InputError(f"{folder}: holds files that this stage did not write; choose another --output")
    work.mkdir(parents=True, exist_ok=True)
    if not (work / PLAN).exists():
        write_json(work / PLAN, {"fingerprint": fingerprint})
    elif read_json(work / PLAN).get("fingerprint") != fingerprint:
        raise _other_training(work)


@contextlib.contextmanager
def _full_disk_explained(work: Path) -> Iterator[None]:
    """A full disk as an error that says so; torch and safetensors each report it in their own way."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(work).free > _ALMOST_NOTHING and "No space left" not in str(error):
            raise
        raise IcrError(f"{work}: no space left on the disk; free some and run the same command again") from error


def _tokenised(config: TrainConfig, work: Path) -> TrainConfig:
    """The configuration with preferences that came as text put into an artifact."""
    source = Path(config.preferences)
    if not is_text_file(source):
        return config
    artifact = tokenise_file(source, work / "preferences", load_tokenizer(config.policy, config))
    return config.model_copy(update={"preferences": str(artifact.folder)})


def _free_gpu_memory() -> None:
    """The trainer's objects refer to each other; until they are collected the next stage's model finds the GPU full."""
    import torch

    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def _other_training(folder: Path) -> InputError:
    return InputError(
        f"{folder}: holds a checkpoint made from other inputs or settings; choose another --output or delete the folder"
    )


def _train(config: TrainConfig, context: StageContext, work: Path) -> None:
    """Fill `work/model` with the finished checkpoint."""
    from icr_platform.training.margins import measured_margins, sampled_groups

    start = time.monotonic()
    curve = Curve(work / _CURVE, context.log_metrics)
    pairs = _load_pairs(config)
    if not (work / "model").exists():
        _train_and_save(config, work, pairs, curve)
        _free_gpu_memory()
    provenance = _provenance(config, pairs, context.fingerprint)
    figures = final_figures(curve.rows)
    trained = read_json(work / _TRAINED)["log_ratio"]
    margins, margin_notes = measured_margins(config, sampled_groups(pairs), trained, work / "model")
    counts = {"train/pairs": float(len(pairs)), "train/pairs_left_out": float(sum(pairs.left_out.values()))}
    card = model_card(config, provenance, figures)
    (work / "model" / "README.md").write_text(card, encoding="utf-8")
    extra = {
        "metrics": figures | margins | counts | {"train/seconds": time.monotonic() - start},
        "notes": _notes(config, pairs) + margin_notes,
        "pairs": dict(provenance.pairs),
        "left_out": dict(provenance.left_out),
        "curve": curve.rows,
    }
    close_checkpoint(work / "model", context.fingerprint, extra)


def _train_and_save(config: TrainConfig, work: Path, pairs: TrainingPairs, curve: Curve) -> None:
    """Train, and write the weights as a plain model; beside it stays what they scored before they were saved."""
    from icr_platform.training.margins import sampled_groups, trained_log_ratio
    from icr_platform.training.weights import save_model, trained_model

    state = (_train_launched if config.accelerate_config else _train_in_process)(config, work, pairs, curve)
    _free_gpu_memory()
    model = trained_model(config, state, curve.rows)
    log_ratio = trained_log_ratio(config, sampled_groups(pairs), model)
    write_json(work / _TRAINED, {"log_ratio": log_ratio})
    save_model(config, model, work / "model")


def _load_pairs(config: TrainConfig) -> TrainingPairs:
    preferences = open_artifact(Path(config.preferences), PREFERENCES)
    return load_pairs(preferences, load_tokenizer(config.policy, config), _longest(config))


def _longest(config: TrainConfig) -> int:
    """Tokens a sequence may have: max_length, or the positions the policy has where these are fewer."""
    positions = getattr(load_config(config.policy).get_text_config(), "max_position_embeddings", None)
    return min(config.max_length, positions or config.max_length)


def _train_in_process(config: TrainConfig, work: Path, pairs: TrainingPairs, curve: Curve) -> Weights:
    policy = None
    if precomputes(config, processes=1) and not (work / _REFERENCE).exists():
        scored = _score(config, work, pairs)
        policy = scored if config.dpo_reference == "policy" else None
    return _run_trainer(config, work, pairs, curve, policy)


def _train_launched(config: TrainConfig, work: Path, pairs: TrainingPairs, curve: Curve) -> Weights:
    """Train in several processes, whose main one leaves the weights in a file: only outside a process group, with nothing
    sharded, is a model a plain one to write."""
    import torch

    path = work / _STATE
    if not path.exists():
        _launch(config, work, pairs, curve)
    state: Weights = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def _launch(config: TrainConfig, work: Path, pairs: TrainingPairs, curve: Curve) -> None:
    settings = Path(config.accelerate_config)
    processes = int(read_accelerate_config(settings)["num_processes"])
    job = work / _JOB
    write_json(job, {"config": config.model_dump(mode="json")})
    if precomputes(config, processes) and not (work / _REFERENCE).exists():
        score_in_child(job)
    steps = config.epochs * len(pairs) / (processes * config.batch_size * config.accumulation)
    launch(settings, job, curve, max(1, round(steps)))


def train_here(config: TrainConfig, work: Path) -> None:
    """What each of several training processes does: train with the others; the main one stores the weights."""
    import torch
    from accelerate import PartialState

    state = _run_trainer(config, work, _load_pairs(config), Curve(work / _CURVE, ignore_metrics), None)
    if PartialState().is_main_process:
        with atomic_path(work / _STATE) as temporary:
            torch.save(state, temporary)
    PartialState().destroy_process_group()


def score_reference(config: TrainConfig, work: Path) -> None:
    """Score the pairs under the reference and store the log-probabilities for the training processes."""
    _score(config, work, _load_pairs(config))


def _run_trainer(
    config: TrainConfig, work: Path, pairs: TrainingPairs, curve: Curve, policy: PreTrainedModel | None
) -> Weights:
    from icr_platform.training.dpo import train

    path = work / _REFERENCE
    return train(config, pairs, stored_reference_logprobs(path) if path.exists() else None, work, curve, policy)


def _score(config: TrainConfig, work: Path, pairs: TrainingPairs) -> PreTrainedModel:
    from icr_platform.training.weights import load_trainable

    model = load_trainable(config.policy if config.dpo_reference == "policy" else config.reference, config)
    store_reference_logprobs(work / _REFERENCE, score_pairs(config, pairs, model))
    return model


def _provenance(config: TrainConfig, pairs: TrainingPairs, fingerprint: str) -> Provenance:
    initial = config.dpo_reference == "initial"
    return Provenance(
        policy=public_name(config.policy),
        policy_identity=model_identity(config.policy),
        reference=public_name(config.reference) if initial else None,
        reference_identity=model_identity(config.reference) if initial else None,
        preferences_digest=open_artifact(Path(config.preferences), PREFERENCES).digest,
        pairs=dict(sorted(Counter(pairs.languages).items())),
        left_out=pairs.left_out,
        fingerprint=fingerprint,
    )


def _notes(config: TrainConfig, pairs: TrainingPairs) -> list[str]:
    import torch

    notes = []
    if pairs.left_out:
        by_language = ", ".join(f"{language} {count}" for language, count in pairs.left_out.items())
        limit = _longest(config)
        name = "max_length" if limit == config.max_length else "the policy's max_position_embeddings"
        total = sum(pairs.left_out.values())
        notes.append(f"{total} pairs are longer than {limit} tokens ({name}) and were left out: {by_language}")
    gpus = torch.cuda.device_count() if resolve_device(config.device).startswith("cuda") else 0
    if gpus > 1 and not config.accelerate_config:
        notes.append(f"one of {gpus} visible GPUs was used; --accelerate-config trains on all of them")
    return notes


def _result(checkpoint: Checkpoint) -> StageResult:
    extra = checkpoint.extra
    languages = sorted({*extra["pairs"], *extra["left_out"]})
    counts = [
        {"language": name, "pairs": extra["pairs"].get(name, 0), "left_out": extra["left_out"].get(name, 0)}
        for name in languages
    ]
    return StageResult(
        artifacts={"checkpoint": checkpoint.folder},
        metrics=extra["metrics"],
        tables={"loss_curve": pd.DataFrame(extra["curve"]), "training_pairs": pd.DataFrame(counts)},
        notes=tuple(extra["notes"]),
    )
