"""The README.md of a checkpoint: from which policy, reference, pairs and settings it was made, by names and digests, not paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from icr_platform import __version__
from icr_platform.core.config import role
from icr_platform.training.config import TrainConfig

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


def public_name(model: str) -> str:
    """A model's hub name, or its folder's own name: the path to it says something about a machine, not about the model."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def model_card(config: TrainConfig, made: Provenance, figures: Mapping[str, float]) -> str:
    """Write Markdown with a header for the hub. The same training gives the same card, byte for byte."""
    languages = "".join(f"\n- {language}" for language in sorted(made.pairs))
    reference = "| DPO reference | the policy at the start of training | |"
    if made.reference:
        reference = f"| DPO reference | `{made.reference}` | `{made.reference_identity}` |"
    pairs = "\n".join(
        f"| {language} | {made.pairs.get(language, 0)} | {made.left_out.get(language, 0)} |"
        for language in sorted({*made.pairs, *made.left_out})
    )
    fields = TrainConfig.model_fields.items()
    settings = "\n".join(f"| {name} | `{getattr(config, name)}` |" for name, info in fields if role(info) == "setting")
    measured = "\n".join(f"| {name} | {value:.6g} |" for name, value in sorted(figures.items()))
    software = ", ".join([f"icr-platform {__version__}", *(f"{name} {version(name)}" for name in _ENGINES)])
    return f"""\
---
library_name: transformers
tags:
- dpo
- trl
language:{languages}
---

# A policy aligned by implicit cross-lingual rewarding

Trained with DPO and a likelihood term on the chosen responses, \
`L_DPO(beta) + gamma * L_NLL(chosen)` ([arXiv 2503.04647](https://arxiv.org/abs/2503.04647), \
[arXiv 2305.18290](https://arxiv.org/abs/2305.18290)).

## Made from
| | name | sha256 |
|---|---|---|
| policy | `{made.policy}` | `{made.policy_identity}` |
{reference}
| preferences | {sum(made.pairs.values())} pairs | `{made.preferences_digest}` |
| training | fingerprint | `{made.fingerprint}` |

| language | pairs | left out (too long) |
|---|---|---|
{pairs}

## Settings
| field | value |
|---|---|
{settings}

## Figures
Means over the last tenth of the logged steps, on the training pairs.

| figure | value |
|---|---|
{measured}

## Software
{software}

## Citation
```bibtex
{_CITATION}```
"""
