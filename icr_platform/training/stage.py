"""train: preferences -> checkpoint. Metrics: train/final_* are means over the last tenth of the logged steps (see curve.py),
train/trained_margin, train/saved_margin and train/loaded_margin what became of them (see margins.py), train/seconds the wall-clock
time of the attempt that finished, train/pairs and train/pairs_left_out counts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from icr_platform.core.artifacts import MANIFEST, open_artifact, read_json, write_json
from icr_platform.core.config import require
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.core.secrets import redact
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.data.column_map import refuse_map
from icr_platform.data.labelled_examples import read_examples, tokenise_examples
from icr_platform.data.text_preferences import is_text, read_text_preferences, tokenise
from icr_platform.models.loading import check_same_tokenisation, check_weights, load_tokenizer
from icr_platform.models.model_identity import model_identity
from icr_platform.training.checkpoint import close_checkpoint
from icr_platform.training.checkpoint_work import MODEL, finished_checkpoint, free_memory
from icr_platform.training.config import TrainConfig
from icr_platform.training.curve import Curve, final_figures
from icr_platform.training.dataset import TrainingPairs, asked_in, check_conversations, check_pairs, longest_sequence
from icr_platform.training.examples import TrainingExamples, read_training_rows
from icr_platform.training.job import CURVE, train_policy
from icr_platform.training.loss_checks import check_loss, notes_of_balance, notes_of_loss
from icr_platform.training.model_card import Provenance, model_card, public_name
from icr_platform.training.policy_checks import check_policy, notes_of_weights

_TRAINED = "trained.json"
_FIGURES = {
    "train/final_loss": "train/loss",
    "train/final_reward_accuracy": "train/rewards/accuracies",
    "train/final_reward_margin": "train/rewards/margins",
    "train/final_logps_chosen": "train/logps/chosen",
    "train/final_logps_rejected": "train/logps/rejected",
}


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
        texts = (
            read_examples(config.preferences, config.preference_columns).rows
            if config.loss == "kto"
            else read_text_preferences(config.preferences, config.preference_columns).pairs
        )
        asked = [(text.language, text.instruction, text.messages) for text in texts]
    elif not Path(config.preferences).is_dir():
        raise InputError(
            f"{config.preferences}: no such file or folder; give a finished preferences artifact, a file of pairs, a folder of "
            "LANG.json(l) or a data set"
        )
    else:
        refuse_map(config.preferences, config.preference_columns)
        preferences = open_artifact(Path(config.preferences), PREFERENCES)
        check_pairs(preferences, vocabulary)
        asked = asked_in(preferences)
    check_conversations(asked, load_tokenizer(config.policy, config), config.preferences)
    return config


def check_settings(config: TrainConfig) -> int:
    """Check everything but the preferences, which need not be there yet; load no weights.

    Returns: how many token ids the policy knows.

    Raises:
        InputError: settings that exclude each other; the policy cannot be trained, or not so, or not on this machine.
    """
    check_loss(config)
    vocabulary = check_policy(config)
    if config.dpo_reference == "initial":
        if not config.reference:
            raise InputError("config: field 'reference' is missing for dpo_reference=initial; give --reference")
        check_same_tokenisation(config.policy, config.reference, config)
        check_weights(config.reference, config.trust_remote_code, quantization=config.quantization)
    return vocabulary


def run(config: TrainConfig, context: StageContext) -> StageResult:
    """Train the policy on the pairs, from where a killed training stopped.

    Raises:
        InputError: the folder contains another training; every pair is too long.
        IcrError: the loss is not finite, memory or disk is full, a training process died.
    """
    checkpoint = finished_checkpoint(context, lambda work: _fill(work, config, context))
    found = checkpoint.extra
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
    from icr_platform.training.margins import measured_margins, sampled, trained_log_ratio
    from icr_platform.training.weights import save_model, trained_model

    start = time.monotonic()
    text_notes: list[str] = []
    if is_text(config.preferences):
        tokenizer = load_tokenizer(config.policy, config)
        write = tokenise_examples if config.loss == "kto" else tokenise
        artifact = write(config.preferences, work / "preferences", tokenizer, config.preference_columns)
        text_notes = list(artifact.extra.get("notes", ()))
        config = config.model_copy(update={"preferences": str(artifact.folder)})
    pairs = read_training_rows(config, work)
    sample = sampled(pairs)
    curve = Curve(work / CURVE, context.log_metrics)

    model_folder = work / MODEL
    if not model_folder.exists():
        state = train_policy(config, work, pairs, curve)
        free_memory()
        model = trained_model(config, state, curve.rows)
        # What the weights score is measured before they are saved, too: saving rounds, and must not lose what was learnt.
        write_json(work / _TRAINED, {"log_ratio": trained_log_ratio(config, sample, model)})
        save_model(config, model, model_folder)
        del state, model
        free_memory()

    log_ratio = read_json(work / _TRAINED)["log_ratio"]
    margins, margin_notes = measured_margins(config, sample, log_ratio, model_folder)
    figures = final_figures(curve.rows, _FIGURES)
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
    free_memory()


def _provenance(config: TrainConfig, pairs: TrainingPairs | TrainingExamples, fingerprint: str) -> Provenance:
    initial = config.dpo_reference == "initial"
    return Provenance(
        policy=public_name(config.policy),
        policy_identity=model_identity(config.policy),
        reference=public_name(config.reference) if initial else None,
        reference_identity=model_identity(config.reference) if initial else None,
        preferences_digest=read_json(Path(config.preferences) / MANIFEST)["digest"],
        pairs=dict(sorted(Counter(pairs.languages).items())),
        left_out=pairs.left_out,
        fingerprint=fingerprint,
    )


def _notes(config: TrainConfig, pairs: TrainingPairs | TrainingExamples) -> list[str]:
    """Say which pairs, which weights and which GPUs were not used."""
    what = "pairs" if isinstance(pairs, TrainingPairs) else "responses"
    notes = [f"{count} {what} were left out: {why}" for why, count in pairs.refused.items()]
    total = sum(pairs.left_out.values()) - sum(pairs.refused.values())
    if total:
        by_language = ", ".join(f"{language} {count}" for language, count in pairs.left_out.items())
        limit = longest_sequence(config)
        name = "max_length" if limit == config.max_length else "the policy's max_position_embeddings"
        notes.append(f"{total} {what} are longer than {limit} tokens ({name}) and were left out: {by_language}")
    if isinstance(pairs, TrainingExamples):
        notes += notes_of_balance(config, sum(pairs.is_good), len(pairs))
    return [*notes, *notes_of_loss(config), *notes_of_weights(config)]
