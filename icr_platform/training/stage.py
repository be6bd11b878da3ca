"""train: preferences -> checkpoint. Metrics: train/final_* are means over the last tenth of the logged steps (see curve.py),
train/trained_margin, train/saved_margin and train/loaded_margin what became of them (see margins.py), train/seconds the wall-clock
time of the attempt that finished, train/pairs and train/pairs_left_out counts."""

from __future__ import annotations

import contextlib
import gc
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd
from safetensors import SafetensorError

from icr_platform.core.artifacts import MANIFEST, PLAN, open_artifact, read_json, write_json
from icr_platform.core.config import require
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.core.secrets import redact
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.column_map import refuse_map
from icr_platform.data.text_preferences import is_text, read_text_preferences, tokenise
from icr_platform.models.adapters import base_of
from icr_platform.models.chat import require_system_prompt
from icr_platform.models.devices import resolve_device
from icr_platform.models.loading import (
    check_same_tokenisation,
    check_weights,
    load_config,
    load_tokenizer,
)
from icr_platform.models.model_identity import model_identity
from icr_platform.models.quantised import NONE, check_quantisation, method_of, quantisation
from icr_platform.training.checkpoint import close_checkpoint, open_checkpoint
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve, final_figures, send_curve
from icr_platform.training.dataset import TrainingPairs, check_conversations, check_pairs, longest_sequence, read_pairs
from icr_platform.training.job import CURVE, train_policy
from icr_platform.training.launch import check_accelerate_config
from icr_platform.training.model_card import Provenance, model_card, public_name

_DEVICES = ("auto", "cpu", "cuda", "cuda:0")
_TRAINED = "trained.json"
_ALMOST_NOTHING = 1 << 20  # bytes


def read(config: TrainConfig) -> TrainConfig:
    """Check every input without loading weights.

    Returns: the configuration alone, since every training process reads the pairs itself.

    Raises:
        InputError: names the file, row and field, and how to fix it.
    """
    require(config, "train")
    vocabulary = check_settings(config)
    asked: Iterable[tuple[str, str, str | None]]
    if is_text(config.preferences):
        texts = read_text_preferences(config.preferences, config.preference_columns)
        asked = [(pair.language, pair.instruction, pair.messages) for pair in texts.pairs]
    else:
        refuse_map(config.preferences, config.preference_columns)
        preferences = open_artifact(Path(config.preferences), PREFERENCES)
        check_pairs(preferences, vocabulary)
        columns = preferences.read(["language", "instruction", "messages"])
        asked = zip(*(column.to_pylist() for column in columns.columns), strict=True)
    check_conversations(asked, load_tokenizer(config.policy, config), config.preferences)
    return config


def check_settings(config: TrainConfig) -> int:
    """Check everything but the preferences, which need not be there yet; load no weights.

    Returns: how many token ids the policy knows.

    Raises:
        InputError: the policy cannot be trained, or not so, or not on this machine.
    """
    import torch

    require_system_prompt(load_tokenizer(config.policy, config))
    check_weights(config.policy, config.trust_remote_code, quantization=config.quantization)
    if config.dpo_reference == "initial":
        if not config.reference:
            raise InputError("config: field 'reference' is missing for dpo_reference=initial; give --reference")
        check_same_tokenisation(config.policy, config.reference, config)
        check_weights(config.reference, config.trust_remote_code, quantization=config.quantization)
    opened = load_config(config.policy, config.trust_remote_code)
    is_plain = not quantisation(opened) or check_quantisation(base_of(config.policy), opened)
    if not config.lora_rank and not (is_plain and config.quantization == NONE):
        raise InputError(
            f"{config.policy}: its weights are quantised, and training changes numbers; train adapters over them with --lora-rank 16, or "
            "give the model that was quantised"
        )
    if not is_plain and method_of(opened) != "bitsandbytes":
        raise InputError(
            f"{config.policy}: adapters over weights that were quantised by {method_of(opened)} cannot be added to them at the end; "
            "give the model that was quantised, or one of bitsandbytes"
        )
    policy = opened.get_text_config()
    if config.router_loss and not hasattr(policy, "output_router_logits"):
        raise InputError(
            f"config: field 'router_loss' is {config.router_loss:g}, but {config.policy} is not a mixture of experts that gives "
            "its router's logits; leave --router-loss out"
        )

    if config.device not in _DEVICES:
        fix = "training takes the first visible GPU, choose it by CUDA_VISIBLE_DEVICES"
        raise InputError(f"config: field 'device' is {config.device!r}, expected one of {', '.join(_DEVICES)}; {fix}")
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"config: field 'device' is {config.device!r} but no GPU is visible; give --device cpu")
    if config.dtype == "float16" and resolve_device(config.device) == "cpu":
        raise InputError("config: field 'dtype' float16 does not train on a CPU; give --dtype float32 or bfloat16")
    if config.accelerate_config:
        check_accelerate_config(Path(config.accelerate_config), resolve_device(config.device))
    return int(policy.vocab_size)


def run(config: TrainConfig, context: StageContext) -> StageResult:
    """Train the policy on the pairs, from where a killed training stopped.

    Raises:
        InputError: the folder contains another training; every pair is too long.
        IcrError: the loss is not finite, memory or disk is full, a training process died.
    """
    folder = context.folder / "checkpoint"
    work = context.folder / "checkpoint.unfinished"
    is_finished = (folder / MANIFEST).exists()  # and the run that it was made in may have been killed before it said so
    if not is_finished:
        _claim(folder, work, context.fingerprint)
        with _full_disk_explained(work):
            _fill(work, config, context)
            (work / "model").rename(folder)
    checkpoint = open_checkpoint(folder)
    if checkpoint.fingerprint != context.fingerprint:
        raise _other_training(folder)
    shutil.rmtree(work, ignore_errors=True)

    found = checkpoint.extra
    if is_finished:
        send_curve(found["curve"], context.log_metrics)
    counts = [
        {"language": name, "pairs": found["pairs"].get(name, 0), "left_out": found["left_out"].get(name, 0)}
        for name in sorted({*found["pairs"], *found["left_out"]})
    ]
    return StageResult(
        artifacts={"checkpoint": checkpoint.folder},
        metrics=found["metrics"],
        tables={"loss_curve": pd.DataFrame(found["curve"]), "training_pairs": pd.DataFrame(counts)},
        notes=tuple(found["notes"]),
    )


def _fill(work: Path, config: TrainConfig, context: StageContext) -> None:
    """Put the finished checkpoint into `work/model`. What a killed attempt has done lies in `work` and is not done again."""
    from icr_platform.training.margins import measured_margins, sampled_groups, trained_log_ratio
    from icr_platform.training.weights import save_model, trained_model

    start = time.monotonic()
    text_notes: list[str] = []
    if is_text(config.preferences):
        tokenizer = load_tokenizer(config.policy, config)
        artifact = tokenise(config.preferences, work / "preferences", tokenizer, config.preference_columns)
        text_notes = list(artifact.extra.get("notes", ()))
        config = config.model_copy(update={"preferences": str(artifact.folder)})
    pairs = read_pairs(config)
    sample = sampled_groups(pairs)
    curve = Curve(work / CURVE, context.log_metrics)

    model_folder = work / "model"
    if not model_folder.exists():
        state = train_policy(config, work, pairs, curve)
        _free_memory()
        model = trained_model(config, state, curve.rows)
        # What the weights score is measured before they are saved, too: saving rounds, and must not lose what was learnt.
        write_json(work / _TRAINED, {"log_ratio": trained_log_ratio(config, sample, model)})
        save_model(config, model, model_folder)
        del state, model
        _free_memory()

    log_ratio = read_json(work / _TRAINED)["log_ratio"]
    margins, margin_notes = measured_margins(config, sample, log_ratio, model_folder)
    figures = final_figures(curve.rows)
    counts = {"train/pairs": float(len(pairs)), "train/pairs_left_out": float(sum(pairs.left_out.values()))}
    provenance = _provenance(config, pairs, context.fingerprint)
    card = redact(model_card(config, provenance, figures))
    (model_folder / "README.md").write_text(card, encoding="utf-8")
    extra = {
        "metrics": figures | margins | counts | {"train/seconds": time.monotonic() - start},
        "notes": text_notes + _notes(config, pairs) + margin_notes,
        "pairs": dict(provenance.pairs),
        "left_out": dict(provenance.left_out),
        "curve": curve.rows,
    }
    close_checkpoint(model_folder, context.fingerprint, extra)
    _free_memory()


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
    """Say which pairs, which weights and which GPUs were not used."""
    import torch

    from icr_platform.training.weights import unreached_share

    notes = []
    notes += [f"{count} pairs were left out: {why}" for why, count in pairs.refused.items()]
    total = sum(pairs.left_out.values()) - sum(pairs.refused.values())
    if total:
        by_language = ", ".join(f"{language} {count}" for language, count in pairs.left_out.items())
        limit = longest_sequence(config)
        name = "max_length" if limit == config.max_length else "the policy's max_position_embeddings"
        notes.append(f"{total} pairs are longer than {limit} tokens ({name}) and were left out: {by_language}")
    share = unreached_share(config.policy, config.trust_remote_code) if config.lora_rank else 0.0
    if share:
        notes.append(
            f"LoRA trains linear layers; the experts, {share:.0%} of the policy's parameters, are fused into tensors that it does not "
            "reach in this family, and stay as they were"
        )
    gpus = torch.cuda.device_count() if resolve_device(config.device).startswith("cuda") else 0
    if gpus > 1 and not config.accelerate_config:
        notes.append(f"one of {gpus} visible GPUs was used; --accelerate-config trains on all of them")
    return notes


def _claim(folder: Path, work: Path, fingerprint: str) -> None:
    """Make the work folder this training's own, or find that it is."""
    if folder.exists():
        raise InputError(f"{folder}: contains files that this stage did not write; choose another --output")
    work.mkdir(parents=True, exist_ok=True)
    if not (work / PLAN).exists():
        write_json(work / PLAN, {"fingerprint": fingerprint})
    elif read_json(work / PLAN).get("fingerprint") != fingerprint:
        raise _other_training(work)


def _other_training(folder: Path) -> InputError:
    return InputError(
        f"{folder}: contains a checkpoint made from other inputs or settings; choose another --output or delete the folder"
    )


@contextlib.contextmanager
def _full_disk_explained(work: Path) -> Iterator[None]:
    """Turn a full disk into one error that says so; torch and safetensors each report it in their own way."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if shutil.disk_usage(work).free > _ALMOST_NOTHING and "No space left" not in str(error):
            raise
        raise IcrError(f"{work}: no space left on the disk; free some and run the same command again") from error


def _free_memory() -> None:
    """Collect the trainer's objects, which refer to each other: until then the next model is loaded next to its optimizer."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
