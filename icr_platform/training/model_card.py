"""The README.md of a checkpoint: from which policy, reference, pairs and settings it was made, by names and digests, not paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from icr_platform import __version__
from icr_platform.core.config import role
from icr_platform.training.config import PolicyTraining, SftConfig, TrainConfig

_ENGINES = ("trl", "transformers", "torch", "peft")
_CITATION = """\
@misc{icr2025,
  title         = {Implicit Cross-Lingual Rewarding for Efficient Multilingual Preference Alignment},
  year          = {2025},
  eprint        = {2503.04647},
  archivePrefix = {arXiv}
}
"""


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint was made from. Identities and digests are hex sha256.

    reference: name and identity; None when the policy at the start of training was the DPO reference.
    pairs, left_out: numbers of pairs per language, those trained on and those left out because they are too long.
    """

    policy: str
    policy_identity: str
    reference: str | None
    reference_identity: str | None
    preferences_digest: str
    pairs: Mapping[str, int]
    left_out: Mapping[str, int]
    fingerprint: str


@dataclass(frozen=True)
class SftProvenance:
    """As `Provenance`, of a checkpoint that was made from documents.

    documents, left_out: numbers of sequences per language that were trained on, and of documents that are too long.
    """

    policy: str
    policy_identity: str
    documents_digest: str
    documents: Mapping[str, int]
    left_out: Mapping[str, int]
    fingerprint: str


def public_name(model: str) -> str:
    """A model's hub name, or its folder's own name: the path to it says something about a machine, not about the model."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def model_card(config: TrainConfig, made: Provenance, figures: Mapping[str, float]) -> str:
    """Write Markdown with a header for the hub. The same training gives the same card, byte for byte."""
    reference = "| DPO reference | the policy at the start of training | |"
    if made.reference:
        reference = f"| DPO reference | `{made.reference}` | `{made.reference_identity}` |"
    return _card(
        config,
        tags=("kto" if config.loss == "kto" else "dpo", "trl"),
        title="A policy aligned by implicit cross-lingual rewarding",
        intro=_intro(config),
        rows=(
            f"| policy | `{made.policy}` | `{made.policy_identity}` |",
            reference,
            f"| preferences | {sum(made.pairs.values())} {_rows(config)} | `{made.preferences_digest}` |",
            f"| training | fingerprint | `{made.fingerprint}` |",
        ),
        counted=(_rows(config), made.pairs, made.left_out),
        figures=figures,
        citation=True,
    )


def _intro(config: TrainConfig) -> str:
    """Which losses the policy was trained with."""
    if config.loss == "sigmoid":
        return (
            "Trained with DPO and a likelihood term on the chosen responses, "
            "`L_DPO(beta) + gamma * L_NLL(chosen)` ([arXiv 2503.04647](https://arxiv.org/abs/2503.04647), "
            "[arXiv 2305.18290](https://arxiv.org/abs/2305.18290))."
        )
    return (
        f"Trained with the loss `{config.loss}` and a likelihood term on the chosen responses, `L_{config.loss}(beta) + gamma * "
        "L_NLL(chosen)` ([arXiv 2503.04647](https://arxiv.org/abs/2503.04647))."
    )


def _rows(config: TrainConfig) -> str:
    return "responses" if config.loss == "kto" else "pairs"


def sft_card(config: SftConfig, made: SftProvenance, figures: Mapping[str, float]) -> str:
    """Write the card of a policy that was finetuned on documents, as `model_card` does."""
    return _card(
        config,
        tags=("sft", "trl"),
        title="A policy finetuned on responses",
        intro="Trained by supervised finetuning on the tokens of responses alone.",
        rows=(
            f"| policy | `{made.policy}` | `{made.policy_identity}` |",
            f"| documents | {sum(made.documents.values())} sequences | `{made.documents_digest}` |",
            f"| training | fingerprint | `{made.fingerprint}` |",
        ),
        counted=("documents", made.documents, made.left_out),
        figures=figures,
        citation=False,
    )


def _card(
    config: PolicyTraining,
    *,
    tags: Sequence[str],
    title: str,
    intro: str,
    rows: Sequence[str],
    counted: tuple[str, Mapping[str, int], Mapping[str, int]],
    figures: Mapping[str, float],
    citation: bool,
) -> str:
    """The text of a card. rows: of the table of what it was made from. counted: what was trained on, and how much of it by language,
    used and left out."""
    what, used, left_out = counted
    listed_tags, languages = ("".join(f"\n- {one}" for one in names) for names in (tags, sorted(used)))
    origins = "\n".join(rows)
    counts = "\n".join(
        f"| {language} | {used.get(language, 0)} | {left_out.get(language, 0)} |"
        for language in sorted({*used, *left_out})
    )
    fields = type(config).model_fields.items()
    settings = "\n".join(f"| {name} | `{getattr(config, name)}` |" for name, info in fields if role(info) == "setting")
    measured = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(figures.items()))
    software = ", ".join([f"icr-platform {__version__}", *(f"{name} {version(name)}" for name in _ENGINES)])
    cited = f"\n## Citation\n```bibtex\n{_CITATION}```\n" if citation else ""
    return f"""\
---
library_name: transformers
tags:{listed_tags}
language:{languages}
---

# {title}

{intro}

## Made from
| | name | sha256 |
|---|---|---|
{origins}

| language | {what} | left out (too long) |
|---|---|---|
{counts}

## Settings
| field | value |
|---|---|
{settings}

## Figures
Means over the last tenth of the logged steps, on the training {what}.

| figure | value |
|---|---|
{measured}

## Software
{software}
{cited}"""
